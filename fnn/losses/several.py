"""Losses of several outputs, and of examples with weights.

Both are made of other losses, and their δ of the others' δ.

Legend: N examples; w (N,) weights.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.dtypes import at_least_float32
from fnn.labels import is_concrete
from fnn.losses.contract import Loss, expect_loss
from fnn.pytree import leaf, pytree
from fnn.shapes import format_shapes
from fnn.typing import Array, Float, InShape, Number, PyTree, Scalar

__all__ = [
    "Each",
    "Weighted",
    "compared_with",
    "loss_of_parts",
    "loss_parts",
    "part_names",
]


@pytree
class Each(Loss):
    """A weighted sum of losses, each of its own output and its own labels.

        value   J = Σ_k c_k J_k(z_k, y_k)
        delta   δ_k = c_k ∂J_k/∂z_k, a tree like z

    z and y are dictionaries with the names of the losses, or tuples with their numbers.
    `fnn.evaluate` and the history report each J_k, without its factor, as `loss_name`.

    Args:
        losses: the losses, a dictionary by name or a tuple.
        factors: c_k, likewise; 1 by default.

    Raises:
        TypeError, ValueError: outputs, labels or factors have other parts.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> loss = fnn.losses.Each({
        ...     "digit": fnn.losses.SoftmaxCrossEntropy(),
        ...     "weight": fnn.losses.SquaredError(),
        ... }, factors={"digit": 1.0, "weight": 0.1})
        >>> z = {"digit": jnp.zeros((3, 2)), "weight": jnp.ones((3, 1))}
        >>> y = {"digit": jnp.array([0, 1, 1]), "weight": jnp.zeros(3)}
        >>> print(loss.value(z, y).round(4))
        0.7431
    """

    losses: Any = leaf()
    factors: Any = leaf(None)

    def __post_init__(self) -> None:
        parts = self.named
        if not parts:
            raise ValueError("losses.Each expected a dictionary or a tuple of losses")
        for loss in parts.values():
            expect_loss(loss)
        if self.factors is None:
            ones: Any = dict.fromkeys(parts, 1.0)
            if not isinstance(self.losses, Mapping):
                ones = (1.0,) * len(parts)
            object.__setattr__(self, "factors", ones)
        if _named(self.factors).keys() != parts.keys():
            raise ValueError(
                f"losses.Each has losses {', '.join(parts)} and factors "
                f"{', '.join(_named(self.factors))}: give one factor for each loss"
            )

    @property
    def named(self) -> dict[str, Any]:
        """The losses by the name, or the number, of their output."""
        return _named(self.losses)

    def value(self, z: PyTree, y: PyTree) -> Scalar:
        factors = _named(self.factors)
        terms = [
            jnp.asarray(factors[name], part.dtype) * part
            for name, part in self.parts(z, y).items()
        ]
        return sum(terms[1:], start=terms[0])

    def delta(self, z: PyTree, y: PyTree) -> PyTree:
        zs, ys, factors = self._pairs(z, y), _named(y), _named(self.factors)
        deltas: dict[str, PyTree] = {}
        for name, loss in self.named.items():
            deltas[name] = jax.tree.map(
                partial(_times, factors[name]), loss.delta(zs[name], ys[name])
            )
        if isinstance(z, Mapping):
            return deltas
        return getattr(z, "_make", type(z))(deltas.values())

    def parts(self, z: PyTree, y: PyTree) -> dict[str, Scalar]:
        """Return J_k of each output, by name."""
        zs, ys = self._pairs(z, y), _named(y)
        return {k: loss.value(zs[k], ys[k]) for k, loss in self.named.items()}

    def check(self, out_shape: InShape, y: PyTree) -> None:
        shapes, ys = self._pairs(out_shape, y), _named(y)
        for name, loss in self.named.items():
            try:
                loss.check(shapes[name], ys[name])
            except Exception as error:
                error.add_note(f"in the output {name!r}")
                raise

    def _pairs(self, z: PyTree, y: PyTree) -> dict[str, Any]:
        """Return the outputs by name; raise unless they and the labels have all."""
        expected = self.named.keys()
        for what, tree in (("outputs", z), ("labels", y)):
            if _named(tree).keys() != expected:
                raise TypeError(
                    f"losses.Each expected {what} with the parts {', '.join(expected)},"
                    f" got {format_shapes(tree)}"
                )
        return _named(z)


def _times(factor: Number, delta: Array) -> Array:
    return jnp.asarray(factor, delta.dtype) * delta


@pytree
class Weighted(Loss):
    """The loss of examples with weights, whose labels are pairs (y, w).

        value   J = (1/N) Σ_n w_n L(z_n, y_n)
        delta   δ_n = w_n/N ∂L/∂z_n

    The mean is divided by the number of examples, not by Σ w: so the gradient of a
    minibatch is an unbiased estimate of that of all examples, and weights of mean 1
    leave the learning rate as it is. (Keras divides so, too; torch's `weight=` divides
    by the sum of the weights of the batch.) What an example of weight 0 has as labels
    and outputs does not matter, even NaN: its δ is exactly 0.

    `fnn.fit(train=(x, y, w))` makes one by itself. Within `Each`, an output has weights
    of its own: `Each((Weighted(loss), other))`, with labels `((y, w), y_other)`.

    Args:
        loss: L, the mean of a loss of each example.

    Raises:
        TypeError, ValueError: labels that are no pair; weights of another shape, or
            that are negative or not finite.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> loss = fnn.losses.Weighted(fnn.losses.SquaredError())
        >>> z, y, w = jnp.ones((2, 1)), jnp.zeros(2), jnp.array([3.0, 0.0])
        >>> print(loss.value(z, (y, w)), loss.delta(z, (y, w)).ravel())
        0.75 [1.5 0. ]
    """

    loss: Loss = leaf()

    def __post_init__(self) -> None:
        expect_loss(self.loss)

    @property
    def classifies(self) -> bool:  # pyrefly: ignore[bad-override]
        return getattr(self.loss, "classifies", False)

    def value(self, z: PyTree, y: PyTree) -> Scalar:
        z, labels, w = _without_ignored(z, y)
        each = _of_each_example(self.loss.value, z, labels)
        return _weighted(w, each).sum()

    def delta(self, z: PyTree, y: PyTree) -> PyTree:
        z, labels, w = _without_ignored(z, y)
        each = _of_each_example(self.loss.delta, z, labels)
        return jax.tree.map(lambda d: _weighted(w, d[:, 0]).astype(d.dtype), each)

    def parts(self, z: PyTree, y: PyTree) -> dict[str, Scalar]:
        """Return J_k of each output, by name, where the loss has several."""
        z, labels, w = _without_ignored(z, y)
        inner: Any = self.loss
        each = _of_each_example(inner.parts, z, labels)
        return {name: _weighted(w, values).sum() for name, values in each.items()}

    def check(self, out_shape: InShape, y: PyTree) -> None:
        labels, w = _pair(y)
        n: Any = jax.tree.leaves(labels)[0].shape[0]
        if w.shape != (n,):
            raise ValueError(
                f"weights must have one number an example, ({n},), got {w.shape}"
            )
        if is_concrete(w):
            wrong = ~((np.asarray(w) >= 0) & np.isfinite(np.asarray(w)))
            if wrong.any():
                at = int(wrong.argmax())
                raise ValueError(
                    f"weights must be finite and not negative, got {w[at]} at "
                    f"example {at}"
                )
            # Labels of weight 0 may be anything.
            used = np.flatnonzero(np.asarray(w))
            labels = jax.tree.map(lambda a: np.asarray(a)[used], labels)
        self.loss.check(out_shape, labels)


# ---- What other parts of fnn ask of any loss -------------------------------------


def part_names(loss: Loss) -> tuple[str, ...]:
    """Return the names of the outputs that a loss is a sum over; () for most losses."""
    return tuple(loss_of_parts(loss))


def loss_of_parts(loss: Loss) -> dict[str, Loss]:
    """Return the loss of each of several outputs by name; {} for most losses."""
    inner = loss.loss if isinstance(loss, Weighted) else loss
    return inner.named if isinstance(inner, Each) else {}


def loss_parts(loss: Loss, z: PyTree, y: PyTree) -> dict[str, Scalar]:
    """Return the losses of several outputs by name; none of most losses."""
    if not part_names(loss):
        return {}
    parts: Any = loss
    return parts.parts(z, y)


def compared_with(loss: Loss, y: PyTree) -> tuple[PyTree, Array | None]:
    """Return the labels that outputs are compared with, and weights if there are."""
    return _pair(y) if isinstance(loss, Weighted) else (y, None)


def _named(tree: Any) -> dict[str, Any]:
    """Return the parts of a dictionary, a tuple or a named tuple, by name or number."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (tuple, list)):
        names = getattr(tree, "_fields", map(str, range(len(tree))))
        return dict(zip(names, tree, strict=True))
    return {}


