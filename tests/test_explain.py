"""`fnn.explain`: the chain rule written out, and the experiment of the exercise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of
from command_lines import assert_refused
from planting import plant
from random_networks import random_image_trial, random_trial

import fnn
from experiments import __main__ as listing
from experiments import chain_of_factors
from fnn import Backward, DenseParams
from fnn.losses import Each, SoftmaxCrossEntropy, SquaredError

EXERCISE = fnn.serial(fnn.Dense(2), fnn.Relu(), fnn.Dense(1), fnn.Sigmoid())
X, Y = 1.5, 1.0
W1, B1, W2, B2 = (0.4, 0.7), (0.1, -0.2), (0.9, -0.6), 0.3


def exercise(net=EXERCISE, b1=B1, loss=None):
    """Return the arguments of `explain`, with the numbers above."""
    first = DenseParams(jnp.array([W1]), jnp.array(b1))
    second = DenseParams(jnp.array(W2)[:, None], jnp.array([B2]))
    variables = fnn.Variables((first, (), second, ()), ((),) * 4)
    batch = jnp.full((1, 1), X), jnp.full((1, 1), Y)
    return net, loss or SquaredError(), variables, batch


def symbols(explanation) -> list[str]:
    return [factor.symbol for factor in explanation.factors]


def multiplied(explanation) -> np.ndarray:
    return np.linalg.multi_dot([factor.value for factor in explanation.factors])


# ---- The exercise ----------------------------------------------------------------


def test_b12_has_the_five_factors_of_the_exercise_by_name_and_value():
    why = fnn.explain(*exercise(), "0/Dense.bias", 1)
    assert why.symbol == "b₁₂"
    assert symbols(why) == ["∂L/∂z₃", "∂z₃/∂a₃", "∂a₃/∂z₂", "∂z₂/∂a₂", "∂a₂/∂b₁₂"]
    z = [max(w * X + b, 0) for w, b in zip(W1, B1, strict=True)]
    z3 = 1 / (1 + np.exp(-(W2[0] * z[0] + W2[1] * z[1] + B2)))
    expected = [z3 - Y, z3 * (1 - z3), W2[1], 1, 1]
    values = [factor.value.item() for factor in why.factors]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    products = [factor.product.item() for factor in why.factors]
    np.testing.assert_allclose(products, np.cumprod(expected), rtol=1e-6)
    assert why.product == pytest.approx(np.prod(values), rel=1e-12)
    assert why.agrees and why.first_divergence is None
    assert why.loss == pytest.approx((z3 - Y) ** 2 / 2)


@pytest.mark.parametrize(
    ("path", "index", "last"),
    [
        ("0/Dense.weight", (0, 0), ["∂a₃/∂z₁", "∂z₁/∂a₁", "∂a₁/∂w₁₁"]),
        ("0/Dense.weight", (0, 1), ["∂a₃/∂z₂", "∂z₂/∂a₂", "∂a₂/∂w₁₂"]),
        ("0/Dense.bias", 0, ["∂a₃/∂z₁", "∂z₁/∂a₁", "∂a₁/∂b₁₁"]),
        ("2/Dense.weight", (0, 0), ["∂a₃/∂w₂₁"]),
        ("2/Dense.weight", (1, 0), ["∂a₃/∂w₂₂"]),
        ("2/Dense.bias", None, ["∂a₃/∂b₂₁"]),
    ],
)
def test_the_others_of_the_exercise(path, index, last):
    why = fnn.explain(*exercise(), path, index)
    assert symbols(why) == ["∂L/∂z₃", "∂z₃/∂a₃", *last]
    assert multiplied(why).item() == pytest.approx(why.product, rel=1e-12)
    assert why.agrees and why.product.shape == ()


def test_a_dead_unit_is_a_factor_of_zero_and_not_a_missing_one():
    why = fnn.explain(*exercise(b1=(0.1, -20.0)), "0/Dense.bias", 1)
    assert symbols(why)[3] == "∂z₂/∂a₂"
    assert why.factors[3].value == 0 and why.product == 0 and why.agrees


def test_it_prints_as_a_table():
    printed = str(fnn.explain(*exercise(), "0/Dense.bias", 1)).splitlines()
    assert printed[0] == "∂L/∂b₁₂ = ∂L/∂z₃ · ∂z₃/∂a₃ · ∂a₃/∂z₂ · ∂z₂/∂a₂ · ∂a₂/∂b₁₂"
    assert printed[1] == "b₁₂ is 0/Dense.bias[1]"
    table = {line.split()[0]: line.split()[1:] for line in printed[5:10]}
    assert table["∂a₃/∂z₂"][:3] == ["2/Dense.dx", "1×1", "-0.6"]
    assert table["∂L/∂z₃"][0] == "loss.delta"
    assert printed[-1].startswith("AGREES: the difference is ")


def test_matrices_are_shown_where_several_units_lie_between():
    why = fnn.explain(*exercise(), "0/Dense.weight")
    assert why.symbol == "w₁" and symbols(why)[3] == "∂(z₁, z₂)/∂(a₁, a₂)"
    printed = str(why)
    assert "\n∂a₃/∂(z₁, z₂) =\n       0.9      -0.6\n" in printed
    assert why.product.shape == (1, 2)


# ---- Any network -----------------------------------------------------------------

IMAGES = (4, 4, 2)
NETWORKS = {
    "dense": (fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.Dense(3)), (5,)),
    "alone": (fnn.Dense(3), (5,)),
    "lists": (fnn.serial(fnn.serial(fnn.Dense(4)), fnn.serial(fnn.Tanh())), (5,)),
    "dropout": (fnn.serial(fnn.Dense(9), fnn.Dropout(0.5), fnn.Dense(3)), (5,)),
    "conv": (
        fnn.serial(
            *(fnn.Conv(3, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2)),
            *(fnn.Flatten(), fnn.Dense(3)),
        ),
        IMAGES,
    ),
    "residual": (
        fnn.serial(
            fnn.Dense(4),
            fnn.residual(fnn.serial(fnn.residual(fnn.Dense(4)), fnn.Tanh())),
            fnn.residual(fnn.Dense(3), fnn.Dense(3)),
        ),
        (5,),
    ),
    "parallel": (
        fnn.serial(
            fnn.Dense(4),
            fnn.parallel(fnn.Dense(2), fnn.Tanh(), merge="concatenate"),
            fnn.parallel(fnn.Dense(3), fnn.serial(fnn.Dense(3), fnn.Silu())),
        ),
        (5,),
    ),
    "several arrays": (
        fnn.serial(
            fnn.each(
                a=fnn.serial(fnn.Dense(4), fnn.Dropout(0.5)),
                b=fnn.serial(fnn.each(fnn.Dense(2), fnn.Dense(2)), fnn.Merge("sum")),
            ),
            fnn.Merge("concatenate"),
            fnn.Dense(4),
            fnn.serial(fnn.fork(fnn.Tanh(), fnn.Dense(4)), fnn.Merge("product")),
            fnn.Dense(3),
        ),
        {"a": (5,), "b": ((2,), (3,))},
    ),
    "several outputs": (
        fnn.serial(fnn.Dense(4), fnn.fork(u=fnn.Dense(3), v=fnn.fork(fnn.Dense(2)))),
        (5,),
    ),
}


def is_shape(entry):
    return isinstance(entry, tuple) and all(isinstance(n, int) for n in entry)


def problem(name, examples=3):
    net, shape = NETWORKS[name]
    variables = net.init(jax.random.key(0), shape)
    x = jax.tree.map(
        lambda sizes: jax.random.normal(jax.random.key(1), (examples, *sizes)),
        shape,
        is_leaf=is_shape,
    )
    y = jnp.arange(examples) % 3
    if name == "several outputs":
        losses = {"u": SoftmaxCrossEntropy(), "v": Each((SquaredError(),))}
        return net, Each(losses), variables, (x, {"u": y, "v": (jnp.ones((3, 2)),)})
    return net, SoftmaxCrossEntropy(), variables, (x, y)


@pytest.mark.parametrize("name", some_of(NETWORKS, ["dense", "several arrays"]))
def test_the_product_is_the_gradient_of_every_parameter(name):
    net, loss, variables, batch = problem(name)
    options = {"key": jax.random.key(2), "train": True}
    grad = fnn.value_and_grad(net, loss, "autodiff")
    grads = fnn.named_params(net, grad(variables, batch, **options).grads)
    for path, expected in grads.items():
        why = fnn.explain(net, loss, variables, batch, path, limit=10**6, **options)
        assert why.agrees, str(why)
        np.testing.assert_allclose(why.product, expected, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(why.autodiff, why.product, rtol=1e-9, atol=1e-15)
        matrices = multiplied(why)
        np.testing.assert_allclose(
            matrices.reshape(why.product.shape), why.product, rtol=1e-9, atol=1e-15
        )
        for above, below in zip(why.factors, why.factors[1:], strict=False):
            assert above.shape[1] == below.shape[0]
        for factor in why.factors:
            if factor.branches:
                parts = sum(factor.branches.values())
                np.testing.assert_allclose(parts, factor.product, rtol=1e-9, atol=1e-15)


def test_a_block_after_the_parameter_is_one_factor_with_a_row_for_each_branch():
    why = fnn.explain(*problem("residual"), "0/Dense.bias")
    last, first = why.factors[1:3]
    assert last.path == "2/Residual.dx" and first.path == "1/Residual.dx"
    assert list(first.branches) == ["body", "projection"]
    np.testing.assert_array_equal(first.branches["projection"], last.product)
    assert "  through projection" in str(why)


def test_a_block_around_the_parameter_leads_into_the_branch():
    why = fnn.explain(*problem("parallel"), "1/Parallel/0/Dense.bias", 1)
    assert [f.path for f in why.factors] == [
        *("loss.delta", "2/Parallel.dx", "1/Parallel.dparams"),
        "1/Parallel/0/Dense.bias",
    ]
    into = why.factors[2]  # y = [f_1(x), f_2(x)], of which the parameter moves one
    np.testing.assert_array_equal(into.value, np.eye(3))


def test_a_fork_and_its_merge_are_one_factor():
    why = fnn.explain(*problem("several arrays"), "2/Dense.bias")
    factor = why.factors[2]
    assert factor.path == "3/0/Fork.dx" and list(factor.branches) == ["0", "1"]
    paths = [f.path for f in fnn.explain(*problem("several arrays"), A).factors]
    assert paths[-3:] == ["0/Each.dparams", "0/Each/a/1/Dropout.dx", A]


A = "0/Each/a/0/Dense.bias"


def test_ids_beside_numbers_stay_ids():
    net = fnn.serial(
        fnn.each(
            fnn.serial(fnn.Embedding(4, 2), fnn.Flatten()),
            fnn.serial(fnn.Dense(2), fnn.Tanh()),
        ),
        fnn.Merge("concatenate"),
        fnn.Dense(3),
    )
    variables = net.init(jax.random.key(0), ((3,), (2,)))
    x = jnp.array([[0, 1, 3], [2, 2, 1]]), jnp.ones((2, 2))
    batch, loss = (x, jnp.array([0, 2])), SoftmaxCrossEntropy()
    for path in ("0/Each/0/0/Embedding.weight", "0/Each/1/0/Dense.weight"):
        assert fnn.explain(net, loss, variables, batch, path).agrees


def test_the_chain_begins_where_the_last_single_array_is():
    network = problem("several outputs")
    paths = [f.path for f in fnn.explain(*network, "0/Dense.bias").factors]
    assert paths == ["1/Fork.dx", "0/Dense.bias"]
    head = "1/Fork/v/Fork/0/Dense.bias"
    assert [f.path for f in fnn.explain(*network, head).factors][1:] == [head]


@pytest.mark.thorough
def test_only_what_the_parameter_has_an_influence_on_is_shown():
    net, loss, variables, batch = problem("conv", examples=1)
    options = {"index": (0, 0, 0, 1), "key": jax.random.key(0)}
    why = fnn.explain(net, loss, variables, batch, "0/Conv.weight", **options)
    shapes = {f.path: f.shape for f in why.factors}
    assert shapes["0/Conv.weight"] == (9, 1)  # not the border, nor other channels
    assert shapes["1/BatchNorm.dx"] == (9, 9)
    assert shapes["3/MaxPool.dx"] == (4, 9)
    assert shapes["5/Dense.dx"] == (3, 4)
    assert why.symbol == "w⁽¹⁾₁,₁,₁,₂" and symbols(why)[0] == "∂L/∂a⁽³⁾"
    assert symbols(why)[3] == "∂z⁽²⁾′/∂z⁽²⁾" and symbols(why)[4] == "∂z⁽²⁾/∂a⁽²⁾"


def test_dropout_hides_no_unit_and_draws_the_masks_of_training():
    net, loss, variables, batch = problem("dropout", examples=1)
    grad = fnn.value_and_grad(net, loss)
    dropped = set()
    for seed in range(4):
        options = {"key": jax.random.key(seed), "train": True}
        why = fnn.explain(net, loss, variables, batch, "0/Dense.bias", 4, **options)
        assert symbols(why)[2] == "∂z⁽¹⁾₅/∂a⁽¹⁾₅"
        expected = grad(variables, batch, **options).grads[0].bias[4]
        assert why.product == pytest.approx(float(expected), abs=1e-6)
        dropped.add(why.factors[2].value.item())
    assert dropped == {0, 2}
    with pytest.raises(ValueError, match="Dropout"):
        fnn.explain(net, loss, variables, batch, "0/Dense.bias", 4, train=True)


def test_no_jacobian_is_larger_than_the_limit():
    arguments = *problem("conv"), "0/Conv.weight"
    free, bound = fnn.explain(*arguments), fnn.explain(*arguments, limit=50)
    for one, other in zip(free.factors, bound.factors, strict=True):
        assert (other.value is None) == (np.prod(other.shape) > 50)
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.product, other.product)
    assert free.product.shape == (3, 3, 2, 3) and bound.agrees
    nothing = fnn.explain(*arguments, limit=0)
    assert all(factor.value is None for factor in nothing.factors)


@pytest.mark.thorough
def test_a_plan_is_explained_by_its_own_backward_and_judged_by_the_plain_network():
    net, loss, variables, batch = problem("conv")
    plan = fnn.plan(net, IMAGES, batch_size=64, platform="cpu")
    assert plan.changes
    path = next(p for p in fnn.named_params(plan, variables.params) if "Conv" in p)
    why = fnn.explain(plan, loss, variables, batch, path, (1, 1, 0, 0), train=True)
    plain = fnn.explain(
        net, loss, variables, batch, "0/Conv.weight", (1, 1, 0, 0), train=True
    )
    assert why.agrees and why.product == pytest.approx(plain.product, rel=1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("trial", [random_trial, random_image_trial])
@pytest.mark.parametrize("seed", some_of(range(2), [0]))
def test_random_networks(trial, seed):
    net, loss, variables, batch, options = trial(seed)
    del options["l2"]  # an explanation is of the loss alone
    path = next(iter(fnn.named_params(net, variables.params)))
    why = fnn.explain(net, loss, variables, batch, path, **options)
    assert why.agrees, str(why)
    assert max(map(len, str(why).splitlines())) <= 80


# ---- Wrong backwards are named ---------------------------------------------------


def wrong(parent, dx=None, bias=None):
    """Make a layer whose dx, or bias gradient, is a function of the right one."""

    def backward(self, params, saved, dy):
        right = parent.backward(self, params, saved, dy)
        if bias:
            weight = right.dparams.weight
            return Backward(right.dx, DenseParams(weight, bias(right.dparams.bias)))
        return Backward(dx(right.dx), right.dparams)

    return plant(parent, backward=backward)


WRONG = {
    "3/Sigmoid.dx": (3, wrong(fnn.Sigmoid, dx=lambda dx: 2 * dx)()),
    "2/Dense.dx": (2, wrong(fnn.Dense, dx=lambda dx: dx[:, ::-1])(1)),
    "1/Relu.dx": (1, wrong(fnn.Relu, dx=lambda dx: dx + dx.sum(1, keepdims=True))()),
    "0/Dense.bias": (0, wrong(fnn.Dense, bias=lambda b: b[::-1])(2)),
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_layer_is_named(path):
    index, layer = WRONG[path]
    layers = list(EXERCISE.layers)
    layers[index] = layer
    why = fnn.explain(*exercise(fnn.serial(*layers)), "0/Dense.bias", 1)
    assert not why.agrees and why.first_divergence == path
    assert why.error == pytest.approx(abs(why.product - why.autodiff)) != 0
    right = fnn.explain(*exercise(), "0/Dense.bias", 1)
    assert why.autodiff == pytest.approx(right.product)
    assert str(why).endswith(f"the product goes wrong at {path}.")


def test_a_wrong_loss_is_named():
    loss = plant(SquaredError, delta=lambda self, z, y: y - z)()
    why = fnn.explain(*exercise(loss=loss), "0/Dense.bias", 1)
    assert why.first_divergence == "loss.delta"
    assert why.product == pytest.approx(-why.autodiff)


def test_a_forgotten_shortcut_is_named():
    def backward(self, params, saved, dy):
        right = fnn.Residual.backward(self, params, saved, dy)
        return Backward(right.dx - dy, right.dparams)

    block = plant(fnn.Residual, backward=backward)(fnn.Dense(4))
    net = fnn.serial(fnn.Dense(4), block, fnn.Dense(3))
    variables = net.init(jax.random.key(0), (5,))
    batch = jnp.ones((1, 5)), jnp.array([1])
    why = fnn.explain(net, SoftmaxCrossEntropy(), variables, batch, "0/Dense.bias", 0)
    assert why.first_divergence == "1/Residual.dx"
    parts = why.factors[2].branches
    assert abs(sum(parts.values()) - why.factors[2].product) > 1e-3


# ---- Wrong arguments -------------------------------------------------------------


def test_an_unknown_path_is_answered_by_the_closest_ones():
    with pytest.raises(ValueError, match=r"'0/Dense.bais'; the closest: 0/Dense.bias"):
        fnn.explain(*exercise(), "0/Dense.bais")


@pytest.mark.parametrize("index", [2, -3, (0, 0), 0.5, "a", True, ()])
def test_an_index_out_of_range_is_answered_by_the_shape(index):
    with pytest.raises(ValueError, match=r"0/Dense.bias has shape \(2,\): index must"):
        fnn.explain(*exercise(), "0/Dense.bias", index)


def test_indices_count_from_the_end_as_well():
    assert fnn.explain(*exercise(), "0/Dense.bias", -1).index == (1,)


def test_a_network_without_parameters_has_nothing_to_explain():
    net = fnn.serial(fnn.Relu())
    variables = net.init(jax.random.key(0), (2,))
    batch = jnp.ones((1, 2)), jnp.ones((1, 2))
    with pytest.raises(ValueError, match="has no parameters"):
        fnn.explain(net, SquaredError(), variables, batch, "0/Relu.weight")


def test_labels_are_checked():
    net, loss, variables, (x, _) = problem("dense")
    with pytest.raises(ValueError, match="7"):
        fnn.explain(net, loss, variables, (x, jnp.full(3, 7)), "0/Dense.bias", 0)


# ---- The experiment --------------------------------------------------------------


def test_the_experiment_explains_the_exercise(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "run"
    assert chain_of_factors.main(["--out", str(out)]) == 0
    printed = capsys.readouterr().out
    shown, *found = map(json.loads, (out / "numbers.jsonl").read_text().splitlines())
    assert [f["factor"] for f in shown["factors"]] == [
        *("∂L/∂z₃", "∂z₃/∂a₃", "∂a₃/∂z₂", "∂z₂/∂a₂", "∂a₂/∂b₁₂")
    ]
    assert np.prod([f["value"] for f in shown["factors"]]) == pytest.approx(
        shown["product"]
    )
    assert shown["product"] != 0
    names = ["w₁₁", "w₁₂", "b₁₁", "b₁₂", "w₂₁", "w₂₂", "b₂₁"]
    assert [line["symbol"] for line in found] == names
    assert all(line["agrees"] for line in found)
    conclusion = json.loads((out / "result.json").read_text())["conclusion"]
    assert (
        f"∂L/∂b₁₂ is, by hand, {shown['product']:.4g}, the product of 5" in conclusion
    )
    assert (
        "for all 7 weights and biases" in conclusion
        and "(of 3 to 5 factors)" in conclusion
    )
    assert conclusion in " ".join(printed.split())
    assert max(map(len, printed.partition("Numbers")[0].splitlines())) <= 80


@pytest.mark.thorough
def test_the_experiment_explains_a_network_for_digits(tmp_path, capsys):
    out = tmp_path / "run"
    argv = f"--network lenet --parameter 7/Dense.bias --examples 2 --out {out}"
    assert chain_of_factors.main(argv.split()) == 0
    shown, *found = map(json.loads, (out / "numbers.jsonl").read_text().splitlines())
    assert shown["path"] == "7/Dense.bias" and shown["agrees"] and shown["product"]
    assert len(found) == 8
    assert "for all 8 parameters" in " ".join(capsys.readouterr().out.split())


def test_what_is_concluded_depends_on_the_numbers():
    right = fnn.explain(*exercise(), "0/Dense.bias", 1)
    conclusion = chain_of_factors.conclude(right, [right])
    assert "is what jax.grad says" in conclusion and "for all 1 weights" in conclusion
    index, layer = WRONG["1/Relu.dx"]
    layers = list(EXERCISE.layers)
    layers[index] = layer
    other = fnn.explain(*exercise(fnn.serial(*layers)), "0/Dense.bias", 1)
    conclusion = chain_of_factors.conclude(other, [right, other])
    assert "for 1 of 2 weights and biases" in conclusion
    assert conclusion.endswith("is not what jax.grad says: wrong at 1/Relu.dx.")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--examples 0", "examples must be at least 1, got 0"),
        ("--parameter 0/Dense.bais", "the closest: 0/Dense.bias"),
        ("--index 2", "0/Dense.bias has shape (2,): index must be 1 integers"),
        ("--network mlp", "invalid choice 'mlp'"),
    ],
)
def test_wrong_options_are_named_before_any_work(argv, message, tmp_path, capfd):
    assert_refused(chain_of_factors.main, argv, message, tmp_path, capfd)


def test_the_experiment_is_listed_and_explains_itself(capsys):
    question = listing.experiments()["chain_of_factors"]
    assert question.endswith("?")
    with pytest.raises(SystemExit) as stopped:
        chain_of_factors.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and question in printed and "--out" in printed
