"""What counts as agreement.

With the scale s = max(|leaf|, 1/1000 of the whole gradient), and truth autodiff in
float64:

    float64     |engine − truth| ≤ 1e-12 s, or what rounding explains
    float32     |engine − truth| ≤ 4 |autodiff − truth| + 32 rounding + 32 ε32 s
    bfloat16, float16            ≤ 4 |autodiff − truth| +  4 rounding + ε s
    numerical   |g − central difference| ≤ 1e-5 s + rounding of the difference

Rounding is measured, not guessed: autodiff's own error in the lower precision, and the
change of the handwritten gradient when each of its operations is rounded to it (see
`rounding`). A layer that cancels, such as BatchNorm on a batch of two, loses the same
share of its digits in either precision and in any engine; shrunk by ε64/ε, that is
what float64 may lose.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.core import Layer, Variables
from fnn.gradients.audit.layerwise import Compared
from fnn.gradients.audit.report import FAIL, INCONCLUSIVE, PASS, NodeCheck, Row
from fnn.gradients.numerical import Differences, best_h
from fnn.network import Node, walk
from fnn.probes import Seen

__all__ = ["Results", "Slopes", "judge_nodes", "judge_rows"]

EPS64 = float(np.finfo(np.float64).eps)

FLOAT64 = 1e-12  # agreement in float64
AS_AUTODIFF = 4.0  # in less the engine may err this many times as much as autodiff
NUMERICAL = 1e-5  # agreement with central differences
SMALL = 1e-3  # no leaf is judged on a finer scale than this share of the whole
KINKS = 0.2  # a leaf with a larger share of kinks is inconclusive


class Allowed(NamedTuple):
    """What else the engine may lose in a lower precision.

    eps: ε, the distance from 1 to the next number.
    rounding: how many times what rounding to half a unit in the last place costs.
    floor: how many ε of the scale in any case.
    """

    eps: float
    rounding: float
    floor: float


ALLOWED = {
    # XLA's exp, tanh and rsqrt err by some units; sums come in another order; and the
    # draws that rounding is measured by may be lucky.
    "float32": Allowed(float(jnp.finfo("float32").eps), rounding=32, floor=32),
    # Computed in float32 and rounded once, functions and sums alike: only the draws.
    "bfloat16": Allowed(float(jnp.finfo("bfloat16").eps), rounding=4, floor=1),
    "float16": Allowed(float(jnp.finfo("float16").eps), rounding=4, floor=1),
}


class Results(NamedTuple):
    """All that is computed in one precision; dictionaries go by a layer's path."""

    outputs: Array
    whole: Compared  # the network's gradients, δ included
    parts: dict[str, Compared]  # each layer's own, and the loss's
    seen: dict[str, Seen]
    deltas: dict[str, Array]


class Slopes(NamedTuple):
    """f and its differences at the sampled coordinates, with step h and with h/2."""

    value: Array
    full: Differences
    half: Differences


class Errors(NamedTuple):
    """How far one gradient is from the truth."""

    scale: float
    error: float  # the engine's, in float64
    engine32: float  # in the lower precision, float32 or less
    autodiff32: float
    rounding: float
    precision: str

    @property
    def reason(self) -> str:
        """Why the two do not agree; "" if they do."""
        eps, rounding, floor = ALLOWED[self.precision]
        blur = AS_AUTODIFF * self.autodiff32 + rounding * self.rounding
        if not self.error <= FLOAT64 * self.scale + 2 * blur * EPS64 / eps:
            # Written so that NaN fails.
            share = self.error / (self.scale or 1)
            return f"off by {share:.1e} of its scale in float64"
        if not self.engine32 <= blur + floor * eps * self.scale:
            return (
                f"off by {self.engine32:.1e} in {self.precision}, where autodiff is "
                f"off by {self.autodiff32:.1e}"
            )
        return ""


def _compare(
    name: str, in32: Compared, in64: Compared, whole: float, precision: str
) -> Errors:
    truth = np.asarray(in64.autodiff[name])

    def off(part: Compared, which: str) -> float:
        return _largest(np.asarray(getattr(part, which)[name], np.float64) - truth)

    return Errors(
        scale=max(_largest(truth), SMALL * whole),
        error=off(in64, "engine"),
        engine32=off(in32, "engine"),
        autodiff32=off(in32, "autodiff"),
        rounding=_largest(in64.rounding[name]),
        precision=precision,
    )


