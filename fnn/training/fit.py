"""The function `fit`: a training run, in a Python loop over compiled epochs."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from fnn.augmentations import Augmentation
from fnn.checks import check_flag, check_key
from fnn.core import Layer, Variables, expect_layer
from fnn.gradients.engines import Engine, get_engine
from fnn.gradients.penalty import check_penalty
from fnn.gradients.precision import engine_in_precision
from fnn.losses import Loss
from fnn.network import output_shape
from fnn.own_code import explain_own_code
from fnn.passes.per_example.private import Private
from fnn.placement import with_automatic_axes
from fnn.planning.planned import plain
from fnn.shapes import count_examples, example_shape
from fnn.training.checks import (
    check_augment,
    check_early_stopping,
    check_epochs,
    check_metrics,
    check_optimizer,
    check_validation_device,
)
from fnn.training.compiled.descent import as_optimizer
from fnn.training.compiled.meshes import check_mesh, on_mesh
from fnn.training.data import (
    check_validation,
    place_subset,
)
from fnn.training.early_stopping import EarlyStopping
from fnn.training.evaluation import metrics_of
from fnn.training.metrics import Metric, default_metrics
from fnn.training.planned import plan_network
from fnn.training.private import check_private_run
from fnn.training.run.callbacks import OnEpoch
from fnn.training.run.loop import run_epochs
from fnn.training.run.nonfinite import check_policy
from fnn.training.run.observed import check_observe
from fnn.training.run.result import (
    FitResult,
    initial_progress,
    make_result,
)
from fnn.training.run.spec import RunSpec
from fnn.training.run.start import (
    check_training_data,
    initial_variables,
    restored_progress,
    result_to_resume,
    training_metrics,
)
from fnn.training.store.checkpoints import Checkpoints, CheckpointStore, as_checkpoints
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array

__all__ = ["fit"]


@with_automatic_axes
@explain_own_code()
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
    train_metrics: bool = False,
    l2: float = 0.0,
    on_nonfinite: str | None = None,
    health: bool = False,
    observe: Mapping[str, Callable[..., Any]] | None = None,
    private: Private | None = None,
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    checkpoint_dir: str | os.PathLike[str] | Checkpoints | None = None,
    resume: FitResult | bool = False,
) -> FitResult:
    """Train a network by minibatch descent, for a number of epochs or until it is best.

        J = (1/m) Σ_batch L(net(x̃), y) + λ/(2n) Σ Θ²     n the size of the training set
        x̃ = augment(key, x), anew at every step; x itself without an augmentation

    A run is a function of its key: with the same key, device kind and number of cores
    its result is bit-identical. (Two processes on GPUs may differ, because XLA chooses
    among its kernels by timing them: XLA_FLAGS=--xla_gpu_deterministic_ops=true forbids
    that.) The keys are

        k_init, k_train = split(key);    epoch e = 1, 2, ...: fold_in(k_train, e)

    Args:
        net: the network.
        loss: the loss.
        optimizer: one of `fnn.optimizers`, or of optax, or your own. L-BFGS, Polyak and
            plateau get the value and the function that they ask for, of the minibatch.
            Schedule-free ones are evaluated at their average, and any with a method
            `eval_params(state, params)` at what it returns.
        train: x (N, ...) and y (N, ...), NumPy or JAX, which are moved to the device;
            each is an array, or a tree of arrays such as {"image": ..., "age": ...}. Or
            x, y and the weights (N,) of the examples (see `fnn.losses.Weighted`).
            Or anything that yields minibatches (x, y) when it is iterated over, anew in
            every epoch: a torch DataLoader, a generator function, `fnn.Batches`. They
            are read ahead in the background; `batch_size` is not used then.
        validation: x and y of examples that are not trained on. They are evaluated
            after every epoch, or as `early_stopping` says.
        validation_device: another device to validate on, while training goes on. Early
            stopping decides as soon as an evaluation is finished, and the variables
            returned are those of a run that waits, bit-identical on devices of one
            kind; the run only has some more epochs. `on_epoch` is called for an epoch
            once it is evaluated. "another" takes the first of `jax.devices()` that does
            not train. If there is only one device, fit warns and validates in turn with
            training.
        key: a `jax.random.key`.
        epochs: how many, at most. 0 returns the initial variables.
        batch_size: m, at most N. Where it does not divide N, the last step of an epoch
            is a smaller one.
        mesh: devices, such as `jax.make_mesh((8,), ("batch",))`, whose first axis
            shards each minibatch. Data and variables are copied to all of them, except
            for arrays that are on this mesh already: these stay sharded as they are.
        engine: "manual", "autodiff", or a function with an engine's signature.
        precision: the dtype, "bfloat16" or "float16", in which the network's forward
            and backward are computed, while parameters, sums, loss and updates stay in
            float32; for float16, scale the loss:
            `fnn.optimizers.loss_scaled(optimizer)`. Such networks are not planned.
        plan: the mode of `fnn.plan` ("fast", "exact", "memory") by which the network is
            planned for these images and this batch size: the same results up to
            rounding, sooner. None trains the network as it is. Only the manual engine
            is planned for; a network that is a plan already stays one. The smaller last
            step of long epochs takes plain layers, which compile sooner.
        augment: a function `(key, x) -> x` of a training minibatch, such as
            `fnn.augmentations.compose(RandomCrop(4), Flip())`, compiled into the epoch
            (see `fnn.augmentations`). The validation data are never augmented.
        variables: the variables to start from, instead of `net.init(k_init, ...)`. They
            are not changed.
        early_stopping: when to stop, and which variables to keep.
        metrics: functions `(outputs, y)` by name, for the validation data, as in
            `fnn.evaluate`: they return a value of every example, which is averaged, or
            one number of them all. By default the accuracy where the loss scores
            classes.
        train_metrics: compute the metrics of all training examples, too, after every
            epoch, in evaluation mode: history["train_accuracy"]. That is a forward pass
            over all of them. Not of batches that are read.
        l2: λ, on the parameters that layers name as `penalized`: those called `weight`.
            (A λ for each layer is weight decay, which optax masks.)
        on_nonfinite: what to do about a step whose loss, gradient or new state (running
            statistics) is NaN or infinite: "raise" a FloatingPointError, "stop" and
            keep the variables before it, or "skip" the step and count it. The error, or
            `result.nonfinite`, names the layer where it began. None ends the run after
            an epoch in which a parameter has become NaN or infinite. (An infinity that
            an optimizer clips away leaves no trace, and counts as finite.) A run that
            was stopped does not go on from its checkpoint under the same policy, but
            does under "skip".
        health: record after every epoch, layer by layer, the share of dead units and
            the size of activations, δ, parameters and updates: `result.health`.
        observe: functions `(variables, (x, y), *, key)` by name, as `fnn.per_example`,
            `fnn.curvature` and `fnn.compare_rules` are or make: what they return for
            one minibatch of the training data is recorded after every epoch, in
            `result.observed`, and drawn by `fnn.plot_observed`.
        private: `fnn.per_example.Private(clip, noise_multiplier, delta)` trains by
            DP-SGD: every step draws its examples anew, each with probability m/N
            (Poisson sampling), clips the gradient of each, and adds noise from the
            run's key. The history has the budget, "epsilon"; what it does not cover is
            in `fnn.per_example.private`. Needs `dp-accounting`.
        on_epoch: called after every epoch with a record of Python numbers, such as
            `{"epoch": 1, "train_loss": .7, "seconds": .1, "validation_loss": .8}`, for
            example to draw a progress bar; a function, or a list of functions. One that
            takes two arguments gets copies of the variables that are validated, too,
            and one that takes three the optimizer's state. The run ends if it returns
            True, or raises a KeyboardInterrupt.
        checkpoint_dir: the folder where the state of the run is saved, in the
            background, after every epoch; or a `fnn.Checkpoints`, which says how often.
            Needs orbax-checkpoint.
        resume: True continues the run in `checkpoint_dir` from its last checkpoint that
            is undamaged, or begins where there is none. With the same key and
            arguments, jax, kind of device and number of cores, the result is
            bit-identical to that of a run that was never interrupted (except for the
            history's seconds). Only `epochs` and the patience may be others;
            checkpoints of another network, optimizer or data, or of another format, are
            refused, with the differences. A `FitResult`, or what `fnn.restore(folder)`
            returned, goes on from there as a run of its own: the learning rate, data,
            batch size, λ, engine, augmentation, metrics and early stopping may be
            others, not so the parameters' shapes, or the kind of optimizer. From
            `result.with_fresh_optimizer()` any optimizer goes on, in a new state.
            `epochs` counts from the very beginning in each case.

    Returns:
        A `FitResult`. `train_loss` of its history is the mean of the minibatches' J of
        an epoch, each times its number of examples; where a loss ignores labels or
        weighs them, J is divided by what counts in the minibatch (see
        `fnn.losses.classification`). Ctrl-C and SIGTERM end the run after the epoch in
        which they are received, with `stopped="interrupted"`; a second one interrupts
        it at once.

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
    key, epochs = check_key(key), check_epochs(epochs)
    init_key, train_key = jax.random.split(key)
    mesh, engine = check_mesh(mesh), engine_in_precision(get_engine(engine), precision)
    with own_numbers_may_move():  # not in the loop
        data = check_training_data(loss, train, validation, batch_size, l2, mesh)
        (x, _), loss, size = data.sample, data.loss, count_examples(data.sample)
        chosen = check_metrics(default_metrics(loss) if metrics is None else metrics)
        early_stopping = check_early_stopping(
            early_stopping, loss, chosen, data.validation is not None, epochs
        )
        checkpoints = as_checkpoints(checkpoint_dir)
        earlier = result_to_resume(resume, variables, checkpoints)
        variables = initial_variables(net, data, variables, earlier, init_key, mesh)
        check_optimizer(optimizer, variables.params)
        device = check_validation_device(validation_device, x, data.validation)
        held_out = check_validation(net, loss, variables, data.validation)
        held_out = place_subset(held_out, early_stopping, train_key, device, mesh)
        spec = RunSpec(
            net=plan_network(net, plan, example_shape(x), size, engine),
            plain_net=plain(net),
            loss=loss,
            optimizer=as_optimizer(optimizer),
            train=data.train,
            sample=on_mesh(data.sample, mesh),
            out_shape=output_shape(net, variables, example_shape(x)),
            n=data.n,
            key=on_mesh(train_key, mesh),
            l2=check_penalty(l2, net, variables.params),
            augment=check_augment(augment, x, data.n or size, size),
            engine=engine,
            batch_size=size,
            mesh=mesh,
            validation=held_out,
            validation_device=device,
            on_nonfinite=check_policy(on_nonfinite),
            health=check_flag("health", health),
            private=check_private_run(private, data.train, engine, mesh, on_nonfinite),
            observer=check_observe(observe, variables, data.sample, data.weighted),
            metrics=metrics_of(net, loss, variables, held_out, chosen),
            train_metrics=training_metrics(train_metrics, net, data, variables, chosen),
            early_stopping=early_stopping,
        )
        progress = initial_progress(spec, variables, earlier)
    run = partial(run_epochs, spec, epochs=epochs, on_epoch=on_epoch)
    if checkpoints is None:
        return make_result(spec, *run(progress))
    with CheckpointStore(checkpoints, spec, net, plan) as store:
        progress = restored_progress(store, spec, progress, resume)
        return make_result(spec, *run(progress, save=store.save))
