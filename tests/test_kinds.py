"""Supported kinds of inputs, losses, weights and layers, in every way of training.

Each cell of the table is a run, or an audit. The page of names shows the same table.
"""

import itertools
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import fnn
from fnn.losses import Each, SoftmaxCrossEntropy, SquaredError, Weighted

N, KEY = 12, jax.random.key(0)
draw = np.random.default_rng(0)
IMAGES = draw.normal(size=(N, 8, 8, 1)).astype(np.float32)
AGES = draw.normal(size=(N, 2)).astype(np.float32)
LABELS = (np.arange(N) % 3).astype(np.int32)
#: Labels of every second pixel; the others are ignored.
PIXELS = np.where(np.indices((N, 4, 4)).sum(0) % 2, -1, LABELS[:, None, None])
WEIGHTS = np.where(np.arange(N) == 5, 0, draw.uniform(0.5, 1.5, N)).astype(np.float32)
#: A target that is NaN where the weight is 0.
HEIGHTS = np.where(WEIGHTS == 0, np.nan, draw.normal(size=N)).astype(np.float32)
SOFTMAX = SoftmaxCrossEntropy()


class Kind(NamedTuple):
    """A network, its loss, and its data: x, y and perhaps weights."""

    net: fnn.Layer
    loss: Any
    data: tuple[Any, ...]

    @property
    def in_shape(self):
        """The shape of one example of x."""
        return jax.tree.map(lambda a: a.shape[1:], self.data[0])


def features(bias=True):
    return fnn.serial(fnn.Conv(4, 3, bias=bias), fnn.Relu(), fnn.MaxPool(2))


def classifier(*features):
    return fnn.serial(*features, fnn.Flatten(), fnn.Dense(3))


def two_heads(**heads):
    return fnn.serial(features(), fnn.Flatten(), fnn.fork(**heads))


TWIN = fnn.tied("twin", fnn.serial(fnn.Flatten(), fnn.Dense(3), fnn.Tanh()))
KINDS = {
    "one input, one loss": Kind(classifier(features()), SOFTMAX, (IMAGES, LABELS)),
    "several inputs": Kind(
        fnn.serial(
            fnn.each(image=fnn.serial(features(), fnn.Flatten()), age=fnn.Dense(3)),
            fnn.Merge("concatenate"),
            fnn.Dense(3),
        ),
        SOFTMAX,
        ({"image": IMAGES, "age": AGES}, LABELS),
    ),
    "losses of several outputs": Kind(
        two_heads(digit=fnn.Dense(3), age=fnn.Dense(2)),
        Each(
            {"digit": SOFTMAX, "age": SquaredError()},
            factors={"digit": 1.0, "age": 0.5},
        ),
        (IMAGES, {"digit": LABELS, "age": AGES}),
    ),
    "weights of examples": Kind(
        fnn.serial(features(), fnn.Flatten(), fnn.Dense(1)),
        SquaredError(),
        (IMAGES, HEIGHTS, WEIGHTS),
    ),
    "ignored labels": Kind(
        fnn.serial(features(), fnn.Dense(3)),
        SoftmaxCrossEntropy(ignore=-1),
        (IMAGES, PIXELS),
    ),
    "tied": Kind(
        fnn.shared(
            fnn.serial(features(), fnn.fork(TWIN, TWIN), fnn.Merge("sum"), fnn.Dense(3))
        ),
        SOFTMAX,
        (IMAGES, LABELS),
    ),
    "frozen": Kind(
        classifier(fnn.frozen(fnn.serial(features(), fnn.BatchNorm()))),
        SOFTMAX,
        (IMAGES, LABELS),
    ),
    "remat": Kind(
        classifier(fnn.remat(fnn.serial(features(), fnn.BatchNorm()))),
        SOFTMAX,
        (IMAGES, LABELS),
    ),
}

# ---- The ways: each trains or audits, and compares ---------------------------------


def optimizer(rate=0.02):
    return fnn.optimizers.sgd(rate, momentum=0.9)


def train(kind, **options):
    """Train on all examples at once: then their order does not matter."""
    given = dict(train=kind.data, key=KEY, epochs=2, batch_size=N, plan=None)
    return fnn.fit(kind.net, kind.loss, optimizer(), **given | options)


