"""fnn under each flag of JAX: those that find mistakes find none in fnn's own code."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from breadth import some_of
from cases import LAYERS, LOSSES
from test_contract import KEY, by_hand, problem
from test_transforms import ROWS

import fnn
from fnn.augmentations import CutOut, Flip, RandomCrop, Shift, compose


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

#: Those that raise an error, all at once; the others, and each alone, are thorough.
#: (Not the reuse of keys, which JAX misjudges where "checks" is on as well: it turns a
#: scan into a while loop first, in which every constant key looks used again.)
RAISING = [
    *("rank promotion raises", "dtype promotion is strict", "debug infs", "debug nans"),
    "checks",
]


@contextlib.contextmanager
def all_that_raise():
    with contextlib.ExitStack() as stack:
        for flag in FLAGS:
            if flag.name in RAISING:
                stack.enter_context(flag.context())
        yield


ALL = Flag("all that raise", all_that_raise)
NET = fnn.serial(
    fnn.Conv(2, 3, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(2),
)  # fmt: skip
LOSS = fnn.losses.SoftmaxCrossEntropy()
#: Rows that are run outside jit, where each operation is compiled; else thorough.
EAGER = ("dense", "leaky relu", "max pool, overlapping", "dropout, image", "embedding")


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


@pytest.mark.parametrize("flag", some_of([ALL, *FLAGS], [ALL], lambda flag: flag.name))
@pytest.mark.parametrize("engine", some_of(["manual", "autodiff"], ["manual"]))
def test_a_small_network_under_each_flag(flag, engine):
    jax.clear_caches()  # else a flag that is no part of a program finds one ready
    with contextlib.nullcontext() if flag.name == "no transfers" else flag.context():
        key = jax.random.key(0)
        x = jax.random.normal(jax.random.key(1), (20, 4, 4, 1))
        y = (x[:, 0, 0, 0] > 0).astype(jnp.int32)
        is_watched = flag.name in (ALL.name, "no transfers")  # of arrays on the device
        with jax.transfer_guard("disallow" if is_watched else "allow"):
            check(engine, key, x, y)


# ---- Transfers -------------------------------------------------------------------

SMALL = fnn.serial(fnn.Dense(3), fnn.BatchNorm(), fnn.Dropout(0.2), fnn.Dense(2))
FEATURES = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
LABELS = np.arange(24, dtype=np.int32) % 2


def f1(z, y):
    return 2 * np.mean(np.asarray(z).argmax(1) * np.asarray(y))


def runs(x, y) -> dict[str, dict[str, Any]]:
    """What `fit` may be asked to do, with data on the device."""
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    return {
        "much at once": dict(
            train=(x, y, jnp.ones(24)), l2=0.1, health=True, on_nonfinite="raise",
            metrics={"f1": f1}, on_epoch=[lambda r: None, lambda r, v, s: None],
            early_stopping=fnn.EarlyStopping(patience=0, subset=5), train_metrics=True,
        ),
        "another device": dict(validation_device="another"),
        "stream": dict(train=fnn.Batches(lambda: iter(batches), n=24)),
        "skip": dict(on_nonfinite="skip"),
        "mesh": dict(mesh=jax.make_mesh((2,), ("batch",))),
        "half precision": dict(precision="bfloat16"),
        "another engine": dict(engine="autodiff"),
        "line search": dict(optimizer=optax.lbfgs()),
        "schedule-free": dict(optimizer=optax.contrib.schedule_free_sgd(0.1)),
        "look ahead": dict(optimizer=fnn.optimizers.nesterov(0.1, 0.9)),
    }  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "name", some_of(runs(FEATURES, LABELS), ["much at once", "another device"])
)
def test_the_loop_of_fit_moves_nothing_unasked(name):
    x, y = jax.device_put((FEATURES, LABELS))
    options = dict(
        optimizer=fnn.optimizers.adam(1e-2), train=(x, y), validation=(x, y),
        key=jax.random.key(0), epochs=2, batch_size=8,
    ) | runs(x, y)[name]  # fmt: skip
    with jax.transfer_guard("disallow"):
        fnn.fit(SMALL, LOSS, **options)


@pytest.mark.parametrize(
    "case",
    some_of(LAYERS, [c for c in ROWS if c.name in EAGER], lambda case: case.name),
)
def test_a_layer_outside_jit_moves_nothing_unasked(case):
    variables, x, dy = jax.device_put(tuple(problem(case, jnp.float32)))
    key = jax.random.key(0)
    with jax.transfer_guard("disallow"):
        saved = case.layer.forward(*variables, x, key=key, train=True).saved
        case.layer.backward(variables.params, saved, dy)
        case.layer.init(key, case.in_shape)


def test_data_of_the_host_are_found():
    """The guard is there for them: fnn lets its own numbers pass, not these."""
    variables = jax.device_put(SMALL.init(KEY, (4,)))
    grad_fn = fnn.value_and_grad(SMALL, LOSS)
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(Exception, match="Disallowed host-to-device"),
    ):
        jax.jit(grad_fn)(variables, (FEATURES, LABELS), key=KEY)


# ---- Every part of fnn, traced ---------------------------------------------------


def strictly(f, *args):
    """Trace a function where neither ranks nor dtypes are promoted."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(f, *args)


@pytest.mark.parametrize("case", some_of(LAYERS, ROWS, lambda case: case.name))
def test_no_layer_promotes_ranks_or_dtypes(case):
    if not case.repr_is_code:
        pytest.skip("its function is not fnn's")

    def all_methods(p, key):
        evaluated = case.layer.forward(*p.variables, p.x)
        case.layer.backward(p.variables.params, evaluated.saved, p.dy)
        return by_hand(case.layer, *p.variables, p.x, p.dy, True), case.layer.init(
            key, case.in_shape
        )

    strictly(all_methods, problem(case, jnp.float32), KEY)


@pytest.mark.parametrize("case", LOSSES, ids=[case.name for case in LOSSES])
def test_no_loss_promotes_ranks_or_dtypes(case):
    z = jnp.ones((len(case.labels), *case.positions, case.outputs))
    y = jnp.asarray(case.labels)
    strictly(case.loss.value, z, y)
    strictly(case.loss.delta, z, y)


OPTIMIZERS = [
    *("sgd", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam", "amsgrad"),
    *("momentum", "nesterov"),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_promotes_ranks_or_dtypes(name):
    optimizer = getattr(fnn.optimizers, name)(0.1)
    params = {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}

    def step(params):
        return optimizer.update(params, optimizer.init(params), params)

    strictly(step, params)


@pytest.mark.parametrize(
    "augment",
    [Shift(1), RandomCrop(2), Flip(), CutOut(2), compose(Shift(1), Flip())],
    ids=repr,
)
def test_no_augmentation_promotes_ranks_or_dtypes(augment):
    strictly(augment, KEY, jnp.ones((3, 6, 5, 2)))


def test_no_kernel_promotes_ranks_or_dtypes():
    net = fnn.serial(
        *(fnn.Conv(20, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Conv(40, 5, padding="VALID"), fnn.BatchNorm(), fnn.Relu()),
        *(fnn.Conv(8, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2)),
    )
    planned = fnn.plan(net, (28, 28, 1), batch_size=64, platform="cpu")
    assert len(planned.changes) > 2
    variables = jax.eval_shape(lambda key: net.init(key, (28, 28, 1)), KEY)
    x = jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32)

    def both(variables, x):
        out = planned.forward(*variables, x, train=True)
        return planned.backward(variables.params, out.saved, out.y)

    strictly(both, variables, x)
