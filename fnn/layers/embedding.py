"""The embedding: a row of a table for each id.

Legend: N examples, ... positions (often none), V rows of the table, F features.
"""

from dataclasses import KW_ONLY
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import as_inputs, expect_params, positive_integer
from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.layers.initializers import Initializer, Normal
from fnn.pytree import exportable
from fnn.typing import Array, Float, InShape, Int, KeyArray, PyTree, Shaped

__all__ = ["LARGEST_TABLE", "Embedding", "EmbeddingParams"]

#: float32, which inputs are converted to, holds all integers up to here.
LARGEST_TABLE = 2**24


@exportable
class EmbeddingParams(NamedTuple):
    """The parameter `weight` (V, F), a row for each id. It is penalised."""

    weight: Array


@layer
class Embedding(Layer):
    """A layer that replaces each id by a row of a table: (N, ...) becomes (N, ..., F).

    It is `Dense(F, bias=False)` on one-hot rows, without the products with 0:

        forward     y_nf = W_(x_n)f
        backward    dW_vf = Σ_n [x_n = v] dy_nf         rows are added up in the order
                    dx = 0                              of n: the same bits every time

    (On a GPU that order is fixed under XLA_FLAGS=--xla_gpu_deterministic_ops=true.)

    An id is a name, not a number to differentiate by: dx is 0, and numbers between ids
    are rounded, so that differences of y in x are 0 too. x may be of an integer dtype,
    or hold integers as floats, which the engines make of it. In half precision ids are
    not rounded (see `Layer.takes_ids`).

    An id that is not in 0 .. V−1 is an error where x is known. Inside a compiled
    function, where it is not, its row is NaN: `fnn.fit(..., on_nonfinite="raise")` then
    names this layer.

    Args:
        num_embeddings: V, at most 2²⁴.
        features: F.
        weight_init: draws W; N(0, 1) by default, as in PyTorch.

    Raises:
        ValueError: an id is not in the table, or not an integer.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Embedding(100, 8), fnn.Flatten(), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (3,))  # three words an example
        >>> net.forward(*variables, jnp.array([[5, 0, 99]])).y.shape
        (1, 2)

    Source: Bengio et al., JMLR 3 (2003), section 2: the matrix C.
    """

    num_embeddings: int
    features: int
    _: KW_ONLY
    weight_init: Initializer = Normal(1.0)

    def __post_init__(self) -> None:
        for name in ("num_embeddings", "features"):
            size = positive_integer(f"Embedding: {name}", getattr(self, name))
            object.__setattr__(self, name, size)
        if self.num_embeddings > LARGEST_TABLE:
            raise ValueError(
                f"Embedding: num_embeddings must be at most {LARGEST_TABLE:,}, got "
                f"{self.num_embeddings:,}: ids are converted to float32, which holds "
                "no larger integers exactly"
            )

    @property
    def takes_ids(self) -> bool:
        return True

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        shape = self.num_embeddings, self.features
        return Variables(EmbeddingParams(self.weight_init(key, shape)), ())

    def forward(
        self, params: EmbeddingParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        expect_params(self, params, EmbeddingParams)
        self._check(x)
        nearest = jnp.round(as_inputs(x))
        is_id = (nearest >= 0) & (nearest < self.num_embeddings)  # NaN is none
        ids = jnp.where(is_id, nearest, 0).astype(jnp.int32)
        y = jnp.where(is_id[..., None], params.weight[ids], jnp.nan)
        return Forward(y, saved=jnp.where(is_id, ids, self.num_embeddings), state=state)

    def backward(
        self,
        params: EmbeddingParams,
        saved: Int[Array, "N *P"],
        dy: Float[Array, "N *P F"],
    ) -> Backward:
        ids = saved  # V where there is no row, which is dropped
        dweight = jnp.zeros_like(params.weight).at[ids].add(dy, mode="drop")
        return Backward(jnp.zeros(ids.shape, dy.dtype), EmbeddingParams(dweight))

    def _check(self, x: Shaped[Array, "..."]) -> None:
        """Raise where x is known, and is not ids of this table."""
        if isinstance(x, jax.core.Tracer):
            return
        ids = np.asarray(x, np.float64)
        wrong = ~((ids >= 0) & (ids < self.num_embeddings) & (ids == np.round(ids)))
        if wrong.any():
            index = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"{self!r} expected ids, integers from 0 to {self.num_embeddings - 1}, "
                f"got {ids[tuple(index)]:g} at x{index}"
            )
