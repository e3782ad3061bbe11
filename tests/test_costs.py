"""Tables of costs: read and written, chosen for the machine, measured, compared."""

import json
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.planning import comparing, costs, machine, planner, rows
from fnn.planning.costs import Work, built_in, known_costs, own_costs_file

NET = fnn.serial(
    fnn.Conv(3, 3), fnn.BatchNorm(), fnn.Relu(),
    fnn.residual(fnn.serial(fnn.Conv(3, 3), fnn.Relu(), fnn.MaxPool(1))),
    fnn.Conv(3, 3, groups=3), fnn.Conv(4, 3), fnn.MaxPool(2), fnn.GlobalAvgPool(),
    fnn.Dense(2),
)  # fmt: skip
IMAGE = (6, 6, 2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fnn" / "costs"


def test_costs_are_read_back_and_a_wrong_file_is_named(tmp_path):
    table = {
        "machine": "here",
        "elements": {"transpose": 1.0},
        "blocks": [{"work": Work(3, 1, 1, 8, 8, 100, 10)._asdict(), "ms": {"a": 2.0}}],
    }
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(table))
    read = fnn.load_costs(file)
    assert read.machine == "here"
    # Twice the channels in and out: four times the multiplications of the nearest.
    assert read.block("a", Work(3, 1, 1, 16, 16, 100, 10)) == 8.0
    assert read.block("b", Work(3, 1, 1, 16, 16, 100, 10)) == float("inf")
    assert read.element("transpose", 2_000_000) == 2.0
    older = table | {"elements": {"turn": 1.0}}
    file.write_text(json.dumps(older))
    assert fnn.load_costs(file) == read
    file.write_text('{"machine": "here"}')
    with pytest.raises(ValueError, match=r"costs\.json is not a table of costs"):
        fnn.load_costs(file)


def test_the_built_in_table_says_where_it_was_made():
    assert "cores" in built_in().machine and "jax" in built_in().machine
    assert {"plain", "im2col"} <= set(built_in().blocks[0][1])


# ---- The table of a machine ------------------------------------------------------

CPU_INFO = "processor : 0\nmodel name\t: A Chip\nflags\t\t: fpu {}\n\nflags : none\n"


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ("avx avx2 avx512f", "", "AVX-512"),
        ("avx avx2", "", "AVX2"),
        ("avx", "", "AVX"),
        ("sse4_2", "", platform.machine()),
        ("avx avx2", "--xla_cpu_max_isa=SSE4_2", "SSE4.2"),
        ("avx avx2 avx512f", "--xla_cpu_max_isa=AVX2 --xla_a=b", "AVX2"),
        ("avx avx2", "--xla_cpu_max_isa=AVX512", "AVX2"),
    ],
)
def test_the_vector_instructions_are_found(flags, limit, expected, monkeypatch):
    monkeypatch.setattr(machine.Path, "read_text", lambda *_: CPU_INFO.format(flags))
    monkeypatch.setenv("XLA_FLAGS", limit)
    assert machine.instruction_set() == expected
    assert machine.processor() == "A Chip"


def test_without_linux_there_is_a_name_all_the_same(monkeypatch):
    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", missing)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert machine.instruction_set() == platform.machine()
    assert machine.processor() and "cores" in machine.describe_machine()


def test_a_plan_takes_the_machines_own_table_then_that_of_its_instructions(monkeypatch):
    monkeypatch.setattr(costs, "instruction_set", lambda: "AVX-512")
    assert known_costs() == (built_in("AVX-512"), True)
    monkeypatch.setattr(costs, "instruction_set", lambda: "another")
    assert known_costs() == (built_in("AVX2"), False)
    own = built_in()._replace(machine="mine")
    own.save(own_costs_file())
    assert known_costs() == (own, True)


@pytest.mark.parametrize("instructions", costs.TABLES)
def test_a_table_that_comes_with_fnn_says_where_it_was_made(instructions):
    table = built_in(instructions)
    for part in (instructions, "cores", "jax"):
        assert part in table.machine
    assert {"plain", "im2col"} <= set(table.blocks[0][1])
    assert all(ms > 0 for _, row in table.blocks for ms in row.values())


