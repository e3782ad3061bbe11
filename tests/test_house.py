"""The house: who imports whom, and the habits that a reader of the code relies on.

Everything is read from the source with `ast`; nothing is imported. Each rule is also
held against a few planted lines that break it.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("fnn/**/*.py"), *ROOT.glob("experiments/**/*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=NAMES)

#: What everything may stand on, and a network as a tree of layers.
GROUND = {
    *("typing", "pytree", "checks", "shapes", "dtypes"),
    *("describe", "own_code"),
}
NETWORK = {"core", "network", "visits", "probes"}

#: What each part of fnn may import, besides itself; from the ground up.
MAY_IMPORT = {
    "typing": set(),
    "dtypes": set(),
    "shapes": {"typing"},
    "host_arrays": set(),
    "describe": set(),
    "own_code": set(),
    "checks": {"shapes", "host_arrays", "describe"},
    "pytree": {"typing", "describe"},
    "placement": {"typing"},
    "transfers": {"typing"},
    "argmax": {"typing"},
    "data": {"checks", "host_arrays", "folders"},
    "folders": set(),
    "letters": set(),
    "tables": {"letters"},
    "versions": set(),
    "textbook": set(),
    "labels": {"typing", "shapes", "host_arrays"},
    "core": {
        *("typing", "pytree", "checks", "shapes", "host_arrays"),
        *("placement", "transfers", "describe", "own_code"),
    },
    "augmentations": {"typing", "pytree", "checks", "describe"},
    "optimizers": {"typing", "pytree", "dtypes", "describe", "own_code"},
    "kernels": {"typing", "pytree", "argmax"},
    "losses": GROUND | {"labels"},
    "metrics": GROUND | {"labels"},
    "named_leaves": {"typing"},
    "network": {"typing", "checks", "describe", "shapes", "core"},
    "visits": {"typing", "core", "network"},
    "probes": {"typing", "pytree", "shapes", "core", "network", "visits"},
    "layers": GROUND | {"core", "network", "argmax", "versions", "kernels"},
    "ops": {"typing", "layers", "placement"},
    "summary": GROUND | NETWORK | {"layers", "tables", "letters"},
    "planning": {
        *(GROUND | NETWORK),
        *("layers", "kernels", "tables", "letters", "folders"),
    },
    "gradients": {
        *(GROUND | NETWORK),
        *("layers", "losses", "planning", "summary", "tables"),
        *("placement", "transfers", "letters"),
    },
    "passes": {
        *(GROUND | NETWORK),
        *("layers", "losses", "planning", "gradients", "tables"),
        *("placement", "transfers", "letters"),
    },
    "training": {
        *(GROUND | NETWORK),
        *("layers", "losses", "metrics", "planning", "gradients", "passes"),
        *("optimizers", "augmentations", "data", "named_leaves", "tables"),
        *("host_arrays", "placement", "transfers", "letters"),
    },
}
#: Of a function, its body: a parameter a line is easy to read.
LONGEST_FILE, LONGEST_FUNCTION = 400, 50
VAGUE = {"utils", "util", "helpers", "helper", "misc", "manager", "common"}


def module_of(path: Path) -> str:
    """`fnn/layers/dense.py` is `fnn.layers.dense`, `fnn/__init__.py` is `fnn`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> set[str]:
    """Every module that the source imports, names of submodules included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module != "fnn":  # `from fnn import losses` imports fnn.losses
                found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(module: str, source: str) -> set[str]:
    """The imports of a module of fnn that the house does not allow."""
    part = module.split(".")[1]
    allowed = MAY_IMPORT.get(part, set()) | {part}
    wrong = set()
    for name in imports(source):
        top, *rest = name.split(".")
        if top in ("experiments", "tests", "conftest", "cases", "scripts"):
            wrong.add(name)
        if top == "fnn" and (not rest or rest[0] not in allowed):
            wrong.add(name)
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Import circles, each as the path that closes it."""
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def public_names(source: str) -> list[str] | None:
    """What `__all__` lists, or None without one."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def re_exports(source: str) -> list[str]:
    """The names that are imported as themselves, `from a import b as b`."""
    return [
        alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]


def long_functions(source: str) -> list[str]:
    """Functions of more lines than a screen has, the docstring not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            if lines > LONGEST_FUNCTION:
                found.append(f"{node.name}: {lines} lines")
    return found


#: A function's docstring that begins with one of these is no sentence with a verb.
NO_VERB = set(
    "a an and as at both by each every for from half how if in likewise no none of on "
    "one only so some such that the these this those to two what when where whether "
    "which who with without".split()
)


def fragments(source: str) -> list[str]:
    """Functions whose docstring does not begin with a verb, classes with `what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = (ast.get_docstring(node) or "Return").split()[0].lower()
            is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
            nouns = {"a", "an", "the", "one", "two", "how", "whether"}
            allowed = nouns if isinstance(node, ast.ClassDef) or is_property else set()
            if first.strip(".,:") in NO_VERB - allowed:
                found.append(f"{node.name}: {first} ...")
    return found


def loose_zips(source: str) -> list[str]:
    """Calls of `zip` that would silently drop what is left over."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "zip"
        and "strict" not in [keyword.arg for keyword in node.keywords]
    ]


