"""One experiment under several seeds: the table, the mean and its deviation."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from experiments.shared.terminal import print_value, table

__all__ = ["mean_and_deviation", "plus_minus", "summarise_seeds"]


def mean_and_deviation(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (NaN for a single value)."""
    values = np.asarray(values).tolist()
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.mean(values), deviation


def plus_minus(values: Sequence[float] | np.ndarray, form: str = ".1%") -> str:
    """Return mean and sample standard deviation as text, such as `9.5% ± 1.0%`."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:{form}} ± {deviation:{form}}"


def summarise_seeds(out: Console, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the results of all seeds as a table, and summarise the test accuracy.

    Args:
        out: where to print.
        results: one for each seed, with the columns of the table.

    Returns:
        Mean and sample standard deviation of the test accuracy, and the results.
    """
    rows = [
        (
            *(r["seed"], _percent(r["test_accuracy"])),
            *(_percent(r["validation_accuracy"]), r["best_epoch"]),
            f"{r['seconds']:.1f}",
        )
        for r in results
    ]
    columns = ("seed", "test accuracy", "validation accuracy", "best epoch", "seconds")
    out.print()
    out.print(table(columns, rows))
    mean, deviation = mean_and_deviation([r["test_accuracy"] for r in results])
    shown = f"{_percent(mean)} ± {_percent(deviation)}"
    print_value(out, "\ntest accuracy", f" [bold green]{shown}[/]")
    print_value(out, "", f"mean ± sample standard deviation of {len(results)} seeds")
    return {"test_accuracy": mean, "test_accuracy_sd": deviation, "seeds": results}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
