"""Training: what an epoch computes, what fit returns, and what both refuse."""

import json
import math
import os
import re
import signal
from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optimizers
from fnn.gradients.engines import ENGINES, manual, value_and_grad
from fnn.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from fnn.metrics import accuracy
from fnn.training.compiled.descent import as_optimizer, initial_carry
from fnn.training.compiled.epoch import epoch
from fnn.training.compiled.order import shuffle
from fnn.training.early_stopping import EarlyStopping
from fnn.training.evaluation import evaluate, predict
from fnn.training.fit import fit

N, FEATURES, CLASSES, BATCH = 23, 4, 3, 5  # 4 full steps an epoch, and one of 3
KEY = jax.random.key(3)


def examples(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.int32) + (x[:, 2] > 0.5)


TRAIN, VALIDATION = examples(0, N), examples(1, 11)


def linear(rate: float = 0.25) -> fnn.Layer:
    return fnn.serial(fnn.Dropout(rate), fnn.Dense(CLASSES))


LOSS = SoftmaxCrossEntropy()
# No bias before BatchNorm: its gradient is rounding alone, of which Adam makes steps.
NET = fnn.serial(
    *(fnn.Dense(6, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.25)),
    fnn.Dense(CLASSES),
)

# Two programs that most tests share, because it is compiling that takes the time.
SETTINGS = {"train": TRAIN, "key": KEY, "epochs": 2, "batch_size": BATCH}
ADAM, L2 = optax.adam(0.02), 0.3
full_fit = partial(fit, NET, LOSS, ADAM, l2=L2, **SETTINGS)


def linear_fit(optimizer=None, **changes):
    optimizer = optimizers.sgd(0.5) if optimizer is None else optimizer
    return fit(linear(), LOSS, optimizer, **(SETTINGS | changes))


def same_bits(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def close(a, b, rtol=1e-5, atol=1e-6) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


class Counting:
    """An engine that counts how often it is traced, and keeps the values of n."""

    def __init__(self):
        self.traces, self.ns = 0, set()

    def __call__(self, *args, n, **kwargs):
        self.traces += 1
        self.ns.add(n)
        return manual(*args, n=n, **kwargs)


# ---- An epoch --------------------------------------------------------------------


def batches_of_epoch(key, e, n=N, size=BATCH):
    """Yield the indices and the key of each step, from the documented keys."""
    _, train_key = jax.random.split(key)
    order_key, step_key = jax.random.split(jax.random.fold_in(train_key, e))
    order = np.asarray(shuffle(order_key, n))
    for t, first in enumerate(range(0, n, size)):
        yield order[first : first + size], jax.random.fold_in(step_key, t)


@pytest.mark.parametrize(("n", "size"), [(8, 3), (6, 3)])
def test_every_example_counts_exactly_once(n, size):
    # With one-hot inputs, weight i is moved by example i alone, by α (w_i − y_i) / m.
    net, alpha, m = fnn.serial(fnn.Dense(1, bias=False)), 0.5, np.zeros(n)
    x, y = np.eye(n, dtype=np.float32), np.arange(1.0, n + 1, dtype=np.float32)
    result = fit(
        net,
        SquaredError(),
        optax.sgd(alpha),
        train=(x, y),
        key=KEY,
        epochs=1,
        batch_size=size,
        variables=jax.tree.map(jnp.zeros_like, net.init(KEY, (n,))),
    )
    for indices, _ in batches_of_epoch(KEY, 1, n, size):
        m[indices] += len(indices)
    close(result.variables.params[0].weight[:, 0], alpha * y / m)
    mean = (y**2 / 2).mean()
    assert result.history["train_loss"][0] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 256, 257, 70_000])
def test_a_shuffle_is_a_permutation_without_a_trend(n):
    order = np.asarray(shuffle(KEY, n))
    assert order.dtype == np.int32
    assert (np.sort(order) == np.arange(n)).all()
    if n > 200:  # the correlation of a random order with 0 .. n−1 has spread n^(−1/2)
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)
        # Ties of the last round that were left in order would show as ascents.
        assert abs((np.diff(order) > 0).mean() - 1 / 2) < 4 / np.sqrt(12 * n)


