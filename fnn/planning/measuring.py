"""The table of costs of this machine, measured and kept for all later plans."""

import sys
import time
import warnings

import jax

from fnn.checks import check_in_shape, positive_integer
from fnn.core import Layer, expect_layer
from fnn.describe import shown
from fnn.planning.costs import Costs, load_costs, own_costs_file
from fnn.typing import InShape

__all__ = ["measure_costs"]


def measure_costs(
    net: Layer | None = None,
    in_shape: InShape | None = None,
    *,
    batch_size: int = 64,
    seconds: float = 60.0,
    progress: bool = True,
    save: bool = True,
) -> Costs:
    """Measure on this machine what `fnn.plan` compares: layers, and kernels for them.

    The table is kept in the user's cache folder (`$XDG_CACHE_HOME/fnn/costs`, or
    `~/.cache/fnn/costs`), from where `fnn.plan` and `fnn.fit` take it from then on. It
    holds for this processor and this version of jax. Do it while the machine has
    nothing else to do; a second call adds to what is there.

    Args:
        net: a network whose convolutions are measured first, in their own shapes.
        in_shape: the shape of ONE of its examples, no batch axis.
        batch_size: the batch size for the convolutions of `net`.
        seconds: the time after which no other shape is begun. All of them take about
            five minutes on two cores; a minute measures the most telling ones.
        progress: whether to show on stderr how far it is, if that is a terminal.
        save: whether to keep the table for the next plans.

    Returns:
        The table, for `fnn.plan(..., costs=...)`.

    Raises:
        TypeError: `net` is not a layer.
        ValueError: in_shape, batch_size or seconds is not one of the above; or JAX's
            default device is not a CPU, where nothing is planned.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Conv(8, 3), fnn.Relu(), fnn.MaxPool(2))
        >>> costs = fnn.measure_costs(net, (28, 28, 1))  # doctest: +SKIP
        >>> fnn.plan(net, (28, 28, 1), costs=costs)  # doctest: +SKIP
    """
    if jax.default_backend() != "cpu":
        raise ValueError(
            "measure_costs: plans change networks on the CPU only, and JAX's default "
            f"device is a {jax.default_backend()}: set JAX_PLATFORMS=cpu"
        )
    if not seconds > 0:
        raise ValueError(
            f"measure_costs: seconds must be above 0, got {shown(seconds)}"
        )
    batch_size = positive_integer("measure_costs: batch_size", batch_size)
    # Not at the top: stages and kernels would be a tenth of `import fnn`.
    from fnn.planning.rows import measure_rows, rows_of, standard_rows

    rows = list(standard_rows())
    if net is not None:
        expect_layer("net", net)
        rows = rows_of(net, check_in_shape(in_shape), batch_size) + rows
    display = _Display(progress)
    measured = measure_rows(rows, seconds, display.show)
    display.show(f"{len(measured.blocks)} convolutions measured", end="\n")
    own = own_costs_file()
    if own.is_file():
        measured = load_costs(own).merged(measured)
    if save:
        try:
            measured.save(own)
        except OSError as error:
            warnings.warn(
                f"measure_costs: the table is not kept: {error}", stacklevel=2
            )
    return measured


class _Display:
    """A line on stderr that is written again and again, if it is a terminal."""

    def __init__(self, wanted: bool) -> None:
        self.shown = wanted and sys.stderr.isatty()
        self.start = time.perf_counter()

    def show(self, what: str, end: str = "") -> None:
        if self.shown:
            passed = time.perf_counter() - self.start
            line = f"fnn.measure_costs: {what}, {passed:.0f} s"
            print(f"\r{line:<60}", end=end, file=sys.stderr, flush=True)