def judge_rows(
    in32: Compared,
    in64: Compared,
    sample: dict[str, np.ndarray],
    slopes: Slopes,
    precision: str = "float32",
) -> Iterator[Row]:
    """A row for each parameter and each δ, in forward order."""
    slopes = jax.tree.map(np.asarray, slopes)
    whole = {
        which: max(
            (
                _largest(g)
                for path, g in in64.autodiff.items()
                if _is_delta(path) == which
            ),
            default=0.0,
        )
        for which in (True, False)
    }
    start = 0
    for path, entries in sample.items():
        errors = _compare(path, in32, in64, whole[_is_delta(path)], precision)
        ours, theirs = np.asarray(in64.engine[path]), np.asarray(in64.autodiff[path])
        pair = ours.ravel()[entries], theirs.ravel()[entries]
        here = slice(start, start := start + len(entries))
        numerical = _against_slopes(*pair, slopes, here, errors.scale)
        verdict, reason = _verdict(errors, numerical, len(entries))
        scale = errors.scale or 1.0
        yield Row(
            path=path,
            shape=ours.shape,
            largest=_largest(theirs),
            error=errors.error,
            scaled=errors.error / scale,
            cosine=_cosine(ours, theirs),
            engine32=errors.engine32 / scale,
            autodiff32=errors.autodiff32 / scale,
            engine_numerical=numerical.ours / scale,
            autodiff_numerical=numerical.theirs / scale,
            checked=len(entries),
            kinks=numerical.kinks,
            verdict=verdict,
            reason=reason,
        )


def _verdict(errors: Errors, numerical: "Numerical", checked: int) -> tuple[str, str]:
    if reason := errors.reason or numerical.reason:
        return FAIL, reason
    if checked and numerical.kinks > KINKS * checked:
        return INCONCLUSIVE, f"{numerical.kinks} of {checked} coordinates are on a kink"
    if numerical.noise > 0.1 * errors.scale > 0:
        return INCONCLUSIVE, "too small beside the loss to be differenced"
    return PASS, ""


class Numerical(NamedTuple):
    """Largest differences to the central differences, where those can be trusted."""

    ours: float
    theirs: float
    kinks: int
    noise: float
    reason: str


def _against_slopes(
    ours, theirs, slopes: Slopes, here: slice, scale: float
) -> Numerical:
    full, half = (
        Differences(*(a[here] for a in d)) for d in (slopes.full, slopes.half)
    )
    # Rounding of f, divided by h; sums inside f make it a few times ε.
    noise = 32 * EPS64 * abs(float(slopes.value)) / best_h(np.float64)
    allowed = NUMERICAL * scale + noise
    # On smooth ground the gap between the one-sided slopes halves with h, and the
    # central difference stays. A jump j of the slope at t·h puts the central difference
    # off by j(1 − t)/2; then 2 gap(h/2) − gap(h) = j(1 − 3t), whatever the curvature,
    # and the central difference moves by jt/2, up to t = 1/2. One of the two shows
    # whatever is larger than what is allowed.
    gap, half_gap = (d.right - d.left for d in (full, half))
    jump, move = 2 * half_gap - gap, full.central - half.central
    kink = (np.abs(jump) > allowed) | (np.abs(move) > 0.2 * allowed)
    off = [np.where(kink, 0, np.abs(g - full.central)) for g in (ours, theirs)]
    ours_off, theirs_off = (_largest(o) for o in off)
    reason = ""
    for name, error in (("it", ours_off), ("autodiff", theirs_off)):
        if not error <= allowed:
            reason = (
                f"{name} is off by {error / (scale or 1):.1e} from finite differences"
            )
            break
    return Numerical(ours_off, theirs_off, int(kink.sum()), noise, reason)


def judge_nodes(
    net: Layer,
    variables: Variables,
    in32: Results,
    in64: Results,
    precision: str = "float32",
) -> Iterator[NodeCheck]:
    """Each layer alone, in backward order: from the loss to the first layer."""
    grads = (g for path, g in in64.whole.autodiff.items() if not _is_delta(path))
    whole = max(map(_largest, grads), default=0.0)
    loss32, loss64 = in32.parts["loss"], in64.parts["loss"]
    yield _node_check("loss.delta", "delta", loss32, loss64, 0, precision)
    for node in reversed(list(walk(net, variables))):
        if node.path not in in64.parts:
            continue
        part32, part64 = in32.parts[node.path], in64.parts[node.path]
        dy = _largest(in64.deltas[node.path])
        # y before gradients, parameters before dx: what is wrong in several is reported
        # as the first of them.
        order = {"y": -1, "dx": 1}
        for name in sorted(part64.engine, key=lambda name: order.get(name, 0)):
            size = {"dx": dy, "y": 0.0}.get(name, whole)
            place = _part_path(node, name)
            yield _node_check(place, name, part32, part64, size, precision)


def _node_check(
    path: str,
    name: str,
    in32: Compared,
    in64: Compared,
    whole: float,
    precision: str,
) -> NodeCheck:
    errors = _compare(name, in32, in64, whole, precision)
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


# ---- Small things ----------------------------------------------------------------


def _part_path(node: Node, part: str) -> str:
    """`2/Dense.weight`; a layer of layers has parts `dx` and `dparams` only."""
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
