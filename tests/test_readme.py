"""The pages: their Python runs and prints what they show; their links lead on."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("fnn/**/*.md")),
    *sorted(ROOT.glob("scripts/site/pages/*.md")),
    ROOT / "experiments" / "README.md",
    ROOT / "scripts" / "bench" / "README.md",
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PAGES}
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
WITH_CODE = [name for name, text in TEXTS.items() if BLOCK.search(text)]


def words(text: str) -> list[str]:
    """Return the words of a text, without numbers, which differ between machines."""
    return re.sub(r"[-+]?\d[\d.,e×/-]*|[─\s]+", " ", text).split()


def test_pages_have_code_with_output():
    blocks = BLOCK.findall(TEXTS["README.md"])
    assert len(blocks) >= 3
    assert sum(bool(output) for _, output in blocks) >= 3
    assert len(WITH_CODE) >= 5


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", WITH_CODE)
def test_code_of_a_page_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it may leave a run behind
    names: dict = {}
    for code, shown in BLOCK.findall(TEXTS[page]):
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page, "exec"), names)
        except ImportError as error:  # an extra that need not be there
            assert "pip install" in str(error)
            continue
        if shown:
            assert words(printed.getvalue()) == words(shown), code


def anchor(heading: str) -> str:
    """Return the name by which a heading is linked to."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        path, _, name = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if name:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert name in map(anchor, headings), link


@pytest.mark.parametrize(
    "command", re.findall(r"^scripts/\S+", TEXTS["README.md"], re.MULTILINE)
)
def test_commands_of_the_readme_exist(command):
    script = ROOT / command
    assert script.is_file()
    assert script.stat().st_mode & 0o111
