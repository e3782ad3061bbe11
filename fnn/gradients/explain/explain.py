"""The chain rule written out: the factors that lead from the loss to one parameter.

With v_1 the network's output, v_2 the input of the last layer, ..., v_m the output of
the layer that the parameter θ belongs to,

    ∂L/∂θ = ∂L/∂v_1 · ∂v_1/∂v_2 · ... · ∂v_{m−1}/∂v_m · ∂v_m/∂θ

The first factor is the loss's delta; each other one is the Jacobian of one layer. A row
of it is the dx, or a parameter's gradient, that the layer's handwritten backward
computes from dy = (0 ... 1 ... 0). Only entries that θ has an influence on are in a
Jacobian: others change the loss, but not with θ. So it is a single number where one
unit leads to one unit.

Where several arrays go on, as between a fork and a merge, the layers from one to the
other are one factor. A network of several outputs has ∂L/∂v_1 for the last single array
that leads to them.

A block of branches is one factor where θ is before it: the paths through it are
parallel, and are added. Where θ is in a branch, the factor is the derivative of the
block's output by the output of the branch.
"""

import difflib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import as_inputs, check_key, check_pair, is_integer
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.describe import shown
from fnn.gradients.engines import value_and_grad
from fnn.gradients.explain.chain import (
    LayerDerivative,
    derivative_chain,
    nodes_with_symbols,
)
from fnn.gradients.explain.explanation import Explanation, Factor
from fnn.gradients.explain.symbols import symbols
from fnn.gradients.precision import cast
from fnn.losses import Loss, expect_loss
from fnn.network import Node, named_params
from fnn.own_code import explain_own_code
from fnn.placement import with_automatic_axes
from fnn.planning.planned import plain
from fnn.probes import probe
from fnn.shapes import count_examples, example_shape
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, Bool, KeyArray, PyTree
from fnn.visits import Seen, record

__all__ = ["explain"]

#: Agreement in float64, as a share of the gradient of the same layer ...
AGREEMENT = 1e-9
#: ... or of this share of the largest gradient in the network.
SMALL = 1e-3

#: The index of one entry of a parameter; None for all entries.
Entry = tuple[int, ...] | None