def test_every_order_is_as_likely_as_any_other():
    keys = jax.random.split(KEY, 2400)
    orders = np.asarray(jax.vmap(lambda key: shuffle(key, 4))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared < 50  # 23 degrees of freedom: beyond 50 once in 1,000 keys


def test_fit_is_the_loop_written_by_hand():
    grad_fn = value_and_grad(NET, LOSS, "manual", l2=L2, n=N)

    @jax.jit
    def step(variables, state, batch, key):
        out = grad_fn(variables, batch, key=key)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = ADAM.update(out.grads, state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return fnn.Variables(params, out.state), state, out.loss

    variables = NET.init(jax.random.split(KEY)[0], (FEATURES,))
    state, x, y = ADAM.init(variables.params), *TRAIN
    means = []
    for e in (1, 2):
        total = 0.0
        for indices, key in batches_of_epoch(KEY, e):
            batch = jnp.asarray(x[indices]), jnp.asarray(y[indices])
            variables, state, loss = step(variables, state, batch, key)
            total += len(indices) * float(loss)
        means.append(total / N)

    result = full_fit()
    close(result.variables, variables)
    close(result.optimizer_state, state)
    close(result.history["train_loss"], np.array(means))


def test_epoch_is_a_pure_function_that_vmaps_over_rates():
    optimizer = as_optimizer(optimizers.sgd(0.1))
    carry = initial_carry(optimizer, linear().init(KEY, (FEATURES,)))
    data = tuple(map(jnp.asarray, TRAIN))

    @jax.jit
    @partial(jax.vmap, in_axes=(0,))
    def losses(rate):
        return epoch(
            linear(rate),
            LOSS,
            optimizer,
            carry,
            data,
            KEY,
            1,
            engine=manual,
            batch_size=BATCH,
        ).losses

    both = losses(jnp.array([0.0, 0.9]))
    assert both.shape == (2, 5)
    assert (both[0] != both[1]).any()


# ---- A run is a function of its key -----------------------------------------------


def test_same_key_same_bits_another_key_others():
    first, again = full_fit(), full_fit()
    other = full_fit(key=jax.random.key(4))
    for name in ("variables", "optimizer_state"):
        assert same_bits(getattr(first, name), getattr(again, name))
    assert same_bits(first.history["train_loss"], again.history["train_loss"])
    assert not same_bits(first.variables, other.variables)
    assert same_bits(first.variables, full_fit(key=jax.random.PRNGKey(3)).variables)


def test_epochs_differ_in_order_and_masks():
    # With a learning rate of 0 only the batches and the masks can change J.
    result = linear_fit(optimizers.sgd(0.0), epochs=3)
    assert len(set(result.history["train_loss"])) == 3


STOPPING = {"no early stopping": None, "early stopping": EarlyStopping(9, every=2)}


@pytest.mark.parametrize("early_stopping", STOPPING.values(), ids=STOPPING.keys())
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(early_stopping):
    run = partial(full_fit, validation=VALIDATION, early_stopping=early_stopping)
    whole = run(epochs=5)
    part = run(epochs=3)
    kept = jax.tree.map(jnp.copy, part.carry)
    resumed = run(epochs=5, resume=part)
    assert same_bits(part.carry, kept)  # not donated away
    for name in ("variables", "last_variables", "carry", "stopping"):
        assert same_bits(getattr(whole, name), getattr(resumed, name))
    assert (whole.best_epoch, whole.epochs) == (resumed.best_epoch, resumed.epochs)
    assert whole.history.keys() == resumed.history.keys()
    for name in whole.history.keys() - {"seconds"}:
        assert same_bits(whole.history[name], resumed.history[name])


def test_resumed_with_more_patience():
    # Only the first evaluation can improve by this much.
    impatient = EarlyStopping(1, min_delta=100.0)
    run = partial(linear_fit, validation=VALIDATION, epochs=9)
    stopped = run(early_stopping=impatient)
    assert (stopped.stopped, stopped.epochs, stopped.best_epoch) == ("patience", 2, 1)
    more = run(early_stopping=EarlyStopping(3, min_delta=100.0), resume=stopped)
    assert (more.stopped, more.epochs, more.best_epoch) == ("patience", 4, 1)
    assert same_bits(more.variables, stopped.variables)


def test_continues_from_given_variables_and_leaves_them_alone():
    x, y = map(jnp.asarray, TRAIN)
    given = NET.init(jax.random.key(9), (FEATURES,))
    kept = jax.tree.map(np.array, given)
    result = full_fit(train=(x, y), variables=given, epochs=1)
    assert same_bits(given, kept)
    assert same_bits((x, y), TRAIN)
    assert not same_bits(result.variables, given)
    untouched = full_fit(train=(x, y), variables=given, epochs=0)
    assert same_bits(untouched.variables, given)
    # NumPy variables, as early stopping returns them, are as good.
    assert same_bits(full_fit(variables=kept, epochs=1).variables, result.variables)


def test_no_epochs_return_the_initial_variables():
    result = full_fit(epochs=0, validation=VALIDATION)
    initial = NET.init(jax.random.split(KEY)[0], (FEATURES,))
    assert same_bits(result.variables, initial)
    assert (result.best_epoch, result.epochs, result.stopped) == (0, 0, "epochs")
    assert all(column.shape == (0,) for column in result.history.values())


# ---- Engines ---------------------------------------------------------------------


def test_engines_give_the_same_history():
    # Not with Adam: a bias before BatchNorm has gradient 0, and Adam turns the rounding
    # errors of 0 into steps of full size.
    optimizer = optimizers.sgd(0.1)
    run = partial(fit, NET, LOSS, optimizer, validation=VALIDATION, l2=L2, **SETTINGS)
    results = [run(engine=engine) for engine in ENGINES]
    histories = [result.history for result in results]
    for name in histories[0].keys() - {"seconds"}:
        close(histories[0][name], histories[1][name])
    close(results[0].variables, results[1].variables, rtol=1e-4, atol=1e-5)


def test_float64_and_its_labels():
    with jax.enable_x64(True):
        x, y = TRAIN[0].astype(np.float64), TRAIN[1].astype(np.int64)
        a, b = (
            linear_fit(engine=engine, train=(x, y), validation=(x, y))
            for engine in ENGINES
        )
    assert a.variables.params[1].weight.dtype == np.float64
    close(a.variables, b.variables, rtol=1e-12, atol=1e-14)
    close(a.history["validation_loss"], b.history["validation_loss"], rtol=1e-12)


def test_wrong_gradients_of_an_engine_are_refused():
    def engine(*args, **kwargs):
        out = manual(*args, **kwargs)
        return out._replace(grads=out.grads[:-1])

    with pytest.raises(ValueError, match="gradients do not form a tree like"):
        linear_fit(engine=engine)


# ---- Compiled once ---------------------------------------------------------------

CHANGES = {
    "rebuilt": {},
    "dropout rate": {"net": linear(0.0)},
    "learning rate": {"optimizer": optimizers.sgd(0.01)},
    "label smoothing": {"loss": SoftmaxCrossEntropy(0.1)},
    "λ": {"l2": 0.5},
    "key": {"key": jax.random.key(8)},
    "epochs": {"epochs": 3},
}


def test_changed_numbers_do_not_compile_again():
    engine = Counting()

    def run(**changes):
        parts = {
            "net": linear(),
            "loss": SoftmaxCrossEntropy(),
            "optimizer": optimizers.sgd(0.1),
            "l2": 0.1,
            "key": KEY,
            "epochs": 1,
        } | changes
        return fit(train=TRAIN, batch_size=BATCH, engine=engine, **parts)

    first = run()
    traces = engine.traces
    for name, change in CHANGES.items():
        changed = run(**change)
        assert engine.traces == traces, name
        assert (name == "rebuilt") == same_bits(first.variables, changed.variables)
    run(net=fnn.serial(fnn.Dense(CLASSES)))
    assert engine.traces > traces  # the counter does count
    assert engine.ns == {N}  # the penalty's n is the training set's, not the batch's


def test_evaluate_and_predict_compile_once():
    traces = []

    def counted(x):
        traces.append(x.shape)
        return x

    def net():
        return fnn.serial(fnn.Dense(CLASSES), fnn.Lambda(counted))

    variables = net().init(KEY, (FEATURES,))
    calls = [
        lambda: evaluate(net(), LOSS, variables, TRAIN, batch_size=BATCH),
        lambda: predict(net(), variables, TRAIN[0], batch_size=BATCH),
    ]
    for call in calls:
        call()
        del traces[:]
        call()
        # The check of shapes alone is left, which runs nothing: no batch is traced.
        assert {shape[0] for shape in traces} <= {N, 1}


# ---- Optimizers ------------------------------------------------------------------

OPTAX = {
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=0.5),
    "plateau": lambda: optax.chain(
        optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=10)
    ),
    "accumulation": lambda: optax.MultiSteps(optax.sgd(0.3), every_k_schedule=2),
    "schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.2, 30)),
    "state holds the parameters": lambda: optax.GradientTransformation(
        lambda params: params,
        lambda g, state, params: (jax.tree.map(lambda a: -0.5 * a, g), params),
    ),
    "fnn's in a chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optimizers.sgd(0.1, momentum=0.9)
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("make", OPTAX.values(), ids=OPTAX.keys())
def test_optax_optimizers_descend(make):
    given = linear().init(KEY, (FEATURES,))
    kept = jax.tree.map(np.array, given)
    result = linear_fit(make(), epochs=30, batch_size=N, variables=given)
    assert same_bits(given, kept)  # also where the state holds them
    losses = result.history["train_loss"]
    assert losses[-5:].mean() < 0.9 * losses[:5].mean()


def test_value_fn_is_this_batchs_objective():
    # L-BFGS with all data in one batch solves ridge regression to the digits there are.
    x, target = TRAIN[0], TRAIN[0] @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    net, l2 = fnn.serial(fnn.Dense(1, bias=False)), 2.0
    result = fit(
        net,
        SquaredError(),
        optax.lbfgs(),
        train=(x, target),
        key=KEY,
        epochs=12,
        batch_size=N,
        l2=l2,
    )
    x = x.astype(np.float64)
    solution = np.linalg.solve(x.T @ x + l2 * np.eye(FEATURES), x.T @ target)
    close(result.variables.params[0].weight[:, 0], solution, rtol=1e-4, atol=1e-4)


def sam(**options):
    return optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), **options)


