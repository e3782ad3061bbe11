"""Initial parameters: JAX's numbers, however they are drawn, with few compilations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as of_jax

import fnn
from fnn import initializers
from fnn.layers import draws

PAIRS = {
    "zeros": (initializers.Zeros(), of_jax.zeros),
    "ones": (initializers.Ones(), of_jax.ones),
    "constant": (initializers.Constant(0.3), of_jax.constant(0.3)),
    "normal": (initializers.Normal(0.3), of_jax.normal(0.3)),
    "he normal": (initializers.HeNormal(), of_jax.he_normal()),
    "he uniform": (initializers.HeUniform(), of_jax.he_uniform()),
    "glorot normal": (initializers.GlorotNormal(), of_jax.glorot_normal()),
    "glorot uniform": (initializers.GlorotUniform(), of_jax.glorot_uniform()),
    "lecun normal": (initializers.LecunNormal(), of_jax.lecun_normal()),
    "orthogonal": (initializers.Orthogonal(2.0), of_jax.orthogonal(2.0)),
}
KEY = jax.random.key(7)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4, 5), (300, 300)], ids=str)
def test_the_numbers_are_those_of_jax(name, shape):
    ours, theirs = PAIRS[name]
    expected = theirs(KEY, shape)
    found = ours(KEY, shape)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    traced = jax.jit(ours, static_argnums=1)(KEY, shape)
    np.testing.assert_allclose(traced, expected, rtol=1e-6, atol=1e-7)


def test_in_float64_and_mapped_over_keys():
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: initializers.HeNormal()(key, (3, 5)))(keys)
    one_by_one = [initializers.HeNormal()(key, (3, 5)) for key in keys]
    np.testing.assert_allclose(mapped, jnp.stack(one_by_one), rtol=1e-6)
    with jax.enable_x64(True):
        for ours, theirs in PAIRS.values():
            found, expected = ours(KEY, (3, 5)), theirs(KEY, (3, 5), jnp.float64)
            assert found.dtype == expected.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_draw_the_same_eagerly_and_traced(impl):
    key = jax.random.key(0, impl=impl)
    eager = initializers.LecunNormal()(key, (3, 5))
    traced = jax.jit(initializers.LecunNormal(), static_argnums=1)(key, (3, 5))
    np.testing.assert_allclose(traced, eager, rtol=1e-6)


def test_where_the_bits_of_a_row_have_no_prefixes_the_draw_has_none():
    with jax.threefry_partitionable(False):
        assert not draws._has_prefixes(KEY)
        eager = initializers.LecunNormal()(KEY, (3, 5))
        np.testing.assert_allclose(eager, of_jax.lecun_normal()(KEY, (3, 5)), 1e-6)


def test_weights_lie_where_the_key_does():
    here, there = jax.devices()[:2]
    net = fnn.serial(fnn.Dense(3))
    for key, device in ((KEY, here), (jax.device_put(KEY, there), there)):
        assert net.init(key, (2,)).params[0].weight.devices() == {device}
    with jax.default_device(there):
        for leaf in jax.tree.leaves(net.init(jax.random.key(0), (2,))):
            assert leaf.devices() == {there}


def test_networks_of_other_sizes_share_a_program():
    def programs():
        return draws._row._cache_size()

    fnn.serial(fnn.Dense(3)).init(KEY, (2,))
    before = programs()
    fnn.serial(fnn.Conv(4, 3), fnn.Conv(7, 5)).init(KEY, (9, 9, 2))
    assert programs() == before


def test_a_vector_has_no_inputs():
    with pytest.raises(ValueError, match="no inputs and outputs to draw it by"):
        initializers.HeNormal()(KEY, (3,))
