"""Check arrays against their annotated shapes while the tests run.

`conftest` puts `check_arrays` around every function of fnn. Only annotations that name
a shape are checked, `Float[Array, "N K"]` but not `int`: what users pass is checked by
fnn itself, in words that the tests read.
"""

from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

__all__ = ["check_arrays", "names_a_shape"]


def names_a_shape(annotation: Any) -> bool:
    """Whether an annotation is of jaxtyping, or a union or a tuple with one in it."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(names_a_shape, get_args(annotation)))


def check_arrays(function: Any) -> Any:
    """The function with its annotated arrays checked at each call."""
    shapes = {
        name: annotation
        for name, annotation in getattr(function, "__annotations__", {}).items()
        if names_a_shape(annotation)
    }
    if not shapes:
        return function
    function.__annotations__ = shapes
    return beartype(function)