def test_lookahead_is_validated_and_returned_where_theta_is():
    optimizer = optimizers.nesterov(0.05, momentum=0.9)
    run = partial(linear_fit, optimizer)
    result = run(validation=VALIDATION)
    stored = result.carry.variables.params
    theta = optimizer.eval_params(result.optimizer_state, stored)
    assert not same_bits(stored, theta)
    assert same_bits(result.last_variables.params, theta)
    assert same_bits(result.variables.params, theta)
    at_theta = evaluate(linear(), LOSS, result.last_variables, VALIDATION)
    assert result.history["validation_loss"][-1] == at_theta["loss"]
    kept = run(validation=VALIDATION, early_stopping=EarlyStopping(5))
    best = evaluate(linear(), LOSS, kept.variables, VALIDATION)
    assert min(kept.history["validation_loss"]) == pytest.approx(best["loss"], rel=1e-6)
    resumed = run(epochs=4, resume=result)
    assert same_bits(resumed.variables, run(epochs=4).variables)


def test_a_decay_after_a_lookahead_is_refused_at_once():
    chain = optax.chain(optimizers.nesterov(0.1), optax.add_decayed_weights(0.1))
    with pytest.raises(ValueError, match="look-ahead must be the last"):
        linear_fit(chain)


# ---- Early stopping and validation -----------------------------------------------


