"""The chain rule written out: the factors that lead from the loss to one parameter.

With v_1 the network's output, v_2 what it is made of, ..., v_m the output of the layer
that the parameter θ belongs to,

    ∂L/∂θ = ∂L/∂v_1 · ∂v_1/∂v_2 · ... · ∂v_{m−1}/∂v_m · ∂v_m/∂θ

The first factor is the loss's delta; each other one is the Jacobian of one layer, whose
rows are what its handwritten backward makes of dy = (0 ... 1 ... 0). A Jacobian has the
entries that θ has an influence on, and no others: those change the loss, but not with
θ, and what is left is a number where one unit leads to one unit.

A block of branches is one factor where θ is before it: the paths through it are
parallel, and add up. Where θ is in a branch, the block is the factor from its own
output to that of the branch.
"""

import difflib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import as_inputs, check_key, check_pair, is_integer
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.gradients.engines import value_and_grad
from fnn.gradients.explain.chain import Link, links, makers
from fnn.gradients.explain.explanation import Explanation, Factor
from fnn.gradients.explain.symbols import symbols
from fnn.gradients.precision import cast
from fnn.losses import Loss, expect_loss
from fnn.network import Node, named_params
from fnn.planning import plain
from fnn.probes import Seen, probe, record
from fnn.typing import PyTree

__all__ = ["explain"]

#: Agreement in float64, as a share of the gradient of the same layer ...
AGREEMENT = 1e-9
#: ... or of this share of the largest gradient in the network.
SMALL = 1e-3

Entry = tuple[int, ...] | None


def explain(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: tuple[Array, Array],
    parameter: str,
    index: int | tuple[int, ...] | None = None,
    *,
    key: Array | None = None,
    train: bool = False,
    limit: int = 256,
) -> Explanation:
    """The factors that lead from the loss to a parameter, and their product.

    Everything is computed in float64, whatever the precision of the variables; not
    under `jit`.

    Args:
        net: the network.
        loss: the loss L.
        variables: its variables.
        batch: (x, y), N examples: L is their mean.
        parameter: its path, as in `fnn.named_params`: "2/Dense.weight".
        index: which entry of it; all of it by default.
        key: as in training: needed where the network draws (dropout).
        train: in training mode, or in evaluation mode.
        limit: a Jacobian with more entries than that is not formed. Its backward runs
            once for each of its rows.

    Returns:
        An `Explanation`: print it, or read its `factors`, `product`, `autodiff` (what
        `jax.grad` says) and `agrees`.

    Raises:
        ValueError: no parameter of that path, or no entry of that index.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(2), fnn.Relu(), fnn.Dense(1), fnn.Sigmoid())
        >>> variables = net.init(jax.random.key(3), (1,))
        >>> loss, one = fnn.losses.SquaredError(), jnp.ones((1, 1))
        >>> why = fnn.explain(net, loss, variables, (one, one), "0/Dense.bias", 1)
        >>> [factor.symbol for factor in why.factors]
        ['∂L/∂z₃', '∂z₃/∂a₃', '∂a₃/∂z₂', '∂z₂/∂a₂', '∂a₂/∂b₁₂']
        >>> why.agrees
        True
    """
    expect_layer("net", net)
    expect_loss(loss)
    key = None if key is None else check_key(key)
    x, y = check_pair("batch", batch)
    variables = as_variables(variables)
    shape = _shape_of(net, variables.params, parameter)
    entry = _entry(parameter, shape, index)
    with jax.enable_x64(True):
        root = Node(net.kind, net, cast(variables, jnp.float64))
        batch = cast((as_inputs(x), y), jnp.float64)
        run = _run(net, loss, root.variables, batch, key, train)
        chain = list(links(root, parameter, run.seen, train))
        loss.check(run.hand[f"{chain[0].node.path}.delta"].shape[1:], batch[1])
        masks = _reached(chain, shape, entry)
        names = _named(root, run, chain, masks, parameter, entry)
        factors = tuple(_factors(run, chain, masks, names, limit))
    at = ... if entry is None else entry
    by_hand, by_jax = (np.asarray(g[parameter])[at] for g in (run.hand, run.autodiff))
    return Explanation(
        names[-1], parameter, entry, float(run.loss), factors, by_hand, by_jax, len(x)
    )


# ---- The gradients everywhere, by hand and by JAX --------------------------------


class _Run(NamedTuple):
    """All gradients by path, those of outputs as `2/Dense.delta`; and all inputs."""

    loss: Array
    hand: dict[str, Array]
    autodiff: dict[str, Array]
    seen: dict[str, Seen]

    def error(self, name: str, entries: np.ndarray) -> tuple[float, bool]:
        """The largest difference of the two among some entries; whether it is rounding.

        On the scale of all entries of the same gradient: one alone may have cancelled.
        """
        off = _largest((self.hand[name] - self.autodiff[name])[entries])
        same = [g for n, g in self.autodiff.items() if _is_delta(n) == _is_delta(name)]
        scale = max(_largest(self.autodiff[name]), SMALL * max(map(_largest, same)))
        # Written so that NaN does not agree.
        return off, off <= AGREEMENT * scale


