"""A search for the layer that is wrong: each one alone, from the loss backwards."""

import functools
from collections.abc import Iterator
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Variables
from fnn.gradients.audit.layerwise import (
    compare_layer,
    compare_loss,
    layer_rounding,
    loss_rounding,
    part_path,
)
from fnn.gradients.audit.norms import largest
from fnn.gradients.audit.programs import NetworkRun
from fnn.gradients.audit.report import NodeCheck
from fnn.gradients.audit.subject import Subject
from fnn.gradients.audit.verdict import Errors, is_delta, judge_layer
from fnn.gradients.precision import cast_on_host
from fnn.network import Node, walk
from fnn.planning.planned import plain

__all__ = ["check_layers"]


def check_layers(
    subject: Subject, run64: NetworkRun, errors: dict[str, Errors], *, always: bool
) -> list[NodeCheck]:
    """Compare layers alone, where the network's gradients do not speak for them.

    Gradients that agree, with every δ among them, show that every backward is right.
    Layers are compared alone where gradients disagree, where a δ is all zero and would
    hide a mistake, and where they are planned: their y must be that of the plain layer.

    Args:
        subject: what is audited.
        run64: its gradients in float64.
        errors: the errors of each gradient.
        always: whether to compare all layers, since the engine may not use them.
    """
    inputs = subject.wiring.rows_of_inputs(subject.net.kind)
    failed = any(e.reason for e in errors.values())
    unseen = any(
        not np.asarray(run64.autodiff[path]).any()
        for path in subject.rows()
        if is_delta(path) and path not in inputs
    )
    every = always or failed or unseen
    nodes = list(walk(subject.net, subject.variables32))[::-1]
    loss_checks: list[NodeCheck] = list(_check_loss(subject, run64)) if every else []
    checks: dict[int, list[NodeCheck]] = {}
    for i, node in enumerate(nodes):
        planned = plain(node.layer) is not node.layer
        if not node.layer.children and (every or planned):
            checks[i] = list(_check_layer(subject, run64, node))
    # A layer of layers contains all others: it is compared only where no simple layer
    # explains a failure, or where no gradient arrives that could show one.
    found = [*loss_checks, *chain(*checks.values())]
    if (failed or unseen) and all(check.passed for check in found):
        for i, node in enumerate(nodes):
            if node.layer.children:
                checks[i] = list(_check_layer(subject, run64, node))
    return [*loss_checks, *chain(*(checks[i] for i in sorted(checks)))]


def _check_layer(
    subject: Subject, run64: NetworkRun, node: Node
) -> Iterator[NodeCheck]:
    assert run64.own_values is not None
    seen = run64.own_values.seen(subject.wiring, node.path)
    dy = subject.delta(run64, node.path)
    params, state = node.variables
    train, precision = subject.train, subject.precision
    # The same numbers in either precision, so that only the arithmetic differs.
    with jax.enable_x64(False):
        lower = cast_on_host((params, seen, dy), subject.half or jnp.float32)
        params, seen, dy = lower
        node = node._replace(variables=Variables(params, state))
        run32 = compare_layer(node, seen, dy, train)
    with jax.enable_x64(True):
        variables, seen, dy = cast_on_host((node.variables, seen, dy), jnp.float64)
        node = node._replace(variables=variables)
        yield from judge_layer(
            functools.partial(part_path, node),
            run32,
            compare_layer(node, seen, dy, train),
            dy,
            _scale_of_params(run64),
            precision,
            functools.cache(lambda: layer_rounding(node, seen, dy, train, precision)),
        )


def _check_loss(subject: Subject, run64: NetworkRun) -> Iterator[NodeCheck]:
    z64, y64 = run64.outputs, subject.batch64[1]
    with jax.enable_x64(False):
        z32 = cast_on_host(z64, jnp.float32)
        run32 = compare_loss(subject.loss, z32, subject.batch32[1])
    with jax.enable_x64(True):
        z64 = cast_on_host(z32, jnp.float64)
        yield from judge_layer(
            lambda name: f"loss.{name}",
            run32,
            compare_loss(subject.loss, z64, y64),
            0.0,
            0.0,
            subject.precision,
            lambda: loss_rounding(subject.loss, z64, y64, subject.precision),
        )


def _scale_of_params(run64: NetworkRun) -> float:
    """Return the largest gradient of the parameters."""
    grads = (g for path, g in run64.autodiff.items() if not is_delta(path))
    return max(map(largest, grads), default=0.0)