def test_the_best_variables_come_back():
    records = []
    result = linear_fit(
        validation=VALIDATION,
        early_stopping=EarlyStopping(patience=3, mode="max", monitor="accuracy"),
        epochs=40,
        on_epoch=records.append,
    )
    accuracies = result.history["validation_accuracy"]
    assert result.stopped == "patience"
    assert result.best_epoch == 1 + accuracies.argmax() == result.epochs - 3
    best = evaluate(linear(), LOSS, result.variables, VALIDATION)
    last = evaluate(linear(), LOSS, result.last_variables, VALIDATION)
    assert best["accuracy"] == accuracies.max() == accuracies[result.best_epoch - 1]
    assert last["accuracy"] == accuracies[-1] < best["accuracy"]
    leaves = jax.tree.leaves(result.variables)
    assert all(type(leaf) is np.ndarray and leaf.base is None for leaf in leaves)
    assert [record["validation_accuracy"] for record in records] == list(accuracies)


def test_divergence_ends_the_run_and_the_best_survive():
    run = partial(linear_fit, epochs=9, validation=VALIDATION)
    stopping, explosive = EarlyStopping(patience=5), optimizers.sgd(1e38)
    plain = run(explosive, resume=run(epochs=2))
    assert plain.stopped == "diverged"
    assert 2 < plain.epochs == plain.best_epoch < 9
    assert np.isnan(plain.history["validation_loss"][-1])
    good = run(epochs=2, early_stopping=stopping)
    kept = run(explosive, early_stopping=stopping, resume=good)
    assert (kept.stopped, kept.epochs) == ("diverged", plain.epochs)
    assert kept.best_epoch == good.best_epoch > 0
    assert same_bits(kept.variables, good.variables)
    broken = jax.tree.map(lambda a: a * jnp.inf, good.variables)
    hopeless = run(variables=broken, early_stopping=stopping)
    assert (hopeless.stopped, hopeless.epochs) == ("diverged", 1)
    assert hopeless.best_epoch == 0  # no evaluation was ever an improvement
    assert same_bits(hopeless.variables, broken)


