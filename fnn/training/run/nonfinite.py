"""Numbers that are not finite: what a run does about a NaN or an infinity.

An epoch is compiled as if all its numbers were finite, and its result says whether they
are. Only if they are not, the epoch is run once more, from a copy of the state that it
began with, by a program that looks at every gradient and leaves out the bad steps. So a
guarded run costs a copy an epoch, and not a pass over all gradients at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fnn.core import Variables
from fnn.describe import shown
from fnn.dtypes import all_finite
from fnn.gradients.first_nonfinite import first_nonfinite
from fnn.letters import printable
from fnn.named_leaves import leaves_by_name
from fnn.network import named_params
from fnn.training.compiled.descent import Carry, copy_arrays
from fnn.training.compiled.epoch import Epoch
from fnn.training.run.spec import RunSpec
from fnn.transfers import own_numbers_may_move
from fnn.typing import Batch, KeyArray

__all__ = ["POLICIES", "Nonfinite", "check_policy", "run_guarded"]


#: What to do about a step whose loss, gradient or new state is not finite.
POLICIES = ("raise", "stop", "skip")


class Nonfinite(NamedTuple):
    """The first step of a run whose loss, gradient or new state was not finite.

    epoch: 1, 2, ...
    step: 0, 1, ... within the epoch.
    where: the first such number of the step, as `fnn.first_nonfinite` names it.
    """

    epoch: int
    step: int
    where: str

    def __str__(self) -> str:
        place = f"epoch {self.epoch}, step {self.step}"
        return printable(f"{place}: {self.where} is not finite")


def check_policy(policy: Any) -> str | None:
    """Return one of `POLICIES`, or None."""
    if policy is not None and policy not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"on_nonfinite must be {known} or None, got {shown(policy)}")
    return policy


#: A copy, in one program: an epoch overwrites its arguments.
_snapshot = jax.jit(copy_arrays)


def run_guarded(
    spec: RunSpec,
    run: Callable[..., Epoch],
    carry: Carry,
    epoch: int,
    read_batch: Callable[[int], tuple[Batch, KeyArray]] | None,
) -> tuple[Epoch, Nonfinite | None]:
    """Run an epoch; if it has bad steps, run it again as the policy says.

    Args:
        spec: the specification of the run, with its policy `on_nonfinite`.
        run: the compiled steps, a function of `carry` and `guard`.
        carry: the state before the epoch.
        epoch: its number.
        read_batch: returns the minibatch and the key of a step, to find out where a bad
            step goes bad; None if an earlier one has been reported.

    Returns:
        The epoch, and the first bad step if it is to be reported.

    Raises:
        FloatingPointError: the policy is "raise", and a step is bad.
    """
    if spec.on_nonfinite is None:
        return run(carry=carry, guard=None), None
    before = _snapshot(carry)
    out = run(carry=carry, guard=None)
    if bool(jax.device_get(out.finite)):
        return out, None
    skips = spec.on_nonfinite == "skip"
    if skips and read_batch is None:
        return run(carry=before, guard="skip"), None
    again = _snapshot(before) if skips else None
    stopped = run(carry=before, guard="stop")
    first_bad = None
    if read_batch is not None:
        first_bad = _locate_first_bad(spec, stopped, epoch, read_batch)
    if spec.on_nonfinite == "raise" and first_bad is not None:
        raise FloatingPointError(
            f"{first_bad}. Smaller steps or clipping (optax.clip_by_global_norm) may "
            'help; on_nonfinite="skip" leaves such steps out, "stop" ends the run '
            "before it."
        )
    return (run(carry=again, guard="skip") if skips else stopped), first_bad


def _locate_first_bad(
    spec: RunSpec,
    stopped: Epoch,
    epoch: int,
    read_batch: Callable[[int], tuple[Batch, KeyArray]],
) -> Nonfinite:
    """Return the first bad step, from an epoch that has stopped before it."""
    t = int(jax.device_get(stopped.bad_steps.first))
    if t < 0:  # each gradient was finite, but not the update made of it
        with own_numbers_may_move():
            where = _first_bad_variable(spec, stopped.carry.variables)
        return Nonfinite(epoch, len(stopped.losses) - 1, where)
    with own_numbers_may_move():
        batch, key = read_batch(t)
    where = first_nonfinite(
        spec.plain_net,
        spec.loss,
        stopped.carry.variables,
        batch,
        key=key,
        l2=spec.l2 or 0.0,
        n=spec.n,
        engine=spec.engine,
    )
    return Nonfinite(epoch, t, where or "the loss or a gradient of the engine")


def _first_bad_variable(spec: RunSpec, variables: Variables) -> str:
    """Name the first parameter, or else the first number of the state, that is bad."""
    for name, leaf in named_params(spec.plain_net, variables.params).items():
        if not bool(all_finite(leaf)):
            return f"{name} after the update"
    for name, leaf in leaves_by_name(variables.state).items():
        if not bool(all_finite(leaf)):
            return f"the state {name}"
    return "a parameter after the update"
