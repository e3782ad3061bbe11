"""The README's Python runs, and prints what the README shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
BLOCKS = BLOCK.findall(README)


def words(text: str) -> list[str]:
    """Return the words of a text, without numbers, which differ between machines."""
    return re.sub(r"[-+]?\d[\d.,e×/-]*|[─\s]+", " ", text).split()


def test_readme_has_code_with_output():
    assert len(BLOCKS) >= 3
    assert sum(bool(output) for _, output in BLOCKS) >= 3


@pytest.mark.filterwarnings("default")
def test_code_of_the_readme_runs_and_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it leaves a run behind
    names: dict = {}
    for code, shown in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        if shown:
            assert words(printed.getvalue()) == words(shown), code


@pytest.mark.parametrize("command", re.findall(r"^scripts/\S+", README, re.MULTILINE))
def test_commands_of_the_readme_exist(command):
    script = Path(__file__).parent.parent / command
    assert script.is_file()
    assert script.stat().st_mode & 0o111
