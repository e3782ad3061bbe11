"""Tables as text: cells in columns, numbers of few digits, long paths shortened."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from fnn.letters import printable

__all__ = [
    "WIDTH",
    "format_number",
    "format_rows",
    "format_shape",
    "rule",
    "shorten_paths",
]

#: The width of a terminal, which tables with shortened paths keep to.
WIDTH = 80


def format_rows(
    rows: Sequence[Sequence[str]],
    align: str,
    *,
    gap: int = 2,
    paths: int | None = None,
) -> list[str]:
    """Lay out rows of cells in columns.

    Args:
        rows: the header, then the other rows; C cells each.
        align: C characters, "<" for a column aligned on the left, ">" on the right.
        gap: the number of spaces between two columns.
        paths: the index of a column of paths, which are shortened so that lines have
            at most `WIDTH` characters. None for no such column.

    Returns:
        A line for each row, without spaces at its end. A path that has no form short
        enough ends its line, and the cells after it are on a second line.

    Example:
        >>> for line in format_rows([("layer", "size"), ("0/Dense", "128")], "<>"):
        ...     print(line)
        layer    size
        0/Dense   128
    """
    columns = [list(map(printable, column)) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    if paths is not None:
        room = WIDTH - sum(widths) + widths[paths] - gap * (len(widths) - 1)
        room = max(room, len(columns[paths][0]))
        short = shorten_paths(columns[paths], room)
        alone = shorten_paths(columns[paths], WIDTH - sum(widths[:paths]) - gap * paths)
        widths[paths] = max(len(path) for path in short if len(path) <= room)
        columns[paths] = [
            path if len(path) <= room else on_own_line
            for path, on_own_line in zip(short, alone, strict=True)
        ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:{side}{width}}"
            for cell, side, width in zip(cells, align, widths, strict=True)
        )
        return (" " * gap).join(padded).rstrip()

    lines = []
    for row in zip(*columns, strict=True):
        if paths is not None and len(row[paths]) > widths[paths]:
            before, after = row[: paths + 1], row[paths + 1 :]
            lines.append(line([*before, *[""] * len(after)]))
            row = (*[""] * len(before), *after)
        lines.append(line(row))
    return lines


def rule(lines: Iterable[str]) -> str:
    """Return a horizontal rule as wide as the widest of the lines."""
    return printable("─") * max(map(len, lines))


def shorten_paths(paths: Sequence[str], width: int) -> list[str]:
    """Leave out parts of long paths, and keep all paths distinct.

    Args:
        paths: such as `1/Residual/body/0/Conv.weight`.
        width: the number of characters that fit.

    Returns:
        For each path: itself where it fits; otherwise its longest short form that fits
        and that no other path has; itself where there is no such form.

    Example:
        >>> shorten_paths(["1/Residual/body/0/Conv.bias", "2/Dense.bias"], 20)
        ['1/…/body/0/Conv.bias', '2/Dense.bias']
    """
    gap = printable("…")
    count = Counter(form for path in set(paths) for form in _short_forms(path, gap))

    def shorten(path: str) -> str:
        if len(path) <= width:
            return path
        short = (form for form in _short_forms(path, gap) if len(form) <= width)
        forms = (form for form in short if count[form] == 1)
        return max(forms, key=lambda form: (-form.count(gap), len(form)), default=path)

    return [shorten(path) for path in paths]


def _short_forms(path: str, gap: str) -> list[str]:
    """Return the path with one or two gaps, the first and the last part kept.

    Another path has the same form where it differs within the gaps only.
    """
    parts = path.split("/")
    first, end = parts[0], len(parts)
    one_gap = [
        [*parts[:start], gap, *parts[stop:]]
        for start in range(1, end - 1)
        for stop in range(start + 1, end)
    ]
    two_gaps = [
        [first, gap, parts[kept], gap, *parts[stop:]]
        for kept in range(2, end - 2)
        for stop in range(kept + 2, end)
    ]
    return ["/".join(form) for form in one_gap + two_gaps]


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with a few significant digits.

    Numbers that are very small or very large are written in powers of ten, with fewer
    digits.

    Example:
        >>> format_number(0.12345), format_number(1.2e-7, 2), format_number(-0.0)
        ('0.1235', '1e-7', '0')
    """
    if value == 0:
        return "0"
    plain = not math.isfinite(value) or 1e-3 <= abs(value) < 10**digits
    text = f"{value:.{digits}g}" if plain else f"{value:.{max(digits - 3, 0)}e}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def format_shape(shape: Iterable[int]) -> str:
    """Write a shape such as `3×3×16`; the shape of a scalar is `()`."""
    return "×".join(map(str, shape)) or "()"
