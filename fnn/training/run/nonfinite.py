"""When numbers go bad: what a run does about a NaN or an infinity, and what it says.

An epoch is compiled as if all went well, and says in the end whether it did. Only where
it did not it is run once more, from a copy of what it began with, by a program that
looks at every gradient and leaves out the steps that are bad. So care costs a copy an
epoch, and not a pass over all gradients at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from fnn.gradients.first_nonfinite import first_nonfinite
from fnn.training.compiled.descent import Carry, copied
from fnn.training.compiled.epoch import Epoch
from fnn.training.run.spec import Job
from fnn.typing import Batch

__all__ = ["POLICIES", "Nonfinite", "check_policy", "guarded"]


#: What to do about a step whose loss or gradient is not finite.
POLICIES = ("raise", "stop", "skip")


class Nonfinite(NamedTuple):
    """The first step of a run whose loss or gradient was not finite.

    epoch: 1, 2, ...; step: 0, 1, ... within it; where: the first such number of the
    step, as `fnn.first_nonfinite` names it.
    """

    epoch: int
    step: int
    where: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.step}: {self.where} is not finite"


def check_policy(policy: Any) -> str | None:
    """One of `POLICIES`, or None."""
    if policy is not None and policy not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"on_nonfinite must be {known} or None, got {policy!r}")
    return policy


#: A copy, in one program: an epoch overwrites what it is given.
_snapshot = jax.jit(copied)


def guarded(
    job: Job,
    run: Callable[..., Epoch],
    carry: Carry,
    epoch: int,
    step: Callable[[int], tuple[Batch, Array]] | None,
) -> tuple[Epoch, Nonfinite | None]:
    """Run an epoch; where it goes bad run it again without its bad steps.

    Args:
        job: of the run, with its policy `on_nonfinite`.
        run: the compiled steps, a function of `carry` and `guard`.
        carry: what the epoch begins with.
        epoch: its number.
        step: the minibatch and the key of each step, to locate what is bad in it; None
            where that has been done before.

    Returns:
        The epoch, and the first bad step if it is to be said.

    Raises:
        FloatingPointError: the policy is "raise", and a step is bad.
    """
    if job.on_nonfinite is None:
        return run(carry=carry, guard=None), None
    before = _snapshot(carry)
    done = run(carry=carry, guard=None)
    if bool(done.finite):
        return done, None
    skips = job.on_nonfinite == "skip"
    if skips and step is None:
        return run(carry=before, guard="skip"), None
    again = _snapshot(before) if skips else None
    stopped = run(carry=before, guard="stop")
    said = None if step is None else _locate(job, stopped, epoch, step)
    if job.on_nonfinite == "raise" and said is not None:
        raise FloatingPointError(
            f"{said}. Smaller steps or clipping (optax.clip_by_global_norm) may help; "
            'on_nonfinite="skip" leaves such steps out, "stop" ends the run before it.'
        )
    return (run(carry=again, guard="skip") if skips else stopped), said


def _locate(
    job: Job,
    stopped: Epoch,
    epoch: int,
    step: Callable[[int], tuple[Batch, Array]],
) -> Nonfinite:
    """What is bad in the step before which the carry was kept."""
    t = int(stopped.bad.first)
    if t < 0:  # each gradient was finite, and what an update made of it was not
        return Nonfinite(epoch, len(stopped.losses) - 1, "a parameter after the update")
    batch, key = step(t)
    where = first_nonfinite(
        job.written,
        job.loss,
        stopped.carry.variables,
        batch,
        key=key,
        l2=job.l2 or 0.0,
        n=job.n,
        engine=job.engine,
    )
    return Nonfinite(epoch, t, where or "the loss or a gradient of the engine")
