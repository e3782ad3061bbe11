"""Checks of private training, which `fit` makes before the first epoch."""

from typing import Any

from jax.sharding import Mesh

from fnn.gradients.engines import Engine, manual
from fnn.passes.per_example.private import Private, check_private
from fnn.training.run.streams import Batches

__all__ = ["check_private_run"]


def check_private_run(
    private: Any,
    train: Any,
    engine: Engine,
    mesh: Mesh | None,
    on_nonfinite: str | None,
) -> Private | None:
    """Return the settings of private training; raise where it cannot be."""
    if (private := check_private(private)) is None:
        return None
    problems = {
        "draws its batches from arrays: pass train=(x, y)": isinstance(train, Batches),
        "computes clipped gradients by itself: leave out engine": (
            getattr(engine, "engine", engine) is not manual
        ),
        "runs on one device: leave out mesh": mesh is not None,
        "cannot leave out steps by what the data give: leave out on_nonfinite": (
            on_nonfinite is not None
        ),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ValueError(f"private training {problem}")
    return private
