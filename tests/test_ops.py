"""Functions that replace JAX's: same numbers, fnn's gradients, in any library."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnn

NHWC = ("NHWC", "HWIO", "NHWC")


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((3, 7, 6, 4), (3, 2, 4, 5), dict(padding="SAME", dimension_numbers=NHWC)),
        (
            (3, 7, 6, 4),
            (3, 2, 2, 6),
            dict(
                window_strides=(2, 3), padding="VALID", feature_group_count=2,
                dimension_numbers=NHWC,
            ),
        ),
        (
            (3, 4, 7, 6),
            (6, 4, 3, 2),
            dict(padding=[(1, 0), (2, 2)], rhs_dilation=(2, 1)),
        ),
        ((3, 4, 9), (6, 4, 3), dict(window_strides=(2,), padding="VALID")),
        (
            (4, 3, 7, 6),
            (3, 2, 4, 5),
            dict(padding="SAME", dimension_numbers=("CNHW", "HWIO", "HWNC")),
        ),
    ],
    ids=["NHWC", "groups", "NCHW", "1-D", "odd layouts"],
)  # fmt: skip
def test_conv_is_jaxs_with_the_handwritten_gradient(x_shape, w_shape, options):
    options = dict(window_strides=(1,) * (len(x_shape) - 2)) | options
    with jax.enable_x64(True):
        arguments = jnp.asarray(numbers(x_shape)), jnp.asarray(numbers(w_shape, 1))
        ours, theirs = (
            jax.jit(
                jax.value_and_grad(
                    lambda x, w, f=f: jnp.sin(f(x, w, **options)).sum(), (0, 1)
                )
            )(*arguments)
            for f in (fnn.ops.conv, lax.conv_general_dilated)
        )
        for have, want in zip(
            jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
        ):
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), "VALID"),
        ((3, 2), (2, 1), "SAME"),
        ((3, 3), (2, 2), [(1, 1), (0, 2)]),
    ],
)
def test_max_pool_is_reduce_window_with_the_handwritten_gradient(
    window, strides, padding
):
    x = jnp.asarray(numbers((2, 7, 6, 3)).round(), jnp.float32)  # with ties

    def theirs(x):
        pads = padding if isinstance(padding, str) else [(0, 0), *padding, (0, 0)]
        return lax.reduce_window(
            x, -np.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads
        )

    def ours(x):
        return fnn.ops.max_pool(x, window, strides, padding)

    weights = jnp.asarray(numbers(theirs(x).shape, 1), jnp.float32)
    have, want = (
        jax.value_and_grad(lambda x, f=f: (f(x) * weights).sum())(x)
        for f in (ours, theirs)
    )
    np.testing.assert_allclose(have[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(have[1], want[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "padding"),
    [
        ((2, 3, 3, 2), (5, 5, 2, 4), "VALID"),
        ((0, 6, 6, 2), (3, 3, 2, 4), "SAME"),
        ((2, 6, 6, 0), (3, 3, 0, 4), "SAME"),
        ((2, 6, 6, 2), (3, 3, 2, 0), "SAME"),
        ((2, 0, 6, 2), (3, 3, 2, 4), "SAME"),
    ],
    ids=["no window", "no example", "no input", "no output", "no row"],
)
def test_empty_arrays_have_the_gradients_of_jax(x_shape, w_shape, padding):
    arguments = jnp.ones(x_shape), jnp.ones(w_shape)
    ours, theirs = (
        jax.value_and_grad(
            lambda x, w, f=f: f(x, w, (1, 1), padding, dimension_numbers=NHWC).sum(),
            (0, 1),
        )(*arguments)
        for f in (fnn.ops.conv, lax.conv_general_dilated)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


PRECISIONS = [
    *(None, "highest", "bfloat16", lax.Precision.DEFAULT, lax.Precision.HIGH),
    *(("high", "default"), (lax.Precision.HIGHEST,) * 2),
]


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_precision_is_that_of_the_convolution_and_of_its_gradients(precision):
    def program(conv):
        def cost(x, w):
            options = dict(dimension_numbers=NHWC, precision=precision)
            return conv(x, w, (1, 1), "SAME", **options).sum()

        x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
        return str(jax.make_jaxpr(jax.value_and_grad(cost, (0, 1)))(x, w))

    ours, theirs = map(program, (fnn.ops.conv, lax.conv_general_dilated))
    found, expected = (re.findall(r"\bprecision=(.*)", text) for text in (ours, theirs))
    assert found and set(found) == set(expected)


def test_the_gradient_is_the_handwritten_one_and_not_jaxs():
    # JAX's gradient of a pool is `select_and_scatter`; that of a convolution is a
    # convolution in a layout of its own.
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def cost(x, w):
        y = fnn.ops.conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
        return fnn.ops.max_pool(y, (2, 2), (2, 2)).sum()

    program = str(jax.make_jaxpr(jax.grad(cost, (0, 1)))(x, w))
    assert "select_and_scatter" not in program
    layouts = program.split("lhs_spec=")[1:]
    assert layouts and {text.partition(")")[0] for text in layouts} == {"(0, 3, 1, 2"}


def test_vmap_over_weights_is_a_loop_over_weights():
    x, ws = jnp.asarray(numbers((2, 5, 5, 1))), jnp.asarray(numbers((3, 2, 2, 1, 4), 1))

    def grad(w):
        return jax.grad(
            lambda w: fnn.ops.conv(x, w, (1, 1), "VALID", dimension_numbers=NHWC).sum()
        )(w)

    one_by_one = jnp.stack([grad(w) for w in ws])
    np.testing.assert_allclose(jax.vmap(grad)(ws), one_by_one, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        dict(lhs_dilation=(2, 2)),
        dict(batch_group_count=2),
        dict(preferred_element_type=jnp.bfloat16),
    ],
    ids=lambda options: next(iter(options)),
)
def test_unsupported_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"fnn.ops.conv: {name} must be .*, got"):
        fnn.ops.conv(
            jnp.ones((1, 2, 5, 5)), jnp.ones((1, 2, 3, 3)), (1, 1), "SAME", **options
        )


@pytest.mark.one_in(2)
@pytest.mark.parametrize("library", ["flax", "equinox"])
def test_networks_of_other_libraries_train_with_it_inside_scan(
    library, tmp_path, capsys
):
    pytest.importorskip(library)
    from experiments import borrowed_gradients

    out = tmp_path / "run"
    arguments = (
        f"--libraries {library} --steps 3 --batch-size 2 --channels 3 4 --out {out}"
    )
    with jax.numpy_dtype_promotion("standard"):  # these libraries mix dtypes freely
        assert borrowed_gradients.main(arguments.split()) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["same"] and result["gaps"][0] < 1e-4
    lines = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["gradient"] for line in lines] == ["JAX's", "fnn's"]
    assert all(line["losses"][-1] < line["losses"][0] for line in lines)
    assert "the borrowed gradients are" in capsys.readouterr().out
