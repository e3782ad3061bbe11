"""The smaller last step of an epoch may take another network than the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradients.engines import manual
from fnn.training.compiled.descent import initial_carry
from fnn.training.compiled.epoch import epoch
from fnn.training.planned import WHOLE_BATCHES, remainder_network

NET = fnn.serial(
    *(fnn.Conv(4, 3), fnn.Relu(), fnn.MaxPool(2), fnn.Flatten(), fnn.Dense(2))
)


def test_the_last_step_of_long_epochs_is_not_planned_again():
    planned = fnn.plan(NET, (8, 8, 1), batch_size=4, platform="cpu").net
    assert planned != NET
    long = 4 * WHOLE_BATCHES
    assert remainder_network(planned, NET, long + 1, 4) == NET
    assert remainder_network(planned, NET, long, 4) is None  # there is no such step
    assert remainder_network(planned, NET, long - 1, 4) is None  # of few steps
    assert remainder_network(NET, NET, long + 1, 4) is None


def test_the_last_step_takes_its_own_network_and_no_other_does():
    x = jax.random.normal(jax.random.key(0), (7, 3))
    data = x, jnp.zeros((7, 2))
    net, loss = fnn.serial(fnn.Dense(2), fnn.Identity()), fnn.losses.SquaredError()
    twice = fnn.serial(fnn.Dense(2), fnn.Lambda(lambda z: 2 * z))
    variables = net.init(jax.random.key(1), (3,))

    def losses(**options):
        carry = initial_carry(fnn.optimizers.sgd(0.1), variables)
        return epoch(
            *(net, loss, fnn.optimizers.sgd(0.1), carry, data, jax.random.key(2), 1),
            engine=manual,
            batch_size=3,
            **options,
        ).losses

    plain, same, other = losses(), losses(rest_net=net), losses(rest_net=twice)
    np.testing.assert_array_equal(same, plain)
    np.testing.assert_array_equal(other[:2], plain[:2])
    np.testing.assert_allclose(other[2], 4 * plain[2], rtol=1e-5)


@pytest.mark.thorough
def test_a_long_epoch_trains_as_plain_layers_do():
    x = jax.random.normal(jax.random.key(0), (4 * WHOLE_BATCHES + 3, 8, 8, 1))
    y = (x[:, 0, 0, 0] > 0).astype(jnp.int32)

    def run(plan):
        return fnn.fit(
            *(NET, fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.sgd(0.1)),
            **dict(train=(x, y), key=jax.random.key(1), epochs=2, batch_size=4),
            plan=plan,
        ).history["train_loss"]

    np.testing.assert_allclose(run("fast"), run(None), rtol=1e-4)
