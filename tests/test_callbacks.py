"""Functions that are called after every epoch: what they get, how they end a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
NET, LOSS = fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()


def fit(on_epoch, **options):
    given = dict(train=(X, Y), validation=(X, Y), key=jax.random.key(0), epochs=4)
    optimizer = fnn.optimizers.adam(1e-2)
    return fnn.fit(
        NET, LOSS, optimizer, batch_size=10, on_epoch=on_epoch, **given | options
    )


@pytest.mark.parametrize("device", [None, "another"])
def test_a_function_gets_as_much_as_it_takes(device):
    records, pairs, triples = [], [], []
    functions = [
        records.append,
        lambda record, variables: pairs.append((record, variables)),
        lambda record, variables, state: triples.append((variables, state)),
        lambda *anything: None,
    ]
    result = fit(functions, validation_device=device)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for record, variables in pairs:  # they are those of the epoch, and stay
        out = fnn.evaluate(NET, LOSS, variables, (X, Y))
        np.testing.assert_allclose(out["loss"], record["validation_loss"], rtol=1e-6)
    counts = [int(jax.tree.leaves(state)[0]) for _, state in triples]
    assert counts == [2, 4, 6, 8]  # two steps an epoch
    jax.tree.map(np.testing.assert_array_equal, triples[-1][0], result.last_variables)


@pytest.mark.parametrize("device", [None, "another"])
def test_true_ends_the_run(device):
    result = fit(lambda record: record["epoch"] == 2, validation_device=device)
    assert result.stopped == "on_epoch"
    assert device is not None or result.epochs == 2


@pytest.mark.parametrize("answer", [1, "yes", np.ones(2), None, jnp.array(True)])
def test_only_true_itself_ends_the_run(answer):
    assert fit(lambda record: answer, epochs=2).stopped == "epochs"


def test_all_functions_are_called_though_the_first_ends_the_run():
    records = []
    fit([lambda record: True, records.append])
    assert len(records) == 1


@pytest.mark.parametrize(
    "on_epoch",
    [3, "print", [print, 3], lambda: None, lambda a, b, c, d: None, {"a": print}],
)
def test_other_functions_are_refused(on_epoch):
    with pytest.raises(TypeError, match="on_epoch must"):
        fit(on_epoch)


def test_a_default_argument_is_not_filled():
    values = []
    fit(lambda record, values=values: values.append(record["epoch"]), epochs=1)
    assert values == [1]
