"""fnn under each flag of JAX: a flag that finds mistakes finds none in fnn's own code."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS
from test_contract import KEY, by_hand, problem

import fnn


class Flag(NamedTuple):
    """A setting of JAX, for the time of a `with` statement."""

    name: str
    context: Callable[[], Any]


def on_the_last_device():
    return jax.default_device(jax.devices()[-1])


FLAGS = [
    Flag("rank promotion raises", lambda: jax.numpy_rank_promotion("raise")),
    Flag("dtype promotion is strict", lambda: jax.numpy_dtype_promotion("strict")),
    Flag("dtype promotion is standard", lambda: jax.numpy_dtype_promotion("standard")),
    Flag("debug infs", lambda: jax.debug_infs(True)),
    Flag("debug nans", lambda: jax.debug_nans(True)),
    Flag("debug key reuse", lambda: jax.debug_key_reuse(True)),
    Flag("checks", lambda: jax.enable_checks(True)),
    Flag("tracer leaks", jax.checking_leaks),
    Flag("no jit", lambda: jax.disable_jit(True)),
    Flag("threefry, not partitionable", lambda: jax.threefry_partitionable(False)),
    Flag("threefry, partitionable", lambda: jax.threefry_partitionable(True)),
    Flag("rbg", lambda: jax.default_prng_impl("rbg")),
    Flag("unsafe rbg", lambda: jax.default_prng_impl("unsafe_rbg")),
    Flag("products in bfloat16", lambda: jax.default_matmul_precision("bfloat16")),
    Flag("float64", lambda: jax.enable_x64(True)),
    Flag("another device", on_the_last_device),
    Flag("no transfers", lambda: jax.transfer_guard("disallow")),
    Flag("explicit axes", lambda: jax.set_mesh(jax.make_mesh((1,), ("batch",)))),
]

NET = fnn.serial(
    fnn.Conv(2, 3, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(2),
)  # fmt: skip
LOSS = fnn.losses.SoftmaxCrossEntropy()


def check(engine: str, key, x, y) -> None:
    """Train, evaluate, predict and audit a small network; call its gradient eagerly."""
    result = fnn.fit(
        NET, LOSS, fnn.optimizers.adam(1e-2), train=(x, y), validation=(x, y), key=key,
        epochs=2, batch_size=8, engine=engine,
        early_stopping=fnn.EarlyStopping(patience=3),
    )  # fmt: skip
    assert np.isfinite(result.history["train_loss"]).all()
    variables = jax.device_put(result.variables)
    means = fnn.evaluate(NET, LOSS, variables, (x, y), batch_size=8)
    outputs = fnn.predict(NET, variables, x, batch_size=8)
    right = np.asarray(outputs).argmax(1) == np.asarray(y)
    assert means["accuracy"] == pytest.approx(right.mean())
    grads = fnn.value_and_grad(NET, LOSS, engine)(variables, (x, y), key=key).grads
    assert jax.tree.structure(grads) == jax.tree.structure(variables.params)
    if engine == "manual":
        report = fnn.compare_gradients(
            NET, LOSS, variables, (x, y), key=key, numerical=False
        )
        assert report.passed, report


@pytest.mark.parametrize("flag", FLAGS, ids=[flag.name for flag in FLAGS])
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_a_small_network_under_each_flag(flag, engine):
    jax.clear_caches()  # else a flag that is no part of a program finds one ready
    outside = flag.name == "no transfers"  # which are of arrays on the device
    with contextlib.nullcontext() if outside else flag.context():
        key = jax.random.key(0)
        x = jax.random.normal(jax.random.key(1), (20, 4, 4, 1))
        y = (x[:, 0, 0, 0] > 0).astype(jnp.int32)
        with flag.context() if outside else contextlib.nullcontext():
            check(engine, key, x, y)


# ---- Every part of fnn, traced ----------------------------------------------------


@pytest.mark.parametrize("case", LAYERS, ids=[case.name for case in LAYERS])
def test_no_layer_promotes_ranks_or_dtypes(case):
    if not case.repr_is_code:
        pytest.skip("its function is not fnn's")
    for train in (True, False):
        p = problem(case, jnp.float32)
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(
                lambda p: by_hand(case.layer, *p.variables, p.x, p.dy, train), p
            )
            jax.eval_shape(lambda key: case.layer.init(key, case.in_shape), KEY)
