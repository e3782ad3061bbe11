"""Breadth that each run of the tests can do without: it compiles for seconds a row."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["some_of"]


def some_of(values: Iterable[Any], quick: Iterable[Any], name: Any = str) -> list[Any]:
    """Return all values as rows of a table; those that are not quick are thorough.

    Args:
        values: the values of one argument.
        quick: those that run every time.
        name: a function that names a value.
    """
    quick = list(quick)
    return [
        pytest.param(
            value,
            id=name(value),
            marks=() if value in quick else pytest.mark.thorough,
        )
        for value in values
    ]
