"""Central differences of a network, one piece at a time, and a verdict on each kink.

A leaf, which is a parameter or the output of a layer, is differenced along a random
direction v. All of its entries are checked at once: with g the gradient,

    ⟨g, v⟩  against  Σ over pieces  ⟨δ, f(a + h v) − f(a − h v)⟩ / 2h

The entries of v have either sign and a size from 1 to 2. A single wrong entry shows
with its whole error, since none is small; and two errors that are equal and opposite,
as of a transposed matrix, do not cancel, since no two are equal. Where the two sides
differ, each output of f is looked at, beside J v, which is what autodiff says
of it. An output is right if J v is

    near the central difference for some h          smooth, or with a kink within h
    or between the slopes on either side            at a kink

Both one-sided slopes exist at a kink, and a convention such as relu'(0) = 0 chooses
among what lies between them. Outputs that are neither are looked at along one half of
v after another, down to a single entry, which is wrong; where no half shows an error,
several kinks met.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from fnn.gradients.audit.norms import inner, largest, norm
from fnn.gradients.audit.pieces import Piece
from fnn.gradients.numerical import best_h

__all__ = ["Leaf", "NumericalCheck", "check_entries", "check_leaf"]

EPS = float(np.finfo(np.float64).eps)
H = best_h(np.float64)

#: Agreement, as a share of the scale.
TOLERANCE = 1e-5

#: The steps: the best one, one for kinks nearby, and one for what rounds much.
STEPS, LONG_STEP = (H, H / 16), 1e-3

#: Rounding of f makes a difference quotient useless from this share of the scale on.
NOISY = 0.1


class Leaf(NamedTuple):
    """An array that is differenced, with the pieces that are functions of it.

    Args:
        value: the array.
        users: each piece, and the position of the array among the leaves of its point.
    """

    value: np.ndarray
    users: tuple[tuple[Piece, int], ...]


class NumericalCheck(NamedTuple):
    """The distances of gradients from difference quotients.

    Args:
        engine: the engine's largest error; NaN where nothing was differenced.
        autodiff: autodiff's largest error.
        checked: the number of entries that were checked.
        kinks: the number of outputs at a kink, judged by the slopes on either side.
        reason: why autodiff does not agree, or "".
        doubt: why it cannot be said, or "".
    """

    engine: float = float("nan")
    autodiff: float = float("nan")
    checked: int = 0
    kinks: int = 0
    reason: str = ""
    doubt: str = ""


def check_leaf(
    leaf: Leaf, engine: np.ndarray, autodiff: np.ndarray, scale: float, budget: int
) -> NumericalCheck:
    """Difference a leaf along a random direction; look closer where it disagrees.

    Args:
        leaf: the leaf.
        engine: the engine's gradient of it.
        autodiff: autodiff's gradient.
        scale: the scale that errors are judged on.
        budget: the largest number of places where kinks meet that are looked at.
    """
    draw = np.random.default_rng(leaf.value.size)
    shape = leaf.value.shape
    v = draw.choice([-1.0, 1.0], shape) * draw.uniform(1, 2, shape)
    check = _along(leaf, v, engine, autodiff, scale, budget)
    return check._replace(checked=leaf.value.size)


def _along(
    leaf: Leaf,
    v: np.ndarray,
    engine: np.ndarray,
    autodiff: np.ndarray,
    scale: float,
    budget: int,
) -> NumericalCheck:
    """Check a leaf along one direction v."""
    claimed, theirs = inner(engine, v), inner(autodiff, v)
    blind = any(not piece.dy.any() for piece, _ in leaf.users)
    for h in (H, LONG_STEP):
        slope, noise = _slope(leaf, v, h)
        if noise <= NOISY * scale:
            break
    errors = abs(claimed - slope), abs(theirs - slope)
    if errors[1] <= TOLERANCE * scale + noise and noise <= NOISY * scale and not blind:
        return NumericalCheck(*errors)
    return _closer(leaf, v, claimed, theirs, scale, budget)


def _slope(leaf: Leaf, v: np.ndarray, h: float) -> tuple[float, float]:
    """Return the slope of the loss along v, over all pieces, and its rounding error."""
    unit = _unit(leaf.value)
    slopes = [_projected(piece, at, v * unit, h) for piece, at in leaf.users]
    return sum(s for s, _ in slopes) / unit, sum(noise for _, noise in slopes) / unit


def _unit(a: np.ndarray) -> float:
    """Return the root mean square of the leaf, which a step is a share of; or 1."""
    return float(np.sqrt(np.mean(np.square(a)))) or 1.0 if a.size else 1.0


def _projected(piece: Piece, at: int, v: np.ndarray, h: float) -> tuple[float, float]:
    """Return the slope of ⟨δ, f⟩ along v, penalty included, and its rounding error."""
    above, below = _either_side(piece, at, v, h)
    slope, size = _penalty_slope(piece, at, v, h)
    slope += inner(piece.dy, above - below) / (2 * h)
    return slope, _noise(size + norm(piece.dy * above), h)


def _penalty_slope(
    piece: Piece, at: int, v: np.ndarray, h: float
) -> tuple[float, float]:
    """Return the slope of the penalty along v, and the size of the penalty."""
    if piece.penalty is None or not isinstance(piece.targets[at], str):
        return 0.0, 0.0
    above, below = (float(piece.penalty(_moved(piece, at, s * v))) for s in (h, -h))
    return (above - below) / (2 * h), abs(above)


def _noise(size: float, h: float) -> float:
    """Return the rounding error of a quotient: sums inside f make it a few times ε."""
    return 32 * EPS * size / h


def _either_side(
    piece: Piece, at: int, v: np.ndarray, h: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return f(a + h v) and f(a − h v); JAX computes them at the same time."""
    both = [piece.evaluate(_moved(piece, at, step * v)) for step in (h, -h)]
    above, below = map(np.asarray, both)
    return above, below


