"""Batches that are read: the same steps as from arrays, and errors of their own."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of

import fnn
from fnn.training.compiled.order import epoch_order
from fnn.training.run import streams

LOSS = fnn.losses.SoftmaxCrossEntropy()
KEY = jax.random.key(1)
X = np.asarray(jax.random.normal(jax.random.key(0), (50, 3)))
Y = (X[:, 0] > 0).astype(np.int32)
NET = fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.Dropout(0.3), fnn.Dense(2))
EPOCHS, BATCH = 3, 12


def fit(train, **options):
    given = dict(key=KEY, epochs=EPOCHS, batch_size=BATCH)
    optimizer = fnn.optimizers.adam(0.05)
    return fnn.fit(NET, LOSS, optimizer, train=train, **given | options)


class Shuffled:
    """A source of the minibatches that `fit` makes of arrays, epoch after epoch."""

    def __init__(self, x=X, y=Y):
        self.x, self.y, self.epoch = x, y, 0

    def __iter__(self):
        self.epoch += 1
        return self.batches(self.epoch)

    def batches(self, epoch):
        train_key = jax.random.split(KEY)[1]
        full, rest, _ = epoch_order(train_key, epoch, len(self.x), BATCH)
        for indices in [*np.asarray(full), np.asarray(rest)]:
            yield self.x[indices], self.y[indices]


def after_a_sample(source):
    """Return the source such that epoch 1 comes after the sample that `fit` reads."""
    source.epoch = -1
    return source


def assert_close(a, b, atol=1e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=atol), a, b)


@pytest.mark.parametrize(
    "options", some_of([{}, dict(l2=0.1), dict(engine="autodiff")], [dict(l2=0.1)])
)
def test_the_same_batches_give_the_same_training(options):
    arrays = fit((X, Y), **options)
    read = fit(fnn.Batches(after_a_sample(Shuffled()), n=50), **options)
    for name in ("train_loss", "epoch"):
        assert_close(read.history[name], arrays.history[name])
    assert_close(read.variables, arrays.variables, atol=1e-5)


def generator():
    for i in range(0, 48, BATCH):
        yield X[i : i + BATCH], Y[i : i + BATCH]


class Loader:
    """A loader like torch's: a data set, and an order of its own."""

    dataset = range(48)

    def __iter__(self):
        return generator()


@pytest.mark.parametrize("source", [generator, Loader(), [*generator()] * 1, None])
def test_what_can_be_iterated_can_be_trained_on(source):
    expected = fit(fnn.Batches(generator))
    if source is None:
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(
            torch.tensor(X[:48]), torch.tensor(Y[:48])
        )
        source = torch.utils.data.DataLoader(data, batch_size=BATCH)
    if isinstance(source, list):
        source = fnn.Batches(source)  # a plain list of two could be (x, y)
    assert_close(fit(source).history["train_loss"], expected.history["train_loss"])


def test_the_penalty_knows_the_size_of_a_data_set():
    l2 = dict(l2=0.5)
    known = fit(fnn.Batches(generator, n=48), **l2)
    assert_close(fit(Loader(), **l2).variables, known.variables)
    with pytest.raises(ValueError, match=r"fnn.Batches\(source, n=...\)"):
        fit(generator, **l2)


def test_it_reads_ahead_while_the_device_computes(monkeypatch):
    """A chunk is one step here; the last is read before the first two are done."""
    monkeypatch.setattr(fnn.training.run.streams, "MAX_STEPS", 1)
    read, trained = [], []

    def watched():
        for i, batch in enumerate(generator()):
            read.append(i)
            yield batch

    check = fnn.training.run.train_epoch._check_chunk

    def slow(spec, chunk):
        trained.append((chunk.first, len(read)))
        time.sleep(0.2)
        check(spec, chunk)

    monkeypatch.setattr(fnn.training.run.train_epoch, "_check_chunk", slow)
    fit(fnn.Batches(watched, ahead=2), epochs=1)
    assert [first for first, _ in trained] == [0, 1, 2, 3]
    assert trained[1][1] >= 4  # the sample, then 0, 1, 2 while 0 was slow


def test_an_error_of_the_source_comes_with_its_own_traceback():
    def broken():
        yield X[:12], Y[:12]
        raise_here()

    def raise_here():
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        fit(broken)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "raise_here" in [frame.name for frame in frames]
    time.sleep(0.3)
    assert "fnn-batches" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.thorough
