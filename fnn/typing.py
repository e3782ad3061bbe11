"""The types that signatures share.

Array types with shapes, such as `Float[Array, "N K"]`, come from jaxtyping; the letters
are those of the file's legend. They are annotations: nothing is checked when fnn runs.
The tests check them with beartype.
"""

from collections.abc import Callable
from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Inexact, Int, Key, Shaped

__all__ = [
    "Array",
    "Batch",
    "Bool",
    "Float",
    "InShape",
    "Inexact",
    "Int",
    "KeyArray",
    "Number",
    "PyTree",
    "Scalar",
    "Schedule",
    "Shaped",
]

#: A tree of arrays: tuples, named tuples, lists, dictionaries and registered classes.
PyTree = Any

#: A number that may be traced: a float, or a scalar array inside `jit` or `vmap`.
Number = float | Array

#: A batch (x, y): inputs and labels, with the examples on their first axis. Either is
#: an array or a tree of arrays.
Batch = tuple[Any, Any]

#: The shape of one example, without the batch axis; a tree of shapes where examples
#: are trees of arrays.
InShape = Any

#: A floating-point scalar.
Scalar = Float[Array, ""]

#: One random key, as `jax.random.key` returns it.
KeyArray = Key[Array, ""]

#: A number, or an optax schedule: a function from the step (0, 1, ...) to a number.
Schedule = float | Array | Callable[[Array], Any]
