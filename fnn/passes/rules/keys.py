"""Random keys that are part of a layer: fixed feedback weights are drawn from them.

A weight would have to be a variable; from a key it is drawn again wherever it is used,
so that a rule has the variables of the network that it was made from.
"""

from typing import Any

import numpy as np
from jax.random import fold_in, key_data, key_impl, wrap_key_data

from fnn.checks import check_key
from fnn.pytree import leaf, pytree
from fnn.typing import Array, KeyArray

__all__ = ["FixedKey", "for_rule"]


@pytree
class FixedKey:
    """A random key that compares and hashes by value, so that a layer may hold it.

    Args:
        words: the words of the key.
        impl: the name of the generator that they belong to.
    """

    words: Array | tuple[int, ...] = leaf(shown=True)
    impl: str = "threefry2x32"

    def __post_init__(self) -> None:
        if isinstance(self.words, tuple):
            object.__setattr__(self, "words", np.array(self.words, np.uint32))

    @classmethod
    def of(cls, key: Array) -> "FixedKey":
        """Return the fixed key of a JAX key."""
        key = check_key(key)
        return cls(key_data(key), str(key_impl(key)))

    @property
    def key(self) -> KeyArray:
        """Return the JAX key."""
        words: Any = self.words
        return wrap_key_data(words, impl=self.impl)

    def child(self, number: int) -> "FixedKey":
        """Return the key of a part, `fold_in(key, number)`."""
        return FixedKey.of(fold_in(self.key, number))

    def _value(self) -> tuple[object, ...]:
        return (*np.asarray(self.words).tolist(), self.impl)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedKey) and self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        *words, impl = self._value()
        shown = "" if impl == "threefry2x32" else f", impl={impl!r}"
        return f"FixedKey({tuple(words)}{shown})"


def for_rule(key: KeyArray) -> KeyArray:
    """Return the key that a rule draws from, in a step or for fixed weights.

    It is another one than the wrapped layer's, whose draws stay what they are, and
    whose initial weights must not come out again as the feedback.
    """
    return fold_in(key, 0x72756C65)
