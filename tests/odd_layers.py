"""Layers and losses with odd arguments, on inputs of odd shapes, types and sizes.

The shape of a layer's output is compared with that of JAX's own operation. The numbers
of layers that are a formula are compared with NumPy in float64.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax
from odd_inputs import KEY, REALS, STRANGE, Family, judge, lines, some, value

import fnn

GOOD = some("1", "2", "3", "4")
COUNTS = st.one_of(*[GOOD] * 6, st.integers(-1, 5).map(repr), STRANGE)
PAIRS = st.one_of(
    *[GOOD] * 6,
    lines("({a}, {b})", a=COUNTS, b=COUNTS),
    some("(2, 2, 2)", "[2, 1]"),
    COUNTS,
)
PADDINGS = PAIRS | some(
    *(
        "'SAME'",
        "'VALID'",
        "'same'",
        "'CIRCULAR'",
        "'REFLECT'",
        "'FULL'",
        "((1, 0), 1)",
    ),
    *("((0, 1), (1, 0))", "[(1, 1), (0, 0)]", "((1,), (1,))", "((1, 1, 1), 0)", "9"),
)
SHAPES = some(
    *["(8, 7, 4)"] * 6, *["(9, 4)"] * 3, *["(4,)"] * 3, "(5, 4, 6, 2)", "(1, 1, 1)",
    "(2, 2, 2, 2, 2)", "()", "(0,)", "(4, 0)", "(-1,)", "(3.0,)", "4", "None", "'4'",
    "[8, 7, 4]", "(True,)", "np.array([4])", "(np.int64(4),)", "jnp.ones((4,))", "X",
)  # fmt: skip
LAYERS = st.one_of(
    lines("fnn.Dense({n}, bias={b})", n=COUNTS, b=some("True", "False", "None", "0")),
    lines("fnn.Conv({n}, {k}, stride={s}, padding={p})", n=COUNTS, k=PAIRS, s=PAIRS,
          p=PADDINGS),
    lines("fnn.Conv(4, {k}, dilation={d}, groups={g}, padding={p})", k=PAIRS, d=PAIRS,
          g=COUNTS, p=PADDINGS),
    lines("fnn.ConvTranspose({n}, {k}, stride={s}, padding={p})", n=COUNTS, k=PAIRS,
          s=PAIRS, p=PADDINGS),
    lines("fnn.MaxPool({k}, stride={s}, padding={p})", k=PAIRS, s=PAIRS, p=PADDINGS),
    lines("fnn.AvgPool({k}, stride={s}, padding={p}, count_include_pad={c})", k=PAIRS,
          s=PAIRS, p=PADDINGS, c=some("True", "False", "None")),
    lines("fnn.AdaptiveAvgPool({k})", k=PAIRS),
    lines("fnn.Upsample({k})", k=PAIRS),
    lines("fnn.Reshape({k})", k=PAIRS | some("(2, 2)", "(4,)", "(224,)", "(-1,)",
        "()")),
    lines("fnn.Dropout({r})", r=REALS),
    lines("fnn.{norm}(eps={r})", r=REALS,
          norm=some("BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm")),
    lines("fnn.BatchNorm(momentum={r})", r=REALS),
    lines("fnn.GroupNorm({n})", n=COUNTS),
    lines("fnn.LeakyRelu({r})", r=REALS),
    lines("fnn.Elu({r})", r=REALS),
    lines("fnn.Clip({a}, {b})", a=REALS, b=REALS),
    lines("fnn.PRelu(per_channel={b}, initial_slope={r})", r=REALS,
          b=some("True", "False", "None")),
    lines("fnn.Pad({p}, value={r})", p=PADDINGS, r=REALS),
    lines("fnn.Crop({p})", p=PADDINGS),
    lines("fnn.Embedding({n}, {m})", n=COUNTS, m=COUNTS),
    lines("fnn.{name}()", name=some("Flatten", "GlobalAvgPool", "GlobalMaxPool", "Relu",
          "Softmax", "Gelu", "Identity", "serial", "Tanh")),
    lines("fnn.serial({a}, {b})", a=some("fnn.Relu()", "fnn.Relu", "None", "[]",
        "jnp.sin"),
          b=some("fnn.Dense(2)", "fnn.Flatten()", "fnn.Conv(3, 2)", "fnn.residual(3)")),
    lines("fnn.residual({a}, {b})", b=some("None", "fnn.Dense(3)", "fnn.Identity", "3"),
          a=some("fnn.Dense(3)", "fnn.Conv(4, 3)", "fnn.Conv(4, 3, stride=2)",
              "fnn.Relu")),
    lines("fnn.parallel({a}, {b})", a=some("fnn.Dense(3)", "fnn.Conv(4, 3)", "None",
        "[]"),
          b=some("fnn.Dense(3)", "fnn.Conv(2, 3, padding='VALID')", "fnn.Flatten()")),
    lines("fnn.parallel({a}, fnn.Identity(), merge={m}, axis={n})", n=COUNTS,
          a=some("fnn.Dense(4)", "fnn.Conv(4, 3)", "fnn.Pad(1)"),
          m=some("'sum'", "'product'", "'concatenate'", "None", "'mean'")),
    lines("fnn.Lambda({f})", f=some("jnp.sin", "None", "3", "jnp.sin(1.0)")),
)  # fmt: skip
#: The shape of the batch, given `shape`, that of an example; not all are batches.
BATCHES = some(
    *["(2, *shape)"] * 6, "(0, *shape)", "shape", "(2, *shape, 1)", "(2,)", "()"
)


def run_layer(line: str) -> str:
    """Trace init, forward and backward: shapes alone, without computing."""
    layer_line, in_shape, batch, train = line.split(" | ")

    def call() -> tuple:
        layer, shape = value(layer_line), value(in_shape)
        net = fnn.serial(layer)
        variables = jax.eval_shape(lambda: net.init(KEY, shape))
        size = eval(batch, {"shape": tuple(shape)})
        x = jax.ShapeDtypeStruct(size, jnp.float32)

        def forward_backward(variables: fnn.Variables, x: jax.Array) -> tuple:
            out = net.forward(*variables, x, key=KEY, train=eval(train))
            return out.y, net.backward(variables.params, out.saved, out.y)

        return layer, variables, x, jax.eval_shape(forward_backward, variables, x)

    return judge(line, call, check_layer)


def check_layer(done: tuple) -> None:
    """Check the shapes: y's against JAX's, those of dx and dΘ against x and Θ."""
    layer, variables, x, (y, backward) = done
    assert backward.dx.shape == x.shape, f"dx of shape {backward.dx.shape}"
    shapes = [jax.tree.map(jnp.shape, p) for p in (backward.dparams, variables.params)]
    assert shapes[0] == shapes[1], f"dΘ of shape {shapes[0]}"
    expected = expected_shape(layer, x.shape)
    assert expected is None or y.shape == expected, f"{y.shape}, expected {expected}"


def expected_shape(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return y's shape by JAX's own operation, or by definition; None if unknown."""
    batch, *sizes, features = (*shape, *[1] * (2 - len(shape)))
    axes = len(sizes)

    def per_axis(number: Any) -> tuple:
        return number if isinstance(number, tuple) else (number,) * axes

    def pads(padding: Any) -> Any:
        if isinstance(padding, str):
            return padding if padding in ("SAME", "VALID") else "SAME"
        return [p if isinstance(p, tuple) else (p, p) for p in per_axis(padding)]

    same = ("Dropout", "BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm", "GroupNorm")
    match type(layer).__name__:
        case "Dense":
            return (*shape[:-1], layer.features)
        case "Embedding":
            return (*shape, layer.features)
        case "Pad" | "Crop":
            border = getattr(layer, "padding", None) or getattr(layer, "cropping", 0)
            sign = 1 if type(layer).__name__ == "Pad" else -1
            pairs = zip(sizes, pads(border), strict=True)
            return (batch, *(h + sign * (lo + hi) for h, (lo, hi) in pairs), features)
        case "Conv":
            kernel = (
                *per_axis(layer.kernel_size),
                features // layer.groups,
                layer.features,
            )
            letters = "NDHWC"[:1] + "DHW"[3 - axes :] + "C"
            weights = "DHW"[3 - axes :] + "IO"
            return jax.eval_shape(
                lambda x, w: lax.conv_general_dilated(
                    x, w, per_axis(layer.stride), pads(layer.padding),
                    rhs_dilation=per_axis(layer.dilation),
                    feature_group_count=layer.groups,
                    dimension_numbers=(letters, weights, letters),
                ),
                jax.ShapeDtypeStruct(shape, jnp.float32),
                jax.ShapeDtypeStruct(kernel, jnp.float32),
            ).shape  # fmt: skip
        case "MaxPool" | "AvgPool":
            stride = layer.window if layer.stride is None else layer.stride
            padding = pads(layer.padding)
            if not isinstance(padding, str):
                padding = [(0, 0), *padding, (0, 0)]
            return jax.eval_shape(
                lambda x: lax.reduce_window(
                    x, -jnp.inf, lax.max, (1, *per_axis(layer.window), 1),
                    (1, *per_axis(stride), 1), padding,
                ),
                jax.ShapeDtypeStruct(shape, jnp.float32),
            ).shape  # fmt: skip
        case "AdaptiveAvgPool":
            return (batch, *per_axis(layer.output_size), features)
        case "Upsample":
            grown = (h * f for h, f in zip(sizes, per_axis(layer.factor), strict=True))
            return (batch, *grown, features)
        case "Reshape":
            return (batch, *layer.shape)
        case "Flatten":
            return (batch, math.prod(shape[1:]))
        case "GlobalAvgPool" | "GlobalMaxPool":
            return (batch, features)
        case "Relu" | "Softmax" | "Gelu" | "Identity" | "Tanh" | "LeakyRelu" | "Elu":
            return shape
        case "Clip" | "PRelu":
            return shape
        case name if name in same:
            return shape
    return None


