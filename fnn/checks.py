"""What layers check before they compute: errors in plain words, with the numbers."""

from typing import Any

from jax import Array

__all__ = ["describe", "expect_params", "expect_shape", "require_key"]


def describe(tree: Any) -> str:
    """A pytree in a few words, for error messages: types and shapes, no numbers."""
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", ("",) * len(tree))
        inner = ", ".join(
            f"{name}={describe(part)}" if name else describe(part)
            for name, part in zip(names, tree, strict=True)
        )
        return f"{type(tree).__name__ if any(names) else ''}({inner})"
    return type(tree).__name__ if tree is not None else "None"


def expect_params(layer: object, params: Any, expected: type) -> None:
    """Raise where a layer is handed the parameters of another one."""
    if not isinstance(params, expected):
        raise TypeError(
            f"{layer!r} expected its parameters as {expected.__name__}, got "
            f"{describe(params)}: they belong to another network. Make them with "
            "net.init(key, in_shape)."
        )


def expect_shape(layer: object, x: Array, expected: tuple, why: str = "") -> None:
    """Raise unless x has the expected shape.

    A str entry stands for any size, and `...` for any number of axes.
    """
    sizes = expected
    if ... in expected:
        i, between = expected.index(...), x.ndim - len(expected) + 1
        sizes = (*expected[:i], *["any"] * between, *expected[i + 1 :])
    if len(sizes) == x.ndim and all(
        isinstance(size, str) or size == have
        for size, have in zip(sizes, x.shape, strict=True)
    ):
        return
    shown = ", ".join("..." if want is ... else str(want) for want in expected)
    raise ValueError(
        f"{layer!r} expected an input of shape ({shown}){why}, got {tuple(x.shape)}. "
        "The first axis counts the examples: one example alone is x[None]."
    )


def require_key(layer: object, key: Array | None) -> Array:
    """The key, or an error that says which layer needs one and what to pass."""
    if key is None:
        raise ValueError(
            f"{layer!r} draws random numbers in training and was given no key: "
            "pass key=jax.random.key(seed), a fresh one at every step."
        )
    return key
