"""Training: a Python loop over compiled epochs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.augmentations import Augmentation
from fnn.checks import check_instances, check_key, check_l2
from fnn.core import Layer, PyTree, Variables
from fnn.gradients.engines import Engine, get_engine
from fnn.losses import Loss
from fnn.training.batches import subset
from fnn.training.checks import (
    check_augment,
    check_batch_size,
    check_data,
    check_early_stopping,
    check_epochs,
    check_fits,
    check_metrics,
    check_optimizer,
    check_validation_device,
)
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.epoch import Carry, as_optimizer, copied, start
from fnn.training.loop import (
    Job,
    Progress,
    Record,
    evaluated,
    history_of,
    run_epochs,
    to_host,
)
from fnn.training.metrics import Metric, default_metrics
from fnn.training.planned import planned

__all__ = ["FitResult", "fit"]


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
        recovers) or "interrupted" (Ctrl-C).
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

    @property
    def optimizer_state(self) -> PyTree:
        """The optimizer's state after the last epoch."""
        return self.carry.optimizer_state


def fit(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    *,
    train: tuple[Any, Any],
    validation: tuple[Any, Any] | None = None,
    validation_device: jax.Device | str | None = None,
    key: Array,
    epochs: int,
    batch_size: int = 128,
    engine: str | Engine = "manual",
    plan: str | None = "fast",
    augment: Augmentation | None = None,
    variables: Variables | None = None,
    early_stopping: EarlyStopping | None = None,
    metrics: Mapping[str, Metric] | None = None,
    l2: float = 0.0,
    on_epoch: Callable[[Record], Any] | None = None,
    resume: FitResult | None = None,
) -> FitResult:
    """Train a network by minibatch descent, for a number of epochs or until it is best.

        J = (1/m) Σ_batch L(net(x̃), y) + λ/(2n) Σ Θ²     n the size of the training set
        x̃ = augment(key, x), anew at every step; x itself without an augmentation

    A run is a function of its key: with the same key, device kind and number of cores
    it gives the same bits. The keys are

        k_init, k_train = split(key);    epoch e = 1, 2, ...: fold_in(k_train, e)

    Args:
        net: the network.
        loss: the loss.
        optimizer: one of `fnn.optimizers`, or of optax. L-BFGS, Polyak and plateau get
            the value and the function that they ask for, of the minibatch.
        train: x (N, ...) and y (N, ...), NumPy or JAX. They are moved to the device.
        validation: the same of examples that are not trained on, evaluated after every
            epoch, or as `early_stopping` says.
        validation_device: validate on this other device, beside training, which does
            not wait: the decisions of early stopping come as soon as they are known,
            and the variables returned are those of a run that waits, with the same bits
            on devices of one kind; only the epochs trained meanwhile are extra.
            `on_epoch` is called for an epoch once it is evaluated. "another" takes the
            first of `jax.devices()` that does not train. With one device alone, a
            warning says that validation takes its turn.
        key: a `jax.random.key`.
        epochs: how many, at most. 0 returns the initial variables.
        batch_size: m, at most N. Where it does not divide N, the last step of an epoch
            is a smaller one.
        engine: "manual", "autodiff", or a function with an engine's signature.
        plan: the network is planned for these images and this batch size before it is
            trained, as `fnn.plan` with this mode does ("fast", "exact", "memory"): the
            same results up to rounding, sooner. None trains it as it is. Only the
            manual engine is planned for; a network that is a plan already stays one.
        augment: a function `(key, x) -> x` of a training minibatch, such as
            `fnn.augmentations.compose(RandomCrop(4), Flip())`, compiled into the epoch
            (see `fnn.augmentations`). The validation data are never augmented.
        variables: where to start, instead of `net.init(k_init, ...)`. Never changed.
        early_stopping: when to stop, and which variables to keep.
        metrics: functions `(outputs, y) -> mean` by name, for the validation data. By
            default the accuracy where the loss scores classes.
        l2: λ.
        on_epoch: called after every epoch with a record of Python numbers, such as
            `{"epoch": 1, "train_loss": .7, "seconds": .1, "validation_loss": .8}`: the
            place for a progress bar or a log. A KeyboardInterrupt ends the run.
        resume: a result to go on from, with everything that was carried; `epochs` then
            counts from the very beginning. With the same key and arguments the result
            has the bits of a run that was never interrupted (the history's seconds
            aside).

    Returns:
        A `FitResult`. Ctrl-C ends the run after the epoch it comes in, and returns what
        there is, `stopped="interrupted"`; a second one raises at once.

    Raises:
        ValueError, TypeError: arguments that do not fit, before anything is compiled.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, optax
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
        >>> net = fnn.serial(fnn.Dense(16), fnn.Tanh(), fnn.Dense(2))
        >>> result = fit(net, fnn.losses.SoftmaxCrossEntropy(), optax.adam(0.05),
        ...              train=(x, y), key=jax.random.key(1), epochs=30, batch_size=25)
        >>> losses = result.history["train_loss"]
        >>> losses.shape, bool(losses[-1] < 0.2)
        ((30,), True)
    """
    check_instances(net=net, loss=loss)
    key, epochs = check_key(key), check_epochs(epochs)
    init_key, train_key = jax.random.split(key)
    data = check_data("train", train)
    size = check_batch_size(batch_size, len(data[0]))
    augment = check_augment(augment, data[0], size)
    chosen = check_metrics(default_metrics(loss) if metrics is None else metrics)
    if early_stopping is not None:
        computed = ["loss", *(name for name, _ in chosen)]
        validated = validation is not None
        check_early_stopping(early_stopping, computed, validated, epochs)
    if resume is not None:
        variables = _to_resume(resume, variables).carry.variables
    elif variables is None:
        variables = net.init(init_key, data[0].shape[1:])
    variables = check_fits(net, loss, variables, data, "train")
    check_optimizer(optimizer, variables.params)
    held_out = None
    if validation is not None:
        held_out = check_data("validation", validation)
        check_fits(net, loss, variables, held_out, "validation")
        held_out = _monitored(held_out, early_stopping, train_key)
    beside = check_validation_device(
        validation_device, data[0], validated=held_out is not None
    )
    if beside is not None:
        held_out = jax.device_put(held_out, beside)
    job = Job(
        net=planned(net, plan, data[0].shape[1:], size, get_engine(engine)),
        loss=loss,
        optimizer=as_optimizer(optimizer),
        train=data,
        key=train_key,
        l2=check_l2(l2),
        augment=augment,
        engine=get_engine(engine),
        batch_size=size,
        validation=held_out,
        validation_device=beside,
        metrics=chosen,
        rule=early_stopping,
    )
    progress = _begin(job, variables, resume)
    return _finish(job, resume, *run_epochs(job, progress, epochs, on_epoch))


