"""The compiled programs of the audit: the network's gradients, in one precision."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial, update_wrapper
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.core import Layer, Variables
from fnn.gradients.audit.rounding import lost_digits
from fnn.gradients.audit.wiring import Values, run_forward
from fnn.gradients.claims import claimed
from fnn.gradients.engines import Engine, autodiff
from fnn.gradients.precision import engine_in_precision
from fnn.losses import Loss
from fnn.network import named_params, places
from fnn.planning.planned import plain
from fnn.probes import probe_with_input
from fnn.typing import Array, Batch, KeyArray, Number, PyTree

__all__ = [
    "NetworkRun",
    "compiled",
    "gradients_by_path",
    "is_delta_of",
    "network_rounding",
    "plain_layer_by_layer",
    "run_network",
]


class compiled:
    """A function that is compiled and hardly runs more than once: little is optimised.

    LLVM's level 0 compiles in two thirds of the time of level 1. It is enough where the
    time goes into products, and convolutions of float32, which are functions of XLA's
    own libraries. XLA has none for convolutions of float64: they are compiled, and at
    level 0 they would take ten times as long.

    Args:
        fn: the function.
        static_argnames: the names of its arguments that are not arrays.
    """

    def __init__(
        self, fn: Callable[..., Any], static_argnames: str | Sequence[str] = ()
    ) -> None:
        update_wrapper(self, fn)
        self._at_level = [
            jax.jit(
                fn,
                static_argnames=static_argnames,
                compiler_options={"xla_backend_optimization_level": level},
            )
            for level in (0, 1)
        ]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._for(arguments, options)(*arguments, **options)

    def lower(self, *arguments: Any, **options: Any) -> None:
        """Trace and lower the function, for a later call with such arguments."""
        self._for(arguments, options).lower(*arguments, **options)

    def _for(self, *trees: Any) -> Any:
        """Return the program that arguments like these run in."""
        return self._at_level[any(map(_is_image_of_float64, jax.tree.leaves(trees)))]


def _is_image_of_float64(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == np.float64 and leaf.ndim > 2


class NetworkRun(NamedTuple):
    """The gradients of a network, δ included, in one precision.

    Args:
        outputs: z (N, ...).
        engine: the gradients of the engine under audit, by path.
        autodiff: those of autodiff, the referee.
        own_values: what each layer was given and returned, if that was asked for.
        plain_values: the same of the plain network that a planned one stands for.
    """

    outputs: PyTree
    engine: dict[str, Array]
    autodiff: dict[str, Array]
    own_values: Values | None
    plain_values: Values | None


def plain_layer_by_layer(net: Layer) -> Layer:
    """Return the network with each planned layer replaced; itself if there is none.

    A plan as a whole stands for layers with other paths. What is left by this has those
    of the planned network, and its δ.
    """
    if plain(net) is net:
        return net
    if not (children := net.children.values()):
        return plain(net)
    return plain(net.with_children(*map(plain_layer_by_layer, children)))


def gradients_by_path(net: Layer, probed: Layer, grads: PyTree) -> dict[str, Any]:
    """Return the gradients of a probed network by path, in forward order.

    The δ of a `serial` is its last layer's, and is left out.
    """
    serials = [path for path, part in places(net) if part.children and not part.kind]
    named = named_params(probed, grads)
    return {row: grad for row, grad in named.items() if not is_delta_of(serials, row)}


def is_delta_of(paths: Iterable[str], row: str) -> bool:
    """Return whether a row is δ, or a part of δ, of one of these layers' outputs."""
    path, found, _ = f"{row}.".partition(".delta.")
    return bool(found) and path in paths


@partial(compiled, static_argnames=("engine", "train", "precision", "with_values"))
def run_network(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: KeyArray | None,
    *,
    engine: Engine,
    train: bool,
    l2: Number,
    n: int | Array,
    precision: str | None = None,
    with_values: bool = False,
) -> NetworkRun:
    """Compute the gradients of both engines, in a half precision if it is given.

    Both share one program and so one forward: a ReLU that rounds to the other side in
    only one of them would look like a bug.
    """
    engine, referee = (engine_in_precision(e, precision) for e in (engine, autodiff))
    probed, probed_variables = probe_with_input(net, variables, batch[0])
    arguments = loss, probed_variables, batch
    options = dict(key=key, train=train, l2=l2, n=n)
    forward = variables, batch[0], key, train
    ours = engine(probed, *arguments, **options)
    theirs = referee(claimed(plain(probed)), *arguments, **options)
    run = NetworkRun(
        outputs=theirs.outputs,
        engine=gradients_by_path(net, probed, ours.grads),
        autodiff=gradients_by_path(net, probed, theirs.grads),
        own_values=None,
        plain_values=None,
    )
    if not with_values:
        return run
    run = run._replace(own_values=run_forward(net, *forward))
    if (judge := plain_layer_by_layer(net)) is not net:
        run = run._replace(plain_values=run_forward(judge, *forward))
    return run


@partial(compiled, static_argnames=("train", "precision"))
def network_rounding(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: KeyArray | None,
    z: PyTree,
    *,
    train: bool,
    precision: str,
) -> dict[str, Array]:
    """Measure what the handwritten gradients lose in a lower precision.

    Args:
        net: the network.
        loss: the loss.
        variables: the network's variables, in float64.
        batch: x and y.
        key: the key of the forward pass.
        z: the network's outputs.
        train: in training mode, or in evaluation mode.
        precision: the lower precision.

    Returns:
        The rounding errors of each gradient by path, a first axis of draws in front.
    """
    x, y = batch
    probed, (params, state) = probe_with_input(net, variables, x)
    is_plain = plain(net) is net

    def backward(params: PyTree, x: PyTree, delta: PyTree) -> PyTree:
        out = probed.forward(params, state, x, key=key, train=train)
        if not is_plain:  # its outputs, and so its delta, round otherwise
            delta = loss.delta(out.y, y)
        return probed.backward(params, out.saved, delta).dparams

    lost = lost_digits(backward, params, x, loss.delta(z, y), dtype=precision)
    return named_params(probed, lost)
