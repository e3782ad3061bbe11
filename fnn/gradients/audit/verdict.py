"""The verdict: when two gradients agree.

The scale is s = max(|leaf|, 1/1000 of the whole gradient); the truth is autodiff in
float64:

    float64     |engine − truth| ≤ 1e-12 s, or what rounding explains
    float32     |engine − truth| ≤ 4 |autodiff − truth| + 32 rounding + 32 ε32 s
    bfloat16, float16            ≤ 4 |autodiff − truth| +  4 rounding + ε s
    numerical   |g − central difference| ≤ 1e-5 s + rounding of the difference

Rounding is measured, not guessed: autodiff's own error in the lower precision, and the
change of the handwritten gradient when each of its operations is rounded to it (see
`rounding`). A layer that cancels, such as BatchNorm on a batch of two, loses the same
share of its digits in either precision and in any engine; times ε64/ε, that is what
float64 may lose.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Layer, Variables
from fnn.gradients.audit.layerwise import Comparison
from fnn.gradients.audit.report import FAIL, INCONCLUSIVE, PASS, NodeCheck, Row
from fnn.gradients.numerical import Differences, best_h
from fnn.network import Node, walk
from fnn.probes import Seen
from fnn.typing import Array

__all__ = ["AuditRun", "TwoStepDifferences", "judge_nodes", "judge_rows"]

EPS64 = float(np.finfo(np.float64).eps)

FLOAT64 = 1e-12  # agreement in float64
AS_AUTODIFF = 4.0  # in less the engine may err this many times as much as autodiff
NUMERICAL = 1e-5  # agreement with central differences
SMALL = 1e-3  # no leaf is judged on a finer scale than this share of the whole
KINKS = 0.2  # a leaf with a larger share of kinks is inconclusive


class Allowance(NamedTuple):
    """The error that an engine may have in a lower precision, beside autodiff's own.

    Args:
        eps: ε, the distance from 1 to the next number.
        rounding: this many times the measured rounding error.
        floor: and this many ε of the scale.
    """

    eps: float
    rounding: float
    floor: float


ALLOWANCES = {
    # XLA's exp, tanh and rsqrt err by some units; sums come in another order; and the
    # draws that rounding is measured by may be lucky.
    "float32": Allowance(float(jnp.finfo("float32").eps), rounding=32, floor=32),
    # Functions and sums alike are computed in float32 and rounded once: only the draws.
    "bfloat16": Allowance(float(jnp.finfo("bfloat16").eps), rounding=4, floor=1),
    "float16": Allowance(float(jnp.finfo("float16").eps), rounding=4, floor=1),
}


class AuditRun(NamedTuple):
    """All that is computed in one precision.

    Args:
        outputs: z (N, ...).
        network: the network's gradients, δ included.
        layers: the gradients of each layer alone by its path, and of the "loss".
        seen: what each layer was given, by path.
        deltas: the δ that each layer alone started from, by path.
    """

    outputs: Array
    network: Comparison
    layers: dict[str, Comparison]
    seen: dict[str, Seen]
    deltas: dict[str, Array]


class TwoStepDifferences(NamedTuple):
    """The value of J, and its difference quotients with step h and with step h/2."""

    value: Array
    full: Differences
    half: Differences


class Errors(NamedTuple):
    """The distances of one gradient from the truth.

    Args:
        scale: s, which they are judged on.
        error: the engine's distance, in float64.
        engine32: the engine's distance in the lower precision, float32 or less.
        autodiff32: autodiff's distance in that precision.
        rounding: the measured rounding error of the handwritten gradient.
        precision: the name of the lower precision.
    """

    scale: float
    error: float
    engine32: float
    autodiff32: float
    rounding: float
    precision: str

    @property
    def reason(self) -> str:
        """Return why the two do not agree; "" if they do."""
        eps, rounding, floor = ALLOWANCES[self.precision]
        explained = AS_AUTODIFF * self.autodiff32 + rounding * self.rounding
        # Written so that NaN fails.
        if not self.error <= FLOAT64 * self.scale + 2 * explained * EPS64 / eps:
            share = self.error / (self.scale or 1)
            return f"off by {share:.1e} of its scale in float64"
        if not self.engine32 <= explained + floor * eps * self.scale:
            return (
                f"off by {self.engine32:.1e} in {self.precision}, where autodiff is "
                f"off by {self.autodiff32:.1e}"
            )
        return ""


def _errors(
    name: str,
    run32: Comparison,
    run64: Comparison,
    network_scale: float,
    precision: str,
) -> Errors:
    """Measure the errors of one gradient; the network's is `network_scale` large."""
    truth = np.asarray(run64.autodiff[name])

    def error(gradients: dict[str, Array]) -> float:
        return _largest(np.asarray(gradients[name], np.float64) - truth)

    return Errors(
        scale=max(_largest(truth), SMALL * network_scale),
        error=error(run64.engine),
        engine32=error(run32.engine),
        autodiff32=error(run32.autodiff),
        rounding=_largest(run64.rounding[name]),
        precision=precision,
    )