#: Compiled quickly, since it runs once.
_QUICKLY = {"xla_backend_optimization_level": 0}


@partial(jax.jit, static_argnames="train", compiler_options=_QUICKLY)
def _run(net, loss, variables, batch, key, train) -> _Run:
    probed, probed_variables = probe(net, variables, batch[0])
    by_hand = value_and_grad(probed, loss, "manual")
    by_jax = value_and_grad(plain(probed), loss, "autodiff")
    out, referee = (
        grad(probed_variables, batch, key=key, train=train)
        for grad in (by_hand, by_jax)
    )
    return _Run(
        out.loss,
        named_params(probed, out.grads),
        named_params(probed, referee.grads),
        record(net, variables, batch[0], key, train),
    )


# ---- What is asked for -----------------------------------------------------------


def _shape_of(net: Layer, params: PyTree, parameter: str) -> tuple[int, ...]:
    named = named_params(net, params)
    if not named:
        raise ValueError(f"{net!r} has no parameters: there is nothing to explain")
    if parameter not in named:
        # Paths that end alike are as close as those that are spelt alike.
        close = difflib.get_close_matches(str(parameter), named, n=3, cutoff=0)
        raise ValueError(
            f"no parameter is called {parameter!r}; the closest: {', '.join(close)}. "
            "fnn.named_params(net, variables.params) lists all."
        )
    return tuple(named[parameter].shape)


def _entry(parameter: str, shape: tuple[int, ...], index: Any) -> Entry:
    """The index as a tuple of numbers from 0; None for all of a larger parameter."""
    if index is None:
        return None if math.prod(shape) > 1 else (0,) * len(shape)
    entry = index if isinstance(index, tuple | list) else (index,)
    fits = len(entry) == len(shape) and all(
        is_integer(i) and -size <= i < size
        for i, size in zip(entry, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{parameter} has shape {shape}: index must be {len(shape)} integers "
            f"within it, got {index!r}"
        )
    return tuple(int(i) % size for i, size in zip(entry, shape, strict=True))


# ---- Masks, names, factors: lists from the loss down to the parameter ------------


def _reached(chain: list[Link], shape: tuple, entry: Entry) -> list[np.ndarray]:
    """Which entries of v_1 ... v_m θ has an influence on; and which those of θ are."""
    theta = np.zeros(shape, bool)
    theta[... if entry is None else entry] = True
    masks = [theta]
    for link in reversed(chain):
        masks.insert(0, link.reached(masks[0]))
    return masks


def _named(
    root: Node, run: _Run, chain: list[Link], masks: list[np.ndarray],
    parameter: str, entry: Entry,
) -> list[str]:  # fmt: skip
    """What v_1 ... v_m and θ are called."""
    nodes = list(makers(root))
    shapes = {n.path: run.hand[f"{n.path}.delta"].shape[1:] for n in nodes}
    of, owner = symbols(nodes, shapes), chain[-1].node.path
    names = [
        of[link.node.path].output(mask)
        for link, mask in zip(chain, masks[:-1], strict=True)
    ]
    own = parameter.removeprefix(f"{owner}.")
    return [*names, of[owner].parameter(own, masks[-1].shape, entry)]


def _factors(
    run: _Run, chain: list[Link], masks: list[np.ndarray], names: list[str], limit: int
) -> Iterator[Factor]:
    """The loss's factor, and that of each link."""
    paths = [f"{link.node.path}.delta" for link in chain] + [chain[-1].inner]

    def factor(i: int, above: str, path: str, shape: tuple, value: Any, branches: dict):
        error, agrees = run.error(paths[i], masks[i])
        product = np.asarray(run.hand[paths[i]])[masks[i]]
        symbol = f"∂{above}/∂{names[i]}"
        return Factor(symbol, path, shape, value, product, error, agrees, branches)

    delta = np.asarray(run.hand[paths[0]])[masks[0]][None]
    small = delta.size <= limit
    yield factor(0, "L", "loss.delta", delta.shape, delta if small else None, {})
    for i, link in enumerate(chain):
        shape = int(masks[i].sum()), int(masks[i + 1].sum())
        small = math.prod(shape) <= limit
        value = link.jacobian(masks[i], masks[i + 1]) if small else None
        branches = link.branches(run.hand, masks[i + 1])
        yield factor(i + 1, names[i], link.path, shape, value, branches)


def _is_delta(path: str) -> bool:
    return path.endswith(".delta")


def _largest(a: Any) -> float:
    return float(np.abs(a).max(initial=0))
