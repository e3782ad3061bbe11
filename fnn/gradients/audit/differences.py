"""Central differences of all gradients of a network, row by row."""

from typing import Any

import jax
import numpy as np

from fnn.core import Layer
from fnn.gradients.audit.pieces import Piece, pieces_of
from fnn.gradients.audit.programs import NetworkRun, plain_layer_by_layer
from fnn.gradients.audit.progress import Progress
from fnn.gradients.audit.slopes import Leaf, NumericalCheck, check_entries, check_leaf
from fnn.gradients.audit.subject import Subject
from fnn.gradients.audit.verdict import Errors
from fnn.gradients.audit.wiring import Wiring, trace_forward

__all__ = ["check_network"]


def check_network(
    subject: Subject,
    run64: NetworkRun,
    errors: dict[str, Errors],
    *,
    exhaustive: bool,
    budget: int,
    has_gradient: tuple[bool, ...],
    progress: Progress,
) -> dict[str, NumericalCheck]:
    """Compare all gradients with central differences of the plain network, in float64.

    Args:
        subject: what is audited.
        run64: its gradients in float64.
        errors: the errors of each gradient, by path.
        exhaustive: whether to difference every entry alone.
        budget: at how many places kinks may meet until it is given up.
        has_gradient: whether each array of x is of real numbers, and not integers.
        progress: is told how much is done.

    Returns:
        A check of each gradient that can be differenced, by path.
    """
    net, wiring = plain_layer_by_layer(subject.net), subject.wiring
    if net is not subject.net:
        x, key = subject.batch64[0], subject.key
        wiring, _ = trace_forward(net, subject.variables64, x, key, train=subject.train)
    users = _users(subject, net, run64, wiring)
    frozen = subject.frozen

    rows = wiring.rows_of_deltas() | wiring.rows_of_inputs(net.kind)
    discrete = {i for i, real in enumerate(has_gradient) if not real}
    checks: dict[str, NumericalCheck] = {}
    check = check_entries if exhaustive else check_leaf
    for i, path in enumerate(subject.paths):
        progress.show(f"differencing {path.lstrip('.')}", i, len(subject.paths))
        target = rows.get(path, path)
        if target not in users or target in discrete or path in frozen:
            continue
        piece, position = users[target][0]
        leaf = np.asarray(jax.tree.leaves(piece.point)[position])
        engine, autodiff = (np.asarray(g[path]) for g in (run64.engine, run64.autodiff))
        checks[path] = check(
            Leaf(leaf, tuple(users[target])),
            engine,
            autodiff,
            errors[path].scale,
            budget,
        )
    return checks


def _users(
    subject: Subject, net: Layer, run64: NetworkRun, wiring: Wiring
) -> dict[Any, list[tuple[Piece, int]]]:
    """Return the pieces that use each parameter, by path, and each value, by number."""
    deltas = {
        number: run64.autodiff[row]
        for row, number in wiring.rows_of_deltas().items()
        if row in run64.autodiff
    }
    values = run64.plain_values or run64.own_values
    assert values is not None
    pieces = pieces_of(
        *(net, subject.loss, subject.variables64, subject.batch64[1]),
        *(wiring, values, deltas),
        train=subject.train,
        l2=subject.l2,
        n=subject.n,
    )
    users: dict[Any, list[tuple[Piece, int]]] = {}
    for piece in pieces:
        for position, target in enumerate(piece.targets):
            if target is not None:
                users.setdefault(target, []).append((piece, position))
    return users
