"""Check arrays against their annotated shapes while the tests run.

`conftest` puts a check around every function of fnn with an annotation that names a
shape, such as `Float[Array, "N K"]`. Other annotations are not checked: what users pass
is checked by fnn itself, with errors that the tests read.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

import fnn
from fnn.typing import KeyArray

__all__ = ["check_shapes", "check_shapes_everywhere", "names_a_shape"]


def names_a_shape(annotation: Any) -> bool:
    """Return whether an annotation is of jaxtyping, or a union or tuple with one.

    A key has no shape to speak of, and fnn itself checks what is passed for one.
    """
    if annotation is KeyArray:
        return False
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(names_a_shape, get_args(annotation)))


def check_shapes(function: Any) -> Any:
    """Return the function with its annotated arrays checked at each call."""

    def of_shapes_only(checked: Any) -> Any:
        checked.__annotations__ = {
            name: annotation
            for name, annotation in checked.__annotations__.items()
            if names_a_shape(annotation)
        }
        return beartype(checked)

    return jaxtyped(function, typechecker=of_shapes_only)


def check_shapes_everywhere() -> int:
    """Check the annotated functions of all modules of fnn; return their number."""
    for module in pkgutil.walk_packages(fnn.__path__, "fnn."):
        importlib.import_module(module.name)
    checked: dict[Any, Any] = {}
    # A function is found again wherever another module has imported it.
    for place in list(_namespaces()):
        for name, value in list(vars(place).items()):
            if inspect.isfunction(value) and value.__module__.startswith("fnn."):
                if any(map(names_a_shape, value.__annotations__.values())):
                    if value not in checked:
                        checked[value] = check_shapes(value)
                    setattr(place, name, checked[value])
    return len(checked)


def _namespaces() -> Iterator[Any]:
    """Yield every module of fnn, and every class that is defined in one."""
    for name, module in list(sys.modules.items()):
        if name == "fnn" or name.startswith("fnn."):
            yield module
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__ == name:
                    yield value
