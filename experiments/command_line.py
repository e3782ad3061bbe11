"""The command line: a typed Config becomes options, mistakes become plain words."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import tyro

__all__ = ["at_least", "chosen", "options", "parse", "plain_errors"]

C = TypeVar("C")


def parse(
    presets: Mapping[str, C],
    option: str,
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str | None,
) -> C:
    """Read a Config from the command line; one option says which defaults it has.

    `--dataset mnist --help` therefore shows the defaults for MNIST, and every other
    option overrides one of them.

    Args:
        presets: a Config for each value of the option; the first is the default.
        option: the name of the field that chooses.
        argv: the arguments; those of the process by default.
        prog: what the program is called.
        description: a docstring, whose first line `--help` says first.

    Returns:
        The Config. `--help` and unknown options end the process, as usual.
    """
    name = chosen(option, argv)
    first = next(iter(presets.values()))
    default = presets.get(name or "", first)  # tyro says what is wrong with others
    return options(default, argv, prog, description)


def options(
    default: C, argv: Sequence[str] | None, prog: str, description: str | None
) -> C:
    """Read a Config from the command line: `default`, but for what is given there.

    `description` is a docstring; its first line stands at the head of `--help`.
    """
    description = (description or "").partition("\n")[0]
    return tyro.cli(
        type(default), prog=prog, description=description, default=default, args=argv
    )


def chosen(option: str, argv: Sequence[str] | None) -> str | None:
    """The value of one option, whatever the others are; None where it is not given."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument(f"--{option}", nargs="?", dest="value")
    return reader.parse_known_args(argv)[0].value


def at_least(config: Any, **least: int) -> None:
    """Raise a ValueError where an option is less than what is given for it."""
    for name, number in least.items():
        if getattr(config, name) < number:
            raise ValueError(
                f"{name} must be at least {number}, got {getattr(config, name)}"
            )


@contextmanager
def plain_errors(prog: str) -> Iterator[None]:
    """Around what checks arguments: an error is a message, not a traceback.

    The exit status is 2, as for an unknown option. Not for what comes after: there an
    error is a bug, and its traceback is wanted.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        lines = [f"{prog}: error: {error}", *getattr(error, "__notes__", ())]
        print("\n  ".join(lines), file=sys.stderr)
        raise SystemExit(2) from None
