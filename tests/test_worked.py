"""The pages that derive a backward: all layers and losses, quoted as the code is.

Their Python blocks run in test_readme, which also compares the numbers they print.
"""

import inspect
import re

import pytest
import worked_pages
from worked_pages import INDEX, PAGES, ROOT, derived, numbers, quotations, quote

import fnn

TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PAGES}
EVERY_PAGE = pytest.mark.parametrize("page", TEXTS)
HEADINGS = [
    "Definition",
    "The chain rule in indices",
    "Vectorised",
    "The code",
    "By hand",
    "What to look at",
]


def public_layers():
    """All layers and losses by the name under which a user finds them."""
    layers = {
        f"fnn.{name}": value
        for name, value in vars(fnn).items()
        if inspect.isclass(value) and issubclass(value, fnn.Layer)
    }
    losses = {
        f"fnn.losses.{name}": value
        for name, value in vars(fnn.losses).items()
        if inspect.isclass(value) and value is not fnn.losses.Loss
    }
    del layers["fnn.Layer"]  # the contract
    del layers["fnn.Plan"]  # what fnn.plan makes of a network, made of other layers
    return layers | losses


def unique(names):
    """The names, of which none occurs twice."""
    assert len(names) == len(set(names)), names
    return set(names)


def missing_names(texts, public):
    """Names that have no page, and names on pages that nothing public has."""
    named = unique([name for text in texts for name in derived(text)])
    return named ^ public


def test_every_layer_and_loss_has_exactly_one_page():
    assert missing_names(TEXTS.values(), set(public_layers())) == set()


def test_a_layer_without_a_page_is_found():
    with_new = {*public_layers(), "fnn.New"}
    assert missing_names(TEXTS.values(), with_new) == {"fnn.New"}
    without_one = list(TEXTS.values())[1:]
    assert missing_names(without_one, set(public_layers()))
    with pytest.raises(AssertionError):
        missing_names([*TEXTS.values(), "*Layer: `fnn.Dense`*"], set())


def test_the_index_lists_each_name_with_its_page():
    rows = re.findall(
        r"^\| (`.*?) \| \[.*?\]\((.*?)\) \|", INDEX.read_text("utf-8"), re.MULTILINE
    )
    listed = {
        str((INDEX.parent / page).resolve().relative_to(ROOT)): re.findall(
            "`(.*?)`", names
        )
        for names, page in rows
    }
    assert len(listed) == len(rows)
    expected = {page: names for page, text in TEXTS.items() if (names := derived(text))}
    assert listed == expected


@EVERY_PAGE
def test_a_page_has_its_sections(page):
    headings = re.findall("^## (.*)$", TEXTS[page], re.MULTILINE)
    assert headings == HEADINGS


@EVERY_PAGE
def test_a_page_quotes_the_source(page):
    found = quotations(TEXTS[page])
    assert len(found) == TEXTS[page].count("<!--")
    for module, names, block in found:
        assert block == quote(module, names)


@EVERY_PAGE
def test_a_page_quotes_the_backward_of_each_layer(page):
    quoted = {
        f"{module}.{name}"
        for module, names, _ in quotations(TEXTS[page])
        for name in names
    }
    public = public_layers()
    for name in derived(TEXTS[page]):
        is_loss = name.startswith("fnn.losses.")
        for method in ("value", "delta") if is_loss else ("forward", "backward"):
            function = getattr(public[name], method)
            assert f"{function.__module__}.{function.__qualname__}" in quoted


@EVERY_PAGE
def test_what_a_page_prints_is_written_out_by_hand(page):
    by_hand = TEXTS[page].partition("## By hand")[2].partition("## What to look at")[0]
    hand, _, rest = by_hand.partition("```python")
    written = numbers(hand)
    outputs = re.findall("```text\n(.*?)```", rest, re.DOTALL)
    assert outputs
    for number in numbers("\n".join(outputs)):
        assert any(abs(number - other) < 1.1e-4 for other in written), number


def formulas(text):
    """Return the mathematics of a page, outside of its code."""
    text = re.sub("```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"\$\$.*?\$\$|\$[^$]+\$", text, re.DOTALL)


def markdown_hazards(text):
    """What Markdown, on GitHub, would take away from mathematics.

    A backslash before punctuation vanishes, _ after punctuation may begin italics, and
    a $ beside a space is a dollar.
    """
    hazard = re.compile(r"\\[^\w\s]|[^\w\s]_|\*|<\w|^\$[^$\S]|[^$\S]\$$")
    return [formula for formula in formulas(text) if hazard.search(formula)]


def unbalanced(text):
    """Formulas in which a brace, an environment or a pair of delimiters stays open."""
    pairs = [("{", "}"), (r"\begin", r"\end"), (r"\left", r"\right")]
    pairs += [(r"\bigl", r"\bigr"), (r"\Bigl", r"\Bigr")]
    return [
        f for f in formulas(text) if any(f.count(a) != f.count(b) for a, b in pairs)
    ]


def test_an_open_brace_is_found():
    assert unbalanced(r"$a_{n}$ $b_{n$") == ["$b_{n$"]


@EVERY_PAGE
def test_mathematics_is_balanced(page):
    assert unbalanced(TEXTS[page]) == []


@EVERY_PAGE
def test_mathematics_survives_markdown(page):
    assert TEXTS[page].count("$$") % 2 == 0
    assert markdown_hazards(TEXTS[page]) == []


@pytest.mark.parametrize(
    "formula",
    [r"$a \\ b$", r"$\{a\}$", r"$$\hat{x}_i$$", r"$(a)_b$", "$a * b$", "$a $"],
)
def test_mathematics_that_does_not_survive_is_found(formula):
    assert markdown_hazards(f"text {formula} $x_i$ text") == [formula]


@pytest.mark.parametrize(
    "planted",
    [
        ("dx=dy @ params.weight.T", "dx=dy @ params.weight"),
        ("    def backward(self, params, saved, dy):\n", ""),
    ],
)
def test_a_quotation_that_went_stale_is_found(planted):
    text = TEXTS["fnn/layers/dense.md"]
    assert planted[0] in text
    found = quotations(text.replace(*planted))
    assert any(block != quote(module, names) for module, names, block in found)


def test_a_quotation_has_the_lines_of_the_source():
    assert worked_pages.quote(__name__, ["unique"]) == (
        "def unique(names):\n"
        "    assert len(names) == len(set(names)), names\n"
        "    return set(names)\n"
    )
