"""The result of an audit: an object for scripts, a table for people."""

import math
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, NamedTuple

from fnn.letters import printable
from fnn.tables import (
    WIDTH,
    format_number,
    format_rows,
    format_shape,
    rule,
)

__all__ = ["NodeCheck", "Report", "Row"]

PASS, FAIL, INCONCLUSIVE, FROZEN = "pass", "FAIL", "inconclusive", "frozen"

#: The verdicts of a gradient that is right. That of a frozen parameter is 0.
RIGHT = PASS, FROZEN


class Row(NamedTuple):
    """The gradient of one parameter, or one δ, computed in several ways.

    Args:
        path: the parameter's path, such as `2/Dense.weight`. The path of a δ is
            `2/Dense.delta`, and `.x` is the network's input.
        shape: the shape of the gradient.
        largest: its largest absolute entry, by autodiff in float64.
        error: the largest absolute difference of engine and autodiff, in float64.
        scaled: this error, divided by the scale it is judged on.
        cosine: the cosine of the angle between the two; 1 if both are zero.
        engine32: the engine's largest error in float32, or in the half precision of
            the audit, scaled.
        autodiff32: autodiff's largest error in that precision, scaled.
        engine_numerical: the engine against central differences, scaled; NaN where
            nothing was differenced.
        autodiff_numerical: autodiff against central differences, scaled.
        checked: the number of entries that central differences checked.
        kinks: the number of outputs at a kink, which were judged by the slopes on
            either side of it.
        verdict: "pass", "FAIL" or "inconclusive"; "frozen" where the parameter is (see
            `fnn.frozen`), and its gradient 0 as it should be.
        reason: why the verdict is "FAIL" or "inconclusive", or "".
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
        path: the path of the gradient: `2/Dense.weight`, `2/Dense.dx`, `loss.delta`.
        error: the largest absolute difference in float64, scaled.
        engine32: the handwritten backward's error in float32, scaled.
        autodiff32: the error of `jax.vjp` in float32, scaled.
        passed: whether the two agree but for rounding.
        reason: why they do not agree, or "".
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
        nodes: one for each part of the backward of each layer that was compared alone,
            in backward order: of all layers where a gradient is wrong, or where a δ is
            all zero and hides a mistake.
        engine: the name of the engine that was audited.
        precision: the lower of the two precisions of the audit; the other is float64.
        by_claims: whether some backward is not meant to be the derivative, and autodiff
            differentiated what it claims.
    """

    rows: tuple[Row, ...]
    nodes: tuple[NodeCheck, ...]
    engine: str
    precision: str = "float32"
    by_claims: bool = False

    @property
    def passed(self) -> bool:
        """Return whether everything agrees; false with an inconclusive row."""
        rows_pass = all(row.verdict in RIGHT for row in self.rows)
        return rows_pass and all(node.passed for node in self.nodes)

    @property
    def failed(self) -> bool:
        """Return whether anything disagrees; an inconclusive row does not."""
        return self.first_divergence is not None

    @property
    def first_divergence(self) -> str | None:
        """Return the first path, from the loss backwards, that is wrong by itself.

        It reads `2/Dense.weight`, `2/Dense.dx` or `loss.delta`; None if nothing fails.
        """
        for node in self.nodes:
            if not node.passed:
                return node.path
        for row in reversed(self.rows):
            if row.verdict == FAIL:
                return row.path.lstrip(".")
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, texts and lists, as JSON takes them.

        A number that is not finite, as where nothing was differenced, is None.
        """
        return {
            "engine": self.engine,
            "precision": self.precision,
            "passed": self.passed,
            "failed": self.failed,
            "first_divergence": self.first_divergence,
            "rows": [_as_json(row) for row in self.rows],
            "nodes": [_as_json(node) for node in self.nodes],
        }

    def plot(self) -> Any:
        """Draw the errors of every row, on a logarithmic scale; needs matplotlib.

        Returns:
            A `matplotlib.figure.Figure`: `report.plot().savefig("errors.png")`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from fnn.gradients.audit.figure import draw

        return draw(self)

    def __str__(self) -> str:
        if self.passed:
            lines = [*_table(self), *_legend(self), *_verdict(self)]
        else:  # What is wrong comes first: a deep network has many rows.
            table = ["", *_table(self), *_legend(self)] if self.rows else []
            lines = [*_verdict(self), *table]
        return printable("\n".join(lines))


