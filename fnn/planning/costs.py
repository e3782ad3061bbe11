"""The measured costs of layers and kernels, and how they extend to other shapes.

The table holds milliseconds for a forward and a backward inside a compiled loop, as in
training. One that `measure_costs` has made on this machine comes first, then that which
comes with fnn for the processor's vector instructions:

    blocks      a convolution with the layers fused into it, by algorithm and shape
    elements    everything else, in nanoseconds for each element of x

A shape that was not measured costs as much as the nearest one that was, times the ratio
of their multiplications. Distances are logarithmic: 16 channels are as far from 32 as
32 from 64. Only costs of different algorithms on the same shape are compared, so that
an error of this estimate is an error in all of them, and mostly cancels.
"""

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fnn.folders import user_cache, write_whole
from fnn.planning.machine import describe_machine, instruction_set

__all__ = ["Costs", "Work", "built_in", "known_costs", "load_costs", "own_costs_file"]

#: The tables that come with fnn, by the vector instructions of their processors.
TABLES = {"AVX2": "avx2.json", "AVX-512": "avx512.json"}

#: Elements of older tables that have another name now.
RENAMED = {"turn": "transpose"}


class Work(NamedTuple):
    """The shape of a convolution with the layers fused into it.

    `taps` and stride along either axis (along two that differ, their geometric mean),
    the pooling's window (1 without), input and output channels, `places` of y (rows
    times columns), `examples` in the batch.
    """

    taps: float
    stride: float
    pool: int
    inputs: int
    outputs: int
    places: int
    examples: int

    @property
    def multiplications(self) -> int:
        """Return the number of multiplications in the definition's forward."""
        taps = round(self.taps**2)
        return taps * self.inputs * self.outputs * self.places * self.examples

    def distance(self, other: "Work") -> float:
        """Return the distance of two shapes, a weighted square of logarithms."""
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
    nanoseconds for an element, `machine` names where they were measured.
    """

    machine: str
    blocks: tuple[tuple[Work, dict[str, float]], ...]
    elements: dict[str, float]

    def block(self, algorithm: str, work: Work) -> float:
        """Return the milliseconds of a convolution block; inf where unknown."""
        known = [(w, ms[algorithm]) for w, ms in self.blocks if algorithm in ms]
        if not known:
            return math.inf
        nearest, ms = min(known, key=lambda row: work.distance(row[0]))
        return ms * work.multiplications / nearest.multiplications

    def element(self, name: str, count: int) -> float:
        """Return the milliseconds of a layer on this many numbers."""
        return self.elements[name] * count * 1e-6

    def merged(self, later: "Costs") -> "Costs":
        """Return this table with what was measured later on the same machine."""
        blocks = dict(self.blocks) | dict(later.blocks)
        elements = self.elements | later.elements
        return Costs(later.machine, tuple(blocks.items()), elements)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, a line for each shape, for `load_costs`."""
        head = {"machine": self.machine, "elements": self.elements}
        rows = ({"work": work._asdict(), "ms": ms} for work, ms in self.blocks)
        lines = ",\n  ".join(map(json.dumps, rows))
        text = f'{json.dumps(head, indent=1)[:-2]},\n "blocks": [\n  {lines}\n ]\n}}\n'
        write_whole(Path(path), text)


def load_costs(path: str | Path) -> Costs:
    """Read a table of measured costs.

    Args:
        path: the JSON file that `scripts/bench/costs` or `Costs.save` has written.

    Returns:
        The table, for `fnn.plan(..., costs=...)`.

    Raises:
        ValueError: the file is not such a table.

    Example:
        >>> from pathlib import Path
        >>> import fnn
        >>> tables = Path(fnn.__file__).with_name("planning") / "tables"
        >>> fnn.load_costs(tables / "avx512.json").machine
        'AMD EPYC, AVX-512, 2 cores, jax 0.12.0.1'
    """
    try:
        table = json.loads(Path(path).read_text("utf-8"))
        blocks = tuple((Work(**row["work"]), row["ms"]) for row in table["blocks"])
        elements = {RENAMED.get(k, k): ns for k, ns in dict(table["elements"]).items()}
        return Costs(table["machine"], blocks, elements)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a table of costs, as scripts/bench/costs writes "
            f"it: {type(error).__name__} {error}"
        ) from error


@cache
def built_in(instructions: str = "AVX2") -> Costs:
    """Read the table that comes with fnn for these vector instructions."""
    return load_costs(Path(__file__).with_name("tables") / TABLES[instructions])


def own_costs_file() -> Path:
    """Return the file that `measure_costs` writes on this machine."""
    name = re.sub(r"[^a-z0-9.]+", "-", describe_machine().lower())
    return user_cache() / "costs" / f"{name}.json"


class Known(NamedTuple):
    """The costs to plan by, and whether they hold for this kind of processor."""

    costs: Costs
    hold: bool


def known_costs() -> Known:
    """Return the best table for this machine.

    It is the machine's own, or that of its vector instructions; without either it is a
    guess, that of AVX2.
    """
    own = own_costs_file()
    if own.is_file():
        return Known(load_costs(own), hold=True)
    instructions = instruction_set()
    if instructions in TABLES:
        return Known(built_in(instructions), hold=True)
    return Known(built_in(), hold=False)
