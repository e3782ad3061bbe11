"""64 trainings of 64-32-10 on digits: one `fnn.sweep`, or 64 calls of `fnn.fit`."""

from collections.abc import Callable

import jax
import numpy as np
import optax

import fnn
from timing import interleave, ratio, seconds

__all__ = ["ROWS", "measure"]

#: The number of members trained side by side; the rest of the 64 follow in chunks.
ROWS = {f"{at_once} at once": at_once for at_once in (1, 4, 16, 64)}
LEARNING_RATES, KEYS = np.geomspace(0.003, 0.3, 8).tolist(), 8
LOSS = fnn.losses.SoftmaxCrossEntropy()
NET = fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Tanh(), fnn.Dense(10))


def build(learning_rate: float) -> tuple:
    return NET, LOSS, fnn.optimizers.sgd(learning_rate, momentum=0.9)


def build_optax(learning_rate: float) -> tuple:
    """Build the same with optax; its rate is compiled in, so each `fit` compiles."""
    return NET, LOSS, optax.sgd(learning_rate, momentum=0.9)


def measure(at_once: int, rounds: int = 5) -> dict:
    """Measure ratios of time: compiled already, and each with its compilation.

    With optax's optimizer, 64 calls of `fit` compile 64 times, so they are only
    measured with their compilation.
    """
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

    def swept(build: Callable = build) -> fnn.Sweep:
        grid = {"learning_rate": LEARNING_RATES}
        return fnn.sweep(build, grid, keys=keys, at_once=at_once, **options)

    def fitted(build: Callable = build) -> list[list[fnn.FitResult]]:
        return [
            [fnn.fit(*build(rate), key=key, **options) for key in keys]
            for rate in LEARNING_RATES
        ]

    by_optax = {"sweep": lambda: swept(build_optax), "fit": lambda: fitted(build_optax)}
    optax_first = {name: _cold(run) for name, run in by_optax.items()}
    first = {name: _cold(run) for name, run in (("sweep", swept), ("fit", fitted))}
    runs = {"sweep": swept, "fit": fitted}
    for run in runs.values():
        run()  # compiles: measuring with compilation has emptied the caches
    times = interleave({n: lambda r=r: seconds(r) for n, r in runs.items()}, rounds)
    return {
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "seconds with compilation": first,
        "ratio": ratio(times["fit"], times["sweep"])._asdict(),
        "ratio with compilation": first["fit"] / first["sweep"],
        "seconds with compilation, optax": optax_first,
        "ratio with compilation, optax": optax_first["fit"] / optax_first["sweep"],
        "largest difference of losses": _difference(swept(), fitted()),
    }


def _cold(run: Callable) -> float:
    """Return the seconds of a run that must compile first."""
    jax.clear_caches()
    return seconds(run)


def _difference(swept: fnn.Sweep, fitted: list[list[fnn.FitResult]]) -> float:
    """Return the largest difference of validation losses, in epochs that both have."""
    worst = 0.0
    for i, row in enumerate(fitted):
        for j, fit in enumerate(row):
            losses = swept.history["validation_loss"][i, j][: fit.epochs]
            both = ~np.isnan(losses)
            expected = fit.history["validation_loss"][both]
            worst = max(worst, float(np.abs(losses[both] - expected).max()))
    return worst
