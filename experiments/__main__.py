"""The list of the experiments, with one line each."""

import ast
from pathlib import Path


def experiments() -> dict[str, str]:
    """Return the name of every script, with the first line of its docstring.

    The files are parsed and not imported: a list should not wait for JAX.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main() -> int:
    """Print the list."""
    for name, line in experiments().items():
        print(f"python -m experiments.{name}\n    {line}")
    print("\nEach takes --help.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