# ---- Before and after ------------------------------------------------------------


def _monitored(
    data: tuple[Array, Array], rule: EarlyStopping | None, key: Array
) -> tuple[Array, Array]:
    if rule is None:
        return data
    return subset(data, rule.subset, jax.random.fold_in(key, 0))  # epochs count from 1


def _begin(job: Job, variables: Variables, resume: FitResult | None) -> Progress:
    if resume is None:
        epoch, carry = 0, start(job.optimizer, variables)
    else:
        epoch, carry = resume.epochs, copied(resume.carry)
    current = evaluated(job.optimizer, carry)  # also where a chain is refused
    if job.rule is None:
        return Progress(epoch, carry, [], None, None)
    if resume is None or resume.stopping is None:
        here = jnp.asarray(epoch, jnp.int32)
        state = job.rule.init()._replace(best_epoch=here)
        return Progress(epoch, carry, [], to_host(current), state)
    # Whether to stop is asked again: the rule may have become more patient.
    state = resume.stopping
    state = state._replace(stop=state.wait >= job.rule.patience)
    return Progress(epoch, carry, [], resume.variables, state)


def _finish(
    job: Job, resume: FitResult | None, progress: Progress, stopped: str
) -> FitResult:
    last = evaluated(job.optimizer, progress.carry)
    history = history_of(job, progress.records)
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
    )


def _to_resume(resume: Any, variables: Any) -> FitResult:
    if not isinstance(resume, FitResult):
        raise TypeError(f"resume must be a FitResult, got {type(resume).__name__}")
    if variables is not None:
        raise ValueError("resume goes on from its own variables: pass no others")
    return resume
