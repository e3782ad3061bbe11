"""Train on many devices of one or many hosts, each step on a share of the minibatch.

The same script starts everywhere: JAX's own runtime finds the other processes on SLURM,
Cloud TPU and the like, or is told where they are:

    python -m experiments.train_distributed --coordinator host:1234 --processes 2 --id 0

Every process trains the same network on its devices' share of each minibatch. Where one
dies, the others end, too; started again with the same --checkpoints, and with any
number of processes, the run goes on.
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
from experiments import command_line

__all__ = ["main"]

PROG = "python -m experiments.train_distributed"


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        coordinator: address and port of process 0, as in host:1234; else found by JAX
            where a cluster says it. "none" trains in this process alone.
        processes: how many there are.
        id: which of them this one is, from 0 on.
        heartbeat: seconds without a sign of life after which a process is dead.
        checkpoints: a folder that all processes see; the run goes on from there.
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
    """Find the others, train, and say from process 0 how it went."""
    config = command_line.options(Config(), argv, PROG, __doc__)
    with command_line.plain_errors(PROG):
        if config.heartbeat < 1:
            raise ValueError(f"heartbeat must be at least 1, got {config.heartbeat}")
        join(config)
    try:
        return train(config)
    except JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        again = "with --checkpoints, a run can go on"
        if config.checkpoints is not None:
            again = f"start again: the run goes on from {config.checkpoints}"
        print(f"{PROG}: error: {reason}", file=sys.stderr)
        print(f"  Another process has probably died; {again}.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a usual exit would wait for the one that has died


def join(config: Config) -> None:
    """Start JAX's distributed runtime, before anything else is asked of JAX."""
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
    """The same in every process; only process 0 speaks."""
    first = jax.process_index() == 0
    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    data = fnn.data.digits()
    kept = np.arange(len(data.train[0])) % 8 > 0  # every eighth is for validation
    training = tuple(part[kept] for part in data.train)
    validation = tuple(part[~kept] for part in data.train)
    net = fnn.serial(
        *(fnn.Flatten(), fnn.Dense(64, bias=False), fnn.BatchNorm(), fnn.Relu()),
        *(fnn.Dropout(0.2), fnn.Dense(10)),
    )
    loss = fnn.losses.SoftmaxCrossEntropy()
    if first:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices")

    def say(record: dict) -> None:
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
            on_epoch=say,
        )
    variables = jax.tree.map(np.asarray, result.variables)
    test = fnn.evaluate(net, loss, variables, data.test)
    if first:
        print(f"test accuracy {test['accuracy']:.2%} after {result.epochs} epochs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
