"""The recipe of every training script, which the terminal shows step by step.

Initialise, forward, cost, handwritten backpropagation, gradient check, check switched
off, training with early stopping, test. All results are in one run folder. The test set
is the same for every seed, and is used once, at the end.
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
from experiments.shared import command_line, figures, run_folder
from experiments.shared.problem import (
    CLASSES,
    Problem,
    Start,
    TrainingConfig,
    fit,
    make_start,
)
from experiments.shared.seeds import summarise_seeds
from experiments.shared.terminal import (
    coloured_report,
    console,
    epoch_bar,
    print_step,
    print_value,
    stop_message,
    table,
)
from fnn.summary import count_flops

__all__ = ["run_recipe"]

C = TypeVar("C", bound=TrainingConfig)


def run_recipe(
    name: str,
    description: str | None,
    presets: Mapping[str, C],
    build: Callable[[C], Problem],
    argv: Sequence[str] | None,
) -> int:
    """Run the recipe.

    Args:
        name: of the script.
        description: the script's docstring; its first line is at the head of `--help`.
        presets: the defaults for each dataset.
        build: from the options to network, loss, optimizer and data.
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 1 if the gradient check fails, else 0.
    """
    started = time.perf_counter()
    prog = f"python -m experiments.{name}"
    with command_line.plain_errors(prog):
        if resume := command_line.option_value("resume", argv):
            saved = run_folder.read_config(Path(resume), list(presets.values()))
            presets = {saved.dataset: saved}
        config = command_line.parse_with_presets(
            presets, "dataset", argv, prog=prog, description=description
        )
        command_line.require_at_least(config, checkpoint_every=0)
        problem = build(config)
        name = f"{name}-{config.dataset}-seed{config.seed}"
        folder = config.resume or run_folder.create(config.out, name)
    run_folder.write_json(folder / "config.json", config)
    out = console()
    out.print(f"All results go into [bold]{folder}/[/]")

    first = make_start(problem, config, config.seed)
    show_untrained(out, problem, config, first)
    if config.resume is None:
        if not check_gradients(out, problem, config, first, folder):
            return 1
    results = []
    for seed in range(config.seed, config.seed + config.seeds):
        results.append(train_and_test(out, problem, config, seed, folder))
        if results[-1]["stopped"] == "interrupted":
            print_value(out, "continue with", f"{prog} --resume {folder}")
            break
    result = results[0] if config.seeds == 1 else summarise_seeds(out, results)
    result["total_seconds"] = time.perf_counter() - started
    run_folder.write_json(folder / "result.json", result | run_folder.environment())
    out.print(f"\n{result['total_seconds']:.1f} s in all. Results and figures:")
    out.print(f"[bold]{folder}/[/]")
    return 0


def show_untrained(
    out: Console, problem: Problem, config: TrainingConfig, start: Start
) -> None:
    """Run steps 1 to 4, which show the network and its gradient before training."""
    net, loss, variables = problem.net, problem.loss, start.variables
    x, y = (jnp.asarray(part[: config.batch_size]) for part in start.data.train)
    classes = len(CLASSES[config.dataset])

    print_step(out, 1, "Initialise: random weights, biases zero")
    out.print(str(fnn.summary(net, x.shape[1:])))

    print_step(out, 2, "Forward: one minibatch, from pixels to classes")
    outputs = fnn.predict(net, variables, x)
    highest = jax.nn.softmax(outputs).max(1).mean()
    measured = fnn.evaluate(net, loss, variables, start.data.validation)
    print_value(out, "shapes", f"{_shape_text(x)} → {_shape_text(outputs)}")
    print_value(out, "largest probability, mean", f"{highest:.3f}")
    print_value(out, "accuracy, validation set", f"{measured['accuracy']:.1%}")
    print_value(out, "accuracy by chance, 1/K", f"{1 / classes:.1%}")

    print_step(out, 3, "Cost: how wrong it is")
    print_value(
        out, "J of the minibatch", f"{loss.value(outputs, y):.4f} nats per example"
    )
    print_value(out, "J of guessing, ln K", f"{math.log(classes):.4f}")

    names = {"manual": "Handwritten backpropagation", "autodiff": "Autodiff"}
    print_step(out, 4, f"{names[config.engine]}: who is to blame")
    grads = make_grad_fn(problem, config, start)(
        variables, (x, y), key=start.check_key
    ).grads
    params = fnn.named_params(net, variables.params)
    rows = [
        (path, _shape_text(g), _norm_text(params[path]), _norm_text(g))
        for path, g in fnn.named_params(net, grads).items()
    ]
    out.print(table(("parameter", "shape", "‖Θ‖", "‖∂J/∂Θ‖"), rows))


def check_gradients(
    out: Console, problem: Problem, config: TrainingConfig, start: Start, folder: Path
) -> bool:
    """Run steps 5 and 6: check the gradients, then show that the check is gone.

    Returns:
        False if the gradient check failed.
    """
    print_step(out, 5, f"Gradient check: {config.engine}, autodiff and numerical")
    if not config.check:
        out.print("left out (--no-check)")
        return True
    net, data = problem.net, start.data.train
    started = time.perf_counter()
    with out.status("computing every gradient in three ways ..."):
        report = fnn.compare_gradients(
            *(net, problem.loss, start.variables, data),
            key=start.check_key,
            engine=config.engine,
            l2=config.l2,
            n=len(data[0]),
            progress=False,  # the status above is shown
        )
    seconds = time.perf_counter() - started
    (folder / "gradient_check.txt").write_text(f"{report}\n", encoding="utf-8")
    out.print(coloured_report(report))
    if report.failed:
        out.print(
            f"\n[bold red]The gradient check failed at {report.first_divergence}: "
            "nothing is trained with wrong gradients.[/]"
        )
        return False

    print_step(out, 6, "Check switched off: it costs nothing from here")
    batch = tuple(part[: config.batch_size] for part in data)
    gradient = make_grad_fn(problem, config, start)
    shapes = jax.eval_shape(lambda *a: a, start.variables, batch)
    program = gradient.lower(*shapes, key=start.check_key)
    flops = count_flops(gradient, *shapes, key=start.check_key) / len(batch[0])
    forward = fnn.summary(net, batch[0].shape[1:]).flops
    doubles = "yes" if "f64" in program.as_text() else "none"
    print_value(out, "the check, once", f"{seconds:.1f} s")
    print_value(
        out, "the gradient's program", f"{flops / forward:.1f} × the forward's FLOPs"
    )
    print_value(out, "float64 (the check's) in it", doubles)
    return True


def train_and_test(
    out: Console, problem: Problem, config: TrainingConfig, seed: int, folder: Path
) -> dict[str, Any]:
    """Run steps 7 and 8: training with early stopping, and the only test.

    Returns:
        The results of this seed.
    """
    started = time.perf_counter()
    which = "" if config.seeds == 1 else f", seed {seed}"
    folder = folder if config.seeds == 1 else folder / f"seed-{seed}"
    folder.mkdir(exist_ok=True)
    start = make_start(problem, config, seed)
    n, held_out = (len(part[1]) for part in start.data)

    print_step(out, 7, f"Training{which}: {n:,} examples, {held_out:,} for validation")
    with epoch_bar(out, config.epochs) as show_epoch:
        metrics = run_folder.JsonLines(folder / "metrics.jsonl", "epoch")

        def on_epoch(record: dict) -> None:
            metrics.append(record)
            show_epoch(record)

        result = fit(problem, config, start, on_epoch, folder)
    out.print(stop_message(result, config.patience))
    fnn.save(folder / "best.npz", result.variables)

    print_step(out, 8, f"Test{which}: the parameters after epoch {result.best_epoch}")
    test = problem.data.test
    measured = fnn.evaluate(problem.net, problem.loss, result.variables, test)
    accuracy, history = measured["accuracy"], result.history
    print_value(out, "test accuracy", f"[bold green]{accuracy:.2%}[/]")
    print_value(
        out, "wrong", f"{round((1 - accuracy) * len(test[1]))} of {len(test[1]):,}"
    )
    title = f"{config.dataset}, seed {seed}"
    save_figures(problem, config, result, title, accuracy, folder)
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
        run_folder.write_json(folder / "result.json", summary)
    return summary


def save_figures(
    problem: Problem,
    config: TrainingConfig,
    result: fnn.FitResult,
    title: str,
    accuracy: float,
    folder: Path,
) -> None:
    """Save the figures of learning curves, mistakes and, where recorded, health."""
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


# ---- Gradients and texts ---------------------------------------------------------


def make_grad_fn(problem: Problem, config: TrainingConfig, start: Start) -> Any:
    """Return the compiled gradient of a minibatch, by the engine of this run."""
    n = len(start.data.train[0])
    options = dict(engine=config.engine, l2=config.l2, n=n)
    return jax.jit(fnn.value_and_grad(problem.net, problem.loss, **options))


def _shape_text(a: Any) -> str:
    return "×".join(map(str, a.shape))


def _norm_text(a: Any) -> str:
    return f"{float(jnp.linalg.norm(a.ravel())):.4f}"
