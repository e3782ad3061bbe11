"""The recipe of every training script, as the terminal shows it, step by step.

Initialise, forward, cost, handwritten backpropagation, gradient check, check switched
off, training with early stopping, test. Everything lands in one run folder. The test
set is the same for every seed, and is used once, at the end.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import fnn
from experiments import command_line, figures, runs
from experiments.problem import (
    CLASSES,
    Problem,
    Start,
    Training,
    fit,
    off_kinks,
    seeded,
)
from experiments.seeds import over_seeds
from experiments.terminal import (
    console,
    ending,
    epoch_bar,
    fact,
    report_text,
    step,
    table,
)
from fnn.summary import count_flops

__all__ = ["follow"]

C = TypeVar("C", bound=Training)


def follow(
    name: str,
    description: str | None,
    presets: Mapping[str, C],
    build: Callable[[C], Problem],
    argv: Sequence[str] | None,
) -> int:
    """Run the recipe; the exit status is 1 if the gradient check fails.

    Args:
        name: of the script.
        description: the script's docstring, whose first line `--help` says first.
        presets: the defaults for each dataset.
        build: from options to network, loss, optimizer and data.
        argv: the arguments; those of the process by default.
    """
    started = time.perf_counter()
    prog = f"python -m experiments.{name}"
    with command_line.plain_errors(prog):
        if resume := command_line.chosen("resume", argv):
            saved = runs.read_config(Path(resume), list(presets.values()))
            presets = {saved.dataset: saved}
        config = command_line.parse(
            presets, "dataset", argv, prog=prog, description=description
        )
        command_line.at_least(config, checkpoint_every=0)
        problem = build(config)
        name = f"{name}-{config.dataset}-seed{config.seed}"
        folder = config.resume or runs.new_folder(config.out, name)
    runs.write_json(folder / "config.json", config)
    out = console()
    out.print(f"Everything lands in [bold]{folder}/[/]")

    first = seeded(problem, config, config.seed)
    introduce(out, problem, config, first)
    if config.resume is None:
        if not gradient_check(out, problem, config, first, folder):
            return 1
    results = []
    for seed in range(config.seed, config.seed + config.seeds):
        results.append(train_and_test(out, problem, config, seed, folder))
        if results[-1]["stopped"] == "interrupted":
            fact(out, "go on with", f"{prog} --resume {folder}")
            break
    result = results[0] if config.seeds == 1 else over_seeds(out, results)
    result["total_seconds"] = time.perf_counter() - started
    runs.write_json(folder / "result.json", result | runs.environment())
    out.print(f"\n{result['total_seconds']:.1f} s in all. Results and figures:")
    out.print(f"[bold]{folder}/[/]")
    return 0


def introduce(out: Console, problem: Problem, config: Training, start: Start) -> None:
    """Steps 1 to 4: what the network is and does before it has learnt anything."""
    net, loss, variables = problem.net, problem.loss, start.variables
    x, y = (jnp.asarray(part[: config.batch_size]) for part in start.data.train)
    classes = len(CLASSES[config.dataset])

    step(out, 1, "Initialise: random weights, biases zero")
    out.print(str(fnn.summary(net, x.shape[1:])))

    step(out, 2, "Forward: one minibatch, from pixels to classes")
    outputs = fnn.predict(net, variables, x)
    surest = jax.nn.softmax(outputs).max(1).mean()
    measured = fnn.evaluate(net, loss, variables, start.data.validation)
    fact(out, "shapes", f"{_shape(x)} → {_shape(outputs)}")
    fact(out, "largest probability, mean", f"{surest:.3f}")
    fact(out, "accuracy, validation set", f"{measured['accuracy']:.1%}")
    fact(out, "accuracy by chance, 1/K", f"{1 / classes:.1%}")

    step(out, 3, "Cost: how wrong it is")
    fact(out, "J of the minibatch", f"{loss.value(outputs, y):.4f} nats per example")
    fact(out, "J of guessing, ln K", f"{math.log(classes):.4f}")

    names = {"manual": "Handwritten backpropagation", "autodiff": "Autodiff"}
    step(out, 4, f"{names[config.engine]}: who is to blame")
    grads = grad_fn(problem, config, start)(
        variables, (x, y), key=start.check_key
    ).grads
    params = fnn.named_params(net, variables.params)
    rows = [
        (path, _shape(g), _norm(params[path]), _norm(g))
        for path, g in fnn.named_params(net, grads).items()
    ]
    out.print(table(("parameter", "shape", "‖Θ‖", "‖∂J/∂Θ‖"), rows))


def gradient_check(
    out: Console, problem: Problem, config: Training, start: Start, folder: Path
) -> bool:
    """Steps 5 and 6: whether the gradients are right; then the check is gone."""
    step(out, 5, f"Gradient check: {config.engine}, autodiff and numerical")
    if not config.check:
        out.print("left out (--no-check)")
        return True
    net, data, check = problem.net, start.data.train, problem.check
    here = off_kinks(start, check.max_examples) if check.off_kinks else start
    started = time.perf_counter()
    with out.status("differencing the cost, coordinate by coordinate ..."):
        report = fnn.compare_gradients(
            *(net, problem.loss, here.variables, here.data.train),
            key=start.check_key,
            engine=config.engine,
            l2=config.l2,
            n=len(data[0]),
            max_examples=check.max_examples,
            max_coordinates=check.max_coordinates,
        )
    seconds = time.perf_counter() - started
    (folder / "gradient_check.txt").write_text(f"{report}\n", encoding="utf-8")
    out.print(report_text(report))
    if report.failed:
        out.print(
            f"\n[bold red]The gradient check failed at {report.first_divergence}: "
            "nothing is trained with wrong gradients.[/]"
        )
        return False

    step(out, 6, "Check switched off: it costs nothing from here")
    batch = tuple(part[: config.batch_size] for part in data)
    gradient = grad_fn(problem, config, start)
    shapes = jax.eval_shape(lambda *a: a, start.variables, batch)
    program = gradient.lower(*shapes, key=start.check_key)
    flops = count_flops(gradient, *shapes, key=start.check_key) / len(batch[0])
    forward = fnn.summary(net, batch[0].shape[1:]).flops
    doubles = "yes" if "f64" in program.as_text() else "none"
    fact(out, "the check, once", f"{seconds:.1f} s")
    fact(out, "the gradient's program", f"{flops / forward:.1f} × the forward's FLOPs")
    fact(out, "float64 (the check's) in it", doubles)
    return True


def train_and_test(
    out: Console, problem: Problem, config: Training, seed: int, folder: Path
) -> dict[str, Any]:
    """Steps 7 and 8: gradient descent with early stopping; the test, once."""
    started = time.perf_counter()
    of_seed = "" if config.seeds == 1 else f", seed {seed}"
    folder = folder if config.seeds == 1 else folder / f"seed-{seed}"
    folder.mkdir(exist_ok=True)
    start = seeded(problem, config, seed)
    n, held_out = (len(part[1]) for part in start.data)

    step(out, 7, f"Training{of_seed}: {n:,} examples, {held_out:,} for validation")
    with epoch_bar(out, config.epochs) as show:
        metrics = runs.JsonLines(folder / "metrics.jsonl", "epoch")

        def on_epoch(record: dict) -> None:
            metrics.append(record)
            show(record)

        result = fit(problem, config, start, on_epoch, folder)
    out.print(ending(result, config.patience))
    fnn.save(folder / "best.npz", result.variables)

    step(out, 8, f"Test{of_seed}: the parameters after epoch {result.best_epoch}")
    test = problem.data.test
    measured = fnn.evaluate(problem.net, problem.loss, result.variables, test)
    accuracy, history = measured["accuracy"], result.history
    fact(out, "test accuracy", f"[bold green]{accuracy:.2%}[/]")
    fact(out, "wrong", f"{round((1 - accuracy) * len(test[1]))} of {len(test[1]):,}")
    draw(problem, config, result, f"{config.dataset}, seed {seed}", accuracy, folder)
    best = history["validation_epoch"] == result.best_epoch
    summary = {
        "seed": seed,
        "test_accuracy": accuracy,
        "test_loss": measured["loss"],
        "validation_accuracy": max(history["validation_accuracy"][best], default=None),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "stopped": result.stopped,
        "seconds": time.perf_counter() - started,
    }
    if config.seeds > 1:
        runs.write_json(folder / "result.json", summary)
    return summary


def draw(
    problem: Problem,
    config: Training,
    result: fnn.FitResult,
    title: str,
    accuracy: float,
    folder: Path,
) -> None:
    """The learning curves, and the mistakes that are left."""
    curves = figures.learning_curves(
        *(result.history, result.best_epoch, result.stopped, accuracy, title),
        augmented=problem.augment is not None,
    )
    figures.save(curves, folder / "figures" / "learning_curves.png")
    if result.health:
        figures.save(figures.health(result.health), folder / "figures" / "health.png")
    x, y = problem.data.test
    outputs = fnn.predict(problem.net, result.variables, x)
    probabilities = np.asarray(jax.nn.softmax(outputs))
    mistakes = figures.misclassified(x, y, probabilities, CLASSES[config.dataset])
    figures.save(mistakes, folder / "figures" / "misclassified.png")


# ---- Small things ----------------------------------------------------------------


def grad_fn(problem: Problem, config: Training, start: Start) -> Any:
    """The compiled gradient of a minibatch, by the engine of this run."""
    n = len(start.data.train[0])
    options = dict(engine=config.engine, l2=config.l2, n=n)
    return jax.jit(fnn.value_and_grad(problem.net, problem.loss, **options))


def _shape(a: Any) -> str:
    return "×".join(map(str, a.shape))


def _norm(a: Any) -> str:
    return f"{float(jnp.linalg.norm(a.ravel())):.4f}"