# ---- Numbers ---------------------------------------------------------------------


def phi(x: np.ndarray) -> np.ndarray:
    """Compute Φ(x), accurate from far below 0 to far above."""
    return np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.ravel()]).reshape(
        x.shape
    )


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


FORMULAS = {
    "fnn.Relu()": lambda x: np.maximum(x, 0),
    "fnn.Identity()": lambda x: x,
    "fnn.LeakyRelu(0.3)": lambda x: np.where(x > 0, x, 0.3 * x),
    "fnn.Elu(0.7)": lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0))),
    "fnn.Sigmoid()": lambda x: np.exp(-np.logaddexp(0, -x)),
    "fnn.Tanh()": np.tanh,
    "fnn.Gelu()": lambda x: x * phi(x),
    "fnn.Gelu(approximate=True)": lambda x: x * phi(x),
    "fnn.Silu()": lambda x: x * np.exp(-np.logaddexp(0, -x)),
    "fnn.Softplus()": lambda x: np.logaddexp(0, x),
    "fnn.Softmax()": softmax,
    "fnn.Clip(-0.5, 2)": lambda x: np.clip(x, -0.5, 2),
    "fnn.HardSigmoid()": lambda x: np.clip((x + 3) / 6, 0, 1),
    "fnn.HardSwish()": lambda x: x * np.clip((x + 3) / 6, 0, 1),
    "fnn.Dropout(0.3)": lambda x: x,
    "fnn.GlobalMaxPool()": lambda x: x.max(1),
    "fnn.GlobalAvgPool()": lambda x: x.mean(1),
    "fnn.MaxPool(2)": lambda x: x[:, :2].max(1, keepdims=True),
    "fnn.AvgPool(2)": lambda x: x[:, :2].mean(1, keepdims=True),
}
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | some(
    "0.0", "-0.0", "1e-45", "3e38", "-3e38", "88.8", "-104.0", "1e20", "-1e20"
).map(float)
TYPES = some(*["float32"] * 4, "float16", "bfloat16", "int32", "bool", "uint8")


