"""When numbers go bad: what a run does about a NaN or an infinity, and what it says.

An epoch is compiled as if all went well, and says in the end whether it did. Only where
it did not it is run once more, from a copy of what it began with, by a program that
looks at every gradient and leaves out the steps that are bad. So care costs a copy an
epoch, and not a pass over all gradients at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import PyTree
from fnn.gradients.finite import first_nonfinite
from fnn.training.descent import Carry
from fnn.training.epoch import Epoch, minibatch, schedule

__all__ = ["POLICIES", "Nonfinite", "check_policy", "guarded", "snapshot"]

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


@jax.jit
def snapshot(carry: PyTree) -> PyTree:
    """A copy: an epoch overwrites what it is given."""
    return jax.tree.map(jnp.copy, carry)


def guarded(
    job: Any, run: Callable[..., Epoch], carry: Carry, epoch: int, known: bool
) -> tuple[Epoch, Nonfinite | None]:
    """Run an epoch; where it goes bad run it again without its bad steps.

    Args:
        job: of the run, with its policy `on_nonfinite`.
        run: the compiled epoch, of a carry and a guard.
        carry: what the epoch begins with.
        epoch: its number.
        known: whether a bad step has been located before; the first one is.

    Returns:
        The epoch, and the first bad step if it is to be said.

    Raises:
        FloatingPointError: the policy is "raise", and a step is bad.
    """
    if job.on_nonfinite is None:
        return run(carry, None), None
    before = snapshot(carry)
    done = run(carry, None)
    if bool(done.finite):
        return done, None
    skips = job.on_nonfinite == "skip"
    again = snapshot(before) if skips else None
    stopped = run(before, "stop")
    said = None if known else _locate(job, stopped, epoch)
    if job.on_nonfinite == "raise" and said is not None:
        raise FloatingPointError(
            f"{said}. Smaller steps or clipping (optax.clip_by_global_norm) may help; "
            'on_nonfinite="skip" leaves such steps out, "stop" ends the run before it.'
        )
    return (run(again, "skip") if skips else stopped), said


def _locate(job: Any, stopped: Epoch, epoch: int) -> Nonfinite | None:
    """What is bad in the step before which the carry was kept."""
    step = int(stopped.bad.first)
    if step < 0:  # each gradient was finite, and what an update made of it was not
        return Nonfinite(epoch, len(stopped.losses) - 1, "a parameter after the update")
    n = len(job.train[0])
    key = jax.random.fold_in(job.key, epoch)
    (full, _), rest, step_key = schedule(key, n, job.batch_size)
    indices = full[step] if step < len(full) else rest
    step_t = jax.random.fold_in(step_key, step)
    batch = minibatch(job.train, indices, step_t, job.augment, job.mesh)
    where = first_nonfinite(
        job.written,
        job.loss,
        stopped.carry.variables,
        batch,
        key=step_t,
        l2=job.l2 or 0.0,
        n=n,
    )
    return Nonfinite(epoch, step, where or "the loss or a gradient of the engine")
