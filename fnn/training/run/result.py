"""The beginning of a run, and its result."""

import textwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Variables
from fnn.named_leaves import differences, leaves_by_name
from fnn.tables import WIDTH, format_number
from fnn.training.compiled.descent import Carry, copy_arrays, initial_carry
from fnn.training.compiled.meshes import on_mesh, state_on_mesh
from fnn.training.early_stopping import StoppingState
from fnn.training.evaluation import names_of
from fnn.training.run.health import health_history
from fnn.training.run.history import Record, as_history, records_of
from fnn.training.run.loop import Progress, eval_variables, to_host
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.observed import observed_history
from fnn.training.run.spec import RunSpec
from fnn.typing import PyTree

__all__ = ["FitResult", "initial_progress", "make_result", "recheck_patience"]


class FitResult(NamedTuple):
    """The result of `fit`.

    variables: with early stopping the best ones, in the host's memory (NumPy), whatever
        ended the run; without it the last ones.
    last_variables: the variables after the last epoch.
    history: NumPy arrays by name. With an entry an epoch: "epoch" (1, 2, ...),
        "train_loss" (the mean over the epoch's minibatches of J, penalty and dropout
        included, while the parameters change), "seconds" (of training alone; the
        first epoch includes compilation), "learning_rate" (of the last step, where the
        optimizer tells it: see `fnn.optimizers.last_learning_rate`) and, with
        fit(train_metrics=True), "train_<metric>"; of private training also
        "epsilon", the budget spent so far. With an entry an evaluation:
        "validation_epoch", "validation_loss" (no penalty, no dropout) and
        "validation_<metric>". A NaN in them is a NaN that was computed.
    best_epoch: the number of epochs after which `variables` were found, 0 for the
        initial ones. To retrain on all data, train for this number of epochs
        (Goodfellow et al. 2016, algorithm 7.2).
    epochs: the number of epochs trained.
    stopped: what ended the run: "epochs" (all were trained), "patience" (early
        stopping), "diverged" (a parameter became NaN or infinite, from which no step
        recovers; with on_nonfinite="stop" before that step), "on_epoch" (it returned
        True) or "interrupted" (Ctrl-C, SIGTERM).
    nonfinite: the first step whose loss, gradient or state was not finite, if there was
        one and `on_nonfinite` is set; else None. With "skip", history["skipped"] counts
        such steps.
    health: with fit(health=True), an array with an entry per epoch for every layer and
        every statistic of `fnn.training.run.health.STATISTICS`, as in
        `health["0/Dense"]["delta"]`; else None.
    observed: with fit(observe=...), an array with an entry per epoch for every function
        and every part of what it returned, as in `observed["noise"]["signal"]`
        (`fnn.plot_observed` draws them); else None.
    carry: the state that training carries from step to step, `carry.variables` and
        `carry.optimizer_state`. For a look-ahead optimizer its parameters are θ̂, and
        `last_variables` holds θ.
    stopping: the state of early stopping, or None.
    """

    variables: Variables
    last_variables: Variables
    history: dict[str, np.ndarray]
    best_epoch: int
    epochs: int
    stopped: str
    carry: Carry
    stopping: StoppingState | None
    nonfinite: Nonfinite | None
    health: dict[str, dict[str, np.ndarray]] | None
    observed: dict[str, dict[str, np.ndarray]] | None = None

    @property
    def optimizer_state(self) -> PyTree:
        """Return the optimizer's state after the last epoch."""
        return self.carry.optimizer_state

    def with_fresh_optimizer(self) -> "FitResult":
        """Return the result to go on from with another optimizer, in a new state."""
        return self._replace(carry=Carry(self.last_variables, None))

    def __repr__(self) -> str:
        """Describe the run in a few lines, without its arrays."""
        last = [
            f"{name} {format_number(self.history[name][-1])}"
            for name in ("train_loss", "validation_loss")
            if len(self.history.get(name, ()))
        ]
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.variables.params))
        facts = {
            "epochs": str(self.epochs),
            "stopped": repr(self.stopped),
            "best_epoch": str(self.best_epoch),
            "last losses": ", ".join(last) or "none",
            "parameters": f"{count:,}",
            "history": ", ".join(self.history),
        }
        if self.nonfinite is not None:
            facts["nonfinite"] = str(self.nonfinite)
        lines = [
            textwrap.fill(f"  {name:<13}{fact}", WIDTH, subsequent_indent=" " * 15)
            for name, fact in facts.items()
        ]
        return "\n".join(["FitResult", *lines])


