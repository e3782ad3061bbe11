"""Export: a trained network as a program that runs without fnn.

Legend: N examples.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from fnn.checks import as_inputs, check_in_shape, positive_integer
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.training.data import check_fits
from fnn.typing import Array, InShape

__all__ = ["export"]


def export(
    net: Layer,
    variables: Variables,
    in_shape: InShape,
    *,
    batch_size: int | None = None,
    dtype: Any = None,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """Export a network and its variables as a program (StableHLO) of x alone.

    The program is that of `fnn.predict` for one batch. It is used without fnn:

        blob = fnn.export(net, result.variables, (28, 28, 1)).serialize()
        z = jax.export.deserialize(blob).call(x)        # in another process

    Args:
        net: the network.
        variables: the network's variables, which become part of the program.
        in_shape: the shape of ONE example, without the batch axis.
        batch_size: N; None for a program that takes any number of examples.
        dtype: the dtype of x; by default the one that parameters have by default.
        platforms: where it is to run, such as ("cpu", "cuda"); by default where this
            process runs.

    Returns:
        A `jax.export.Exported`: `serialize()` makes bytes of it (for that JAX needs
        flatbuffers: `pip install 'fnn[export]'`), `mlir_module()` the text of the
        program. JAX reads them for at least half a year of its versions.

    To export a gradient, or a program that takes the variables as arguments, use
    `jax.export` itself: `fnn.value_and_grad` and `fnn.predict` take a batch of symbolic
    size, and the parameters of fnn's layers can be serialised. For those of a layer of
    your own write `jax.export.register_namedtuple_serialization(SwishParams,
    serialized_name="SwishParams")`, where it is defined.

    Raises:
        ValueError, TypeError: variables that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Relu(), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> program = fnn.export(net, variables, (4,))
        >>> jax.export.deserialize(program.serialize()).call(jnp.ones((5, 4))).shape
        (5, 2)
    """
    expect_layer("net", net)
    check_in_shape(in_shape)
    dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
    one = jax.ShapeDtypeStruct((1, *in_shape), dtype)
    variables = check_fits(net, None, as_variables(variables), (one, None), "in_shape")
    n = jax.export.symbolic_shape("n")[0]
    if batch_size is not None:
        n = positive_integer("batch_size", batch_size)

    def outputs(x: Array) -> Array:
        return net.forward(*variables, as_inputs(x), train=False).y

    x = jax.ShapeDtypeStruct((n, *in_shape), dtype)
    variables = jax.tree.map(jnp.asarray, variables)
    return jax.export.export(jax.jit(outputs), platforms=platforms)(x)
