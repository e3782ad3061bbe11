"""The checks of annotated shapes are in place, and fail where a shape is wrong."""

import jax
import jax.numpy as jnp
import pytest
from array_types import check_shapes, names_a_shape
from jaxtyping import Array, Float, TypeCheckError

import fnn
from fnn.kernels.layout import per_channel
from fnn.layers.dense import dweight
from fnn.typing import KeyArray


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Float[Array, "N K"], True),
        (Float[Array, "N K"] | None, True),
        (tuple[Float[Array, ""], int], True),
        (Array, False),
        (KeyArray | None, False),
        (int | None, False),
        (tuple[int, ...], False),
    ],
)
def test_annotations_that_name_a_shape_are_told_from_others(annotation, expected):
    assert names_a_shape(annotation) is expected


def test_a_letter_stands_for_one_size():
    def add(a: Float[Array, "N K"], b: Float[Array, "N K"], scale: int):
        return a + scale * b

    checked = check_shapes(add)
    assert checked(jnp.ones((2, 3)), jnp.ones((2, 3)), scale=2.5).shape == (2, 3)
    with pytest.raises(TypeCheckError, match="parameter 'b'"):
        checked(jnp.ones((2, 3)), jnp.ones((1, 3)), 1)


WRONG = {
    "a function": lambda: dweight(jnp.ones((3, 4)), jnp.ones((2, 5))),
    "a kernel": lambda: per_channel(jnp.ones((3, 4))),
    "a method": lambda: fnn.Dense(2).backward(
        fnn.Dense(2).init(jax.random.key(0), (4,)).params,
        jnp.ones((3, 4)),
        jnp.ones((5, 2)),
    ),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_the_functions_of_fnn_are_checked(call):
    with pytest.raises(TypeCheckError):
        call()
