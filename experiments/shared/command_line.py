"""The command line: a typed Config becomes options, mistakes become plain words."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import tyro

from fnn.letters import make_stdout_printable

__all__ = [
    "option_value",
    "parse",
    "parse_with_presets",
    "plain_errors",
    "require_at_least",
]

C = TypeVar("C")


def parse(
    default: C, argv: Sequence[str] | None, prog: str, description: str | None
) -> C:
    """Read a Config from the command line.

    Args:
        default: the Config whose fields are the options and their defaults.
        argv: the arguments; by default those of the process.
        prog: the name of the program.
        description: a docstring; its first line is at the head of `--help`.

    Returns:
        The Config. `--help` and unknown options end the process, as usual.
    """
    make_stdout_printable()
    description = (description or "").partition("\n")[0]
    return tyro.cli(
        type(default), prog=prog, description=description, default=default, args=argv
    )


def parse_with_presets(
    presets: Mapping[str, C],
    option: str,
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str | None,
) -> C:
    """Read a Config from the command line, where one option chooses the defaults.

    `--dataset mnist --help` therefore shows the defaults for MNIST, and every other
    option overrides one of them.

    Args:
        presets: a Config for each value of the option; the first is the default.
        option: the name of the field that chooses.
        argv: the arguments; by default those of the process.
        prog: the name of the program.
        description: a docstring; its first line is at the head of `--help`.

    Returns:
        The Config. `--help` and unknown options end the process, as usual.
    """
    name = option_value(option, argv)
    first = next(iter(presets.values()))
    default = presets.get(name or "", first)  # tyro refuses other names
    return parse(default, argv, prog, description)


def option_value(option: str, argv: Sequence[str] | None) -> str | None:
    """Return the value of one option, or None where it is absent.

    All other options are ignored, wrong ones included.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument(f"--{option}", nargs="?", dest="value")
    return reader.parse_known_args(argv)[0].value


def require_at_least(config: Any, **minimums: int) -> None:
    """Raise a ValueError where an option is less than its minimum."""
    for name, minimum in minimums.items():
        if getattr(config, name) < minimum:
            raise ValueError(
                f"{name} must be at least {minimum}, got {getattr(config, name)}"
            )


@contextmanager
def plain_errors(prog: str) -> Iterator[None]:
    """Print an error as a message without a traceback, and exit with status 2.

    It goes around the code that checks the options. Later an error is a bug, and its
    traceback is wanted.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        lines = [f"{prog}: error: {error}", *getattr(error, "__notes__", ())]
        print("\n  ".join(lines), file=sys.stderr)
        raise SystemExit(2) from None