def _moved(piece: Piece, at: int, by: np.ndarray) -> object:
    leaves, tree = jax.tree.flatten(piece.point)
    leaves[at] = np.asarray(leaves[at]) + by
    return jax.tree.unflatten(tree, leaves)


# ---- Each output of a piece ------------------------------------------------------


class Outputs(NamedTuple):
    """The outputs of one piece along v.

    Args:
        slope: of ⟨δ, f⟩; at kinks with J v in place of the central difference.
        claimed: ⟨δ, J v⟩.
        allowed: how far the two may be apart.
        kinks: the number of outputs at a kink.
        right: whether all outputs are right.
        noisy: whether rounding leaves no step.
    """

    slope: float
    claimed: float
    allowed: float
    kinks: int
    right: bool
    noisy: bool


def _closer(
    leaf: Leaf,
    v: np.ndarray,
    claimed: float,
    theirs: float,
    scale: float,
    budget: int,
) -> NumericalCheck:
    """Look at each output of each piece, and then for the entry that is wrong."""
    unit = _unit(leaf.value)
    slope = jacobian = allowed = 0.0
    kinks, reason, doubt = 0, "", ""
    for piece, at in leaf.users:
        outputs = _outputs(piece, at, v * unit)
        if outputs.noisy:
            doubt = f"rounding in {piece.path or 'the network'} hides a difference"
        elif not outputs.right:
            search = Search(piece, at, unit, budget)
            entry = search.wrong_entry(v)
            if entry is not None:
                place = ", ".join(map(str, np.unravel_index(entry, v.shape)))
                reason = f"autodiff is off from finite differences at [{place}]"
            elif search.left < 0:
                doubt = f"more kinks meet in {piece.path} than can be told apart"
            kinks += 1
        kinks += outputs.kinks
        penalty, _ = _penalty_slope(piece, at, v * unit, H)
        slope += (outputs.slope + penalty) / unit
        jacobian += (outputs.claimed + penalty) / unit
        allowed += outputs.allowed / unit
    errors = abs(claimed - slope), abs(theirs - slope)
    # The whole gradient must be the sum of its pieces.
    if not reason and not abs(theirs - jacobian) <= TOLERANCE * scale + allowed:
        reason = "autodiff is off from the finite differences of its layers"
    if reason:
        share = max(errors[1], abs(theirs - jacobian)) / (scale or 1)
        reason = reason.replace("off", f"off by {share:.1e}", 1)
    return NumericalCheck(*errors, kinks=kinks, reason=reason, doubt=doubt)


