"""How a run begins, and what it gives in the end."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fnn.core import Variables
from fnn.training.compiled.descent import Carry, copied, start
from fnn.training.compiled.meshes import on_mesh, state_on_mesh
from fnn.training.early_stopping import StoppingState
from fnn.training.run.health import history_of_health
from fnn.training.run.history import history_of
from fnn.training.run.loop import Progress, evaluated, to_host
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.spec import Job
from fnn.typing import PyTree

__all__ = ["FitResult", "asked_again", "begin", "finish"]


class FitResult(NamedTuple):
    """What `fit` returns.

    variables: with early stopping the best ones, in the host's memory (NumPy), whatever
        ended the run; without it the last ones.
    last_variables: those after the last epoch.
    history: NumPy arrays by name. With an entry an epoch: "epoch" (1, 2, ...),
        "train_loss" (the mean over the epoch's minibatches of J, penalty and dropout
        included, while the parameters change) and "seconds" (of training alone; the
        first epoch includes compilation). With an entry an evaluation:
        "validation_epoch", "validation_loss" (no penalty, no dropout) and
        "validation_<metric>". A NaN in them is a NaN that was computed.
    best_epoch: the number of epochs after which `variables` were, 0 for the initial
        ones. To retrain on all data, train for that many (Goodfellow et al. 2016,
        algorithm 7.2).
    epochs: the number of epochs trained.
    stopped: what ended the run: "epochs" (all were trained), "patience" (early
        stopping), "diverged" (a parameter became NaN or infinite, from which no step
        recovers; with on_nonfinite="stop" before that step) or "interrupted" (Ctrl-C,
        SIGTERM).
    nonfinite: the first step whose loss or gradient was not finite, as `on_nonfinite`
        had it looked for; else None. With "skip", history["skipped"] counts such steps.
    health: with fit(health=True), an array with an entry per epoch for every layer and
        every statistic of `fnn.training.run.health.STATISTICS`, as in
        `health["0/Dense"]["delta"]`; else None.
    carry: what training carries, `carry.variables` and `carry.optimizer_state`. For a
        look-ahead optimizer its parameters are θ̂, and `last_variables` holds θ.
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

    @property
    def optimizer_state(self) -> PyTree:
        """The optimizer's state after the last epoch."""
        return self.carry.optimizer_state


def begin(job: Job, variables: Variables, resume: FitResult | None) -> Progress:
    """Before the first epoch, or where another run ended."""
    if resume is None:
        epoch, carry = 0, start(job.optimizer, on_mesh(variables, job.mesh))
    else:
        epoch, carry = resume.epochs, copied(resume.carry)
    variables = on_mesh(carry.variables, job.mesh)
    state = state_on_mesh(carry.optimizer_state, variables.params, job.mesh)
    carry = Carry(variables, state)
    current = evaluated(job.optimizer, carry)  # also where a chain is refused
    if job.rule is None:
        return Progress(epoch, carry, [], None, None)
    if resume is None or resume.stopping is None:
        here = jnp.asarray(epoch, jnp.int32)
        state = job.rule.init()._replace(best_epoch=here)
        return Progress(epoch, carry, [], to_host(current), state)
    return asked_again(
        job, Progress(epoch, carry, [], resume.variables, resume.stopping)
    )


def asked_again(job: Job, progress: Progress) -> Progress:
    """Whether to stop: the rule may have become more patient since."""
    if job.rule is None or progress.stopping is None:
        return progress
    stop = progress.stopping.wait >= job.rule.patience
    return progress._replace(stopping=progress.stopping._replace(stop=stop))


def finish(
    job: Job, resume: FitResult | None, progress: Progress, stopped: str
) -> FitResult:
    """What `fit` returns."""
    last = evaluated(job.optimizer, progress.carry)
    validated = ["loss", *(name for name, _ in job.metrics)]
    history = history_of(
        progress.records,
        validated=validated if job.validation is not None else [],
        skips=job.on_nonfinite == "skip",
    )
    if resume is not None:
        history = {
            name: np.concatenate([resume.history.get(name, column[:0]), column])
            for name, column in history.items()
        }
    best, best_epoch = last, progress.epoch
    if progress.best is not None and progress.stopping is not None:
        best, best_epoch = progress.best, int(progress.stopping.best_epoch)
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
        health=history_of_health(progress.records) if job.health else None,
    )