# ---- Measuring -------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Measure one run of everything, and one standard shape of one and of two axes."""
    monkeypatch.setattr(rows, "RUNS", 1)
    monkeypatch.setattr(rows, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(rows, "IMAGE", (4, 4, 2))
    monkeypatch.setattr(rows, "SHAPES", (((1, 1, 1), (2, 3), 4),))
    monkeypatch.setattr(rows, "LINES", (((1, 1, 1), (3, 2), 5),))


def test_what_is_measured_is_kept_and_planned_by(quick, monkeypatch):
    table = fnn.measure_costs(NET, IMAGE, batch_size=4)
    # In the network's own shapes, alone and with what can be fused; then the others.
    works = [(w.taps, w.pool, w.inputs, w.outputs, w.places) for w, _ in table.blocks]
    assert set(works[:4]) == {
        (3, 1, 2, 3, 36), (3, 1, 3, 3, 36), (3, 2, 3, 4, 36), (3, 1, 3, 4, 36),
    }  # fmt: skip
    assert works[4:] == [(1, 1, 2, 3, 16), (1, 1, 3, 2, 5)]
    assert set(table.elements) == set(built_in().elements)
    assert all({"plain", "im2col"} <= set(row) for _, row in table.blocks)
    assert known_costs() == (table, True)
    monkeypatch.setattr(planner, "known_costs", known_costs)
    plan = fnn.plan(NET, IMAGE, platform="cpu")
    assert str(plan) == str(fnn.plan(NET, IMAGE, platform="cpu", costs=table))
    # No time for a shape: what was there stays.
    again = fnn.measure_costs(seconds=1e-9, progress=False)
    assert again.blocks == table.blocks and again.elements != table.elements


def test_a_table_that_cannot_be_kept_is_returned(quick, folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match="the table is not kept"):
        assert fnn.measure_costs(seconds=1e-9).elements


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((fnn.Conv,), {}, "instance"),
        ((NET, (0, 2)), {}, "in_shape"),
        ((NET, IMAGE), dict(batch_size=0), "batch_size"),
        ((), dict(seconds=-1.0), "seconds"),
        ((), dict(seconds=float("nan")), "seconds"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fnn.measure_costs(*arguments, **options)


def test_nothing_is_measured_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="CPU only"):
        fnn.measure_costs()


# ---- A plan by guessed costs -----------------------------------------------------


@pytest.fixture
def guessed(monkeypatch):
    """No table is of this machine; everything is timed once."""
    monkeypatch.setattr(planner, "known_costs", lambda: costs.Known(built_in(), False))
    monkeypatch.setattr(comparing, "RUNS", 1)
    monkeypatch.setattr(comparing, "LONG_ENOUGH", 0.0)


def test_where_costs_are_a_guess_the_faster_of_both_is_planned(guessed, monkeypatch):
    plan = fnn.plan(NET, IMAGE, platform="cpu")
    assert "Measured on this machine" in str(plan)
    # The answer is kept: nothing is measured again.
    monkeypatch.setattr(comparing, "_milliseconds", None)
    assert str(fnn.plan(NET, IMAGE, platform="cpu")) == str(plan)


@pytest.mark.parametrize(("planned_ms", "faster"), [(2.0, False), (1.0, True)])
def test_a_plan_that_loses_is_not_taken(guessed, monkeypatch, planned_ms, faster):
    monkeypatch.setattr(comparing, "_milliseconds", lambda *_: (planned_ms, 1.5))
    plan = fnn.plan(NET, IMAGE, platform="cpu")
    assert bool(plan.changes) == faster and (plan.net == NET) == (not faster)
    assert f"{planned_ms:.2f} ms, plain 1.50" in str(plan)


def test_it_is_measured_in_the_middle_of_a_traced_program(guessed):
    def outputs(x):
        plan = fnn.plan(NET, IMAGE, platform="cpu")
        return plan.forward(*plan.init(jax.random.key(0), IMAGE), x).y

    x = jnp.ones((2, *IMAGE))
    np.testing.assert_allclose(jax.jit(outputs)(x), outputs(x), atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_without_a_folder_to_write_to_plans_are_made_all_the_same(guessed, folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder would be")
    assert "Measured" in str(fnn.plan(NET, IMAGE, platform="cpu"))
