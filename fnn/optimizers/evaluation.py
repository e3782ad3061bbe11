"""The parameters to validate and to keep, which are not always those trained.

Some optimizers take gradients at a point that is not the one to evaluate: Nesterov's
look-ahead (see `fnn.optimizers.lookahead`), averages of the weights (see
`fnn.optimizers.averages`), and optax's schedule-free ones, whose gradients are taken
between the last point z and the average x of all points.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.optimizers.averages import AverageState, average_like
from fnn.optimizers.lookahead import looks_ahead, undo_lookahead
from fnn.optimizers.state import OptimizerState
from fnn.typing import PyTree

__all__ = ["eval_params"]


def eval_params(state: Any, params: PyTree) -> PyTree:
    """Return the parameters to validate and to keep, for any optimizer, also optax's.

        θ = θ̂ − βv                   Nesterov's look-ahead, which stores θ̂
        θ̄ = θ̄ + w (θ − θ̄)           an average of weights, `ema` or `swa`
        θ = (y − (1 − β₁) z) / β₁    optax.contrib.schedule_free, which stores y
        θ = params                   all others

    Args:
        state: the state of an optimizer, or of an `optax.chain` that ends with one.
            An average, or what is schedule-free, may stand anywhere in a chain or a
            wrapper.
        params: the parameters that training stores.

    Returns:
        A tree like `params`, with the same shapes and dtypes.

    Raises:
        ValueError: a look-ahead optimizer is not the last of its chain. Then θ̂ − βv is
            not θ: a decay or a projection may have moved θ̂ after it. Or two such
            optimizers change the same parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.nesterov(0.25, momentum=0.5)
        >>> theta_hat = jnp.ones(2)
        >>> updates, state = opt.update(jnp.ones(2), opt.init(theta_hat))
        >>> theta_hat + updates                     # θ + βv, where v = −0.25
        Array([0.625, 0.625], dtype=float32)
        >>> optimizers.eval_params(state, theta_hat + updates)
        Array([0.75, 0.75], dtype=float32)

    Source:
        Lecture 5.5; Sutskever et al. 2013, eq. (3)-(4), in the variable θ̂ = θ + βv.
        Defazio et al. 2024, "The Road Less Scheduled", eq. (2)-(4).
    """
    found = _elsewhere(state)
    means = [part for part in found if isinstance(part, AverageState)]
    if means:
        if len(found) > len(means):
            raise ValueError(
                "an average of weights must be around the optimizer that is evaluated "
                "elsewhere (Nesterov's look-ahead, schedule-free), and not beside it: "
                "fnn.optimizers.ema(optimizer)"
            )
        return _mean_of(means, params)
    averaged = [part for part in found if _is_schedule_free(part)]
    if not averaged:
        return _undo_lookahead(state, found, params) if found else params
    inside = [_elsewhere(part.base_optimizer_state) for part in averaged]
    if len(found) > len(averaged) or any(inside):
        raise ValueError(
            "a schedule-free optimizer cannot be combined with Nesterov's look-ahead, "
            "nor stand inside another: each has parameters of its own to evaluate. "
            "Use nesterov=True, which needs none, or one of the two alone"
        )
    done: set[str] = set()
    for part in averaged:
        params = _averages(part, params, done)
    return params


def _elsewhere(state: Any) -> list[Any]:
    """Return the parts of optimizers that are evaluated elsewhere than they train."""

    def is_one(part: Any) -> bool:
        return (
            looks_ahead(part)
            or _is_schedule_free(part)
            or isinstance(part, AverageState)
        )

    return [part for part in jax.tree.leaves(state, is_leaf=is_one) if is_one(part)]


def _is_schedule_free(part: Any) -> bool:
    return isinstance(part, optax.contrib.ScheduleFreeState)


def _undo_lookahead(state: Any, found: list[Any], params: PyTree) -> PyTree:
    """Return θ = θ̂ − βv, where nothing can have moved θ̂."""
    last = state
    while type(last) is tuple and last:  # the state of an optax.chain
        last = last[-1]
    if isinstance(last, OptimizerState):
        last = last.inner_state
    if len(found) > 1 or last is not found[0]:
        raise ValueError(
            "Nesterov's look-ahead must be the last of a chain, and not wrapped: what "
            "comes after it (a decay, a projection) moves θ̂ = θ + βv, and θ is lost. "
            "Put it last, or use nesterov=True, which needs no θ; got "
            f"{len(found)} {type(found[0]).__name__} inside a {type(state).__name__}"
        )
    return jax.tree.map(
        lambda theta_hat, v: undo_lookahead(theta_hat, v, last.lookahead),
        *(params, last.trace),
    )


def _mean_of(means: list[AverageState], params: PyTree) -> PyTree:
    """Return the averages; each is of the parameters that its optimizer trains."""
    for part in means:
        params = average_like(part, eval_params(part.inner, params))
    return params


def _averages(part: Any, params: PyTree, done: set[str]) -> PyTree:
    """Return x for every parameter that this part trains, and add their paths to done.

    The equation is `optax.contrib.schedule_free_eval_params`, which knows no masks.
    """

    def is_masked(z: Any) -> bool:
        return isinstance(z, optax.MaskedNode)

    leaves, treedef = tree_flatten_with_path(part.z, is_leaf=is_masked)
    averages = []
    for (path, z), y in zip(leaves, treedef.flatten_up_to(params), strict=True):
        if is_masked(z):
            averages.append(y)
            continue
        if keystr(path) in done:
            raise ValueError(
                "two schedule-free optimizers train the same parameters, "
                f"params{keystr(path)}: each has an average of its own"
            )
        done.add(keystr(path))
        dtype = jnp.promote_types(jnp.result_type(y), jnp.float32)
        wide_y, wide_z, b1 = (jnp.asarray(a, dtype) for a in (y, z, part.b1))
        x = (wide_y - (1 - b1) * wide_z) / b1
        averages.append(x.astype(jnp.result_type(y)))
    return treedef.unflatten(averages)
