"""Behaviour that fnn's optimizers share with optax's gradient transformations."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

from fnn.describe import shown

__all__ = ["Transformation", "expect_optimizer", "is_optimizer", "takes_extra"]


class Transformation:
    """A pair of functions, as in optax: `init, update = optimizer` unpacks it.

    It is no `optax.GradientTransformation`, which is a tuple of closures, but a pytree
    of numbers. Where code asks for that class, write
    `optax.GradientTransformationExtraArgs(*optimizer)`.
    """

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        pair = cast(Any, self)
        return iter((pair.init, pair.update))


def takes_extra(update: Callable[..., Any]) -> bool:
    """Return whether `update` takes any keyword arguments, as optax's contract is.

    Then it gets all that there are, such as value=, grad= and value_fn=.
    """
    try:
        parameters = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):  # written in C, say: it tells nothing
        return False
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def is_optimizer(thing: Any) -> bool:
    """Return whether a thing has the pair `init` and `update`; a class has not."""
    verbs = (getattr(thing, verb, None) for verb in ("init", "update"))
    return not isinstance(thing, type) and all(map(callable, verbs))


def expect_optimizer(name: str, optimizer: Any) -> None:
    """Raise where an argument is no pair of `init` and `update`."""
    if not is_optimizer(optimizer):
        raise TypeError(
            f"{name} must be an optimizer, with init(params) and "
            f"update(grads, state, params), got {shown(optimizer)}: pass "
            "fnn.optimizers.adam(1e-3), for instance, or one of optax's"
        )