def test_a_nan_that_is_survived_does_not_end_the_run():
    def spoil(*args, **kwargs):
        out = manual(*args, **kwargs)
        nan = jax.tree.map(lambda g: g * jnp.nan, out.grads)
        return out._replace(loss=out.loss * jnp.nan, grads=nan)

    optimizer = optax.apply_if_finite(optax.sgd(0.1), 99)
    result = linear_fit(optimizer, engine=spoil, batch_size=N)
    assert (result.stopped, result.epochs) == ("epochs", 2)
    assert np.isnan(result.history["train_loss"]).all()


def raise_interrupt(record):
    if record["epoch"] == 2:
        raise KeyboardInterrupt


def press_ctrl_c(record):
    if record["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("interrupt", [raise_interrupt, press_ctrl_c])
def test_interrupted_runs_return_what_there_is(interrupt):
    before = signal.getsignal(signal.SIGINT)
    options = {"validation": VALIDATION, "early_stopping": EarlyStopping(5)}
    result = linear_fit(epochs=4, on_epoch=interrupt, **options)
    assert (result.stopped, result.epochs) == ("interrupted", 2)
    assert result.history["validation_loss"].shape == (2,)
    assert result.best_epoch > 0
    assert signal.getsignal(signal.SIGINT) is before
    resumed = linear_fit(epochs=4, resume=result, **options)
    assert same_bits(resumed.carry, linear_fit(epochs=4, **options).carry)


def test_a_second_ctrl_c_raises_at_once():
    def press_twice(record):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still here")

    result = linear_fit(on_epoch=press_twice)
    assert (result.stopped, result.epochs) == ("interrupted", 1)


def test_validation_can_be_rarer_and_smaller():
    half = EarlyStopping(patience=9, every=3, subset=0.5)
    options = {"validation": VALIDATION, "epochs": 7}
    result = linear_fit(early_stopping=half, **options)
    assert result.history["validation_epoch"].tolist() == [3, 6]
    assert result.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert result.best_epoch in (3, 6)
    # Accuracies of half of 11 examples, which round to 6, come in sixths.
    sixths = 6 * result.history["validation_accuracy"]
    np.testing.assert_allclose(sixths, sixths.round(), atol=1e-6)
    by_number = linear_fit(
        early_stopping=EarlyStopping(9, every=3, subset=6), **options
    )
    assert same_bits(result.variables, by_number.variables)


def test_validation_does_not_change_the_training():
    plain = linear_fit()
    watched = linear_fit(validation=VALIDATION, early_stopping=EarlyStopping(9))
    assert same_bits(plain.carry, watched.carry)


def test_records_are_plain_numbers():
    records = []
    result = linear_fit(validation=VALIDATION, on_epoch=records.append)
    assert json.loads(json.dumps(records)) == records
    keys = {"epoch", "train_loss", "seconds", "learning_rate"}
    keys |= {"validation_loss", "validation_accuracy"}
    assert records[0].keys() == keys
    assert result.history.keys() == keys | {"validation_epoch"}
    for name in keys:
        assert [record[name] for record in records] == list(result.history[name])


def test_a_result_describes_itself_in_a_few_lines():
    result = linear_fit(validation=VALIDATION, early_stopping=EarlyStopping(9))
    train, validation = (
        f"{result.history[name][-1]:.4g}" for name in ("train_loss", "validation_loss")
    )
    assert repr(result).splitlines() == [
        "FitResult",
        "  epochs       2",
        "  stopped      'epochs'",
        f"  best_epoch   {result.best_epoch}",
        f"  last losses  train_loss {train}, validation_loss {validation}",
        "  parameters   15",
        "  history      epoch, train_loss, seconds, learning_rate, validation_epoch,",
        "               validation_loss, validation_accuracy",
    ]
    unseen = linear_fit(epochs=0)
    assert "  last losses  none\n" in repr(unseen)
    bad = fnn.Nonfinite(1, 3, "the output of 0/Dense")
    line = "  nonfinite    epoch 1, step 3: the output of 0/Dense is not finite"
    assert repr(unseen._replace(nonfinite=bad)).splitlines()[-1] == line
    many = {f"validation_{name}": np.zeros(1) for name in range(40)}
    lines = repr(result._replace(history=result.history | many)).splitlines()
    assert max(map(len, lines)) <= 80


# ---- Evaluation ------------------------------------------------------------------


def test_batch_norm_learns_its_state_and_evaluation_uses_it():
    result = full_fit()
    norm = result.variables.state[1]
    assert not np.allclose(norm.mean, 0)
    x, y = map(jnp.asarray, VALIDATION)
    z = NET.forward(*result.variables, x, train=False).y
    close(predict(NET, result.variables, x, batch_size=4), z)
    expected = {"loss": float(LOSS.value(z, y)), "accuracy": float(accuracy(z, y))}
    assert evaluate(NET, LOSS, result.variables, (x, y)) == pytest.approx(expected)
    in_train = NET.forward(*result.variables, x, key=KEY, train=True).y
    assert not np.allclose(in_train, z)


@pytest.mark.parametrize("size", [1, 4, 11, 1000])
def test_evaluation_does_not_depend_on_the_batch_size(size):
    # The last examples weigh as much as the others: a mean of means would differ.
    net, (x, _) = fnn.serial(fnn.Identity()), VALIDATION
    x, y = x[:, :1], np.zeros(11, np.float32)
    x[-1] = 100
    variables, metrics = net.init(KEY, (1,)), {"share": over_fifty}
    out = evaluate(net, SquaredError(), variables, (x, y), size, metrics)
    assert out["loss"] == pytest.approx((x**2).mean() / 2, rel=1e-6)
    assert out["share"] == pytest.approx(1 / 11)
    assert (predict(net, variables, x, size) == x).all()


def over_fifty(outputs, y):
    return (outputs[:, 0] > 50).mean()


def test_a_perfect_accuracy_is_exactly_one():
    net, x = fnn.serial(fnn.Identity()), np.eye(3, dtype=np.float32)[[0, 1, 2] * 7]
    y = x.argmax(1)
    assert evaluate(net, LOSS, net.init(KEY, (3,)), (x, y), 4)["accuracy"] == 1.0


def test_a_metric_of_ones_own_can_be_monitored():
    result = linear_fit(
        validation=VALIDATION,
        metrics={"worst": lambda z, y: z.max()},
        early_stopping=EarlyStopping(9, monitor="worst"),
    )
    assert result.history["validation_worst"].shape == (2,)
    assert "validation_accuracy" not in result.history


NAN = math.nan


@pytest.mark.parametrize(
    ("outputs", "y", "share"),
    [
        ([[1.0, 2.0], [4.0, 3.0]], [1, 1], 0.5),
        ([[1.0, 2.0], [4.0, 3.0]], [[0.1, 0.9], [0.6, 0.4]], 1.0),
        ([[0.0, 0.0]], [0], 1.0),
        ([[1.0], [-1.0], [3.0], [0.0]], [1, 1, 0, 0], 0.5),
        ([[1.0], [-1.0]], [[1.0], [0.0]], 1.0),
        ([[1.0], [-1.0]], [True, False], 1.0),
        ([[NAN, 1.0], [1.0, 0.0]], [0, 0], 0.5),
        ([[NAN]], [0], 0.0),
    ],
)
def test_accuracy(outputs, y, share):
    assert float(accuracy(jnp.array(outputs), jnp.array(y))) == share


def test_one_logit():
    y = (TRAIN[0][:, 0] > 0).astype(np.int32)
    net, loss = fnn.serial(fnn.Dense(1)), SigmoidCrossEntropy()
    data = (TRAIN[0], y)
    settings = {"key": KEY, "epochs": 20, "batch_size": BATCH, "validation": data}
    result = fit(net, loss, optax.sgd(1.0), train=data, **settings)
    assert result.history["validation_accuracy"][-1] > 0.9


# ---- Bad input -------------------------------------------------------------------

X, Y = TRAIN


def spoiled(value, *where):
    x = X.copy()
    x[where] = value
    return x


def other_variables(*layers):
    return fnn.serial(*layers).init(KEY, (FEATURES,))


Dataset = namedtuple("Dataset", ["train", "test"])
BOTH = Dataset(TRAIN, VALIDATION)

HELD_OUT = {"validation": VALIDATION}

BAD = [
    # Data
    (
        {"train": Dataset(TRAIN, VALIDATION)},
        TypeError,
        "got a Dataset: pass its .train",
    ),
    ({"train": X}, TypeError, r"train must be a pair \(x, y\), got ndarray"),
    ({"train": (X,)}, TypeError, r"train must be a pair \(x, y\), got tuple"),
    ({"train": (X, Y[:-1])}, ValueError, r"one entry an example .*\(23, 4\) and \(22,"),
    ({"train": (X[0], Y[0])}, ValueError, r"One example alone is x\[None\], y\[None\]"),
    ({"train": (X[:, 0], Y)}, ValueError, r"\(N, features\)|examples of shape"),
    (
        {"train": (X[:0], Y[:0])},
        ValueError,
        r"x has no examples: its shape is \(0, 4\)",
    ),
    (
        {"train": (spoiled(NAN, 17, 3), Y)},
        ValueError,
        r"x has NaN at \[17, 3\] \(example 17",
    ),
    ({"train": (spoiled(np.inf, 2, 0), Y)}, ValueError, r"x has inf at \[2, 0\]"),
    (
        {"validation": (spoiled(NAN, 1, 1), Y)},
        ValueError,
        r"validation: x has NaN at \[1, ",
    ),
    ({"train": (X.astype(np.uint8), Y)}, TypeError, r"x\.astype\('float32'\) / 255"),
    ({"train": (X.astype(str), Y)}, TypeError, "train: x must be an array of numbers"),
    ({"train": (X, ["a"] * N)}, TypeError, "train: y must be an array of numbers"),
    ({"train": (X, Y + 1)}, ValueError, "to be a class 0 .. 2, .*; got 3 at y"),
    ({"train": (X, Y.astype(np.float32))}, TypeError, r"y\.astype\('int32'\)"),
    ({"validation": (X, Y - 1)}, ValueError, "got -1 at y"),
    (
        {"validation": (X[:, :3], Y)},
        ValueError,
        r"expected an input of shape \(N, \.\.\., 4\)",
    ),
    ({"variables": other_variables(fnn.Dense(3))}, ValueError, "belong to another net"),
    (
        {"variables": other_variables(*NET.layers, fnn.Dense(2))},
        ValueError,
        r"another network:\n  extra: params/5/weight \[3, 2\]",
    ),
    (
        {"variables": NET.init(KEY, (5,))},
        ValueError,
        r"expected an input of shape \(N, \.\.\., 5\)",
    ),
    ({"variables": 3}, TypeError, r"variables must be Variables\(params, state\)"),
    # Numbers
    (
        {"batch_size": N + 1},
        ValueError,
        "batch_size=24 is larger than the training set",
    ),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got 2.0"),
    ({"epochs": -1}, ValueError, "epochs must be 0 or more, got -1"),
    ({"epochs": "3"}, TypeError, "epochs must be an integer, got '3'"),
    ({"l2": -0.1}, ValueError, "l2 must be finite and not negative, got -0.1"),
    ({"l2": NAN}, ValueError, "l2 must be finite"),
    ({"key": None}, TypeError, r"got None: pass key=jax\.random\.key\(0\)"),
    ({"key": 42}, TypeError, r"got 42: pass key=jax\.random\.key\(42\)"),
    (
        {"key": jax.random.split(KEY)},
        ValueError,
        r"one key, got an array of shape \(2,",
    ),
    # Parts
    ({"engine": "auto"}, ValueError, "unknown engine 'auto': expected 'manual' or"),
    ({"optimizer": "adam"}, TypeError, "got the string 'adam': pass fnn.optimizers"),
    ({"optimizer": optax.adam}, TypeError, "must be called: fnn.optimizers.adam"),
    ({"optimizer": None}, TypeError, r"must have init\(params\) and update"),
    ({"optimizer": sam()}, ValueError, r"optimizer is SAM \(optax.contrib.sam\)"),
    ({"optimizer": sam(opaque_mode=True)}, ValueError, "optimizer is SAM"),
    ({"optimizer": optax.chain(sam())}, ValueError, "optimizer is SAM"),
    ({"net": fnn.Relu}, TypeError, r"net is the class Relu; pass an instance, Relu\("),
    ({"loss": SquaredError}, TypeError, "loss is the class SquaredError; pass an inst"),
    # Early stopping and metrics
    (
        {"early_stopping": EarlyStopping()},
        ValueError,
        r"needs validation data: pass validation=",
    ),
    ({"early_stopping": 5, **HELD_OUT}, TypeError, "must be fnn.EarlyStopping"),
    (
        {"early_stopping": EarlyStopping(monitor="f1"), **HELD_OUT},
        ValueError,
        "monitors 'f1', which is not computed: expected one of 'loss', 'accuracy'",
    ),
    (
        {"early_stopping": EarlyStopping(every=9), **HELD_OUT},
        ValueError,
        "evaluates every 9 epochs, and there are only 2",
    ),
    (
        {"early_stopping": EarlyStopping(subset=99), **HELD_OUT},
        ValueError,
        "subset=99 is more than the 11 validation examples",
    ),
    ({"metrics": [accuracy]}, TypeError, "metrics must map names to functions"),
    ({"metrics": {"a": 1}}, TypeError, "metric 'a' must be a function, got 1"),
    ({"metrics": {"loss": accuracy}}, ValueError, "cannot be called 'loss'"),
    # Resuming
    (
        {"resume": NET},
        TypeError,
        "resume must be True, False or a FitResult, got Serial",
    ),
]


@pytest.mark.parametrize(
    ("change", "error", "text"), BAD, ids=[next(iter(change)) for change, *_ in BAD]
)
def test_refuses(change, error, text):
    good = {"net": NET, "loss": LOSS, "optimizer": ADAM, "train": TRAIN, "key": KEY}
    engine = Counting()  # that nothing was compiled is half of the claim
    settings = {"epochs": 2, "batch_size": BATCH, "engine": engine}
    with pytest.raises(error) as raised:
        fit(**(good | settings | change))
    shown = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert engine.traces == 0
    assert re.search(text, shown)


def test_resume_brings_its_own_variables():
    result = linear_fit(epochs=0)
    with pytest.raises(ValueError, match="resume goes on from its own variables"):
        linear_fit(resume=result, variables=result.variables)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda net, v: predict(net, v, X[0]), ValueError, r"\(N, \.\.\., 4\)"),
        (lambda net, v: predict(net, v, X[:0]), ValueError, "x has no examples"),
        (
            lambda net, v: predict(net, v, X, 0),
            ValueError,
            "batch_size must be at least",
        ),
        (lambda net, v: predict(net, v, X[:, :2]), ValueError, r"\(N, \.\.\., 4\)"),
        (lambda net, v: evaluate(net, LOSS, v, X), TypeError, "data must be a pair"),
        (
            lambda net, v: evaluate(net, LOSS, v, (X, Y + 9)),
            ValueError,
            "to be a class",
        ),
    ],
)
def test_evaluate_and_predict_refuse(call, error, text):
    with pytest.raises(error, match=text):
        call(NET, NET.init(KEY, (FEATURES,)))