def judge_rows(
    run32: Comparison,
    run64: Comparison,
    entries: dict[str, np.ndarray],
    slopes: TwoStepDifferences,
    precision: str = "float32",
) -> Iterator[Row]:
    """Yield a row for each parameter and each δ, in forward order.

    Args:
        run32: the network's gradients in the lower precision.
        run64: the same in float64.
        entries: the entries of each gradient that were differenced, by path.
        slopes: the difference quotients of these entries.
        precision: the name of the lower precision.
    """
    slopes = jax.tree.map(np.asarray, slopes)
    largest = {path: _largest(g) for path, g in run64.autodiff.items()}
    network_scale = {
        kind: max((a for p, a in largest.items() if _is_delta(p) == kind), default=0.0)
        for kind in (True, False)
    }
    start = 0
    for path, chosen in entries.items():
        errors = _errors(path, run32, run64, network_scale[_is_delta(path)], precision)
        engine, autodiff = (np.asarray(g[path]) for g in run64[:2])
        part = slice(start, start := start + len(chosen))
        numerical = _numerical_errors(
            engine.ravel()[chosen], autodiff.ravel()[chosen], slopes, part, errors.scale
        )
        verdict, reason = _verdict(errors, numerical, len(chosen))
        scale = errors.scale or 1.0
        yield Row(
            path=path,
            shape=engine.shape,
            largest=largest[path],
            error=errors.error,
            scaled=errors.error / scale,
            cosine=_cosine(engine, autodiff),
            engine32=errors.engine32 / scale,
            autodiff32=errors.autodiff32 / scale,
            engine_numerical=numerical.engine / scale,
            autodiff_numerical=numerical.autodiff / scale,
            checked=len(chosen),
            kinks=numerical.kinks,
            verdict=verdict,
            reason=reason,
        )


def _verdict(
    errors: Errors, numerical: "NumericalErrors", checked: int
) -> tuple[str, str]:
    """Return the verdict on a row, and the reason for it."""
    if reason := errors.reason or numerical.reason:
        return FAIL, reason
    if checked and numerical.kinks > KINKS * checked:
        return INCONCLUSIVE, f"{numerical.kinks} of {checked} coordinates are on a kink"
    if numerical.noise > 0.1 * errors.scale > 0:
        return INCONCLUSIVE, "too small beside the loss to be differenced"
    return PASS, ""


class NumericalErrors(NamedTuple):
    """The largest distances from the central differences, where no kink is.

    Args:
        engine: the engine's distance.
        autodiff: autodiff's distance.
        kinks: the number of coordinates on a kink.
        noise: the rounding error of a difference.
        reason: why the two gradients do not agree with the differences, or "".
    """

    engine: float
    autodiff: float
    kinks: int
    noise: float
    reason: str


