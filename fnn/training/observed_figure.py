"""A figure of what a run observed."""

from typing import Any

import numpy as np

__all__ = ["plot_observed"]

#: The lines of one panel; more are summed up by their median.
MOST_LINES = 12


def plot_observed(result: Any) -> Any:
    """Draw what `fit(..., observe=...)` recorded, over the epochs; needs matplotlib.

    There is a panel for each function. A scalar is a line; of numbers by example the
    median is a line, and the share from 10% to 90% a band.

    Args:
        result: a `FitResult` with `observed`.

    Returns:
        A `matplotlib.figure.Figure`: `fnn.plot_observed(result).savefig("run.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the run observed nothing.

    Example:
        >>> import pytest; _ = pytest.importorskip("matplotlib")
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> result = fnn.fit(
        ...     net, loss, fnn.optimizers.sgd(0.1), epochs=2, batch_size=4,
        ...     train=(jnp.ones((4, 2)), jnp.zeros(4)), key=jax.random.key(0),
        ...     observe={"noise": fnn.per_example.signal_noise(net, loss)},
        ... )
        >>> sorted(result.observed["noise"])
        ['noise', 'signal']
        >>> len(fnn.plot_observed(result).axes)
        1
    """
    from matplotlib.figure import Figure

    if not (observed := getattr(result, "observed", None)):
        raise ValueError(
            "the run observed nothing: pass fit(..., observe={name: function})"
        )
    figure = Figure(figsize=(7, 2.6 * len(observed)), layout="constrained")
    panels = figure.subplots(len(observed), sharex=True, squeeze=False)[:, 0]
    for panel, (name, parts) in zip(panels, observed.items(), strict=True):
        shown = list(parts.items())[:MOST_LINES]
        for part, values in shown:
            _draw(panel, part or name, values)
        left_out = len(parts) - len(shown)
        panel.set_title(f"{name} (and {left_out} more)" if left_out else name)
        panel.legend(fontsize="small")
    panels[-1].set_xlabel("epoch")
    return figure


def _draw(panel: Any, label: str, values: np.ndarray) -> None:
    epochs = np.arange(1, len(values) + 1)
    if values.ndim == 1:
        panel.plot(epochs, values, label=label)
        return
    rows = values.reshape(len(values), -1)
    low, middle, high = np.nanquantile(rows, [0.1, 0.5, 0.9], axis=1)
    (line,) = panel.plot(epochs, middle, label=label)
    panel.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2)
