"""The pages that derive a backward: what they name, quote and compute."""

import ast
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
INDEX = ROOT / "fnn" / "layers" / "backward.md"
PAGES = [
    path
    for path in sorted(ROOT.glob("fnn/**/*.md"))
    if path.name != "README.md" and path != INDEX
]

#: The line under a page's title that names what it derives.
DERIVED = re.compile(r"^\*(?:Layers?|Loss(?:es)?): (.*)\*$", re.MULTILINE)

#: `<!-- source: module: function, function -->`, and the block that quotes them.
QUOTED = re.compile(r"<!-- source: ([\w.]+): (.*?) -->\n```python\n(.*?)```", re.DOTALL)

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


def derived(text: str) -> list[str]:
    """Return the public names whose backward a page derives."""
    return [
        name for line in DERIVED.findall(text) for name in re.findall("`(.*?)`", line)
    ]


def quotations(text: str) -> list[tuple[str, list[str], str]]:
    """Return the module, the functions and the text of each quotation of the source."""
    return [
        (module, re.split(r",\s*", names), block)
        for module, names, block in QUOTED.findall(text)
    ]


def quote(module: str, names: list[str]) -> str:
    """Return the source of functions as a page quotes it.

    The lines of the body are as they are, without the docstring; the signature is
    without annotations, and methods stand under the first line of their class.
    """
    text = last = ""
    for name in names:
        owner = name.rpartition(".")[0]
        lines = _quote(pkgutil.resolve_name(f"{module}:{name}"))
        if owner:
            lines = textwrap.indent(lines, "    ")
        if owner and owner != last:
            lines = _class_line(pkgutil.resolve_name(f"{module}:{owner}")) + lines
        if text:  # as ruff formats it
            text += "\n" if owner and owner == last else "\n\n"
        text += lines
        last = owner
    return text


def _quote(function: object) -> str:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    body = node.body[ast.get_docstring(node) is not None :]
    lines = source.splitlines(keepends=True)
    header = node.returns.end_lineno if node.returns else node.lineno
    start = header if body == node.body else node.body[0].end_lineno
    return f"def {node.name}({ast.unparse(node.args)}):\n" + "".join(lines[start:])


def _class_line(owner: type) -> str:
    bases = ", ".join(base.__name__ for base in owner.__bases__)
    return f"class {owner.__name__}({bases}):\n"


def numbers(text: str) -> list[float]:
    """Return all numbers of a text, in their order."""
    return [float(number) for number in NUMBER.findall(text)]
