"""Planning: the same network, faster, and the table of its changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of
from random_plans import random_plan_trial

import fnn
from fnn.planning.costs import Costs, Known, Work, built_in
from fnn.planning.options import MODES
from fnn.planning.stage import Absorbed
from fnn.planning.stages import ConvStage, DropoutStage

LOSS = fnn.losses.SoftmaxCrossEntropy()
IMAGE = (10, 12, 2)
NET = fnn.serial(
    fnn.Conv(4, 3),
    fnn.Relu(),
    fnn.MaxPool(2),
    fnn.Dropout(0.3),
    fnn.residual(fnn.serial(fnn.BatchNorm(), fnn.Relu(), fnn.Conv(4, 3))),
    fnn.GlobalAvgPool(),
    fnn.Dense(3),
)
X = np.random.default_rng(0).normal(size=(7, *IMAGE)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2, 0], np.int32)


def costs(**elements):
    """Return a table that prefers kernels to plain layers, and F(2, 3) to others."""
    ms = {"plain": 9.0, "im2col": 2.0, "grouped im2col": 2.0, "Winograd F(2,3)": 1.0}
    cheap = dict.fromkeys(built_in().elements, 0.1) | {"transpose": 0.0}
    cheap |= {"BatchNorm": 1.0, "Relu": 1.0, "MaxPool": 1.0} | elements
    return Costs("a test", ((Work(3, 1, 1, 4, 4, 25, 4), ms),), cheap)


def known():
    return Known(costs(), hold=True)


def planned(net=NET, shape=IMAGE, **options):
    return fnn.plan(net, shape, **(dict(platform="cpu", costs=costs()) | options))


def gradients(net, variables, trial):
    options = dict(trial.options)
    grad_fn = fnn.value_and_grad(net, trial.loss, l2=options.pop("l2"))

    @jax.jit
    def run(variables, batch, key):
        return grad_fn(variables, batch, key=key, train=options["train"])

    return run(variables, trial.batch, options["key"])


# Together they try every rewrite: see the test below.
SEEDS = [2, 3, 14, 15, 35]


@pytest.mark.parametrize("seed", some_of(SEEDS, [14, 15]))
def test_plan_computes_what_the_plain_network_does(seed):
    """Loss, outputs, states and gradients, with dropout; also of a smaller batch."""
    with jax.enable_x64(True):
        trial = random_plan_trial(seed, np.float64)
        x, y = trial.batch
        for count in (len(x), 1 + len(x) // 2):
            fewer = trial._replace(batch=(x[:count], y[:count]))
            ours, plain = (
                gradients(net, trial.variables, fewer)
                for net in (trial.net, trial.net.plain)
            )
            assert jax.tree.structure(ours) == jax.tree.structure(plain)
            whole = max(float(abs(g).max()) for g in jax.tree.leaves(plain.grads))
            for a, b in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-9 * max(whole, 1))


def test_the_seeds_above_try_every_rewrite():
    tried = {
        change.path.rpartition("/")[2] + " by " + change.kernel.split()[0]
        for seed in SEEDS
        for change in random_plan_trial(seed).net.changes
    }
    assert tried >= {
        "Conv by Winograd", "Conv by grouped", "Conv by im2col", "Conv+Relu by im2col",
        "Conv+Relu+MaxPool by grouped", "BatchNorm by batch", "BatchNorm+Relu by batch",
        "MaxPool by maximum", "Tanh by as", "GlobalAvgPool by mean",
    }  # fmt: skip


# The second one has dropout in training.
@pytest.mark.parametrize("seed", some_of([3, 81], [81]))
def test_no_false_alarm_on_plans(seed):
    net, loss, variables, batch, options = random_plan_trial(seed)
    report = fnn.compare_gradients(
        net, loss, variables, batch, **options, max_coordinates=4
    )
    assert report.first_divergence is None, str(report)
    paths = [node.path for node in report.nodes]
    assert any(path.endswith("+Relu.y") for path in paths), "y is compared too"


def test_a_stage_and_the_layer_that_judges_it_draw_the_same_mask():
    stage = DropoutStage((fnn.Dropout(0.4),))
    x, key = jnp.ones((4, 5, 6, 3)), jax.random.key(5)
    ours, judge = (
        part.forward((), (), x, key=key, train=True).y
        for part in (stage, fnn.plain(stage))
    )
    np.testing.assert_array_equal(ours, judge)
    assert 0 < (ours == 0).mean() < 1


def test_a_plan_has_the_variables_and_the_keys_of_its_network():
    plan = planned()
    key = jax.random.key(3)
    ours, plain = plan.init(key, IMAGE), NET.init(key, IMAGE)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    # The same mask: where it is zero, and so nearly everywhere else.
    outs = [net.forward(*plain, X, key=key, train=True).y for net in (plan.net, NET)]
    np.testing.assert_allclose(*outs, atol=1e-5)
    assert "0/Conv+Relu+MaxPool.weight" in fnn.named_params(plan, plain.params)


def test_layers_that_a_stage_includes_are_absorbed():
    layers = planned().net.layers
    assert isinstance(layers[0], ConvStage) and len(layers) == len(NET.layers)
    assert layers[1:3] == (Absorbed(fnn.Relu()), Absorbed(fnn.MaxPool(2)))
    assert layers[3] == fnn.Dropout(0.3) and layers[6] == fnn.Dense(3)


def test_plain_converts_a_plan_back():
    plan = planned()
    assert fnn.plain(plan) == NET
    assert fnn.plain(NET) is NET
    assert fnn.plan(plan, IMAGE, platform="gpu").net == NET


def test_an_image_is_transposed_only_where_that_pays():
    dear = planned(costs=costs(transpose=1e9))
    assert dear.changes == () and dear.net == NET
    assert "none would pay" in str(dear)


def test_a_subclass_is_left_alone():
    """It may compute something else than its parent, and rewrites cannot know."""

    @fnn.layer
    class Twice(fnn.Conv):
        def forward(self, params, state, x, *, key=None, train=False):
            return super().forward(params, state, 2 * x, key=key, train=train)

    assert planned(fnn.serial(Twice(3, 3)), IMAGE).changes == ()


@pytest.mark.parametrize(
    "layer",
    [
        fnn.Conv(4, 3, groups=2),
        fnn.ConvTranspose(4, 3, stride=2, padding=1, output_padding=1),
        fnn.MaxPool(3, stride=2),
        fnn.MaxPool(3, padding="SAME"),
        fnn.MaxPool((3, 2), ceil_mode=True),  # of 10 rows the last has its own window
        fnn.AvgPool(2),
        fnn.AvgPool(2, ceil_mode=True, divisor_override=3),
    ],
    ids=repr,
)
def test_what_no_kernel_can_do_stays(layer):
    assert planned(fnn.serial(layer), IMAGE).changes == ()


@pytest.mark.parametrize("window", [2, 3])
def test_ceil_mode_is_planned_where_it_adds_no_window(window):
    """Windows of 2 divide 10 and 12; of 3 only the convolution is planned."""
    pool = fnn.MaxPool(window, ceil_mode=True)
    net = fnn.serial(fnn.Conv(3, 3), pool, fnn.GlobalAvgPool())
    plan = planned(net, IMAGE)
    pooled = "0/Conv+MaxPool" if window == 2 else "0/Conv"
    assert plan.changes[0].path == pooled
    variables = net.init(jax.random.key(0), IMAGE)
    outs = [each.forward(*variables, X).y for each in (plan.net, net)]
    np.testing.assert_allclose(*outs, atol=1e-5)


#: Layers between two convolutions that are planned: images stay as they are.
BETWEEN = {
    "overlapping maxima": fnn.MaxPool(3, stride=2, padding=1),
    "maxima in ceil mode": fnn.MaxPool(3, stride=2, ceil_mode=True),
    "means": fnn.AvgPool(2),
    "means in ceil mode": fnn.AvgPool(3, stride=2, padding=1, ceil_mode=True),
    "a circle": fnn.Conv(4, 3, stride=2, padding="CIRCULAR"),
    "a mirror": fnn.Conv(4, (3, 4), padding="REFLECT", dilation=(1, 2)),
    "repeated": fnn.serial(fnn.Conv(4, 5, padding="REPLICATE"), fnn.MaxPool(2)),
    "a mask": fnn.Dropout(0.4),
    "depthwise": fnn.Conv(4, 3, stride=2, groups=4),
    "a multiplier, no bias": fnn.Conv(8, (3, 2), groups=4, bias=False, dilation=2),
    "a sum": fnn.parallel(fnn.Conv(3, 3), fnn.Conv(3, 1)),
    "a product": fnn.parallel(fnn.Conv(4, 3), fnn.Tanh(), merge="product"),
    "channels": fnn.parallel(fnn.Conv(3, 3), fnn.Tanh(), merge="concatenate"),
    "channels of pools": fnn.parallel(
        fnn.AvgPool(2), fnn.serial(fnn.MaxPool(2), fnn.Conv(5, 3)), merge="concatenate"
    ),
    "channels of vectors": fnn.serial(
        fnn.parallel(fnn.GlobalAvgPool(), fnn.GlobalAvgPool(), merge="concatenate"),
        fnn.Reshape((1, 1, 8)),
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("layer", BETWEEN.values(), ids=BETWEEN)
def test_images_stay_in_their_layout(layer):
    """Planned costs say so; loss and gradients are those of the plain network."""
    net = fnn.serial(
        *(fnn.Conv(4, 3), fnn.Relu(), layer, fnn.Conv(3, 3, padding=1), fnn.Relu()),
        *(fnn.GlobalAvgPool(), fnn.Dense(3)),
    )
    plan = planned(net, costs=costs(GlobalAvgPool=1.0))
    paths = [change.path for change in plan.changes]
    assert any(path.startswith("2/") for path in paths), paths
    with jax.enable_x64(True):
        variables = jax.tree.map(
            lambda a: jnp.asarray(a, jnp.float64), net.init(jax.random.key(0), IMAGE)
        )
        batch = jnp.asarray(X, jnp.float64), Y
        ours, want = (
            jax.jit(partial(fnn.value_and_grad(each, LOSS), train=True))(
                variables, batch, key=jax.random.key(1)
            )
            for each in (plan, net)
        )
        for a, b in zip(*map(jax.tree.leaves, (ours, want)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


def test_what_is_as_dear_in_either_layout_is_not_worth_a_transpose():
    for name in ("overlapping maxima", "means", "depthwise"):
        net = fnn.serial(fnn.Dropout(0.1), BETWEEN[name], fnn.Dropout(0.1))
        assert planned(net, (10, 12, 4), costs=costs(transpose=0.1)).net == net


# ---- Modes -----------------------------------------------------------------------


def test_exact_has_no_winograd():
    kernels = [change.kernel for change in planned(mode="exact").changes]
    assert kernels and not any("Winograd" in kernel for kernel in kernels)
    assert any("Winograd" in change.kernel for change in planned().changes)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's memory")
def test_memory_keeps_no_more_than_autodiff():
    block = fnn.serial(fnn.Conv(8, 3), fnn.Relu())
    net = fnn.serial(*[block] * 4, fnn.GlobalAvgPool())
    x = jax.ShapeDtypeStruct((16, 16, 16, 8), jnp.float32)
    y = jax.ShapeDtypeStruct((16,), jnp.int32)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), (16, 16, 8)))

    def temporary(net, engine):
        run = jax.jit(fnn.value_and_grad(net, LOSS, engine))
        compiled = run.lower(variables, (x, y)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    fast, memory = (
        planned(net, (16, 16, 8), mode=mode, batch_size=16)
        for mode in ("fast", "memory")
    )
    autodiff = temporary(net, "autodiff")
    assert temporary(memory, "manual") <= autodiff < temporary(fast, "manual")


def test_elsewhere_than_on_a_cpu_nothing_is_planned():
    for platform in ("gpu", "tpu"):
        plan = planned(platform=platform)
        assert plan.net == NET and platform in str(plan)


def test_an_ensemble_has_no_grouped_convolution():
    shape, net = (6, 6, 2), fnn.serial(fnn.Conv(3, 3), fnn.Relu(), fnn.GlobalAvgPool())
    slow = Costs("", ((Work(3, 1, 1, 4, 4, 25, 4), {"plain": 1.0, "im2col": 50.0}),),
                 built_in().elements)  # fmt: skip
    x, y = jnp.asarray(X[:2, :6, :6]), jnp.asarray(Y[:2])
    keys = jax.random.split(jax.random.key(0))
    variables = jax.vmap(lambda key: net.init(key, shape))(keys)

    def program(net):
        run = jax.vmap(fnn.value_and_grad(net, LOSS), in_axes=(0, None))
        return jax.jit(run).lower(variables, (x, y)).as_text()

    assert "convolution" in program(planned(net, shape, costs=slow))
    assert "convolution" not in program(planned(net, shape, costs=slow, ensemble=True))


# ---- Printed tables and errors ---------------------------------------------------


def test_a_plan_prints_its_changes_and_their_times():
    text = str(planned())
    for part in (
        "0/Conv+Relu+MaxPool", "Winograd F(2,3)", "4/Residual/body/0/BatchNorm+Relu",
        "batch norm + ReLU", "before", "after", "batch of 64", "fast", "a test",
    ):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mode="quick"), "mode must be one of"),
        (dict(platform="abacus"), '"cpu", "gpu" or "tpu"'),
        (dict(batch_size=0), "batch_size"),
        (dict(shape=(-1, 2, 3)), "in_shape"),
        (dict(net=fnn.Conv), "instance"),
        (dict(costs={"conv": 1}), "load_costs"),
    ],
)
def test_wrong_arguments_are_refused_in_plain_words(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        planned(**options)


def test_other_images_are_refused():
    plan = planned()
    variables = NET.init(jax.random.key(0), IMAGE)
    with pytest.raises(ValueError, match=r"made for examples of shape \(10, 12, 2\)"):
        plan.forward(*variables, X[:, :9])


def test_summary_of_a_plan_is_that_of_its_network():
    """The same shapes, parameters and receptive fields, where the last layer was."""
    ours, plain = (
        str(fnn.summary(net, IMAGE)).splitlines() for net in (planned(), NET)
    )
    cells = {line.split()[0].split("/", 1)[0]: line.split() for line in ours}
    stage = next(line.split() for line in ours if "Conv+Relu+MaxPool" in line)
    pool = next(line.split() for line in plain if "2/MaxPool" in line)
    assert (stage[1], stage[-1]) == (pool[1], pool[-1])
    assert ours[-1].split()[1] == plain[-1].split()[1] and len(cells) > 5


# ---- In training -----------------------------------------------------------------


def fit(plan, engine="manual", net=NET):
    return fnn.fit(
        net, LOSS, fnn.optimizers.sgd(0.1), train=(X, Y), key=jax.random.key(0),
        epochs=2, batch_size=3, plan=plan, engine=engine,
    ).last_variables  # fmt: skip


@pytest.fixture(scope="module")
def unplanned():
    return fit(None)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", some_of(MODES, ["fast"]))
def test_fit_gives_the_same_result_planned(mode, unplanned, monkeypatch):
    """With remainder batches of one, dropout and running statistics."""
    monkeypatch.setattr(
        "fnn.planning.planner.known_costs", lambda: Known(costs(), True)
    )
    for a, b in zip(*map(jax.tree.leaves, (fit(mode), unplanned)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_fit_trains_a_plan_as_it_is_planned(unplanned):
    ours = fit("fast", net=planned())
    for a, b in zip(*map(jax.tree.leaves, (ours, unplanned)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_the_manual_engine_is_planned_for(monkeypatch):
    monkeypatch.setattr(
        "fnn.planning.planner.known_costs", lambda: Known(costs(), True)
    )
    seen = []

    def spy(net, *arguments, **options):
        seen.append(type(net.layers[0]))
        return fnn.manual(net, *arguments, **options)

    fit("fast", engine=spy)
    assert set(seen) == {fnn.Conv}


@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_fit_refuses_an_unknown_mode(engine):
    with pytest.raises(ValueError, match="plan must be 'fast', 'exact', 'memory' or"):
        fit("quick", engine)
