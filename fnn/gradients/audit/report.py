"""What the audit found: an object for scripts, a table for people."""

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NodeCheck", "Report", "Row"]

PASS, FAIL, INCONCLUSIVE = "pass", "FAIL", "inconclusive"


class Row(NamedTuple):
    """The gradient of one parameter, or one δ, computed in several ways.

    Args:
        path: where, as in `2/Dense.weight`; a δ is `2/Dense.delta`, and `.x` is the
            network's input.
        shape: of the gradient.
        largest: its largest absolute entry, by autodiff in float64.
        error: largest absolute difference of engine and autodiff, in float64.
        scaled: that error, divided by the scale it is judged on.
        cosine: of the angle between the two; 1 if both are zero.
        engine32: the engine's largest error in float32, or in the half precision that
            was asked for, scaled.
        autodiff32: autodiff's own, the yardstick for the former.
        engine_numerical: the engine against central differences, scaled.
        autodiff_numerical: autodiff against central differences, scaled.
        checked: how many coordinates were differenced.
        kinks: how many of them sit on a kink and were not judged.
        verdict: "pass", "FAIL" or "inconclusive".
        reason: why it is not "pass".
    """

    path: str
    shape: tuple[int, ...]
    largest: float
    error: float
    scaled: float
    cosine: float
    engine32: float
    autodiff32: float
    engine_numerical: float
    autodiff_numerical: float
    checked: int
    kinks: int
    verdict: str
    reason: str


class NodeCheck(NamedTuple):
    """One layer alone: its backward against `jax.vjp` of its own forward.

    Args:
        path: what was compared, as in `2/Dense.weight`, `2/Dense.dx`, `loss.delta`.
        error: largest absolute difference in float64, scaled.
        engine32: the handwritten backward's error in float32, scaled.
        autodiff32: that of `jax.vjp`.
        passed: whether the two agree to rounding.
        reason: why not, or "".
    """

    path: str
    error: float
    engine32: float
    autodiff32: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Report:
    """The audit of one network on one batch.

    Attributes:
        rows: one for each parameter and each δ, in forward order.
        nodes: one for each part of each layer's backward, in backward order.
        engine: the name of the engine that was audited.
        precision: the lower of the two precisions it was audited in.
    """

    rows: tuple[Row, ...]
    nodes: tuple[NodeCheck, ...]
    engine: str
    precision: str = "float32"

    @property
    def passed(self) -> bool:
        """Whether everything agrees. An inconclusive row does not count as passed."""
        rows_pass = all(row.verdict == PASS for row in self.rows)
        return rows_pass and all(node.passed for node in self.nodes)

    @property
    def failed(self) -> bool:
        """Whether anything disagrees; an inconclusive row does not."""
        return self.first_divergence is not None

    @property
    def first_divergence(self) -> str | None:
        """The first thing, going backwards from the loss, that is wrong by itself.

        A path such as `2/Dense.weight`, `2/Dense.dx` or `loss.delta`; None if nothing
        fails.
        """
        for node in self.nodes:
            if not node.passed:
                return node.path
        for row in reversed(self.rows):
            if row.verdict == FAIL:
                return row.path.lstrip(".")
        return None

    def __str__(self) -> str:
        return "\n".join([*_table(self), *_summary(self)])


# ---- The table, at most 80 columns wide ------------------------------------------

_WIDTH = 80
_HEADER = "", "shape", "error", "scaled", "cosine", "numerical"


def _table(report: Report) -> list[str]:
    if not report.rows:
        return []
    header = (*_HEADER, report.precision, "verdict")
    cells = [header, *map(_cells, report.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    widths[0] = max(12, min(widths[0], _WIDTH - sum(widths[1:]) - len(widths) + 1))

    def line(row: tuple[str, ...]) -> str:
        path, *numbers, verdict = row
        name = path if len(path) <= widths[0] else "…" + path[1 - widths[0] :]
        middle = (
            cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)
        )
        return f"{name.ljust(widths[0])} {' '.join(middle)} {verdict}"

    head, *body = map(line, cells)
    return [head, "─" * max(map(len, body)), *body]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.path.lstrip("."),
        "×".join(map(str, row.shape)) or "()",
        _number(row.error),
        _number(row.scaled),
        f"{row.cosine:.3f}",
        f"{_number(row.engine_numerical)}/{_number(row.autodiff_numerical)}",
        f"{_number(row.engine32)}/{_number(row.autodiff32)}",
        row.verdict,
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    if value == 0 or 1e-2 <= value < 1e3:
        return f"{value:.2g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _summary(report: Report) -> list[str]:
    lower = report.precision
    lines = [
        "",
        f"error, scaled, cosine   {report.engine} against autodiff, in float64",
        f"numerical   {report.engine} / autodiff against central differences, scaled",
        f"{lower:11} rounding error of {report.engine} / of autodiff, scaled",
    ]
    kinks = sum(row.kinks for row in report.rows)
    checked = sum(row.checked for row in report.rows)
    lines.append(f"{checked} coordinates differenced, {kinks} of them on a kink")
    failed = [row for row in report.rows if row.verdict != PASS]
    lines += [
        f"{row.verdict}: {row.path.lstrip('.')}: {row.reason}" for row in failed[:5]
    ]
    if len(failed) > 5:
        lines.append(f"... and {len(failed) - 5} more rows that did not pass")
    if report.first_divergence is None:
        verdict = "PASSED" if report.passed else "INCONCLUSIVE"
        return [*lines, f"{verdict}: no layer's backward diverges."]
    lines.append(f"FAILED: first divergence at {report.first_divergence}")
    for node in report.nodes:
        if not node.passed:
            return [*lines, f"  {node.reason}"]
    return [
        *lines,
        "  every layer is right alone: look at the engine and at the penalty",
    ]