@with_automatic_axes
@own_numbers_may_move()
@explain_own_code()
def explain(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    parameter: str,
    index: int | tuple[int, ...] | None = None,
    *,
    key: Array | None = None,
    train: bool = False,
    limit: int = 256,
) -> Explanation:
    """Write out the factors that lead from the loss to a parameter, and their product.

    Everything is computed in float64, whatever the precision of the variables; not
    under `jit`.

    Args:
        net: the network.
        loss: the loss L.
        variables: its variables.
        batch: x (N, ...) and y (N, ...); L is the mean of the N examples.
        parameter: the path of the parameter, as in `fnn.named_params`:
            "2/Dense.weight".
        index: the index of one entry; all of the parameter by default.
        key: the key of a training step, for a network that draws random numbers
            (dropout).
        train: whether the network is in training mode, or in evaluation mode.
        limit: the largest number of entries of a Jacobian that is formed. The layer's
            backward runs once for each of its rows.

    Returns:
        An `Explanation`: print it, or read its `factors`, `product`, `autodiff` (the
        gradient by `jax.grad`) and `agrees`.

    Raises:
        ValueError: there is no such parameter, or no such entry; or between it and the
            loss there is no single array.

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
        gradients = _both_gradients(net, loss, root.variables, batch, key, train)
        loss.check(example_shape(gradients.outputs), batch[1])
        chain = list(derivative_chain(root, parameter, gradients.seen, train))
        source = _skip_several_outputs(chain)
        masks = _influenced(chain, shape, entry)
        names = _symbols(root, gradients, chain, masks, parameter, entry)
        factors = tuple(_factors(gradients, chain, source, masks, names, limit))
    at = ... if entry is None else entry
    product, autodiff = (
        np.asarray(grads[parameter])[at]
        for grads in (gradients.manual, gradients.autodiff)
    )
    value, examples = float(gradients.loss), count_examples(x)
    return Explanation(
        names[-1], parameter, entry, value, factors, product, autodiff, examples
    )


# ---- The gradients everywhere, by hand and by JAX --------------------------------


class _Gradients(NamedTuple):
    """All gradients by path, those of outputs as `2/Dense.delta`.

    `manual` are the handwritten ones, `autodiff` those of `jax.grad`; `seen` is the
    input and the key that each layer is given, by path.
    """

    loss: Array
    outputs: PyTree
    manual: dict[str, Array]
    autodiff: dict[str, Array]
    seen: dict[str, Seen]

    def error(self, name: str, entries: np.ndarray) -> tuple[float, bool]:
        """Return the largest difference of the two, and whether it is rounding.

        Only some entries are compared; but on the scale of all entries of the same
        gradient, because one alone may have cancelled.
        """
        error = _largest((self.manual[name] - self.autodiff[name])[entries])
        same = [g for n, g in self.autodiff.items() if _is_delta(n) == _is_delta(name)]
        scale = max(_largest(self.autodiff[name]), SMALL * max(map(_largest, same)))
        # Written so that NaN does not agree.
        return error, error <= AGREEMENT * scale


#: Fast compilation, for a program that runs once.
_QUICKLY = {"xla_backend_optimization_level": 0}


@partial(jax.jit, static_argnames="train", compiler_options=_QUICKLY)
def _both_gradients(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: KeyArray | None,
    train: bool,
) -> _Gradients:
    probed, probed_variables = probe(net, variables, batch[0])
    manual = value_and_grad(probed, loss, "manual")
    autodiff = value_and_grad(plain(probed), loss, "autodiff")
    out, referee = (
        grad_fn(probed_variables, batch, key=key, train=train)
        for grad_fn in (manual, autodiff)
    )
    return _Gradients(
        out.loss,
        out.outputs,
        named_params(probed, out.grads),
        named_params(probed, referee.grads),
        record(net, variables, batch[0], key, train),
    )


def _skip_several_outputs(chain: list[LayerDerivative]) -> str:
    """Begin the chain at the last single array; return the path of the δ there.

    That is the loss's, unless the network returns several arrays, to which more layers
    lead.
    """
    source = "loss.delta"
    while not chain[0].is_of_one_array:
        skipped = chain.pop(0)
        source = skipped.path
        if not chain:
            raise ValueError(
                "explain follows one chain of single arrays, and what "
                f"{skipped.node.path} returns is several: there is nothing between it "
                "and the loss. fnn.compare_gradients checks such a network."
            )
    return source


# ---- The parameter and the entry to explain --------------------------------------


def _shape_of(net: Layer, params: PyTree, parameter: Any) -> tuple[int, ...]:
    """Return the shape of a parameter; raise where there is none of that path."""
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
    """Return the index as a tuple of numbers from 0 on.

    None stands for all of a parameter with several entries.
    """
    if index is None:
        return None if math.prod(shape) > 1 else (0,) * len(shape)
    is_sequence = isinstance(index, tuple) or isinstance(index, list)
    entry = tuple(index) if is_sequence else (index,)
    fits = len(entry) == len(shape) and all(
        is_integer(i) and -size <= i < size
        for i, size in zip(entry, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{parameter} has shape {shape}: index must be {len(shape)} integers "
            f"within it, got {shown(index)}"
        )
    return tuple(int(i) % size for i, size in zip(entry, shape, strict=True))


# ---- Masks, symbols, factors: lists from the loss down to the parameter ----------


def _influenced(
    chain: list[LayerDerivative], shape: tuple[int, ...], entry: Entry
) -> list[Bool[np.ndarray, "..."]]:
    """Return masks: which entries of v_1 ... v_m θ has an influence on; those of θ."""
    mask = np.zeros(shape, bool)
    mask[... if entry is None else entry] = True
    masks = [mask]
    for derivative in reversed(chain):
        masks.insert(0, derivative.influenced(masks[0]))
    return masks


def _symbols(
    root: Node,
    gradients: _Gradients,
    chain: list[LayerDerivative],
    masks: list[np.ndarray],
    parameter: str,
    entry: Entry,
) -> list[str]:
    """Return the symbols of v_1 ... v_m and θ."""
    deltas = gradients.manual
    # What returns several arrays has no symbol.
    nodes = [n for n in nodes_with_symbols(root) if f"{n.path}.delta" in deltas]
    shapes = {n.path: deltas[f"{n.path}.delta"].shape[1:] for n in nodes}
    by_path = symbols(nodes, shapes)
    owner = max((p for p in by_path if parameter.startswith(f"{p}.")), key=len)
    links = [
        by_path[derivative.last.path].output(mask)
        for derivative, mask in zip(chain, masks[:-1], strict=True)
    ]
    name = parameter.removeprefix(f"{owner}.")
    return [*links, by_path[owner].parameter(name, masks[-1].shape, entry)]


def _factors(
    gradients: _Gradients,
    chain: list[LayerDerivative],
    source: str,
    masks: list[np.ndarray],
    names: list[str],
    limit: int,
) -> Iterator[Factor]:
    """Yield the factor of δ, from `source`, and those of the derivatives."""
    paths = [f"{derivative.last.path}.delta" for derivative in chain] + [chain[-1].wrt]

    def factor(
        i: int,
        above: str,
        path: str,
        shape: tuple[int, int],
        value: np.ndarray | None,
        branches: dict[str, np.ndarray],
    ) -> Factor:
        error, agrees = gradients.error(paths[i], masks[i])
        product = np.asarray(gradients.manual[paths[i]])[masks[i]]
        symbol = f"∂{above}/∂{names[i]}"
        return Factor(symbol, path, shape, value, product, error, agrees, branches)

    delta = np.asarray(gradients.manual[paths[0]])[masks[0]][None]
    small = delta.size <= limit
    yield factor(0, "L", source, delta.shape, delta if small else None, {})
    for i, derivative in enumerate(chain):
        shape = int(masks[i].sum()), int(masks[i + 1].sum())
        small = math.prod(shape) <= limit
        value = derivative.jacobian(masks[i], masks[i + 1]) if small else None
        branches = derivative.branch_contributions(gradients.manual, masks[i + 1])
        yield factor(i + 1, names[i], derivative.path, shape, value, branches)


def _is_delta(path: str) -> bool:
    return path.endswith(".delta")


def _largest(a: Any) -> float:
    return float(np.abs(a).max(initial=0))