def _numerical_errors(
    engine: np.ndarray,
    autodiff: np.ndarray,
    slopes: TwoStepDifferences,
    part: slice,
    scale: float,
) -> NumericalErrors:
    """Compare two gradients with a part of the difference quotients."""
    full, half = (
        Differences(*(a[part] for a in d)) for d in (slopes.full, slopes.half)
    )
    # Rounding of f, divided by h; sums inside f make it a few times ε.
    noise = 32 * EPS64 * abs(float(slopes.value)) / best_h(np.float64)
    allowed = NUMERICAL * scale + noise
    # On smooth ground the gap between the one-sided slopes halves with h, and the
    # central difference stays. A jump j of the slope at t·h puts the central difference
    # off by j(1 − t)/2; then 2 gap(h/2) − gap(h) = j(1 − 3t), whatever the curvature,
    # and the central difference moves by jt/2, up to t = 1/2. One of the two shows any
    # error that is larger than allowed.
    gap, half_gap = (d.right - d.left for d in (full, half))
    jump, move = 2 * half_gap - gap, full.central - half.central
    kink = (np.abs(jump) > allowed) | (np.abs(move) > 0.2 * allowed)
    engine_error, autodiff_error = (
        _largest(np.where(kink, 0, np.abs(gradient - full.central)))
        for gradient in (engine, autodiff)
    )
    reason = ""
    for name, error in (("it", engine_error), ("autodiff", autodiff_error)):
        if not error <= allowed:  # written so that NaN fails
            share = error / (scale or 1)
            reason = f"{name} is off by {share:.1e} from finite differences"
            break
    return NumericalErrors(engine_error, autodiff_error, int(kink.sum()), noise, reason)


def judge_nodes(
    net: Layer,
    variables: Variables,
    run32: AuditRun,
    run64: AuditRun,
    precision: str = "float32",
) -> Iterator[NodeCheck]:
    """Yield a check of each layer alone, in backward order from the loss on."""
    grads = (g for path, g in run64.network.autodiff.items() if not _is_delta(path))
    network_scale = max(map(_largest, grads), default=0.0)
    loss32, loss64 = run32.layers["loss"], run64.layers["loss"]
    yield _node_check("loss.delta", "delta", loss32, loss64, 0, precision)
    for node in reversed(list(walk(net, variables))):
        if node.path not in run64.layers:
            continue
        layer32, layer64 = run32.layers[node.path], run64.layers[node.path]
        dy = _largest(run64.deltas[node.path])
        # y before gradients, parameters before dx: a layer that is wrong in several is
        # reported with the first of them.
        order = {"y": -1, "dx": 1}
        for name in sorted(layer64.engine, key=lambda name: order.get(name, 0)):
            scale = {"dx": dy, "y": 0.0}.get(name, network_scale)
            path = _part_path(node, name)
            yield _node_check(path, name, layer32, layer64, scale, precision)


def _node_check(
    path: str,
    name: str,
    layer32: Comparison,
    layer64: Comparison,
    network_scale: float,
    precision: str,
) -> NodeCheck:
    errors = _errors(name, layer32, layer64, network_scale, precision)
    scale = errors.scale or 1.0
    reason = f"{path}, alone, is {errors.reason}" if errors.reason else ""
    return NodeCheck(
        path=path,
        error=errors.error / scale,
        engine32=errors.engine32 / scale,
        autodiff32=errors.autodiff32 / scale,
        passed=not reason,
        reason=reason,
    )


# ---- Paths and norms -------------------------------------------------------------


def _part_path(node: Node, part: str) -> str:
    """Return a path such as `2/Dense.weight`.

    A layer of layers has parts `dx` and `dparams` only.
    """
    if node.layer.children and part not in ("dx", "y"):
        part = "dparams"
    return f"{node.path or type(node.layer).__name__}.{part}"


def _is_delta(path: str) -> bool:
    return path.endswith((".delta", ".x"))


def _largest(a: Any) -> float:
    return float(np.abs(a).max(initial=0))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norms if norms else float(not (a != b).any())
