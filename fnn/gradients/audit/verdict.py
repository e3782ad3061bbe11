"""The verdict: when two gradients agree.

The scale is s = max(|leaf|, 1/1000 of the whole gradient); the truth is autodiff in
float64:

    float64     |engine − truth| ≤ 1e-12 s, or what rounding explains
    float32     |engine − truth| ≤ 4 |autodiff − truth| + 32 rounding + 32 ε32 s
    bfloat16, float16            ≤ 4 |autodiff − truth| +  4 rounding + ε s

Differences are judged in the module `slopes`.

Rounding is measured, not guessed: autodiff's own error in the lower precision, and,
where that does not explain a difference, the change of the handwritten gradient when
each of its operations is rounded to it (see `rounding`). A layer that cancels, such as
BatchNorm on a batch of two, loses the same share of its digits in either precision and
in any engine; times ε64/ε, that is what float64 may lose.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.gradients.audit.layerwise import Comparison
from fnn.gradients.audit.norms import cosine, largest
from fnn.gradients.audit.programs import NetworkRun
from fnn.gradients.audit.report import (
    FAIL,
    FROZEN,
    INCONCLUSIVE,
    PASS,
    NodeCheck,
    Row,
)
from fnn.gradients.audit.slopes import NumericalCheck

__all__ = ["Errors", "is_delta", "judge_layer", "judge_row", "measure_rows"]

EPS64 = float(np.finfo(np.float64).eps)

FLOAT64 = 1e-12  # agreement in float64
AS_AUTODIFF = 4.0  # in less the engine may err this many times as much as autodiff
SMALL = 1e-3  # no leaf is judged on a finer scale than this share of the whole

#: A function that measures rounding, by the name of the gradient; it is called where
#: nothing else explains a difference.
Rounding = Callable[[], dict[str, Any]]


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


class Errors(NamedTuple):
    """The distances of one gradient from the truth.

    Args:
        scale: s, which they are judged on.
        error: the engine's distance, in float64.
        engine32: the engine's distance in the lower precision, float32 or less.
        autodiff32: autodiff's distance in that precision.
        rounding: the measured rounding error of the handwritten gradient, if needed.
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


def _measure(
    name: str,
    run32: NetworkRun | Comparison,
    run64: NetworkRun | Comparison,
    network_scale: float,
    precision: str,
    rounding: Rounding,
) -> Errors:
    """Measure the errors of one gradient; the network's is `network_scale` large."""
    truth = np.asarray(run64.autodiff[name])

    def error(gradients: dict[str, Any]) -> float:
        return largest(np.subtract(gradients[name], truth, dtype=np.float64))

    errors = Errors(
        scale=max(largest(truth), SMALL * network_scale),
        error=error(run64.engine),
        engine32=error(run32.engine),
        autodiff32=error(run32.autodiff),
        rounding=0.0,
        precision=precision,
    )
    if errors.reason:
        errors = errors._replace(rounding=largest(rounding()[name]))
    return errors


# ---- The network's gradients -----------------------------------------------------


def measure_rows(
    run32: NetworkRun, run64: NetworkRun, precision: str, rounding: Rounding
) -> dict[str, Errors]:
    """Measure the errors of each parameter's gradient and of each δ, by path."""
    sizes = {path: largest(g) for path, g in run64.autodiff.items()}
    network_scale = {
        kind: max((a for p, a in sizes.items() if is_delta(p) == kind), default=0.0)
        for kind in (True, False)
    }
    return {
        path: _measure(
            path, run32, run64, network_scale[is_delta(path)], precision, rounding
        )
        for path in run64.autodiff
    }


def judge_row(
    path: str,
    run64: NetworkRun,
    errors: Errors,
    numerical: NumericalCheck,
    frozen: bool = False,
) -> Row:
    """Return the row of one gradient; `frozen` says that it has to be 0."""
    engine, autodiff = (np.asarray(g[path]) for g in (run64.engine, run64.autodiff))
    scale = errors.scale or 1.0
    reason = errors.reason or numerical.reason
    right = FROZEN if frozen else PASS
    verdict = FAIL if reason else INCONCLUSIVE if numerical.doubt else right
    return Row(
        path=path,
        shape=engine.shape,
        largest=largest(autodiff),
        error=errors.error,
        scaled=errors.error / scale,
        cosine=cosine(engine, autodiff),
        engine32=errors.engine32 / scale,
        autodiff32=errors.autodiff32 / scale,
        engine_numerical=numerical.engine / scale,
        autodiff_numerical=numerical.autodiff / scale,
        checked=numerical.checked,
        kinks=numerical.kinks,
        verdict=verdict,
        reason=reason or numerical.doubt,
    )


# ---- Each layer alone ------------------------------------------------------------


def judge_layer(
    path_of_part: Callable[[str], str],
    run32: Comparison,
    run64: Comparison,
    dy: Any,
    network_scale: float,
    precision: str,
    rounding: Rounding,
) -> Iterator[NodeCheck]:
    """Yield a check of each part of one layer alone.

    Args:
        path_of_part: the path of a part, such as "dx", for the report.
        run32: its gradients in the lower precision.
        run64: its gradients in float64.
        dy: the δ that they start from.
        network_scale: the largest gradient of the network's parameters.
        precision: the name of the lower precision.
        rounding: measures the rounding of its backward.
    """
    # y before gradients, parameters before dx: a layer that is wrong in several is
    # reported with the first of them.
    order = {"y": -1, "dx": 1}
    for name in sorted(run64.engine, key=lambda name: order.get(_part(name), 0)):
        size = max(map(largest, jax.tree.leaves(dy)), default=0.0)
        scale = {"dx": size, "y": 0.0, "delta": 0.0}.get(_part(name), network_scale)
        errors = _measure(name, run32, run64, scale, precision, rounding)
        unit, path = errors.scale or 1.0, path_of_part(name)
        reason = f"{path}, alone, is {errors.reason}" if errors.reason else ""
        yield NodeCheck(
            path=path,
            error=errors.error / unit,
            engine32=errors.engine32 / unit,
            autodiff32=errors.autodiff32 / unit,
            passed=not reason,
            reason=reason,
        )


# ---- Paths ----------------------------------------------------------------------


def is_delta(path: str) -> bool:
    """Return whether a row is a δ, or a part of one, and not a parameter's gradient."""
    _, _, name = path.rpartition("/")[2].partition(".")
    return _part(name) in ("delta", "x")


def _part(name: str) -> str:
    """Return `dx` for `dx.image`, the part of dx that belongs to one of several x."""
    return name.partition(".")[0]
