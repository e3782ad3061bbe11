"""Many devices: losses, gradients and BatchNorm are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from breadth import some_of
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnn
from fnn.training.compiled.epoch import epoch_program
from fnn.training.compiled.meshes import check_mesh, shard_batch
from fnn.training.evaluation import average_batches, start_evaluation

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8, reason="needs eight devices of one kind"
)

X = jax.random.normal(jax.random.key(0), (180, 6, 6, 1))
Y = (X[:, 0, 0, 0] * X[:, 1, 1, 0] > 0).astype(jnp.int32)
LOSS = fnn.losses.SoftmaxCrossEntropy()
NET = fnn.serial(
    fnn.Conv(4, 3, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(16), fnn.Tanh(), fnn.Dense(2),
)  # fmt: skip


def mesh(*shape):
    names = ("batch", "model")[: len(shape)]
    return jax.make_mesh(shape, names)


def fit(on, **options):
    given = dict(
        train=(X[:150], Y[:150]), validation=(X[150:], Y[150:]), key=jax.random.key(2),
        epochs=3, batch_size=64,
    )  # fmt: skip
    optimizer = fnn.optimizers.sgd(0.05, momentum=0.9)
    return fnn.fit(NET, LOSS, optimizer, mesh=on, **given | options)


@pytest.mark.parametrize("engine", some_of(["manual", "autodiff"], ["manual"]))
def test_eight_devices_have_the_losses_of_one(engine):
    """150 images in batches of 64: the last 22 cannot be split by 8, and are not."""
    one, eight = fit(None, engine=engine), fit(mesh(8), engine=engine)
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(
            eight.history[name], one.history[name], rtol=0, atol=1e-5
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        eight.variables,
        jax.tree.map(np.asarray, one.variables),
    )


def test_the_minibatch_is_split():
    on = check_mesh(mesh(8))
    compiled = jax.jit(lambda x: shard_batch(x, on)).lower(jnp.ones((64, 6))).compile()
    assert compiled.output_shardings.spec == P("batch")


def test_validation_is_split():
    """A last batch that the devices do not divide is not split."""
    seen = []

    def inspect(x):
        jax.debug.inspect_array_sharding(x, callback=seen.append)
        return x

    net = fnn.serial(fnn.Lambda(inspect), fnn.Flatten(), fnn.Dense(2))
    variables = net.init(jax.random.key(0), (6, 6, 1))
    on = check_mesh(mesh(8))
    (whole,) = start_evaluation(net, LOSS, variables, (X, Y), 180, ()).means.values()
    seen.clear()
    (each,) = start_evaluation(net, LOSS, variables, (X, Y), 80, (), on).means.values()
    shapes = {sharding.shard_shape((80, 6, 6, 1))[0] for sharding in seen}
    assert shapes == {10, 80}  # the last 20 are not split
    np.testing.assert_allclose(
        average_batches({"": each}, 180, 80)[""],
        average_batches({"": whole}, 180, 180)[""],
        rtol=1e-6,
    )  # fmt: skip


def test_batch_norm_sees_the_whole_batch():
    """Every device's shard has another mean; the statistics are those of the batch."""
    shift = jnp.repeat(jnp.arange(8.0), 8)[:, None]
    x = shift + jnp.ones((64, 3)) * jnp.arange(3.0)
    y = jnp.zeros((64, 3))
    net = fnn.serial(fnn.BatchNorm(momentum=0.0), fnn.Dense(3))
    result = fnn.fit(
        net, fnn.losses.SquaredError(), fnn.optimizers.sgd(0.1), train=(x, y),
        key=jax.random.key(0), epochs=1, batch_size=64, mesh=mesh(8),
    )  # fmt: skip
    state = result.variables.state[0]
    np.testing.assert_allclose(state.mean, x.mean(0), rtol=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "optimizer",
    [
        fnn.optimizers.adam(1e-2),
        pytest.param(optax.adamw(1e-2), marks=pytest.mark.thorough),
    ],
    ids=["fnn", "optax"],
)
def test_split_parameters_stay_split_and_their_statistics_with_them(optimizer):
    on = mesh(4, 2)
    variables = NET.init(jax.random.split(jax.random.key(2))[0], (6, 6, 1))

    def place(leaf):
        spec = P(None, "model") if leaf.shape == (36, 16) else P()
        return jax.device_put(leaf, NamedSharding(on, spec))

    result = fnn.fit(
        NET, LOSS, optimizer, train=(X[:128], Y[:128]), key=jax.random.key(2),
        epochs=2, batch_size=64, variables=jax.tree.map(place, variables), mesh=on,
    )  # fmt: skip
    one = fnn.fit(
        NET, LOSS, optimizer, train=(X[:128], Y[:128]), key=jax.random.key(2),
        epochs=2, batch_size=64,
    )  # fmt: skip
    np.testing.assert_allclose(
        result.history["train_loss"], one.history["train_loss"], rtol=0, atol=1e-4
    )
    leaves = [a for a in jax.tree.leaves(result.carry) if a.shape == (36, 16)]
    assert len(leaves) == 3  # the weight, and two moments of it
    assert all(leaf.sharding.spec == P(None, "model") for leaf in leaves)


def test_data_that_is_split_already_stays_so():
    on = mesh(8)
    rows = NamedSharding(on, P("batch"))
    x, y = (jax.device_put(part[:128], rows) for part in (X, Y))
    result = fit(on, train=(x, y))
    copied = fit(on, train=(X[:128], Y[:128]))
    np.testing.assert_allclose(
        result.history["train_loss"], copied.history["train_loss"], rtol=0, atol=1e-6
    )


def test_a_second_epoch_does_not_compile_again():
    first = fit(mesh(8), epochs=1)
    run = epoch_program(check_mesh(mesh(8)), first.carry)
    before = run._cache_size()
    fit(mesh(8), epochs=3)
    assert run._cache_size() == before > 0


def test_a_run_on_a_mesh_goes_on_from_its_checkpoint(tmp_path):
    whole = fit(mesh(8), epochs=3)
    fit(mesh(8), epochs=2, checkpoint_dir=tmp_path)
    again = fit(mesh(8), epochs=3, checkpoint_dir=tmp_path, resume=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(np.asarray, again.carry),
        jax.tree.map(np.asarray, whole.carry),
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(batch_size=60), ValueError, "60 cannot be split over the 8 .* as 56"),
        (dict(batch_size=5), ValueError, "a multiple, such as 8"),
        (dict(on=8), TypeError, "must be a jax.sharding.Mesh"),
    ],
)
def test_wrong_meshes(options, error, message):
    on = options.pop("on", None) or mesh(8)
    with pytest.raises(error, match=message):
        fit(on, **options)