def initial_progress(
    spec: RunSpec, variables: Variables, resume: FitResult | None
) -> Progress:
    """Return the progress before the first epoch, or where another run ended."""
    if resume is None:
        epoch, carry = 0, initial_carry(spec.optimizer, on_mesh(variables, spec.mesh))
    else:
        epoch, carry = resume.epochs, _carry_of(spec.optimizer, resume)
    variables = on_mesh(carry.variables, spec.mesh)
    state = state_on_mesh(carry.optimizer_state, variables.params, spec.mesh)
    carry = Carry(variables, state)
    current = eval_variables(spec.optimizer, carry)  # raises where a chain is refused
    records: list[Record] = []
    if resume is not None:
        records = records_of(resume.history, resume.health, resume.observed)
    if spec.early_stopping is None:
        return Progress(epoch, carry, records, None, None)
    if resume is None or resume.stopping is None:
        here = jnp.asarray(epoch, jnp.int32)
        stopping = spec.early_stopping.init()._replace(best_epoch=here)
        return Progress(epoch, carry, records, to_host(current), stopping)
    progress = Progress(epoch, carry, records, resume.variables, resume.stopping)
    return recheck_patience(spec, progress)


def _carry_of(optimizer: Any, resume: FitResult) -> Carry:
    """Return a copy of the carry to go on from, with a state of this optimizer.

    States are compared by the names of their leaves: one that was read from a file has
    no other structure.
    """
    variables, given = copy_arrays(resume.carry.variables), resume.carry.optimizer_state
    if given is None:
        return initial_carry(optimizer, variables)
    own = jax.eval_shape(optimizer.init, variables.params)
    lines = differences(own, given)
    if not lines:
        by_name = leaves_by_name(copy_arrays(given))
        ordered = [by_name[name] for name in leaves_by_name(own)]
        return Carry(variables, jax.tree.unflatten(jax.tree.structure(own), ordered))
    raise ValueError(
        "resume is the result of another optimizer; its state does not fit:\n  "
        + "\n  ".join(lines[:5])
        + "\nPass the optimizer of that run, or resume=result.with_fresh_optimizer(), "
        "which goes on with a new state."
    )


def recheck_patience(spec: RunSpec, progress: Progress) -> Progress:
    """Decide anew whether to stop: a run may be resumed with more patience."""
    if spec.early_stopping is None or progress.stopping is None:
        return progress
    stop = spec.early_stopping.is_over(progress.stopping.wait)
    return progress._replace(stopping=progress.stopping._replace(stop=stop))


def make_result(spec: RunSpec, progress: Progress, stopped: str) -> FitResult:
    """Return the result of `fit` from the last progress.

    Args:
        spec: the specification of the run.
        progress: the state after the last epoch.
        stopped: what ended the run.
    """
    last = eval_variables(spec.optimizer, progress.carry)
    validated = list(names_of(spec.loss, spec.metrics))
    history = as_history(
        progress.records,
        validated=validated if spec.validation is not None else [],
        skips=spec.on_nonfinite == "skip",
        budget=spec.private is not None,
    )
    best, best_epoch = last, progress.epoch
    if progress.best is not None and progress.stopping is not None:
        best, best_epoch = (
            progress.best,
            int(jax.device_get(progress.stopping.best_epoch)),
        )
    return FitResult(
        variables=best,
        last_variables=last,
        history=history,
        best_epoch=best_epoch,
        epochs=progress.epoch,
        stopped=stopped,
        carry=progress.carry,
        stopping=progress.stopping,
        nonfinite=progress.nonfinite,
        health=health_history(progress.records) if spec.health else None,
        observed=observed_history(progress.records) if spec.observer else None,
    )
