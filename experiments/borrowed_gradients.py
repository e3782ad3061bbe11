"""Can Flax and Equinox borrow the handwritten gradients of convolution and pooling?

A small CNN in Flax NNX and the same one in Equinox, each trained for some steps inside
`lax.scan`: once with the gradients that JAX derives, and once with `fnn.ops.conv` and
`fnn.ops.max_pool` in place of JAX's functions. The losses are the same; inside a loop
on the CPU the time is not.

    pip install 'fnn[experiments]' flax equinox
    python -m experiments.borrowed_gradients
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import fnn
from experiments.shared import command_line, run_folder
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.borrowed_gradients"
LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        libraries: the libraries whose networks are trained.
        steps: training steps in one scan.
        batch_size: images in a minibatch.
        channels: features of the two convolutions.
        seed: of the parameters and the images.
        out: a new folder for the results; else the next free one below runs/.
    """

    libraries: tuple[Literal["flax", "equinox"], ...] = ("flax", "equinox")
    steps: int = 5
    batch_size: int = 32
    channels: tuple[int, int] = (20, 40)
    seed: int = 0
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train each network both ways; the exit status is 1 if the losses differ."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, steps=1, batch_size=1)
        folder = run_folder.create(config.out, "borrowed_gradients")
    run_folder.write_json(folder / "config.json", config)
    out = console()
    rng = np.random.default_rng(config.seed)
    x = jnp.asarray(rng.random((config.batch_size, 28, 28, 1)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, config.batch_size))
    rows, gaps, gains = [], [], []
    for library in config.libraries:
        build = {"flax": flax_network, "equinox": equinox_network}[library]
        losses, seconds = {}, {}
        for gradient in ("JAX's", "fnn's"):
            ours = gradient == "fnn's"
            conv = fnn.ops.conv if ours else lax.conv_general_dilated
            pool = fnn.ops.max_pool if ours else jax_max_pool
            params, logits = build(conv, pool, config)
            program = training_program(logits, params, (x, y), config.steps)
            losses[gradient], seconds[gradient] = run_and_time(program)
            run_folder.append_json_line(
                folder / "metrics.jsonl",
                {
                    "library": library,
                    "gradient": gradient,
                    "seconds_per_step": seconds[gradient] / config.steps,
                    "losses": losses[gradient].tolist(),
                },
            )
        gaps.append(float(abs(losses["fnn's"] - losses["JAX's"]).max()))
        gains.append(seconds["JAX's"] / seconds["fnn's"])
        steps = [f"{seconds[g] / config.steps * 1e3:.1f}" for g in seconds]
        rows.append((library, *steps, f"{gains[-1]:.1f} ×", f"{gaps[-1]:.0e}"))
    heads = ("library", "JAX's, ms a step", "fnn's", "faster", "losses differ by")
    out.print(table(heads, rows))
    same = max(gaps) < 1e-4
    out.print(
        f"\nIn lax.scan on {jax.default_backend()}, the borrowed gradients are "
        f"{min(gains):.1f} to {max(gains):.1f} times as fast, and the losses "
        f"{'agree' if same else 'DIFFER'} (to {max(gaps):.0e})."
    )
    run_folder.write_json(
        folder / "result.json",
        {"gains": gains, "gaps": gaps, "same": same} | run_folder.environment(),
    )
    return 0 if same else 1


# ---- The network, in two libraries -----------------------------------------------


def jax_max_pool(x: jax.Array, window: tuple, strides: tuple) -> jax.Array:
    """Compute max-pooling as Flax and Equinox do."""
    return lax.reduce_window(
        x, -np.inf, lax.max, (1, *window, 1), (1, *strides, 1), "VALID"
    )


def flax_network(
    conv: Callable, pool: Callable, config: Config
) -> tuple[Any, Callable]:
    """Build a CNN in Flax NNX: its parameters, and logits(parameters, x)."""
    from flax import nnx

    rngs, (first, second) = nnx.Rngs(config.seed), config.channels
    # The one thing to change: nnx.Conv takes the function that convolves.
    options = dict(padding="VALID", conv_general_dilated=conv, rngs=rngs)
    network = nnx.List(
        [
            nnx.Conv(1, first, (5, 5), **options),
            nnx.Conv(first, second, (5, 5), **options),
            nnx.Linear(16 * second, 10, rngs=rngs),
        ]
    )
    structure, params = nnx.split(network)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        *convolutions, linear = nnx.merge(structure, params)
        for convolution in convolutions:
            x = pool(nnx.relu(convolution(x)), (2, 2), (2, 2))
        return linear(x.reshape(len(x), -1))

    return params, logits


def equinox_network(
    conv: Callable, pool: Callable, config: Config
) -> tuple[Any, Callable]:
    """Build a CNN in Equinox: its parameters, and logits(parameters, x)."""
    import equinox as eqx

    class Convolution(eqx.Module):
        """A 5×5 convolution of a whole batch, with the features last."""

        weight: jax.Array
        bias: jax.Array

        def __init__(self, inputs: int, outputs: int, key: jax.Array):
            init = jax.nn.initializers.he_normal()
            self.weight = init(key, (5, 5, inputs, outputs))
            self.bias = jnp.zeros(outputs)

        def __call__(self, x: jax.Array) -> jax.Array:
            y = conv(x, self.weight, (1, 1), "VALID", dimension_numbers=LAYOUT)
            return y + self.bias

    keys = jax.random.split(jax.random.key(config.seed), 3)
    first, second = config.channels
    network = (
        Convolution(1, first, keys[0]),
        Convolution(first, second, keys[1]),
        eqx.nn.Linear(16 * second, 10, key=keys[2]),
    )
    params, static = eqx.partition(network, eqx.is_array)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        *convolutions, linear = eqx.combine(params, static)
        for convolution in convolutions:
            x = pool(jax.nn.relu(convolution(x)), (2, 2), (2, 2))
        return jax.vmap(linear)(x.reshape(len(x), -1))

    return params, logits


# ---- Training --------------------------------------------------------------------


def training_program(
    logits: Callable, params: Any, batch: tuple, steps: int
) -> Callable:
    """Return a program with `steps` steps of Adam in one scan, which returns losses."""
    x, y = batch
    optimizer = optax.adam(1e-3)

    def cost(params: Any, x: jax.Array) -> jax.Array:
        z = logits(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    def step(carry: tuple, t: jax.Array) -> tuple:
        params, state = carry
        # With the same images in each step, XLA would move work out of the loop.
        loss, grads = jax.value_and_grad(cost)(params, jnp.roll(x, t, axis=2))
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    start = params, optimizer.init(params)
    run = jax.jit(lambda start: lax.scan(step, start, jnp.arange(steps))[1])
    return lambda: jax.block_until_ready(run(start))


def run_and_time(program: Callable) -> tuple[np.ndarray, float]:
    """Return the losses and the seconds of a second run, when all is compiled."""
    program()
    started = time.perf_counter()
    losses = program()
    return np.asarray(losses), time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
