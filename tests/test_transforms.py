"""Every layer under every transformation of JAX gives what a plain loop gives.

One program for each row and shape holds all transformations, so that it is compiled
once. A transformation that XLA cannot compile may end the process: each version of jax
runs these tests in a process of its own (scripts/versions).
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS, LayerCase
from jax.sharding import Mesh, PartitionSpec
from test_contract import KEY, problem

import fnn
from fnn.core import Variables

#: The size of the axis that is mapped over, and of the batch.
SHAPES = [
    (2, 3),
    # The other shapes take as long again each: scripts/versions runs them.
    pytest.param((2, 1), marks=pytest.mark.thorough),
    pytest.param((4, 2), marks=pytest.mark.thorough),
]


def family(case: LayerCase) -> str:
    """The classes in a row's layer: rows that differ in numbers only are alike here."""
    return re.sub(r"\d+|\(.*?\)|=.*?[,)]", "", repr(case.layer))


#: One row of each kind of layer; most of the time goes into compiling. Of the networks
#: a single row, since they pass on what their layers compute.
ROWS = list(
    {
        family(case): case
        for case in LAYERS
        if not case.layer.children or case.name in ("serial", "residual, noisy")
    }.values()
)


def once(case: LayerCase, variables: Variables, x: Any, dy: Any) -> tuple:
    """One forward and one backward in training: y, dx and dparams."""
    out = case.layer.forward(*variables, x, key=KEY, train=True)
    back = case.layer.backward(variables.params, out.saved, dy)
    return out.y, back.dx, back.dparams


def transformed(case: LayerCase, variables: Variables, xs: Any, dys: Any) -> dict:
    """The same under each transformation, over the first axis of xs (M, N, ...)."""

    def f(variables, x, dy):
        return once(case, variables, x, dy)

    def over_data(variables, xs, dys):
        return jax.vmap(f, (None, 0, 0))(variables, xs, dys)

    def split(a):  # (M, ...) as (2, M/2, ...)
        return a.reshape(2, -1, *a.shape[1:])

    def joined(tree):
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)

    mesh = Mesh(np.array(jax.devices()[:2]), "split")
    everywhere, by_row = PartitionSpec(), PartitionSpec("split")
    many = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), variables)

    def over_variables(many, x, dy):
        if not jax.tree.leaves(many):  # nothing to map over
            return jax.tree.map(lambda a: jnp.stack([a, a]), f(many, x, dy))
        return jax.vmap(f, (0, None, None))(many, x, dy)

    def of_x(x):
        return f(variables, x, dys[0])

    primal, tangent = jax.jvp(of_x, (xs[0],), (jnp.cos(xs[0]),))
    linear_primal, linear = jax.linearize(of_x, xs[0])
    return {
        "vmap": over_data(variables, xs, dys),
        "vmap of vmap": joined(
            jax.vmap(over_data, (None, 0, 0))(variables, split(xs), split(dys))
        ),
        "vmap over variables": over_variables(many, xs[0], dys[0]),
        "jvp": primal,
        "linearize": linear_primal,
        "tangents": (tangent, linear(jnp.cos(xs[0]))),
        "checkpoint": jax.checkpoint(f)(variables, xs[0], dys[0]),
        "shard_map": jax.shard_map(
            over_data,
            mesh=mesh,
            in_specs=(everywhere, by_row, by_row),
            out_specs=by_row,
            check_vma=False,
        )(variables, xs, dys),
    }


def batches(case: LayerCase, count: int, size: int) -> tuple:
    """Variables, and `count` batches of x and dy of `size` examples."""
    case = case._replace(batch=count * size)
    variables, x, dy = problem(case, jnp.float32)
    x, dy = (jnp.asarray(a).reshape(count, size, *a.shape[1:]) for a in (x, dy))
    return jax.tree.map(jnp.asarray, variables), x, dy


def needs_more(case: LayerCase, size: int) -> bool:
    """Whether the row is of a layer that looks at a batch, which one example is not."""
    return size == 1 and "BatchNorm" in repr(case.layer)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", ROWS, ids=[case.name for case in ROWS])
def test_every_transformation_is_a_loop(case, shape):
    count, size = shape
    size += needs_more(case, size)
    variables, xs, dys = batches(case, count, size)
    found = jax.jit(transformed, static_argnums=0)(case, variables, xs, dys)
    run = jax.jit(once, static_argnums=0)
    rows = [run(case, variables, x, dy) for x, dy in zip(xs, dys, strict=True)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *rows)
    for name in ("vmap", "vmap of vmap", "shard_map"):
        check(name, found[name], stacked)
    for name in ("jvp", "linearize", "checkpoint"):
        check(name, found[name], rows[0])
    twice = jax.tree.map(lambda v: 2 * v, variables)
    both = [run(case, which, xs[0], dys[0]) for which in (variables, twice)]
    check("variables", found["vmap over variables"], jax.tree.map(stack_two, *both))
    check("tangents", *found["tangents"])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
@pytest.mark.parametrize("classes", [5, 40])
def test_the_gradient_is_mapped_over_batches(classes, engine):
    """Up to 32 outputs dW is (dyᵀ x)ᵀ: jaxlib 0.10 aborts where that is mapped."""
    net, loss = fnn.serial(fnn.Dense(classes)), fnn.losses.SoftmaxCrossEntropy()
    variables = net.init(KEY, (4,))
    x = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
    y = jnp.array([[0, 1, 4], [2, 3, 0]])
    grad_fn = fnn.value_and_grad(net, loss, engine)
    mapped = jax.jit(jax.vmap(lambda batch: grad_fn(variables, batch).grads))((x, y))
    rows = [grad_fn(variables, batch).grads for batch in zip(x, y, strict=True)]
    check("vmap", mapped, jax.tree.map(stack_two, *rows))


def stack_two(a, b):
    return np.stack([a, b])


def check(name: str, found: Any, expected: Any) -> None:
    """Compare two trees of float32 numbers, up to how sums are rounded.

    A sum may cancel, as that for a bias before BatchNorm does: what is left is rounding
    of numbers as large as the largest of the tree.
    """
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    largest = [float(np.abs(b).max(initial=0)) for _, b in pairs]
    for (a, b), own in zip(pairs, largest, strict=True):
        atol = 3e-5 * max(own, 1e-3) + 1e-6 * max(largest)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)


def test_a_wrong_transformation_is_found():
    case = LayerCase("dense", fnn.Dense(5))
    variables, xs, dys = batches(case, 2, 3)
    rows = [once(case, variables, x, dy) for x, dy in zip(xs, dys, strict=True)]
    wrong = jax.tree.map(lambda a, b: np.stack([b, a]), *rows)
    with pytest.raises(AssertionError, match="vmap"):
        check(
            "vmap", jax.vmap(lambda x, dy: once(case, variables, x, dy))(xs, dys), wrong
        )
