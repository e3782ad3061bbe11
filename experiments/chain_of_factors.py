"""The chain rule written out: which factors lead from the loss to a weight or a bias?

The network of the exercise has one input, two ReLUs and a sigmoid:

    a₁ = w₁₁x + b₁₁,  a₂ = w₁₂x + b₁₂,  z₁ = ReLU(a₁),  z₂ = ReLU(a₂),
    a₃ = w₂₁z₁ + w₂₂z₂ + b₂₁,  z₃ = sigmoid(a₃),  L = ½ (z₃ − y)²

One path leads from b₁₂ to L, and so each factor is a number:

    ∂L/∂b₁₂ = ∂L/∂z₃ · ∂z₃/∂a₃ · ∂a₃/∂z₂ · ∂z₂/∂a₂ · ∂a₂/∂b₁₂

In a larger network there are many paths; the factors are Jacobians, and their product
is the sum over all paths. `fnn.explain` takes each factor from the handwritten backward
of one layer, and compares the product with `jax.grad`: here for one parameter, shown in
full, and then for all of them. (Rumelhart, Hinton and Williams, Nature 323, 1986.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import fnn
from experiments.shared import answers, command_line, networks, run_folder
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.chain_of_factors"

#: Up to this many weights and biases, each has a row of its own.
MOST_SINGLE_ROWS = 16


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        network: the one of the exercise; or a small LeNet or ResNet, for digits.
        parameter: path of the parameter shown in full, such as 0/Conv.weight; by
            default b₁₂ of the exercise, and the first weights of the others.
        index: of the entry shown, an integer from 0 for each axis; by default the one
            with the greatest derivative.
        examples: N; the loss is the mean over them.
        seed: of the weights, the biases and dropout, and of the exercise's examples.
        out: a new folder for the results; else the next free one below runs/.
    """

    network: Literal["exercise", "lenet", "resnet"] = "exercise"
    parameter: str | None = None
    index: tuple[int, ...] = ()
    examples: int = 1
    seed: int = 0
    out: Path | None = None