def test_bad_steps_are_found_in_batches_too():
    x = np.array(X)
    x[7] = 1e38
    net = fnn.serial(fnn.Lambda(jnp.square), NET)
    options = dict(key=KEY, epochs=2, batch_size=BATCH)
    results = [
        fnn.fit(
            net, LOSS, fnn.optimizers.adam(0.05), train=train, on_nonfinite="skip",
            **options,
        )
        for train in ((x, Y), fnn.Batches(after_a_sample(Shuffled(x))))
    ]  # fmt: skip
    arrays, read = results
    assert read.nonfinite == arrays.nonfinite
    assert read.history["skipped"].tolist() == arrays.history["skipped"].tolist()
    assert_close(read.variables, arrays.variables, atol=1e-5)


class Endless:
    """An iterator that has a position, as grain's have."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        indices = np.arange(self.at * 5, self.at * 5 + BATCH) % 50
        return X[indices], Y[indices]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def test_the_position_of_an_iterator_is_part_of_a_checkpoint(tmp_path):
    alone = fit(fnn.Batches(Endless(), steps=4), epochs=4)
    fit(fnn.Batches(Endless(), steps=4), epochs=2, checkpoint_dir=tmp_path)
    train = fnn.Batches(Endless(), steps=4)
    again = fit(train, epochs=4, checkpoint_dir=tmp_path, resume=True)
    assert_close(again.variables, alone.variables, atol=0)
    assert train.position() == {"at": 16}


class InBytes(Endless):
    """An iterator whose position is bytes, as of grain's DataLoader."""

    def get_state(self):
        return bytes([self.at])

    def set_state(self, state):
        (self.at,) = state


def of_grain():
    """Return two iterators of grain's, one for each of its interfaces."""
    grain = pytest.importorskip("grain")
    examples = list(zip(X, Y, strict=True))
    sampler = grain.samplers.IndexSampler(num_records=50, shuffle=True, seed=0)
    loader = grain.DataLoader(
        data_source=examples, sampler=sampler, operations=[grain.transforms.Batch(12)]
    )
    dataset = grain.MapDataset.source(examples).shuffle(seed=0).repeat().batch(12)
    return [lambda: iter(loader), lambda: iter(dataset.to_iter_dataset())]


@pytest.mark.thorough
def test_grain_and_positions_in_bytes_go_on_from_a_checkpoint(tmp_path):
    for i, source in enumerate([InBytes, *of_grain()]):
        options = dict(checkpoint_dir=tmp_path / str(i))
        alone = fit(fnn.Batches(source, steps=3), epochs=4)
        fit(fnn.Batches(source, steps=3), epochs=2, **options)
        again = fit(fnn.Batches(source, steps=3), epochs=4, resume=True, **options)
        assert_close(again.variables, alone.variables, atol=0)


def test_a_position_that_json_cannot_hold(tmp_path):
    class Odd(Endless):
        def get_state(self):
            return {1j}

    assert fit(fnn.Batches(Odd, steps=3)).epochs == EPOCHS
    with pytest.raises(TypeError, match=r"bytes or what JSON can hold: .* set"):
        fit(fnn.Batches(Odd, steps=3), checkpoint_dir=tmp_path)


@pytest.mark.thorough
def test_health_mesh_and_a_smaller_last_batch():
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")

    def batches():
        yield X[:16], Y[:16]
        yield X[16:32], Y[16:32]
        yield X[32:43], Y[32:43]

    options = dict(health=True, epochs=2)
    one, eight = fit(batches, **options), fit(
        batches, mesh=jax.make_mesh((8,), ("batch",)), **options
    )  # fmt: skip
    assert_close(eight.history["train_loss"], one.history["train_loss"], 1e-5)
    assert one.health["0/Dense"]["delta"].shape == (2,)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (generator(), ValueError, "can be read only once"),
        (lambda: iter([]), ValueError, "no batches"),
        (fnn.data.xor, TypeError, r"but xor is missing .*: 'key'. Pass lambda: xor\("),
        (lambda: iter([X[:4]]), TypeError, r"a pair \(x, y\), got ndarray"),
        (lambda: iter([(X[:4], Y[:3])]), ValueError, "one entry an example"),
        (lambda: iter([(X[0], Y[0])]), ValueError, r"alone is x\[None\], y\[None\]"),
        (lambda: iter([(X[:0], Y[:0])]), ValueError, "a batch without examples"),
        (lambda: iter([(X[:4], Y[:4]), (X[:4, :2], Y[:4])]), ValueError, "at step 1"),
        (lambda: iter([(X[:4].astype(np.uint8), Y[:4])]), TypeError, "/ 255"),
        (fnn.Batches(generator, steps=9), ValueError, "ended after 4 batches"),
    ],
)
def test_wrong_sources(train, error, message):
    with pytest.raises(error, match=message):
        fit(train)