def run_numbers(line: str) -> str:
    """Run an activation or a pool, forward and backward, on numbers of any size."""
    layer_line, dtype, numbers = line.split(" | ")
    layer = value(layer_line)
    x = np.array(eval(numbers)).reshape(1, 3, 2)
    with np.errstate(all="ignore"):
        x = jnp.asarray(x).astype(dtype)

    def call() -> tuple:
        out = layer.forward((), (), x)
        dx = layer.backward((), out.saved, jnp.ones_like(out.y)).dx
        return out.y, dx

    def check(done: tuple) -> None:
        check_numbers(layer_line, x, *done)

    return judge(line, call, check)


def check_numbers(layer_line: str, x: jax.Array, y: jax.Array, dx: jax.Array) -> None:
    """Check that y and dx are finite, and y is the formula's in float64."""
    exact, got = np.asarray(x, np.float64), np.asarray(y, np.float64)
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    largest = float(jnp.finfo(x.dtype).max) if is_float else math.inf
    if not (np.abs(exact) < largest / 8).all():
        return  # this type cannot hold the numbers, or their sum
    with np.errstate(all="ignore"):
        expected = FORMULAS[layer_line](exact)
    assert np.isfinite(got).all(), f"y = {got.tolist()} of {exact.tolist()}"
    slopes = np.asarray(dx, np.float64)
    assert np.isfinite(slopes).all(), f"dx = {slopes.tolist()} of {exact.tolist()}"
    assert dx.shape == x.shape
    eps = float(jnp.finfo(y.dtype).eps) if jnp.issubdtype(y.dtype, jnp.floating) else 0
    loose = 1e-3 if "approximate" in layer_line else 2e-6
    # Terms of a sum may cancel: its error is relative to the terms, not to the sum.
    scale = max(1.0, float(np.abs(exact).max())) if "Avg" in layer_line else 1.0
    near = dict(rtol=max(loose, 8 * eps), atol=max(loose, 4 * eps) * scale)
    np.testing.assert_allclose(got, expected, **near)


FAMILIES = {
    "layers": Family(
        lines("{layer} | {shape} | {batch} | {train}", layer=LAYERS, shape=SHAPES,
              batch=BATCHES, train=some("True", "False")),
        run_layer,
    ),
    "numbers": Family(
        lines("{layer} | {dtype} | {numbers}", layer=some(*FORMULAS), dtype=TYPES,
              numbers=st.lists(NUMBERS, min_size=6, max_size=6).map(repr)),
        run_numbers,
    ),
}  # fmt: skip
