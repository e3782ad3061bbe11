"""The list of the experiments, with one line each."""

import ast
import sys
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
    items = experiments().items()
    lines = [f"python -m experiments.{name}\n    {line}" for name, line in items]
    text = "\n".join([*lines, "\nEach takes --help."])
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        from fnn.letters import printable

        text = printable(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
