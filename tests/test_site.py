"""The site: each public name on one page, each docstring whole, tables as computed."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from docstrings import missing_parts, public
from site_tables import GENERATED, PAGES, layers_without_a_row

import fnn

ROOT = Path(__file__).parent.parent
PUBLIC = public()
REFERENCE = tomllib.loads((ROOT / "scripts/site/reference.toml").read_text("utf-8"))
ALIASES = REFERENCE.pop("aliases")
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def listed_wrongly(listed: list[str], names: set[str]) -> dict[str, set[str]]:
    """Return which names have no page, which have two, and which are not public."""
    return {
        "without a page": names - set(listed),
        "twice": {name for name in listed if listed.count(name) > 1},
        "not public": set(listed) - names,
    }


def test_each_public_name_has_one_page():
    listed = [name for page in REFERENCE.values() for name in page["names"]]
    wrong = listed_wrongly([*listed, *ALIASES], set(PUBLIC))
    assert not any(wrong.values()), wrong
    assert all(PUBLIC[name] is PUBLIC[other] for name, other in ALIASES.items())


def test_a_name_without_a_page_is_found():
    wrong = listed_wrongly(["fnn.a", "fnn.a", "fnn.c"], {"fnn.a", "fnn.b"})
    assert wrong == {
        "without a page": {"fnn.b"},
        "twice": {"fnn.a"},
        "not public": {"fnn.c"},
    }


@pytest.mark.parametrize("page", REFERENCE)
def test_docstrings_have_their_parts(page):
    missing = {n: missing_parts(n, PUBLIC[n]) for n in REFERENCE[page]["names"]}
    assert not {name: parts for name, parts in missing.items() if parts}


def bare(a: int) -> int:
    """Return a."""
    if a < 0:
        raise ValueError(a)
    return a


def whole(a: int) -> None:
    """Do nothing.

    Args:
        a: a number.

    Example:
        >>> whole(1)
    """


class Pair(NamedTuple):
    """A pair: left, and the other."""

    left: int
    right: int


@fnn.layer
class Bare(fnn.Identity):
    """A layer."""

    factor: float = fnn.leaf(1.0)


@dataclasses.dataclass
class Undocumented:
    a: int


@pytest.mark.parametrize(
    ("value", "missing"),
    [
        (bare, ["Example:", "Args:", "Returns:", "Raises:"]),
        (whole, []),
        (Pair, ["the field right"]),
        (Bare, ["the field factor"]),
        (Undocumented, ["a docstring"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_missing_part_is_found(value: Any, missing: list[str]):
    assert missing_parts("fnn.x", value) == missing


def test_a_layer_without_an_example_is_found(monkeypatch):
    monkeypatch.setattr(fnn.Relu, "__doc__", "A rectifier.")
    assert missing_parts("fnn.Relu", fnn.Relu) == ["Example:"]


@pytest.mark.parametrize("name", GENERATED)
def test_a_computed_page_is_as_computed(name):
    """`python tests/site_tables.py` writes them."""
    assert (PAGES / name).read_text("utf-8") == GENERATED[name]()


def test_each_layer_has_a_row():
    assert layers_without_a_row() == []


def test_each_picture_is_in_the_gallery():
    page = (PAGES / "gallery.md").read_text("utf-8")
    pictures = list((ROOT / "experiments" / "pictures").glob("*.png"))
    assert len(pictures) > 15
    for picture in pictures:
        assert f"pictures/{picture.name})" in page
    for script in re.findall(r"python -m experiments\.(\w+)", page):
        assert (ROOT / "experiments" / f"{script}.py").is_file()


# ---- The same task in other libraries --------------------------------------------

COMING_FROM = (PAGES / "coming_from.md").read_text("utf-8")
BLOCKS = re.findall(r"^## (\w+)\n\n```py\n(.*?)```", COMING_FROM, re.DOTALL | re.M)


def test_the_blocks_of_other_libraries_are_found():
    assert [library for library, _ in BLOCKS] == ["PyTorch", "Keras", "Flax", "Equinox"]


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("library", "code"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_another_library_does_the_same_task(library, code, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip({"PyTorch": "torch"}.get(library, library.lower()))
    x, y = fnn.data.digits().train
    names = {"x": x, "y": y}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, library, "exec"), names)
    assert names["accuracy"] > 0.9


# ---- Notebooks -------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole_and_runs(path, monkeypatch, tmp_path):
    notebook = json.loads(path.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    assert names["finished"]  # the last cell of each says whether it ended well


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["audit", "first_screen"]
