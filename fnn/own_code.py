"""Errors that code of a user's own raises while JAX traces it, explained.

Layers, losses, metrics, augmentations, schedules and optimizers may all be a user's
own. JAX's errors about them speak of tracers and verifiers, and end within JAX.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import jax

__all__ = ["explain_own_code", "explain_traced_arrays"]

#: What Python and NumPy raise where a number is needed and an array is traced.
NEEDS_NUMBERS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)

#: The folders of code that is nobody's own; a folder beside, `fnn_trials`, is.
LIBRARIES = tuple(
    f"{Path(sys.modules[name].__file__ or '').parent}{os.sep}"
    for name in ("fnn", "jax")
)


@contextmanager
def explain_traced_arrays(what: Callable[[], str]) -> Generator[None, None, None]:
    """Explain the errors of code that only works on concrete numbers.

    Args:
        what: returns the code, as the subject of the message.
    """
    try:
        yield
    except NEEDS_NUMBERS as error:
        raise _no_numbers(what()) from error


@contextmanager
def explain_own_code() -> Generator[None, None, None]:
    """Explain errors of whatever a user handed over to a function of fnn.

    JAX converts an array that a function finds outside itself, and keeps the result for
    as long as a program lives that has it. A program in another precision is then given
    the wrong one (jax 0.10.1 to 0.12), which XLA refuses. `jnp.asarray` in the function
    converts it each time.
    """
    try:
        yield
    except NEEDS_NUMBERS as error:
        raise _no_numbers(f"A function of your own{_place_of(error)}") from error
    except ValueError as error:
        if "Cannot lower jaxpr with verifier errors" not in str(error):
            raise
        place = re.search(r'\("([^"]+)":(\d+)', str(error))
        raise TypeError(
            "A layer or a loss computes with a NumPy array from outside"
            + (f" (line {place[2]} of {place[1]})" if place else "")
            + ". JAX keeps it in the precision in which it used it first, and then "
            "cannot compute the same in float64 as in float32. Write "
            "jnp.asarray(c, x.dtype) in place of an array c."
        ) from error


def _no_numbers(what: str) -> TypeError:
    return TypeError(
        f"{what} used NumPy, or Python's `if`, `int` or `float`, on a traced array, "
        "which has no numbers yet. Use jax.numpy, jnp.where and jax.lax there: it is "
        "compiled."
    )


def _place_of(error: BaseException) -> str:
    """Return the last line of code that belongs to neither fnn nor JAX."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
