"""The overhead of a first epoch: initialising, tracing and compiling, in a new process.

    overhead = the first call of training for one epoch − the same call once more

LeNet is trained on MNIST by `fnn.fit` and by a jitted step of Equinox, which both
initialise the network; a smaller last batch compiles more. Each measurement is a
process of its own, as `python scripts/bench/first_epoch.py NAME IMAGES`. Seconds of the
processor are less noisy than those of the clock, where other programs run.

The parts are what JAX reports: of each compiled function the seconds of tracing it,
lowering it and compiling it.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import jax
import numpy as np

from networks import LEARNING_RATE, NETWORKS
from timing import interleave, ratio

__all__ = ["ROWS", "measure"]

#: The rows are numbers of images, in batches of 64.
ROWS = {"LeNet, a smaller last batch": 1_040, "LeNet, whole batches": 1_024}
LENET, BATCH_SIZE = NETWORKS["LeNet, batch 64"], 64
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
#: Parts that take less than this are reported together, in seconds.
SMALL = 0.1


def measure(images: int, rounds: int = 3) -> dict:
    """Measure the overhead of each candidate, and its ratio to Equinox's."""
    reports: dict[str, list[dict]] = {name: [] for name in CANDIDATES}

    def run(name: str) -> float:
        command = [sys.executable, __file__, name, str(images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        reports[name].append(json.loads(done.stdout.splitlines()[-1]))
        return reports[name][-1]["processor"]

    runs = {name: lambda name=name: run(name) for name in CANDIDATES}
    times = interleave(runs, rounds)
    clock = {n: np.array([r["clock"] for r in reports[n]]) for n in CANDIDATES}
    return {
        name: {
            "processor": float(np.median(times[name])),
            "clock": float(np.median(clock[name])),
            "to Equinox": ratio(times[name], times["Equinox"])._asdict(),
            "clock to Equinox": ratio(clock[name], clock["Equinox"])._asdict(),
            "parts": reports[name][-1]["parts"],
        }
        for name in CANDIDATES
    }


# ---- In a process of its own -----------------------------------------------------


def fit(x: np.ndarray, y: np.ndarray, **options) -> Callable[[], object]:
    """Return a run of `fnn.fit` for one epoch."""
    import fnn

    settings = dict(train=(x, y), epochs=1, batch_size=BATCH_SIZE, **options)
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam
    return lambda: fnn.fit(
        *(LENET.net, loss, optimizer(LEARNING_RATE)),
        key=jax.random.key(0),
        **settings,
    )


def equinox(x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Return an epoch of jitted steps of Equinox, with its own initialisation."""
    import equinox as eqx
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(LEARNING_RATE)

    def network(key):
        keys, nn = jax.random.split(key, 4), eqx.nn
        relu, pool = nn.Lambda(jax.nn.relu), nn.MaxPool2d(2, 2)
        return nn.Sequential(
            [
                *(nn.Conv2d(1, 20, 5, key=keys[0]), relu, pool),
                *(nn.Conv2d(20, 40, 5, key=keys[1]), relu, pool),
                *(nn.Lambda(jnp.ravel), nn.Linear(640, 100, key=keys[2]), relu),
                nn.Linear(100, 10, key=keys[3]),
            ]
        )

    @eqx.filter_jit
    def step(model, state, x, y):
        def cost(model):
            logits = jax.vmap(model)(x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean()

        loss, grads = eqx.filter_value_and_grad(cost)(model)
        updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state, loss

    def run():
        images = jnp.asarray(x.transpose(0, 3, 1, 2))
        model = network(jax.random.key(0))
        state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        order = np.random.default_rng(0).permutation(len(x))
        for i in range(0, len(x), BATCH_SIZE):
            batch = order[i : i + BATCH_SIZE]
            model, state, loss = step(model, state, images[batch], y[batch])
        return jax.block_until_ready(loss)

    return run


CANDIDATES = {
    "fnn.fit": fit,
    "fnn.fit, plan=None": lambda x, y: fit(x, y, plan=None),
    "Equinox": equinox,
}


def main(name: str, images: int) -> None:
    """Measure one candidate in this process, and print it as JSON."""
    parts: defaultdict[str, float] = defaultdict(float)

    def record(event: str, seconds: float, **more) -> None:
        if event in EVENTS:
            parts[f"{EVENTS[event]} {more.get('fun_name', '')}".strip()] += seconds

    x, y = (part[:images] for part in LENET.data())
    run = CANDIDATES[name](x, y)
    jax.block_until_ready(jax.numpy.zeros(()))  # starts the device
    jax.monitoring.register_event_duration_secs_listener(record)
    first, later = _timed(run), _timed(run)
    large = {part: s for part, s in sorted(parts.items()) if s >= SMALL}
    large["all that is smaller"] = sum(parts.values()) - sum(large.values())
    clock, processor = np.subtract(first, later).tolist()
    print(json.dumps({"clock": clock, "processor": processor, "parts": large}))


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call: of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
