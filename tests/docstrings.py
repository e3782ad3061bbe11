"""Read the docstrings of the public names, and list the parts that they should have."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import fnn

__all__ = ["missing_parts", "public"]


def public() -> dict[str, Any]:
    """Return every public name of fnn, and of its public packages, with its object."""
    source = (Path(fnn.__file__)).read_text("utf-8")
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            for name in (alias.name for alias in node.names):
                value = getattr(fnn, name)
                if isinstance(value, types.ModuleType):
                    inside = {n: getattr(value, n) for n in value.__all__}
                    found |= {f"fnn.{name}.{n}": v for n, v in inside.items()}
                else:
                    found[f"fnn.{name}"] = value
    return found


def missing_parts(name: str, value: Any) -> list[str]:
    """Return which parts the docstring of a public name lacks."""
    if inspect.isclass(value):
        return _missing_of_class(value)
    if inspect.isfunction(value):
        return _missing_of_function(value)
    return [] if _is_explained(name) else ["a string below the assignment"]


def _missing_of_function(function: Any) -> list[str]:
    text, tree = inspect.getdoc(function) or "", _tree(function)
    wanted = ["Example:"]
    if inspect.signature(function).parameters:
        wanted.append("Args:")
    if not (isinstance(tree.returns, ast.Constant) and tree.returns.value is None):
        wanted.append("Returns:")
    if any(isinstance(node, ast.Raise) for node in ast.walk(tree)):
        wanted.append("Raises:")
    missing = [part for part in wanted if f"\n{part}" not in f"\n{text}"]
    if "Args:" in text:
        unnamed = set(inspect.signature(function).parameters) - _arguments(text)
        missing += [f"the argument {name}" for name in sorted(unnamed)]
    return missing


def _missing_of_class(cls: type) -> list[str]:
    text = vars(cls).get("__doc__") or ""
    if not text or text.startswith(f"{cls.__name__}("):
        return ["a docstring"]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        fields = list(cls._fields)
    elif dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls) if field.init]
        fields = [
            name for name in fields if name in vars(cls).get("__annotations__", ())
        ]
    else:
        fields = []
    comments = _commented_fields(cls)
    explained = _arguments(inspect.cleandoc(text)) | comments | _of_makers(cls, text)
    unnamed = [f for f in fields if f not in explained and not _mentions(text, f)]
    missing = [f"the field {name}" for name in unnamed]
    is_part = issubclass(cls, fnn.Layer) and cls is not fnn.Layer
    if is_part and _is_made_by_users(cls) and "Example:" not in text:
        missing.append("Example:")
    return missing


def _mentions(text: str, field: str) -> bool:
    """Return whether a docstring has a field's name as a word of its own."""
    return re.search(rf"(?<!\w){field}(?!\w)", text) is not None


def _of_makers(cls: type, text: str) -> set[str]:
    """Return the arguments of the functions that a class's docstring names."""
    package = importlib.import_module(cls.__module__)
    named = (getattr(package, name, None) for name in re.findall(r"`(\w+)`", text))
    makers = filter(inspect.isfunction, named)
    return set().union(*(_arguments(inspect.getdoc(maker) or "") for maker in makers))


def _is_made_by_users(cls: type) -> bool:
    """Return whether users call the class; other layers are made by functions."""
    return (
        cls.__module__.startswith("fnn.layers.")
        and not hasattr(importlib.import_module(cls.__module__), cls.__name__.lower())
        and cls.__name__ != "Frozen"
    )  # by `frozen`, which stands in another file


def _arguments(text: str) -> set[str]:
    """Return the names that "Args:" and "Attributes:" explain."""
    found, inside = set(), False
    for line in inspect.cleandoc(text).splitlines():
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        elif inside and line.startswith("    ") and not line.startswith("     "):
            head = line.partition(":")[0]
            found |= {part.strip(" *`") for part in head.split(",")}
    return found


def _commented_fields(cls: type) -> set[str]:
    """Return the fields that a comment `#:` explains."""
    lines = inspect.getsource(cls).splitlines()
    found = set()
    for before, line in zip(["", *lines], lines, strict=False):
        if "#:" in line.strip()[1:] or before.strip().startswith("#:"):
            found.add(line.strip().partition(":")[0])
    return found


def _tree(function: Any) -> Any:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    return ast.parse(source).body[0]


def _is_explained(name: str) -> bool:
    """Return whether a string follows the assignment of a constant or of a type."""
    package, _, last = name.rpartition(".")
    for module in (package, *_modules_of(package)):
        body = ast.parse(_source(module)).body
        for node, after in pairwise(body):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == last:
                return isinstance(after, ast.Expr) and isinstance(
                    after.value, ast.Constant
                )
    return False


def _source(module: str) -> str:
    return inspect.getsource(
        importlib.import_module(
            module.replace("fnn.initializers", "fnn.layers.initializers")
        )
    )


def _modules_of(package: str) -> list[str]:
    """Return the modules that a package's names come from."""
    nodes = ast.walk(ast.parse(_source(package)))
    return [
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fnn.")
    ]