class Problem(NamedTuple):
    """A network, its loss, variables and batch; `key` is for dropout."""

    net: fnn.Layer
    loss: fnn.losses.Loss
    variables: fnn.Variables
    batch: tuple[Any, Any]
    key: jax.Array

    def explain(self, parameter: str, index: Any, limit: int = 256) -> fnn.Explanation:
        """Call `fnn.explain` in training mode."""
        options = {"key": self.key, "train": True, "limit": limit}
        return fnn.explain(*self[:4], parameter, index, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Explain; the exit status is 1 where a product disagrees with `jax.grad`."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, examples=1)
        problem = build(config)
        shown = problem.explain(*choose_parameter(problem, config))
        folder = run_folder.create(config.out, f"chain_of_factors-{config.network}")
    out = console()
    out.print(str(shown), markup=False, soft_wrap=True)
    found = list(explain_all(problem))
    out.print("\nThe same for every weight and bias (|v|: the norm of many):\n")
    columns = ("", "factors", "product", "jax.grad", "error")
    out.print(table(columns, map(table_row, found)))
    numbers = [json_record(e) for e in (shown, *found)]
    answers.save_and_print(out, folder, config, numbers, {}, conclude(shown, found))
    return int(not all(e.agrees for e in (shown, *found)))


def build(config: Config) -> Problem:
    """Build the network, without a weight or bias of 0, and its examples."""
    keys = jax.random.split(jax.random.key(config.seed), 4)
    if config.network == "exercise":
        net = fnn.serial(fnn.Dense(2), fnn.Relu(), fnn.Dense(1), fnn.Sigmoid())
        loss: Any = fnn.losses.SquaredError()
        x = jax.random.normal(keys[0], (config.examples, 1))
        batch = x, jax.random.bernoulli(keys[1], shape=x.shape).astype(x.dtype)
    else:
        small = {"features": (4, 8), "kernel_size": 3, "padding": "SAME", "hidden": 32}
        lenet = config.network == "lenet"
        net = networks.lenet(**small) if lenet else networks.resnet(features=(4, 8))
        loss = fnn.losses.SoftmaxCrossEntropy()
        batch = tuple(part[: config.examples] for part in fnn.data.digits().test)
    params, state = net.init(keys[2], batch[0].shape[1:])
    flat, tree = jax.tree.flatten(params)
    noise = [
        0.5 * jax.random.normal(jax.random.fold_in(keys[3], i), p.shape, p.dtype)
        for i, p in enumerate(flat)
    ]
    moved = [p + n for p, n in zip(flat, noise, strict=True)]
    variables = fnn.Variables(jax.tree.unflatten(tree, moved), state)
    return Problem(net, loss, variables, batch, keys[3])


def choose_parameter(problem: Problem, config: Config) -> tuple[str, tuple[int, ...]]:
    """Return path and index of the parameter that is shown in full."""
    if config.network == "exercise" and config.parameter is None:
        return "0/Dense.bias", config.index or (1,)
    named = fnn.named_params(problem.net, problem.variables.params)
    path = config.parameter or next(iter(named))
    if config.index:
        return path, config.index
    derivatives = abs(problem.explain(path, None, limit=0).autodiff)
    greatest = np.unravel_index(derivatives.argmax(), derivatives.shape)
    return path, tuple(int(i) for i in greatest)


def explain_all(problem: Problem) -> Iterator[fnn.Explanation]:
    """Explain every weight and bias by itself, or each array where there are many."""
    named = fnn.named_params(problem.net, problem.variables.params)
    single = sum(p.size for p in named.values()) <= MOST_SINGLE_ROWS
    for path, param in named.items():
        for index in np.ndindex(param.shape) if single else [None]:
            yield problem.explain(path, index, limit=0)


def table_row(e: fnn.Explanation) -> tuple:
    """Return a row of the table."""
    single = e.product.ndim == 0
    values = (f"{v:.5f}" if single else f"|{v:.5f}|" for v in product_and_autodiff(e))
    return e.symbol if single else e.path, len(e.factors), *values, f"{e.error:.1g}"


def product_and_autodiff(e: fnn.Explanation) -> tuple[float, float]:
    """Return the derivative by hand and by `jax.grad`; of several entries the norm."""
    both = e.product, e.autodiff
    return tuple(a.item() if a.ndim == 0 else float(np.linalg.norm(a)) for a in both)


def json_record(e: fnn.Explanation) -> dict[str, Any]:
    """Return a line of numbers for the run folder."""
    factors = [
        {"factor": f.symbol, "by_hand_in": f.path, "shape": f.shape}
        | {"value": None if f.value is None else f.value.tolist()}
        for f in e.factors
    ]
    product, autodiff = product_and_autodiff(e)
    line = {"symbol": e.symbol, "path": e.path, "index": e.index, "product": product}
    line |= {"autodiff": autodiff, "error": e.error, "agrees": e.agrees}
    return line | {"factors": factors}


def conclude(shown: fnn.Explanation, found: list[fnn.Explanation]) -> str:
    """Return the sentence that answers the question."""
    counts = [len(e.factors) for e in found]
    wrong = [e for e in found if not e.agrees]
    largest = max(e.error for e in found)
    which = f"all {len(found)}"
    verdict = "is what jax.grad says" + (
        f", to {largest:.1g}" if largest else " exactly"
    )
    if wrong:
        which = f"{len(wrong)} of {len(found)}"
        verdict = f"is not what jax.grad says: wrong at {wrong[0].first_divergence}"
    what = "weights and biases" if found[0].index is not None else "parameters"
    value, _ = product_and_autodiff(shown)
    return (
        f"∂L/∂{shown.symbol} is, by hand, {value:.4g}, the product of "
        f"{len(shown.factors)} factors; for {which} {what} of the network such a "
        f"product (of {min(counts)} to {max(counts)} factors) {verdict}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
