"""Flags, fixtures and marks that every test runs under."""

import os
import signal
from collections import Counter
from importlib.metadata import version

# Compiling is nearly all that the tests do, and here it is done once for one run: half
# the time is saved by not optimising. Set before JAX is imported.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # For what runs on several devices; all else stays on the first.
    "--xla_force_host_platform_device_count=8",
]
# Half of the rest goes into the newer of XLA's two ways to emit loops; jaxlib 0.11 has
# no other, and refuses flags that it does not know.
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import jax
import jax.numpy as jnp
import pytest
from array_types import check_shapes_everywhere
from hypothesis import settings

from fnn.planning.costs import Known, built_in

# A float64 or int32 that slips into a float32 computation is an error, not a promotion.
# (Not so ranks: x W + b adds a vector to a matrix on purpose.)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# On a GPU or TPU a float32 product would else be computed in fewer bits.
jax.config.update("jax_default_matmul_precision", "highest")

# Arrays are checked against their annotated shapes; not so when a user runs fnn.
check_shapes_everywhere()

# The same examples in each run; compiling takes longer than hypothesis' deadline.
settings.register_profile("fnn", derandomize=True, deadline=None, database=None)
settings.load_profile("fnn")


def pytest_configure(config):
    """Prepare every process that runs tests."""
    # What a shell starts in the background ignores Ctrl-C, which some tests press.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "cache"):  # not with `-p no:cacheprovider`
        keep_compiled_programs(config.cache.mkdir("compiled"))


def keep_compiled_programs(folder):
    """Keep compiled programs for the next run, which takes a third of the time.

    They lie in pytest's cache, which `pytest --cache-clear` empties. JAX's key of a
    program has its code, the flags, the processor and the versions of jax and jaxlib.
    """
    kept = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in kept.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes that tests start


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Thousands of compiled programs would fill a process's memory map."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def plan_by_one_table():
    """Plan the same on every machine, and measure nothing."""
    with pytest.MonkeyPatch.context() as patch:
        known = Known(built_in(), hold=True)
        patch.setattr("fnn.planning.planner.known_costs", lambda: known)
        yield


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Make all rows of a table marked `one_in(n)` thorough but every n-th."""
    rows = Counter()
    for item in items:
        chosen = item.get_closest_marker("one_in")
        if chosen and not item.get_closest_marker("thorough"):
            table = item.nodeid.partition("[")[0]
            if rows[table] % chosen.args[0]:
                item.add_marker(pytest.mark.thorough)
            rows[table] += 1


def converts_float16() -> bool:
    """Return whether XLA can compute with float16: not on a processor without F16C."""
    try:
        jax.jit(lambda x: x.astype(jnp.float32))(jnp.ones(2, jnp.float16))
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip a test where XLA has no code for the float16 numbers that it needs."""
    try:
        return (yield)
    except jax.errors.JaxRuntimeError as error:
        if "Failed to materialize symbols" in str(error) and not converts_float16():
            pytest.skip("XLA has no float16 on this processor")
        raise
