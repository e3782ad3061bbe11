"""A tied layer: a place of a network that shares its parameters with other places.

`fnn.shared` around the network makes them one set (see `shared`).
"""

import dataclasses
from typing import Any

from jax.tree_util import keystr

from fnn.core import Backward, Forward, Layer, Variables, expect_layer, layer, leaf
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Tied", "parameter_name", "tied"]


def tied(name: str, layer: Layer, only: tuple[str, ...] | None = None) -> "Tied":
    """Name a place of a network, whose parameters all places of that name share.

    Put `fnn.shared` around the network, or the part of it, that holds all the places.

    Args:
        name: the name. The same object in two places shares nothing without one.
        layer: what stands at this place: a layer, or a network.
        only: the names of parameters that are shared, such as `("weight",)`; None for
            all.

    Returns:
        A `Tied` layer.

    Raises:
        TypeError: an argument is not a layer, or not a name.

    Example:
        >>> import jax, fnn
        >>> encode = fnn.tied("w", fnn.Dense(3), only=("weight",))
        >>> decode = fnn.tied("w", fnn.DenseTranspose(8), only=("weight",))
        >>> net = fnn.shared(fnn.serial(encode, fnn.Tanh(), decode))
        >>> params, _ = net.init(jax.random.key(0), (8,))
        >>> [path for path in fnn.named_params(net, params)]
        ['0/Dense.weight', '0/Dense.bias', '2/DenseTranspose.bias']
    """
    return Tied(layer, name, only)


@layer
class Tied(Layer):
    """A place of a network that shares parameters; built by `fnn.tied`.

    It has the variables, the path and the children of the layer inside.

    Args:
        layer: what stands there.
        name: the name of all places that share.
        only: the names of the parameters that are shared; None for all.
        armed: whether `fnn.shared` has found it.
    """

    layer: Layer = leaf()
    name: str = ""
    only: tuple[str, ...] | None = None
    armed: bool = False

    def __post_init__(self) -> None:
        expect_layer("tied: layer", self.layer)
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"tied: name must be a text, got {self.name!r}")
        if self.only is not None:
            names = [self.only] if isinstance(self.only, str) else list(self.only)
            object.__setattr__(self, "only", tuple(names))

    @property
    def wrapped(self) -> Layer:
        return self.layer

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.layer.penalized

    @property
    def suited_init(self) -> Any:  # pyrefly: ignore[bad-override]
        return self.layer.suited_init

    def with_children(self, *layers: Layer) -> Layer:
        inner = self.layer.with_children(*layers) if layers else self.layer
        return dataclasses.replace(self, layer=inner)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        self._expect_armed()
        return self.layer.init(key, in_shape)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        self._expect_armed()
        return self.layer.forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return self.layer.backward(params, saved, dy)

    def shares(self, path: Any) -> bool:
        """Return whether the parameter at this path in its tree is shared."""
        return self.only is None or parameter_name(path).rpartition(".")[2] in self.only

    def _expect_armed(self) -> None:
        if not self.armed:
            raise ValueError(
                f"{self!r} shares nothing yet: put fnn.shared(...) around the network "
                "that holds all places of this name"
            )

    def __repr__(self) -> str:
        only = "" if self.only is None else f", only={self.only!r}"
        return f"tied({self.name!r}, {self.layer!r}{only})"


def parameter_name(path: Any) -> str:
    """Return the name of a parameter from its path in a tree, such as `0.weight`."""
    return keystr(path, simple=True, separator=".")