def star_imports(source: str) -> list[str]:
    return [name for name in imports(source) if name.endswith(".*")]


def vague_names(path: Path) -> set[str]:
    return VAGUE & {path.stem, *path.parts}


# ---- The rules -------------------------------------------------------------------


@EVERY_FILE
def test_imports_never_run_up(path):
    module = module_of(path)
    if module != "fnn" and path.is_relative_to(ROOT / "fnn"):
        assert module.split(".")[1] in MAY_IMPORT, "a new part needs a row above"
        assert not forbidden_imports(module, path.read_text())


def test_no_import_closes_a_circle():
    modules = {module_of(path): imports(path.read_text()) for path in FILES}
    graph = {
        # A package's __init__ imports its modules, which is no circle by itself.
        module: {name for name in names & modules.keys() if name != module}
        for module, names in modules.items()
    }
    assert circles(graph) == []


@EVERY_FILE
def test_every_module_says_what_is_public(path):
    if path.is_relative_to(ROOT / "fnn"):
        names = public_names(path.read_text())
        # A package may have a docstring alone; fnn's own lists names as `a as a`.
        assert path.name == "__init__.py" or names is not None
        assert list(names or []) == sorted(set(names or []), key=isort_key)


def isort_key(name: str) -> tuple:
    """Constants, then classes, then functions: the order ruff keeps `__all__` in."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def test_the_public_names_are_listed_once():
    listed = re_exports((ROOT / "fnn/__init__.py").read_text())
    assert len(listed) == len(set(listed)) > 100
    for path in FILES:
        package = path.parent.relative_to(ROOT)
        if path.name == "__init__.py" and package.parts[1:] in PACKAGES:
            assert not re_exports(path.read_text())
            assert public_names(path.read_text()) is None


PACKAGES = [("layers",), ("gradients",), ("planning",), ("training",)]


@EVERY_FILE
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@EVERY_FILE
def test_functions_fit_on_a_screen(path):
    assert long_functions(path.read_text()) == []


@EVERY_FILE
def test_docstrings_begin_as_sentences_do(path):
    assert fragments(path.read_text()) == []


@EVERY_FILE
def test_no_zip_drops_anything(path):
    assert loose_zips(path.read_text()) == []


@EVERY_FILE
def test_no_star_imports(path):
    assert star_imports(path.read_text()) == []


@EVERY_FILE
def test_no_vague_module_names(path):
    assert vague_names(path.relative_to(ROOT)) == set()


def test_importing_fnn_imports_no_optional_package():
    optional = "sklearn matplotlib rich tyro orbax torch flax equinox".split()
    code = f"import fnn, sys; print([m for m in {optional} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stderr


# ---- The rules can fail ----------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fnn.core", "from fnn.layers import Dense"),
        ("fnn.core", "import fnn.losses"),
        ("fnn.core", "import fnn"),
        ("fnn.core", "from fnn import losses"),
        ("fnn.layers.dense", "def f():\n    from fnn.gradients import engines"),
        ("fnn.textbook", "from fnn.pytree import leaf"),
        ("fnn.optimizers.adam", "from fnn.core import Layer"),
        ("fnn.losses", "import experiments.compare"),
        ("fnn.losses", "from tests import cases"),
    ],
)
def test_an_import_that_runs_up_is_found(module, source):
    assert forbidden_imports(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fnn.layers.dense", "from fnn.layers.initializers import Zeros"),
        ("fnn.layers.dense", "import jax\nfrom fnn.core import Layer"),
        ("fnn.training.fit", "from fnn.gradients.engines import value_and_grad"),
        ("fnn.training.fit", "from fnn import losses"),
    ],
)
def test_an_import_that_runs_down_is_allowed(module, source):
    assert not forbidden_imports(module, source)


def test_a_circle_is_found():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert circles(graph) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_other_rules_find_what_they_look_for():
    long = "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION + 1)
    documented = 'def f():\n    """One.\n' + "\n" * LONGEST_FUNCTION + '    """\n'
    assert long_functions(long) == ["f: 51 lines"]
    assert long_functions(documented) == []
    assert fragments('def f():\n    """What f does."""') == ["f: what ..."]
    assert fragments('class C:\n    """Of a C."""') == ["C: of ..."]
    assert fragments('def f():\n    """Return f."""\nclass C:\n    """A C."""') == []
    assert re_exports("from a import b as b, c") == ["b"]
    assert loose_zips("zip(a, b)\nzip(a, b, strict=True)") == ["zip(a, b)"]
    assert star_imports("from fnn.layers import *") == ["fnn.layers.*"]
    assert vague_names(Path("fnn/utils.py")) == {"utils"}
    assert vague_names(Path("fnn/helpers/dense.py")) == {"helpers"}
    assert public_names("x = 1") is None
    assert public_names('__all__ = ["a"]') == ["a"]
