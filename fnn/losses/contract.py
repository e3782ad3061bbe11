"""The contract of a loss, and how the losses of single examples become one number.

    value(z, y)     J = (1/N) Σ_n L(z_n, y_n)           a scalar
    delta(z, y)     δ = ∂J/∂z, of z's shape             the δ that backward starts from
    check(shape, y) raises where labels cannot belong to outputs of that shape

The value is computed in at least float32; delta has z's dtype. Without examples, J = 0.

At the edges, `value`, its derivative by autodiff, and `delta` follow one convention:

    z finite    J is never cut off, and inf only beyond the largest number.
                δ is finite (as long as z − t is).
    z = −∞      A class that is ruled out: a = 0. It adds 0 to J where t = 0, and inf
                where t > 0. δ is by the same equation, and finite.
    otherwise   J is NaN or inf, and so is δ of that example where its equation is. The
                other examples keep their δ.

So `fit(on_nonfinite=...)` sees whatever is wrong, with both engines.

Legend: N examples, K outputs; z (N, K).
"""

import functools
import inspect
from typing import Any, ClassVar, Protocol

from fnn.checks import expect_instance, expect_pytree
from fnn.describe import shown
from fnn.typing import Array, Float, InShape, Scalar

__all__ = ["Loss", "expect_loss", "mean"]


class Loss(Protocol):
    """The contract of a loss."""

    #: Whether the outputs score classes, so that accuracy makes sense.
    classifies: ClassVar[bool] = False

    def value(self, z: Array, y: Array) -> Scalar:
        """Return the mean loss of a batch."""
        ...

    def delta(self, z: Array, y: Array) -> Array:
        """Return the derivative of `value` with respect to z, of z's shape."""
        ...

    def check(self, out_shape: InShape, y: Array) -> None:
        """Raise where labels y cannot belong to outputs of shape (..., K).

        Shapes and dtypes are always checked, numbers only where y is concrete.
        """
        ...


def expect_loss(loss: Any) -> None:
    """Raise unless `loss` has the methods of a loss and is a pytree.

    Args:
        loss: anything.

    Raises:
        TypeError: it is a class or a function, lacks a method, or is not registered
            with JAX.

    Example:
        >>> import fnn
        >>> fnn.losses.expect_loss(fnn.losses.SquaredError())
        >>> fnn.losses.expect_loss(fnn.losses.SquaredError)
        Traceback (most recent call last):
        TypeError: ...
    """
    expect_instance("loss", loss)
    if inspect.isroutine(loss) or isinstance(loss, functools.partial):
        name = getattr(loss, "__name__", "fn")
        fn = "fn" if name == "<lambda>" else name
        raise TypeError(
            f"loss is a function, {shown(loss)}; wrap it: fnn.losses.Lambda({fn}), "
            "where it takes the outputs z and the labels y, and returns their mean "
            "loss, a scalar."
        )
    missing = [name for name in _METHODS if not callable(getattr(loss, name, None))]
    if missing:
        raise TypeError(
            f"loss must have value(z, y), delta(z, y) and check(out_shape, y), got "
            f"{shown(loss)}, which has no {' and no '.join(missing)}. delta is the "
            "derivative of value with respect to z; check raises where labels y do not "
            "fit outputs of shape out_shape, and may do nothing."
        )
    expect_pytree("loss", loss)


_METHODS = ("value", "delta", "check")


def mean(elements: Float[Array, "..."], count: int) -> Scalar:
    """Return 1/count Σ of all elements.

    The division comes before the sum, which then overflows only where the mean does.
    """
    return (elements / count).sum()
