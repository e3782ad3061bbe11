"""What layers and kernels cost: measured, and carried over to other shapes.

The table holds milliseconds for a forward and a backward inside a compiled loop, as in
training. `scripts/bench/costs` measures it on your own machine:

    blocks      a convolution with what follows it, by algorithm and shape
    elements    nanoseconds for each element of x, of everything else

A shape that was not measured costs what the nearest one does, times the ratio of their
multiplications. Near is meant in logarithms: 16 channels are as far from 32 as 32 from
64. What is compared is always the same shape by different algorithms, so that an error
of this rule is an error in all of them, and mostly cancels.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Costs", "Work", "built_in", "load_costs"]


class Work(NamedTuple):
    """The shape of a convolution with what follows it.

    `taps` along both axes, the stride, the pooling's window (1 without), input and
    output channels, `places` of y (rows times columns), `examples` in the batch.
    """

    taps: int
    stride: int
    pool: int
    inputs: int
    outputs: int
    places: int
    examples: int

    @property
    def multiplications(self) -> int:
        """Of the definition, in the forward."""
        return self.taps**2 * self.inputs * self.outputs * self.places * self.examples

    def distance(self, other: "Work") -> float:
        """How far two shapes are apart."""
        kinds = 2.0 * (self.pool > 1) - 2.0 * (other.pool > 1)
        logs = [
            math.log2(a / b)
            for a, b in (
                (self.taps, other.taps),
                (self.stride, other.stride),
                (self.inputs, other.inputs),
                (self.outputs, other.outputs),
                (self.places * self.examples, other.places * other.examples),
            )
        ]
        weights = (3.0, 3.0, 1.0, 1.0, 0.3)
        pairs = zip(weights, logs, strict=True)
        return kinds**2 + sum((w * log) ** 2 for w, log in pairs)


class Costs(NamedTuple):
    """A table of measurements.

    `blocks` are pairs of a `Work` and the milliseconds by algorithm, `elements` the
    nanoseconds for an element, `machine` says where they were taken.
    """

    machine: str
    blocks: tuple[tuple[Work, dict[str, float]], ...]
    elements: dict[str, float]

    def block(self, algorithm: str, work: Work) -> float:
        """Milliseconds of a convolution with what follows it; inf where unknown."""
        known = [(w, ms[algorithm]) for w, ms in self.blocks if algorithm in ms]
        if not known:
            return math.inf
        nearest, ms = min(known, key=lambda row: work.distance(row[0]))
        return ms * work.multiplications / nearest.multiplications

    def element(self, name: str, count: int) -> float:
        """Milliseconds of a layer on so many numbers."""
        return self.elements[name] * count * 1e-6


def load_costs(path: str | Path) -> Costs:
    """A table that `scripts/bench/costs` has written.

    Raises:
        ValueError: the file is not such a table.
    """
    try:
        read = json.loads(Path(path).read_text())
        blocks = tuple((Work(**row["work"]), row["ms"]) for row in read["blocks"])
        return Costs(read["machine"], blocks, read["elements"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a table of costs, as scripts/bench/costs writes "
            f"it: {type(error).__name__} {error}"
        ) from error


@cache
def built_in() -> Costs:
    """The table that comes with fnn."""
    return load_costs(Path(__file__).with_name("costs.json"))
