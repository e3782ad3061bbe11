"""Training: a Python loop over compiled epochs."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from fnn.augmentations import Augmentation
from fnn.checks import check_key, check_l2
from fnn.core import Layer, Variables, expect_layer
from fnn.gradients.engines import Engine, get_engine
from fnn.gradients.precision import in_precision
from fnn.losses import Loss, expect_loss
from fnn.training.checks import (
    check_augment,
    check_batch_size,
    check_data,
    check_early_stopping,
    check_epochs,
    check_fits,
    check_flag,
    check_metrics,
    check_optimizer,
    check_validation_device,
)
from fnn.training.compiled.descent import as_optimizer
from fnn.training.compiled.meshes import check_mesh, check_split, on_mesh
from fnn.training.compiled.order import subset
from fnn.training.early_stopping import EarlyStopping
from fnn.training.metrics import Metric, default_metrics
from fnn.training.planned import as_written, planned
from fnn.training.run.history import Record
from fnn.training.run.loop import Progress, run_epochs
from fnn.training.run.nonfinite import check_policy
from fnn.training.run.result import FitResult, asked_again, begin, finish
from fnn.training.run.spec import Job
from fnn.training.run.streams import Batches, as_batches
from fnn.training.store.checkpoints import Checkpoints, Store, as_checkpoints
from fnn.training.store.fingerprint import describe_run, environment

__all__ = ["fit"]


def fit(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    *,
    train: Any,
    validation: tuple[Any, Any] | None = None,
    validation_device: jax.Device | str | None = None,
    key: Array,
    epochs: int,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    engine: str | Engine = "manual",
    precision: str | None = None,
    plan: str | None = "fast",
    augment: Augmentation | None = None,
    variables: Variables | None = None,
    early_stopping: EarlyStopping | None = None,
    metrics: Mapping[str, Metric] | None = None,
    l2: float = 0.0,
    on_nonfinite: str | None = None,
    health: bool = False,
    on_epoch: Callable[[Record], Any] | None = None,
    checkpoint_dir: str | os.PathLike[str] | Checkpoints | None = None,
    resume: FitResult | bool = False,
) -> FitResult:
    """Train a network by minibatch descent, for a number of epochs or until it is best.

        J = (1/m) Σ_batch L(net(x̃), y) + λ/(2n) Σ Θ²     n the size of the training set
        x̃ = augment(key, x), anew at every step; x itself without an augmentation

    A run is a function of its key: with the same key, device kind and number of cores
    it gives the same bits. (Two processes on GPUs may not, because XLA chooses among
    its kernels by timing them: XLA_FLAGS=--xla_gpu_deterministic_ops=true forbids it.)
    The keys are

        k_init, k_train = split(key);    epoch e = 1, 2, ...: fold_in(k_train, e)

    Args:
        net: the network.
        loss: the loss.
        optimizer: one of `fnn.optimizers`, or of optax. L-BFGS, Polyak and plateau get
            the value and the function that they ask for, of the minibatch.
        train: x (N, ...) and y (N, ...), NumPy or JAX, that are moved to the device. Or
            anything that yields minibatches (x, y) when it is iterated over, anew in
            every epoch: a torch DataLoader, a generator function, `fnn.Batches`. They
            are read ahead in the background; `batch_size` is then theirs.
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
        mesh: devices, as of `jax.make_mesh((8,), ("batch",))`, whose first axis splits
            each minibatch. Data and variables are copied to all of them, but for
            arrays that lie on this mesh already: these stay split as they are.
        engine: "manual", "autodiff", or a function with an engine's signature.
        precision: "bfloat16" or "float16" computes the network's forward and backward
            in that, while parameters, sums, loss and updates stay in float32; for
            float16, scale the loss: `fnn.optimizers.loss_scaled(optimizer)`. Such
            networks are not planned.
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
        on_nonfinite: what to do about a step whose loss or gradient is NaN or infinite:
            "raise" a FloatingPointError, "stop" and keep the variables before it, or
            "skip" the step and count it. Which layer it began in is said in the error,
            or in `result.nonfinite`. None ends the run after an epoch in which a
            parameter has become so. (An infinity that an optimizer clips away leaves no
            trace, and counts as finite.) From a checkpoint, a run that was stopped does
            not go on under the same policy, but does under "skip".
        health: record after every epoch, layer by layer, the share of dead units and
            the size of activations, δ, parameters and updates: `result.health`.
        on_epoch: called after every epoch with a record of Python numbers, such as
            `{"epoch": 1, "train_loss": .7, "seconds": .1, "validation_loss": .8}`: the
            place for a progress bar or a log. A KeyboardInterrupt ends the run.
        checkpoint_dir: where to save everything that is carried, in the background,
            after every epoch; or as a `fnn.Checkpoints` says. Needs orbax-checkpoint.
        resume: True goes on from the last checkpoint that is whole, or begins where
            there is none; a `FitResult` goes on from that. `epochs` then counts from
            the very beginning. With the same key and arguments, jax, kind of device and
            number of cores, the result has the bits of a run that was never interrupted
            (the history's seconds aside). Checkpoints of another network, optimizer,
            data or version of fnn are refused, with the differences.

    Returns:
        A `FitResult`. Ctrl-C and SIGTERM end the run after the epoch they come in, and
        return what there is, `stopped="interrupted"`; a second one ends it at once.

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
    expect_layer("net", net)
    expect_loss(loss)
    key, epochs = check_key(key), check_epochs(epochs)
    init_key, train_key = jax.random.split(key)
    mesh, engine = check_mesh(mesh), in_precision(get_engine(engine), precision)
    data, sample, n = _training_data(train, batch_size, l2, mesh)
    in_shape, size = sample[0].shape[1:], len(sample[0])
    chosen = check_metrics(default_metrics(loss) if metrics is None else metrics)
    check_early_stopping(early_stopping, chosen, validation is not None, epochs)
    where = as_checkpoints(checkpoint_dir)
    before = _to_resume(resume, variables, where)
    given = variables if before is None else before.carry.variables
    given = net.init(init_key, in_shape) if given is None else given
    variables = check_fits(net, loss, on_mesh(given, mesh), sample, "train")
    check_optimizer(optimizer, variables.params)
    beside = check_validation_device(validation_device, sample[0], validation)
    if validation is not None:
        validation = check_data("validation", validation)
        check_fits(net, loss, variables, validation, "validation")
        validation = _monitored(validation, early_stopping, train_key, beside, mesh)
    job = Job(
        net=planned(net, plan, in_shape, size, engine),
        written=as_written(net),
        loss=loss,
        optimizer=as_optimizer(optimizer),
        train=data,
        sample=on_mesh(sample, mesh),
        n=n,
        key=on_mesh(train_key, mesh),
        l2=check_l2(l2),
        augment=check_augment(augment, sample[0], n or size, size),
        engine=engine,
        batch_size=size,
        mesh=mesh,
        validation=validation,
        validation_device=beside,
        on_nonfinite=check_policy(on_nonfinite),
        health=check_flag("health", health),
        metrics=chosen,
        rule=early_stopping,
    )
    run = partial(run_epochs, job, epochs=epochs, on_epoch=on_epoch)
    progress = begin(job, variables, before)
    if where is None:
        return finish(job, before, *run(progress))
    with Store(where, describe_run(job, plan, net), environment(mesh), job.rule) as at:
        return finish(job, None, *run(_from(at, job, progress, resume), save=at.save))


# ---- Before and after ------------------------------------------------------------


def _from(
    store: Store, job: Job, begun: Progress, resume: bool | FitResult
) -> Progress:
    """Where the last checkpoint is, or the beginning of a run that is new."""
    if not resume:
        store.check_is_new()
        return begun
    progress = asked_again(job, store.restore(begun))
    if isinstance(job.train, Batches):
        job.train.seek(progress.position)
    return progress


def _training_data(
    train: Any, batch_size: int, l2: Any, mesh: Mesh | None
) -> tuple[Batches | tuple[Array, Array], tuple[Array, Array], int | None]:
    """Arrays or batches, the first minibatch of them, and how many examples there are.

    Of arrays everything is looked at, of batches the first one.
    """
    if (batches := as_batches(train)) is None:
        data = on_mesh(check_data("train", train), mesh)
        size = check_batch_size(batch_size, len(data[0]))
        check_split(mesh, size)
        return data, (data[0][:size], data[1][:size]), len(data[0])
    if check_l2(l2) and batches.n is None:
        raise ValueError(
            "l2 needs the number of training examples, which batches do not tell: pass "
            "train=fnn.Batches(source, n=...)"
        )
    sample = check_data("train", batches.first())
    check_split(mesh, len(sample[0]))
    return batches, sample, batches.n


def _monitored(
    data: tuple[Array, Array],
    rule: EarlyStopping | None,
    key: Array,
    device: jax.Device | None,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """What early stopping looks at, where it is looked at."""
    if rule is not None:  # epochs count from 1
        data = subset(data, rule.subset, jax.random.fold_in(key, 0))
    return on_mesh(data, mesh) if device is None else jax.device_put(data, device)


def _to_resume(
    resume: Any, variables: Any, where: Checkpoints | None
) -> FitResult | None:
    """The result to go on from, if any."""
    if not isinstance(resume, FitResult | bool):
        raise TypeError(
            f"resume must be True, False or a FitResult, got {type(resume).__name__}"
        )
    if resume is True and where is None:
        raise ValueError("resume=True goes on from a checkpoint: pass checkpoint_dir")
    if isinstance(resume, bool):
        return None
    if where is not None:
        raise ValueError(
            "resume is a FitResult, and checkpoint_dir another place to go on from: "
            "pass one of them"
        )
    if variables is not None:
        raise ValueError("resume goes on from its own variables: pass no others")
    return resume