@pytest.mark.parametrize("name", ["n", "steps", "ahead"])
def test_wrong_batches(name):
    with pytest.raises(ValueError, match=f"Batches: {name} must be a positive"):
        fnn.Batches(generator, **{name: 0})
    with pytest.raises(TypeError, match="must be iterable"):
        fnn.Batches(3)


# ---- The thread that reads -------------------------------------------------------


def threads():
    return [t.name for t in threading.enumerate() if t.name == "fnn-batches"]


def forever():
    """A generator that is always inside: slow, and without an end."""
    while True:
        time.sleep(0.002)
        yield X[:BATCH], Y[:BATCH]


def stopped_by_a_bad_step():
    def source():
        yield X[:BATCH], Y[:BATCH]
        yield X[:BATCH] * np.nan, Y[:BATCH]
        yield from forever()

    return fnn.Batches(source), dict(on_nonfinite="stop")


def ended_by_an_error():
    def source():
        yield X[:BATCH], Y[:BATCH]
        yield X[:BATCH], Y[:BATCH] + 7
        yield from forever()

    return fnn.Batches(source), {}


def interrupted_in_an_epoch():
    def source():
        for i, batch in enumerate(forever()):
            if i == 3000:
                raise ValueError("nobody heard the second Ctrl-C")
            if i > 200 and i % 50 == 0:  # two at the same moment would be one
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    return fnn.Batches(source), {}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "ending", [stopped_by_a_bad_step, ended_by_an_error, interrupted_in_an_epoch]
)
def test_the_reader_ends_with_the_run_and_the_source_is_free(ending):
    batches, options = ending()
    for _ in range(2):  # a second run of the same batches
        try:
            fit(batches, **options)
        except (ValueError, KeyboardInterrupt) as error:
            assert "already executing" not in str(error)
            assert "nobody heard" not in str(error)
        assert threads() == []


def test_a_source_that_does_not_return_is_left_alone(monkeypatch):
    monkeypatch.setattr(streams, "PATIENCE", 0.05)
    released = threading.Event()

    def source():
        yield X[:BATCH], Y[:BATCH] + 7
        yield X[:5], Y[:5]  # another size ends the chunk
        released.wait(30)

    with (
        pytest.warns(RuntimeWarning, match="the source of batches has not returned"),
        pytest.raises(ValueError, match="expected every label"),
    ):
        fit(fnn.Batches(after_the_first(source)))
    released.set()


def after_the_first(source):
    """A source whose first batch, the sample, is right."""
    calls = iter([lambda: iter([(X[:BATCH], Y[:BATCH])])])
    return lambda: next(calls, source)()


ENDS = {
    "an error in the loop": ("raise RuntimeError('mine')", 1, "RuntimeError: mine"),
    "the end of the script": ("sys.exit(3)", 3, ""),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", 0, ""),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("what", ENDS)
def test_a_script_that_ends_while_batches_are_read_does_not_abort(what):
    """A process that ends while a thread is inside JAX aborts: it must have ended."""
    action, status, said = ENDS[what]
    code = f"""
import os, signal, sys, jax, jax.numpy as jnp, fnn
def source():
    while True:
        x = jnp.ones((8, 3)) @ jnp.ones((3, 3))
        yield jax.device_get(x), [0, 1] * 4
def on_epoch(record):
    {action}
fnn.fit(fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy(),
        fnn.optimizers.sgd(0.1), train=fnn.Batches(source(), steps=20),
        key=jax.random.key(0), epochs=3, on_epoch=on_epoch)
"""
    root = str(Path(__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert run.returncode == status, run.stderr[-2000:]
    assert said in run.stderr
