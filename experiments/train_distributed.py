"""Train on many devices of one or many hosts, each on a share of the minibatch.

The same script is started in every process. JAX's own runtime finds the other processes
on SLURM, Cloud TPU and the like; elsewhere the options say where they are:

    python -m experiments.train_distributed --coordinator host:1234 --processes 2 --id 0

Every process trains the same network on its devices' share of each minibatch. Where one
process dies, the others end, too. Started again with the same --checkpoints, and with
any number of processes, the run continues.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.errors import JaxRuntimeError

import fnn
from experiments.shared import command_line

__all__ = ["main"]

PROG = "python -m experiments.train_distributed"


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        coordinator: address and port of process 0, as in host:1234; by default JAX
            finds it in the cluster's settings. "none" trains in this process alone.
        processes: how many there are.
        id: the number of this process, from 0 on.
        heartbeat: seconds without a sign of life after which a process is dead.
        checkpoints: a folder that all processes see; the run continues from there.
        epochs: how many.
        batch_size: of all devices together, a multiple of their number.
        learning_rate: α.
        seed: of parameters, minibatches and masks.
    """

    coordinator: str | None = None
    processes: int | None = None
    id: int | None = None
    heartbeat: int = 30
    checkpoints: Path | None = None
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Connect the processes, train, and print the results from process 0."""
    config = command_line.parse(Config(), argv, PROG, __doc__)
    with command_line.plain_errors(PROG):
        if config.heartbeat < 1:
            raise ValueError(f"heartbeat must be at least 1, got {config.heartbeat}")
        connect(config)
    try:
        return train(config)
    except JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        advice = "with --checkpoints, a run can be continued"
        if config.checkpoints is not None:
            advice = f"start again: the run continues from {config.checkpoints}"
        print(f"{PROG}: error: {reason}", file=sys.stderr)
        print(f"  Another process has probably died; {advice}.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a usual exit would wait for the process that has died


def connect(config: Config) -> None:
    """Start JAX's distributed runtime, before JAX is used for anything else."""
    if config.coordinator == "none":
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        config.coordinator,
        config.processes,
        config.id,
        heartbeat_timeout_seconds=config.heartbeat,
    )


def train(config: Config) -> int:
    """Train and test, the same in every process; only process 0 prints."""
    first = jax.process_index() == 0
    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    data = fnn.data.digits()
    for_training = np.arange(len(data.train[0])) % 8 > 0
    training = tuple(part[for_training] for part in data.train)
    validation = tuple(part[~for_training] for part in data.train)
    net = fnn.serial(
        *(fnn.Flatten(), fnn.Dense(64, bias=False), fnn.BatchNorm(), fnn.Relu()),
        *(fnn.Dropout(0.2), fnn.Dense(10)),
    )
    loss = fnn.losses.SoftmaxCrossEntropy()
    if first:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices")

    def print_epoch(record: dict) -> None:
        if first:
            print(
                f"epoch {record['epoch']:3}  training loss {record['train_loss']:.6f}  "
                f"validation loss {record['validation_loss']:.6f}",
                flush=True,
            )

    with command_line.plain_errors(PROG):
        result = fnn.fit(
            net,
            loss,
            fnn.optimizers.adam(config.learning_rate),
            train=training,
            validation=validation,
            key=jax.random.key(config.seed),
            epochs=config.epochs,
            batch_size=config.batch_size,
            mesh=mesh,
            checkpoint_dir=config.checkpoints,
            resume=config.checkpoints is not None,
            on_epoch=print_epoch,
        )
    variables = jax.tree.map(np.asarray, result.variables)
    test = fnn.evaluate(net, loss, variables, data.test)
    if first:
        print(f"test accuracy {test['accuracy']:.2%} after {result.epochs} epochs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