def _pair(y: Any) -> tuple[PyTree, Array]:
    """Return labels and weights."""
    if not isinstance(y, (tuple, list)) or len(y) != 2:
        raise TypeError(
            "losses.Weighted expected labels as a pair (y, weights), got "
            f"{format_shapes(y)}"
        )
    return y[0], jnp.asarray(y[1])


def _of_each_example(function: Any, z: PyTree, y: PyTree) -> PyTree:
    """Apply a function of a batch to every example alone, a batch of one."""
    alone = jax.tree.map(lambda a: a[:, None], (z, y))
    return jax.vmap(function)(*alone)


def _weighted(w: Float[Array, "N"], each: Float[Array, "N ..."]) -> Array:
    """Return w_n/N times each entry of example n."""
    dtype = at_least_float32(each.dtype)
    return _along(w.astype(dtype), each) * each.astype(dtype) / w.shape[0]


def _without_ignored(z: PyTree, y: PyTree) -> tuple[PyTree, PyTree, Array]:
    """Return outputs, labels and weights, with 0 for all of an example of weight 0.

    It is done before anything is computed, so that 0 × NaN arises in no derivative.
    """
    labels, w = _pair(y)

    def clear(a: Array) -> Array:
        return jnp.where(_along(w, a) == 0, jnp.zeros((), a.dtype), a)

    return jax.tree.map(clear, z), jax.tree.map(clear, labels), w


def _along(w: Float[Array, "N"], a: Array) -> Float[Array, "N ..."]:
    """Return the weights with as many axes as a has."""
    return w.reshape(-1, *[1] * (a.ndim - 1))
