"""Networks as trees: paths, parameters by name, frozen pytrees, checks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.checks import expect_shape
from fnn.core import Variables
from fnn.describe import describe
from fnn.network import map_params, named_params, output_shape, path_of, walk
from fnn.pytree import leaf, pytree

KEY = jax.random.key(0)
BODY = fnn.serial(fnn.Dense(5), fnn.BatchNorm(), fnn.Dropout(0.5))
NET = fnn.serial(
    fnn.Relu(),
    fnn.residual(BODY, fnn.Dense(5, bias=False)),
    fnn.serial(fnn.Probed(fnn.Dense(3), batch=2)),
    fnn.parallel(fnn.Dense(2), fnn.Identity(), merge="concatenate"),
)
VARIABLES = NET.init(KEY, (4,))

PATHS = {
    "": NET,
    "0/Relu": fnn.Relu(),
    "1/Residual": NET.layers[1],
    "1/Residual/body": BODY,
    "1/Residual/body/0/Dense": fnn.Dense(5),
    "1/Residual/body/1/BatchNorm": fnn.BatchNorm(),
    "1/Residual/body/2/Dropout": fnn.Dropout(0.5),
    "1/Residual/projection/Dense": fnn.Dense(5, bias=False),
    "2": NET.layers[2],
    "2/0/Dense": fnn.Dense(3),
    "3/Parallel": NET.layers[3],
    "3/Parallel/0/Dense": fnn.Dense(2),
    "3/Parallel/1/Identity": fnn.Identity(),
}

PARAMS = {
    "1/Residual/body/0/Dense.weight": (4, 5),
    "1/Residual/body/0/Dense.bias": (5,),
    "1/Residual/body/1/BatchNorm.scale": (5,),
    "1/Residual/body/1/BatchNorm.bias": (5,),
    "1/Residual/projection/Dense.weight": (4, 5),
    "2/0/Dense.weight": (5, 3),
    "2/0/Dense.bias": (3,),
    "2/0/Dense.delta": (2, 3),
    "3/Parallel/0/Dense.weight": (3, 2),
    "3/Parallel/0/Dense.bias": (2,),
}


# ---- Paths -----------------------------------------------------------------------


def test_walk_yields_every_layer_with_its_path_parents_first():
    nodes = list(walk(NET, VARIABLES))
    assert list(dict.fromkeys(node.path for node in nodes)) == list(PATHS)
    for node in nodes:
        probe_inside = isinstance(node.layer, fnn.Probed)
        assert probe_inside or node.layer == PATHS[node.path]


def test_walk_yields_every_layer_with_its_variables():
    found = {node.path: node.variables for node in walk(NET, VARIABLES)}
    body = VARIABLES.params[1].body
    assert found["1/Residual/body/0/Dense"] == Variables(body[0], ())
    assert found["1/Residual/body/1/BatchNorm"] == Variables(
        body[1], VARIABLES.state[1].body[1]
    )
    assert found["2/0/Dense"].params is VARIABLES.params[2][0].params
    assert found["3/Parallel/1/Identity"] == Variables((), ())


def test_walk_of_a_layer_alone_starts_at_its_name():
    variables = fnn.Dense(3).init(KEY, (4,))
    assert [node.path for node in walk(fnn.Dense(3), variables)] == ["Dense"]
    assert [*named_params(fnn.Dense(3), variables.params)] == [
        "Dense.weight",
        "Dense.bias",
    ]


@pytest.mark.parametrize(
    ("prefix", "label", "child", "path"),
    [
        ("", "2", fnn.Dense(3), "2/Dense"),
        ("1/Residual", "body", fnn.Dense(3), "1/Residual/body/Dense"),
        ("1/Residual", "body", fnn.serial(), "1/Residual/body"),
        ("", "0", fnn.serial(), "0"),
        ("2/Dense", "", fnn.Dense(3), "2/Dense"),
        ("", "0", fnn.Probed(fnn.Dense(3)), "0/Dense"),
        ("", "0", fnn.Probed(fnn.serial()), "0"),
    ],
)
def test_path_of(prefix, label, child, path):
    assert path_of(prefix, label, child) == path


def test_named_params_are_in_forward_order():
    named = named_params(NET, VARIABLES.params)
    assert {path: leaf.shape for path, leaf in named.items()} == PARAMS
    assert list(named) == list(PARAMS)
    for one, two in zip(named.values(), jax.tree.leaves(VARIABLES.params), strict=True):
        assert one is two


def test_map_params_sees_path_and_owner_and_keeps_the_tree():
    owners = {}

    def double(path, layer, leaf):
        owners[path] = type(layer).__name__
        return 2 * leaf

    doubled = map_params(double, NET, VARIABLES.params)
    assert jax.tree.structure(doubled) == jax.tree.structure(VARIABLES.params)
    for two, one in zip(
        jax.tree.leaves(doubled), jax.tree.leaves(VARIABLES.params), strict=True
    ):
        np.testing.assert_array_equal(two, 2 * one)
    assert owners["1/Residual/projection/Dense.weight"] == "Dense"
    assert owners["1/Residual/body/1/BatchNorm.scale"] == "BatchNorm"
    assert owners["2/0/Dense.delta"] == "Probed"


@pytest.mark.parametrize(
    "params", [VARIABLES.params[:2], [*VARIABLES.params], None, {}]
)
def test_parameters_of_another_network_are_refused(params):
    text = "Serial has 4 layers and expected its params as a tuple with an entry for"
    with pytest.raises(ValueError, match=text):
        list(walk(NET, Variables(params, VARIABLES.state)))
    with pytest.raises(ValueError, match=text):
        named_params(NET, params)


# ---- Checks ----------------------------------------------------------------------

FITS = [
    ((2, 4), ("N", 4)),
    ((9, 4), ("N", 4)),
    ((2, 4), ("N", ..., 4)),
    ((2, 7, 3, 4), ("N", ..., 4)),
    ((2, 7, 3), ("N", ...)),
    ((2,), ("N", ...)),
    ((2, 5, 7, 3), ("N", 5, ..., 3)),
    ((2, 5, 7, 3), (..., 7, 3)),
    ((), ()),
    ((), (...,)),
]

MISFITS = [
    ((), ("N", 4)),
    ((), ("N", ..., 4)),
    ((4,), ("N", 4)),
    ((4,), ("N", ..., 4)),
    ((2, 5), ("N", 4)),
    ((2, 3, 4), ("N", 4)),
    ((2, 7, 3, 5), ("N", ..., 4)),
    ((2, 6, 7, 3), ("N", 5, ..., 3)),
    ((2, 4), ("N", "H", "W", 4)),
]


@pytest.mark.parametrize(("shape", "expected"), FITS)
def test_expect_shape_accepts(shape, expected):
    expect_shape(fnn.Relu(), jnp.zeros(shape), expected)


@pytest.mark.parametrize(("shape", "expected"), MISFITS)
def test_expect_shape_shows_what_was_expected_and_what_came(shape, expected):
    shown = ", ".join("..." if size is ... else str(size) for size in expected)
    text = f"Relu() expected an input of shape ({shown}) or so, got {shape}. The first"
    with pytest.raises(ValueError, match=re.escape(text)):
        expect_shape(fnn.Relu(), jnp.zeros(shape), expected, " or so")


def test_output_shape_runs_nothing():
    def refuse(x):
        assert isinstance(x, jax.core.Tracer)
        return x[:, ::2]

    assert output_shape(fnn.Lambda(refuse), Variables((), ()), (5, 7)) == (3, 7)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (jnp.zeros((2, 3)), "float32[2, 3]"),
        (fnn.DenseParams(jnp.zeros((2, 3)), ()), "DenseParams(weight=float32[2, 3], b"),
        ((jnp.zeros(2), ()), "(float32[2], ())"),
        ({"a": 1}, "{a: int}"),
        (None, "None"),
    ],
)
def test_describe_shows_shapes_and_no_numbers(tree, text):
    assert describe(tree).startswith(text)


# ---- Frozen pytrees --------------------------------------------------------------


@pytree
class Recipe:
    """A pytree with structure, a number, a number or schedule, and a child."""

    name: str
    rate: float = leaf(0.5)
    schedule: object = leaf(1.0)
    child: object = leaf(None)

    def __post_init__(self):
        if isinstance(self.rate, float) and self.rate < 0:
            raise ValueError("rate must be ≥ 0")


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0)], ids=repr
)
def test_numbers_become_floats(number):
    recipe = Recipe("a", number)
    assert type(recipe.rate) is float
    assert recipe == Recipe("a", 2.0)
    assert hash(recipe) == hash(Recipe("a", 2.0))


@pytest.mark.parametrize("value", ["2", True, np.True_])
def test_values_that_only_look_like_numbers_are_refused(value):
    with pytest.raises(TypeError, match=r"Recipe\.rate must be a number, got"):
        Recipe("a", value)


def test_checks_run_on_construction_after_numbers_become_floats():
    with pytest.raises(ValueError, match="rate must be ≥ 0"):
        Recipe("a", -1)


def test_leaves_are_leaves_and_the_rest_is_structure():
    recipe = Recipe("a", 2, 3, child=fnn.Dropout(0.25))
    assert jax.tree.leaves(recipe) == [2.0, 3.0, 0.25]
    same = Recipe("a", 7, 8, child=fnn.Dropout(0.5))
    assert jax.tree.structure(same) == jax.tree.structure(recipe)
    other = Recipe("b", 2, 3, child=fnn.Dropout(0.25))
    assert jax.tree.structure(other) != jax.tree.structure(recipe)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(recipe)]
    assert paths == [".rate", ".schedule", ".child.rate"]


def test_a_schedule_is_structure():
    recipe = Recipe("a", schedule=jnp.cos)
    assert jax.tree.leaves(recipe) == [0.5]
    assert jax.tree.map(lambda rate: 2 * rate, recipe).schedule is jnp.cos
    assert jax.tree.structure(recipe) != jax.tree.structure(Recipe("a"))


@pytest.mark.parametrize(
    "stand_in", [None, object(), "x", -1.0], ids=["None", "object", "str", "-1"]
)
def test_jax_may_rebuild_a_pytree_around_anything(stand_in):
    treedef = jax.tree.structure(fnn.Dropout(0.5))
    assert jax.tree.unflatten(treedef, [stand_in]).rate is stand_in


def test_tracers_and_arrays_may_stand_for_numbers():
    rates = jnp.array([0.25, 0.5])
    doubled = jax.vmap(lambda r: 2 * Recipe("a", rate=r).rate)(rates)
    np.testing.assert_array_equal(doubled, [0.5, 1.0])
    recipe = Recipe("a", rate=jnp.float32(0.25))
    assert recipe == Recipe("a", rate=jnp.float32(0.25))
    assert recipe != Recipe("a", rate=jnp.float32(0.5))
    assert jax.jit(lambda recipe: recipe)(recipe) == recipe
    assert repr(recipe) == "Recipe(name='a', rate=0.25)"


def test_equality_needs_the_same_class_structure_and_numbers():
    assert Recipe("a") == Recipe("a")
    assert Recipe("a") != Recipe("b")
    assert Recipe("a") != Recipe("a", 0.25)
    assert fnn.Sigmoid() != fnn.Tanh()
    assert len({Recipe("a"), Recipe("a"), Recipe("a", 0.25)}) == 2


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(Recipe("a")) == "Recipe(name='a')"
    assert repr(Recipe("a", 2)) == "Recipe(name='a', rate=2.0)"


def test_a_subclass_keeps_its_parents_checks():
    @fnn.layer
    class Mine(fnn.Dropout):
        pass

    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1.5"):
        Mine(1.5)
    assert repr(Mine(1 / 4)) == "Mine(rate=0.25)"


def test_a_concrete_jax_number_is_a_number():
    layer = fnn.Dropout(jnp.float32(0.25))
    assert layer == fnn.Dropout(0.25)
    assert hash(layer) == hash(fnn.Dropout(0.25))


def test_children_without_with_children_are_refused():
    @fnn.layer
    class Twice(fnn.Layer):
        inner: fnn.Layer = fnn.leaf()

        @property
        def children(self):
            return {"inner": self.inner}

        def forward(self, params, state, x, *, key=None, train=False):
            return self.inner.forward(*params, *state, x, key=key, train=train)

        def backward(self, params, saved, dy):
            return self.inner.backward(*params, saved, dy)

    with pytest.raises(NotImplementedError, match="def with_children"):
        Twice(fnn.Relu()).with_children(fnn.Tanh())


def test_a_network_is_a_layer():
    assert isinstance(fnn.serial(fnn.Dense(3)), fnn.Layer)
    assert not isinstance(3, fnn.Layer)
