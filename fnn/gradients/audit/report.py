"""The result of an audit: an object for scripts, a table for people."""

from dataclasses import dataclass
from typing import NamedTuple

from fnn.tables import format_number, format_rows, format_shape, rule

__all__ = ["NodeCheck", "Report", "Row"]

PASS, FAIL, INCONCLUSIVE = "pass", "FAIL", "inconclusive"


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
        engine_numerical: the engine against central differences, scaled.
        autodiff_numerical: autodiff against central differences, scaled.
        checked: the number of coordinates that were differenced.
        kinks: the number of these that are on a kink and were not judged.
        verdict: "pass", "FAIL" or "inconclusive".
        reason: why the verdict is not "pass", or "".
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
        nodes: one for each part of each layer's backward, in backward order.
        engine: the name of the engine that was audited.
        precision: the lower of the two precisions of the audit; the other is float64.
    """

    rows: tuple[Row, ...]
    nodes: tuple[NodeCheck, ...]
    engine: str
    precision: str = "float32"

    @property
    def passed(self) -> bool:
        """Return whether everything agrees; false with an inconclusive row."""
        rows_pass = all(row.verdict == PASS for row in self.rows)
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

    def __str__(self) -> str:
        return "\n".join([*_table(self), *_summary(self)])


# ---- The table -------------------------------------------------------------------

_HEADER = "", "shape", "error", "scaled", "cosine", "numerical"


def _table(report: Report) -> list[str]:
    if not report.rows:
        return []
    rows = [(*_HEADER, report.precision, "verdict"), *map(_cells, report.rows)]
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
        *("/".join(format_number(error, 2) for error in pair) for pair in pairs),
        row.verdict,
    )


def _summary(report: Report) -> list[str]:
    engine = report.engine
    lines = [
        "",
        f"error, scaled, cosine   {engine} against autodiff, in float64",
        f"numerical   {engine} / autodiff against central differences, scaled",
        f"{report.precision:11} rounding error of {engine} / of autodiff, scaled",
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