def _outputs(piece: Piece, at: int, v: np.ndarray) -> Outputs:
    zeros = jax.tree.map(lambda a: np.zeros(np.shape(a)), piece.point)
    leaves, tree = jax.tree.flatten(zeros)
    leaves[at] = v
    tangent = np.asarray(piece.tangent(piece.point, jax.tree.unflatten(tree, leaves)))
    y = np.asarray(piece.evaluate(piece.point))
    scale = largest(tangent)
    found = tangent.copy()
    open_ = np.ones(y.shape, bool)
    between = np.zeros(y.shape, bool)
    size, allowed = largest(y), 0.0
    for h in _steps(size, scale):
        tolerance = TOLERANCE * scale + _noise(size, h)
        allowed = max(allowed, tolerance)
        above, below = _either_side(piece, at, v, h)
        central = (above - below) / (2 * h)
        near = open_ & (np.abs(central - tangent) <= tolerance)
        found = np.where(near, central, found)
        open_ &= ~near
        if not open_.any():
            break
        slopes = np.stack([(above - y) / h, (y - below) / h])
        low, high = slopes.min(0) - tolerance, slopes.max(0) + tolerance
        between = (low <= tangent) & (tangent <= high)
        found = np.where(open_ & ~between, central, found)
    return Outputs(
        slope=inner(piece.dy, found),
        claimed=inner(piece.dy, tangent),
        allowed=float(np.abs(piece.dy).sum()) * allowed,
        kinks=int((open_ & between).sum()),
        right=not (open_ & ~between).any(),
        noisy=allowed == 0 and scale > 0,
    )


def _steps(size: float, scale: float) -> list[float]:
    """Return the steps at which rounding leaves something, the smallest one last."""

    def is_fine(h: float) -> bool:
        return scale == 0 or _noise(size, h) <= NOISY * scale

    return [h for h in STEPS if is_fine(h)] or [h for h in [LONG_STEP] if is_fine(h)]


class Search:
    """The search for one wrong entry of a leaf, by halves of a direction.

    `left` counts down from the largest number of dead ends, where the halves of a part
    are right although it is not; it is negative where the search was given up.
    """

    def __init__(self, piece: Piece, at: int, unit: float, budget: int) -> None:
        self.piece, self.at, self.unit, self.left = piece, at, unit, budget

    def wrong_entry(self, v: np.ndarray) -> int | None:
        """Return an entry of v that is wrong alone; None if there is none."""
        entries = np.flatnonzero(v)
        if len(entries) == 1:
            return int(entries[0])
        dead_end = True
        for half in np.array_split(entries, 2):
            part = np.zeros(v.size)
            part[half] = v.ravel()[half]
            part = part.reshape(v.shape)
            outputs = _outputs(self.piece, self.at, part * self.unit)
            if not (outputs.right or outputs.noisy):
                dead_end = False
                found = self.wrong_entry(part)
                if found is not None or self.left < 0:
                    return found
        self.left -= dead_end
        return None


# ---- Every entry alone -----------------------------------------------------------


def check_entries(
    leaf: Leaf, engine: np.ndarray, autodiff: np.ndarray, scale: float, budget: int
) -> NumericalCheck:
    """Difference every entry of a leaf alone; the arguments are `check_leaf`'s."""
    checks = [NumericalCheck(0.0, 0.0)]
    v = np.zeros(leaf.value.shape)
    for entry in np.ndindex(*leaf.value.shape):
        v[entry] = 1.0
        claimed, theirs = float(engine[entry]), float(autodiff[entry])
        slope, noise = _slope(leaf, v, H)
        check = NumericalCheck(abs(claimed - slope), abs(theirs - slope))
        allowed = TOLERANCE * scale + noise
        if not check.autodiff <= allowed or noise > NOISY * scale:
            check = _closer(leaf, v, claimed, theirs, scale, budget)
        checks.append(check._replace(checked=1))
        v[entry] = 0.0
    found = _joined(checks)
    return found._replace(kinks=sum(check.kinks for check in checks))


def _joined(checks: Iterable[NumericalCheck]) -> NumericalCheck:
    """Join the checks of one leaf: the largest errors, the first reason."""
    checks = list(checks)
    return NumericalCheck(
        engine=max(check.engine for check in checks),
        autodiff=max(check.autodiff for check in checks),
        checked=sum(check.checked for check in checks),
        kinks=max(check.kinks for check in checks),
        reason=next((c.reason for c in checks if c.reason), ""),
        doubt=next((c.doubt for c in checks if c.doubt), ""),
    )
