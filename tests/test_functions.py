"""Functions compared by their code: an optimizer made again is not compiled again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.training.compiled.descent import as_optimizer
from fnn.training.functions import first_equal

RATE = 0.5  # a global that functions below refer to


def own(rate):
    """Make an optimizer of one's own, from closures."""

    def update(grads, state, params=None):
        return jax.tree.map(lambda g: -rate * g, grads), state

    return optax.GradientTransformation(lambda params: (), update)


DIFFERENT = [
    lambda: optax.adam(1e-3),
    lambda: optax.adam(2e-3),
    lambda: optax.adam(1e-3, b1=0.8),
    lambda: optax.nadam(1e-3),
    lambda: optax.adamw(1e-3),
    lambda: optax.sgd(1e-3),
    lambda: optax.sgd(1e-3, momentum=0.9),
    lambda: optax.sgd(np.float32(1e-3)),
    lambda: optax.sgd(jnp.float32(1e-3)),
    lambda: optax.adam(optax.cosine_decay_schedule(0.1, 10)),
    lambda: optax.adam(optax.cosine_decay_schedule(0.1, 11)),
    lambda: optax.scale_by_schedule(lambda t: 1e-3),
    lambda: optax.scale_by_schedule(lambda t: 2e-3),
    lambda: optax.scale_by_schedule(lambda t: RATE),
    lambda: optax.chain(optax.clip(1.0), optax.adam(1e-3)),
    lambda: optax.chain(optax.clip(2.0), optax.adam(1e-3)),
    lambda: optax.chain(fnn.optimizers.adam(1e-3), optax.clip(1.0)),
    lambda: optax.chain(fnn.optimizers.adam(2e-3), optax.clip(1.0)),
    lambda: optax.masked(optax.adam(1e-3), {"w": True}),
    lambda: optax.masked(optax.adam(1e-3), {"w": False}),
    lambda: optax.MultiSteps(optax.adam(1e-3), 2),
    lambda: optax.MultiSteps(optax.adam(1e-3), 3),
    lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    lambda: optax.contrib.schedule_free_sgd(0.1),
    lambda: optax.lbfgs(),
    lambda: fnn.optimizers.ema(optax.adam(1e-3)),
    lambda: fnn.optimizers.ema(optax.adam(2e-3)),
    lambda: own(0.1),
    lambda: own(0.2),
]


def test_an_optimizer_made_again_is_the_same_and_no_other_is():
    made, again = ([as_optimizer(make()) for make in DIFFERENT] for _ in range(2))
    for i, first in enumerate(made):
        equal = [j for j, second in enumerate(again) if first == second]
        assert equal == [i]


def test_a_value_that_changed_is_another():
    globals()["RATE"] = 0.25
    changed = as_optimizer(optax.scale_by_schedule(lambda t: RATE))
    globals()["RATE"] = 0.5
    assert changed != as_optimizer(optax.scale_by_schedule(lambda t: RATE))


def test_it_is_compiled_once():
    x, y = np.ones((8, 3), np.float32), np.zeros(8, np.int32)
    net, loss = fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()
    counts = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: counts.append(name) if "backend" in name else None
    )
    numbers = []
    for rate in (1e-3, 1e-3, 2e-3):
        before = len(counts)
        fnn.fit(
            *(net, loss, optax.adam(rate)), train=(x, y), key=jax.random.key(0),
            epochs=1, batch_size=4,
        )  # fmt: skip
        numbers.append(len(counts) - before)
    jax.monitoring.clear_event_listeners()
    assert numbers[1] == 0 < numbers[2]


def test_tracers_and_objects_are_kept_apart():
    @jax.jit
    def compare(rate):
        assert first_equal(own(rate)) is not first_equal(own(rate))
        return rate

    compare(0.1)

    class Counter:
        pass

    def counting(counter):
        return lambda: counter

    same = Counter()
    assert first_equal(counting(same)) is first_equal(counting(same))
    assert first_equal(counting(Counter())) is not first_equal(counting(Counter()))


@pytest.mark.parametrize(
    "thing", [None, len, jnp.sin, np.add, test_it_is_compiled_once]
)
def test_what_is_there_once_is_itself(thing):
    assert first_equal(thing) is thing
