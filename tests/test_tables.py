"""Tables of networks that are deep: every row can be told from every other."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn import tables
from fnn.network import walk
from fnn.tables import format_number, format_rows, shorten_paths


def deep_paths() -> list[str]:
    """The parameters and the δ of ten branches, in each a residual in a residual ..."""
    layer = fnn.Dense(5)
    for _ in range(2):
        layer = fnn.serial(fnn.residual(fnn.residual(layer)), fnn.Tanh())
    net = fnn.serial(fnn.Dense(5), fnn.parallel(*[layer] * 10), fnn.Dense(5))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), (5,)))
    deltas = [f"{node.path}.delta" for node in walk(net, variables)]
    return [*fnn.named_params(net, variables.params), *deltas]


def report_of(paths: list[str]) -> fnn.Report:
    numbers = (0.1, 1e-17, 1e-16, 1.0, 1e-7, 1e-7, 1e-10, 1e-10)
    rows = [fnn.Row(p, (128, 128), *numbers, 64, 0, "pass", "") for p in paths]
    return fnn.Report(tuple(rows), (), "manual")


def chain_paths() -> list[str]:
    """The layers around a parameter, from outside to inside, and the parameter."""
    paths = deep_paths()
    parameter = next(p for p in paths if "/7/" in p and p.endswith("weight"))
    layers = (p.removesuffix(".delta") for p in paths if p.endswith("l.delta"))
    return [*(f"{p}.dparams" for p in layers if p in parameter), parameter]


def explanation_of(paths: list[str]) -> fnn.Explanation:
    symbol, one = "∂z⁽¹¹⁾′′′′′′′′/∂z⁽⁹⁾′′′′′′′", np.ones(4)
    factors = [
        fnn.Factor(symbol, path, (3, 4), np.ones((3, 4)), one, 1e-17, True)
        for path in paths
    ]
    return fnn.Explanation("w⁽⁹⁾", "", None, 0.5, tuple(factors), one, one, 1)


def printed_paths(table: str, column: int) -> list[str]:
    """The paths below the rule, which end where a column of numbers begins."""
    _, body = table.split("─\n", 1)
    lines = body.split("\n\n")[0].splitlines()
    return [line.split()[column] for line in lines if not line.startswith("  ")]


@pytest.mark.parametrize(
    ("make", "paths", "column"),
    [(report_of, deep_paths, 0), (explanation_of, chain_paths, 1)],
    ids=["report", "explanation"],
)
def test_paths_of_a_deep_network_are_told_apart_within_80_columns(make, paths, column):
    paths = paths()
    assert len(paths) > 5 and max(path.count("/") for path in paths) >= 10
    table = str(make(paths))
    printed = printed_paths(table, column)
    assert len(set(printed)) == len(printed) == len(paths)
    assert max(map(len, table.splitlines())) <= 80
    assert any("…" in short for short in printed)
    for short, path in zip(printed, paths, strict=True):
        pattern = re.compile(re.escape(short.lstrip(".")).replace("…", ".+"))
        assert [p for p in paths if pattern.fullmatch(p.lstrip("."))] == [path]


def test_a_path_without_a_short_form_has_a_line_of_its_own():
    branches = [f"0/Parallel/{i}/Residual/body/0/Dense.weight" for i in range(2)]
    rows = [("path", "size"), *((path, "8" * 62) for path in branches)]
    head, *lines = format_rows(rows, "<>", paths=0)
    assert lines[::2] == branches
    assert lines[1] == lines[3] and set(lines[1].strip()) == {"8"}
    assert head.endswith("size") and max(map(len, lines)) <= tables.WIDTH


parts = st.lists(st.sampled_from(["0", "1", "body", "Residual"]), min_size=1)


@given(st.lists(parts.map("/".join), unique=True), st.integers(5, 25))
def test_short_forms_fit_and_are_distinct(paths, width):
    short = shorten_paths(paths, width)
    assert len(set(short)) == len(paths)
    for form, path in zip(short, paths, strict=True):
        assert form == path or ("…" in form and len(form) <= width < len(path))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 4, "0"), (-0.0, 2, "0"), (-0.64273, 4, "-0.6427"), (1.0, 4, "1"),
        (3.2e-9, 2, "3e-9"), (2.1e-10, 2, "2e-10"), (0.0012345, 4, "0.001234"),
        (1.5e6, 4, "1.5e6"), (0.0746030527, 9, "0.0746030527"),
        (float("nan"), 2, "nan"), (float("-inf"), 4, "-inf"),
    ],
)  # fmt: skip
def test_numbers_have_few_digits(value, digits, text):
    assert format_number(value, digits) == text
