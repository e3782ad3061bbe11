"""The subject of an audit: a network on one batch, in two precisions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables
from fnn.gradients.audit.memory import by_shapes
from fnn.gradients.audit.programs import (
    NetworkRun,
    gradients_by_path,
    is_delta_of,
    network_rounding,
    run_network,
)
from fnn.gradients.audit.scaling import scaled_for_float16
from fnn.gradients.audit.wiring import Values, Wiring, trace_forward
from fnn.gradients.engines import Engine
from fnn.gradients.precision import cast_on_host
from fnn.layers.freezing import frozen_paths
from fnn.losses import Loss
from fnn.network import places
from fnn.probes import probe_with_input
from fnn.typing import Array, Batch, KeyArray, PyTree

__all__ = ["Subject"]


@by_shapes
def _gradient_paths(net: Layer, variables: Variables, x: Any) -> list[str]:
    """Return the paths of all gradients: of x, of parameters, and each layer's δ."""
    names: list[str] = []

    def trace(variables: Variables, x: Array) -> None:
        probed, (params, _) = probe_with_input(net, variables, x)
        names.extend(gradients_by_path(net, probed, params))

    jax.eval_shape(trace, variables, x)
    return names


class Subject(NamedTuple):
    """A network, its loss and a batch, in two precisions.

    Args:
        net: the network.
        loss: the loss.
        variables32: its variables in float32, rounded to the lower precision.
        batch32: x and y likewise.
        variables64: the same numbers in float64.
        batch64: the same numbers in float64.
        key: the key of the forward passes.
        precision: the lower precision: "float32", "bfloat16" or "float16".
        train: in training mode, or in evaluation mode.
        l2: λ of the penalty.
        n: n of the penalty.
        wiring: which layer uses which value.
        shapes: the shapes of the values.
        paths: the paths of all gradients, in forward order.
    """

    net: Layer
    loss: Loss
    variables32: Variables
    batch32: Batch
    variables64: Variables
    batch64: Batch
    key: KeyArray | None
    precision: str
    train: bool
    l2: float
    n: int
    wiring: Wiring
    shapes: Values
    paths: list[str]

    @classmethod
    def of(
        cls,
        net: Layer,
        loss: Loss,
        variables: Variables,
        batch: tuple[Any, Any],
        key: KeyArray | None,
        *,
        precision: str,
        train: bool,
        l2: float,
        n: int,
    ) -> "Subject":
        """Round the numbers to the lower precision, and trace the forward once."""
        numbers: Any = variables, batch
        with jax.enable_x64(False):
            if precision != "float32":
                x, y = batch
                x = x if net.takes_ids else cast_on_host(x, precision)
                y = cast_on_host(y, precision)
                numbers = cast_on_host(variables, precision), (x, y)
            variables32, batch32 = cast_on_host(numbers, jnp.float32)
            wiring, shapes = trace_forward(
                net, variables32, batch32[0], key, train=train
            )
            paths = _gradient_paths(net, variables32, batch32[0])
        with jax.enable_x64(True):
            higher = cast_on_host(numbers, jnp.float64)
        return cls(
            net=net,
            loss=loss,
            variables32=variables32,
            batch32=batch32,
            variables64=higher[0],
            batch64=higher[1],
            key=key,
            precision=precision,
            train=train,
            l2=l2,
            n=n,
            wiring=wiring,
            shapes=shapes,
            paths=paths,
        )

    @property
    def half(self) -> str | None:
        """Return the half precision of the audit, or None."""
        return None if self.precision == "float32" else self.precision

    @property
    def frozen(self) -> set[str]:
        """Return the paths of frozen parameters, whose gradients are 0 by intent."""
        return frozen_paths(self.net, self.variables32.params)

    def scaled_for_float16(self) -> "Subject":
        """Return it with the loss, and so all gradients, within float16's range."""
        options = dict(key=self.key, train=self.train, l2=self.l2, n=self.n)
        with jax.enable_x64(False):
            loss, l2 = scaled_for_float16(
                self.net, self.loss, self.variables32, self.batch32, **options
            )
        return self._replace(loss=loss, l2=l2)

    def run(self, engine: Engine) -> tuple[NetworkRun, NetworkRun]:
        """Compute the network's gradients in the lower precision and in float64."""
        options = dict(engine=engine, train=self.train, l2=self.l2, n=self.n)
        lower = self.net, self.loss, self.variables32, self.batch32, self.key
        higher = self.net, self.loss, self.variables64, self.batch64, self.key
        options32 = options | dict(precision=self.half)
        with jax.enable_x64(False):
            # JAX keeps NumPy arrays from outside as they are first traced, and what was
            # kept in float64 would be of no use to the user's own programs.
            run_network.lower(*lower, **options32)
        with jax.enable_x64(True):
            # JAX does not wait: this runs while the other program is compiled.
            run64 = run_network(*higher, with_values=True, **options)
        with jax.enable_x64(False):
            return run_network(*lower, **options32), run64

    def deltas(self, run64: NetworkRun) -> dict[int, Array]:
        """Return autodiff's δ of every value that a layer returned, by number."""
        rows = self.wiring.rows_of_deltas()
        return {
            number: run64.autodiff[row]
            for row, number in rows.items()
            if row in run64.autodiff  # a serial's is its last layer's
        }

    def delta(self, run64: NetworkRun, path: str) -> PyTree:
        """Return autodiff's δ of a layer's output, a tree like it."""
        deltas = self.deltas(run64)
        return jax.tree.map(lambda i: deltas[i], self.wiring.outputs[path])

    def rounding(self, run64: NetworkRun) -> dict[str, Array]:
        """Measure what the network's handwritten gradients lose in less precision."""
        return network_rounding(
            *(self.net, self.loss, self.variables64, self.batch64, self.key),
            run64.outputs,
            train=self.train,
            precision=self.precision,
        )

    def rows(self) -> list[str]:
        """Return the paths of all gradients that are judged, the input's first.

        The δ of a `serial` is its last layer's and is left out.
        """
        inputs = self.wiring.rows_of_inputs(self.net.kind)
        serials = [path for path, layer in places(self.net) if not layer.kind]
        others = [p for p in self.paths if not is_delta_of(serials, p)]
        return [*inputs, *(p for p in others if p not in inputs)]
