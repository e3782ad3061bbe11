"""Sixty-four trainings of 64-32-10 on digits: `fnn.sweep`, and calls of `fnn.fit`."""

import time
from collections.abc import Callable

import jax
import numpy as np

import fnn
from timing import interleave, ratio

__all__ = ["ROWS", "measure"]

#: Members side by side; the rest of the 64 follow in chunks.
ROWS = {f"{at_once} at once": at_once for at_once in (1, 4, 16, 64)}
RATES, KEYS = np.geomspace(0.003, 0.3, 8).tolist(), 8
LOSS = fnn.losses.SoftmaxCrossEntropy()
NET = fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Tanh(), fnn.Dense(10))


def build(learning_rate: float) -> tuple:
    return NET, LOSS, fnn.optimizers.sgd(learning_rate, momentum=0.9)


def measure(at_once: int, rounds: int = 5) -> dict:
    """Ratios of time: compiled already, and each with its compilation."""
    x, y = fnn.data.digits().train
    split = fnn.data.split(x, y, 0.2)
    keys = jax.random.split(jax.random.key(0), KEYS)
    options = dict(
        train=split.train,
        validation=split.validation,
        epochs=20,
        batch_size=32,
        early_stopping=fnn.EarlyStopping(patience=5),
    )

    def swept() -> fnn.Sweep:
        grid = {"learning_rate": RATES}
        return fnn.sweep(build, grid, keys=keys, at_once=at_once, **options)

    def fitted() -> list[list[fnn.FitResult]]:
        return [
            [fnn.fit(*build(rate), key=key, **options) for key in keys]
            for rate in RATES
        ]

    first = {name: _cold(run) for name, run in (("sweep", swept), ("fit", fitted))}
    runs = {"sweep": swept, "fit": fitted}
    for run in runs.values():
        run()  # what was measured last has emptied the caches
    times = interleave({n: lambda r=r: _seconds(r) for n, r in runs.items()}, rounds)
    return {
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "seconds with compilation": first,
        "ratio": ratio(times["fit"], times["sweep"])._asdict(),
        "ratio with compilation": first["fit"] / first["sweep"],
        "largest difference of losses": _difference(swept(), fitted()),
    }


def _cold(run: Callable) -> float:
    jax.clear_caches()
    return _seconds(run)


def _seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _difference(swept: fnn.Sweep, fitted: list[list[fnn.FitResult]]) -> float:
    """Of validation losses, over the epochs that both trained."""
    worst = 0.0
    for i, row in enumerate(fitted):
        for j, fit in enumerate(row):
            mine = swept.history["validation_loss"][i, j][: fit.epochs]
            both = ~np.isnan(mine)
            theirs = fit.history["validation_loss"][both]
            worst = max(worst, float(np.abs(mine[both] - theirs).max()))
    return worst