def _as_json(part: Row | NodeCheck) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in part._asdict().items()
    }


# ---- The table -------------------------------------------------------------------

_HEADER = "", "shape", "error", "scaled", "cosine", "numerical"


def _table(report: Report) -> list[str]:
    """Lay out the rows, those that did not pass first."""
    if not report.rows:
        return []
    ordered = sorted(report.rows, key=lambda row: row.verdict in RIGHT)
    rows = [(*_HEADER, report.precision, "verdict"), *map(_cells, ordered)]
    header, *body = format_rows(rows, "<>>>>>><", gap=1, paths=0)
    return [header, rule(body), *body]


def _cells(row: Row) -> tuple[str, ...]:
    pairs = (
        (row.engine_numerical, row.autodiff_numerical),
        (row.engine32, row.autodiff32),
    )
    return (
        row.path.lstrip("."),
        format_shape(row.shape),
        format_number(row.error, 2),
        format_number(row.scaled, 2),
        f"{row.cosine:.3f}",
        *(_pair(*pair) for pair in pairs),
        row.verdict,
    )


def _pair(engine: float, autodiff: float) -> str:
    if math.isnan(engine) and math.isnan(autodiff):
        return "–"
    return f"{format_number(engine, 2)}/{format_number(autodiff, 2)}"


def _legend(report: Report) -> list[str]:
    """Say what the columns are."""
    engine = report.engine
    lines = ["", f"error, scaled, cosine   {engine} against autodiff, in float64"]
    if report.by_claims:
        lines += ["autodiff    of what the rules of the network claim"]
    checked = sum(row.checked for row in report.rows)
    if checked:
        lines += [
            f"numerical   {engine} / autodiff against central differences, scaled"
        ]
    lines += [f"{report.precision:11} rounding error of {engine} / of autodiff, scaled"]
    if checked:
        kinks = sum(row.kinks for row in report.rows)
        at_kinks = f", {kinks:,} outputs at a kink" if kinks else ""
        lines.append(f"{checked:,} entries checked by central differences{at_kinks}")
    return lines


def _verdict(report: Report) -> list[str]:
    """Say whether it passed; what is wrong by itself; and why rows did not pass."""
    notes = [row for row in report.rows[::-1] if row.verdict not in RIGHT]
    lines: list[str] = []
    for row in notes[:5]:
        text = f"{row.verdict}: {row.path.lstrip('.')}: {row.reason}"
        lines += wrap(text, WIDTH, subsequent_indent="  ")
    if len(notes) > 5:
        lines.append(f"... and {len(notes) - 5} more rows that did not pass")
    if report.first_divergence is None:
        verdict = "PASSED" if report.passed else "INCONCLUSIVE"
        return [f"{verdict}: no layer's backward diverges.", *lines]
    wrong = [node.reason for node in report.nodes if not node.passed]
    if wrong:
        why = wrong[0]
    elif any("finite differences" in row.reason for row in notes):
        why = (
            "autodiff is wrong itself: look for a derivative of your own in the "
            "forward, such as jax.custom_vjp or jax.lax.stop_gradient"
        )
    else:
        why = "every layer is right alone: look at the engine and at the penalty"
    head = f"FAILED: first divergence at {report.first_divergence}"
    # An error that a layer raised is printed as it was.
    reason = [f"  {why}"]
    if report.rows:
        reason = wrap(why, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return [head, *reason, *lines]