@cache
def reference(name):
    """Train plain layers on one device, by the handwritten backward, once a kind."""
    return train(KINDS[name], validation=KINDS[name].data)


def assert_same(name, losses, variables, rtol=1e-4):
    """Compare a run with the reference."""
    expected = reference(name)
    np.testing.assert_allclose(losses, expected.history["train_loss"], rtol=rtol)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol),
        jax.tree.map(np.asarray, variables),
        jax.tree.map(np.asarray, expected.variables),
    )


def manual(name, folder):
    losses = reference(name).history["train_loss"]
    assert losses[1] < losses[0]
    assert np.isfinite(reference(name).history["validation_loss"]).all()


def fitted(name, folder, **options):
    result = train(KINDS[name], **options)
    assert_same(name, result.history["train_loss"], result.variables)


def plan(name, folder):
    kind = KINDS[name]
    planned = fnn.plan(kind.net, kind.in_shape, batch_size=N, platform="cpu")
    fitted(name, folder, plan="fast")
    return "yes" if planned.changes else "plain layers"


def mesh(name, folder):
    devices = jax.devices()[:2]
    fitted(name, folder, mesh=jax.make_mesh((2,), ("batch",), devices=devices))


def stream(name, folder):
    fitted(name, folder, train=lambda: iter([KINDS[name].data]))


def sweep(name, folder):
    kind = KINDS[name]
    swept = fnn.sweep(
        lambda rate: (kind.net, kind.loss, optimizer(rate)),
        *({"rate": [0.02]},),
        train=kind.data,
        validation=kind.data,
        keys=KEY,
        epochs=2,
        batch_size=N,
        plan=None,
    )
    member = swept.variables_at((0, 0))
    assert_same(name, swept.history["train_loss"][0, 0], member)


def resume(name, folder):
    kind, options = KINDS[name], dict(checkpoint_dir=folder / "run")
    train(kind, epochs=1, validation=kind.data, **options)
    again = train(kind, validation=kind.data, **options, resume=True)
    for ours, theirs in zip(
        jax.tree.leaves(again.variables),
        jax.tree.leaves(reference(name).variables),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def audit(name, folder):
    net, loss, (x, y, *weights) = KINDS[name]
    if weights:
        loss, y = Weighted(loss), (y, *weights)
    variables = reference(name).variables
    report = fnn.compare_gradients(
        net, loss, variables, (x, y), max_examples=N, max_coordinates=3
    )
    assert report.passed, str(report)


WAYS = {
    "manual": manual,
    "autodiff": partial(fitted, engine="autodiff"),
    "plan": plan,
    "mesh": mesh,
    "stream": stream,
    "sweep": sweep,
    "resume": resume,
    "audit": audit,
}

#: What a cell says where it is not "yes". A plan leaves layers alone whose parameters
#: are in several places, layers that have no backward, and those that run twice.
OTHERWISE = dict.fromkeys(
    [("tied", "plan"), ("frozen", "plan"), ("remat", "plan")], "plain layers"
)


#: The row and the columns that run every time; the other cells are thorough.
QUICK = ("losses of several outputs", "plan", "stream")
CELLS = [
    pytest.param(*cell, marks=() if set(cell) & set(QUICK) else pytest.mark.thorough)
    for cell in itertools.product(KINDS, WAYS)
]


@pytest.mark.parametrize(("kind", "way"), CELLS)
def test_each_kind_trains_in_each_way(kind, way, tmp_path):
    outcome = WAYS[way](kind, tmp_path) or "yes"
    assert outcome == OTHERWISE.get((kind, way), "yes")


# ---- The page --------------------------------------------------------------------


def table():
    """Return the cells, as the tests above find them, in Markdown."""
    rows = [["", *WAYS], ["---"] * (len(WAYS) + 1)]
    for kind in KINDS:
        cells = [OTHERWISE.get((kind, way), "yes") for way in WAYS]
        rows.append([kind, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_page_shows_the_table():
    page = Path(fnn.__file__).with_name("README.md").read_text("utf-8")
    assert table() in page, f"fnn/README.md must hold this table:\n{table()}"
