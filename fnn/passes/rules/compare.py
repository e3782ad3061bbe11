"""Compare each rule's gradient with the true one, layer by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import check_key
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.describe import shown
from fnn.dtypes import widen
from fnn.gradients.engines import Engine, manual
from fnn.losses import Loss, expect_loss
from fnn.network import named_params
from fnn.passes.observe import as_batch
from fnn.planning.planned import plain
from fnn.tables import format_rows, rule
from fnn.typing import Array, Batch, PyTree

__all__ = ["RuleComparison", "compare_rules"]


class RuleComparison(NamedTuple):
    """The gradients of rules against the true ones; print it, or draw it with `plot`.

    Args:
        angle: the angle to the true gradient in degrees, a scalar for each rule and, in
            it, each layer, by path: `angle["feedback"]["0/Dense"]`. It is 0 for the
            true gradient, below 90 where a small step lowers the loss, and NaN where
            one of the two is zero.
        ratio: the norm, divided by that of the true gradient, likewise.
    """

    angle: dict[str, dict[str, Array]]
    ratio: dict[str, dict[str, Array]]

    def plot(self) -> Any:
        """Draw the angles and the ratios of all layers; needs matplotlib.

        Returns:
            A `matplotlib.figure.Figure`: `comparison.plot().savefig("angles.png")`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 6), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for name, angles in self.angle.items():
            paths, ratios = sorted(angles, key=_by_numbers), self.ratio[name]
            above.plot(paths, [float(angles[path]) for path in paths], "o-", label=name)
            below.plot(paths, [float(ratios[path]) for path in paths], "o-")
        above.axhline(90, color="grey", linestyle=":")
        above.set_ylabel("angle to the gradient [°]")
        below.set_ylabel("norm / gradient's norm")
        below.set_yscale("log")
        below.tick_params(axis="x", rotation=45)
        above.legend()
        return figure

    def __str__(self) -> str:
        names = list(self.angle)
        rows = [("angle, norm ratio", *names)]
        # `jax.jit` sorts the keys of dictionaries: 10 before 2.
        for path in sorted(next(iter(self.angle.values()), {}), key=_by_numbers):
            pairs = ((self.angle[name][path], self.ratio[name][path]) for name in names)
            cells = (f"{float(a):.1f}°, {float(r):.2g}" for a, r in pairs)
            rows.append((path, *cells))
        header, *body = format_rows(rows, "<" + ">" * len(names), paths=0)
        return "\n".join([header, rule(body), *body])


def _by_numbers(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts paths as their layers follow one another."""
    parts = path.split("/")
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def compare_rules(
    net: Layer,
    rules: Mapping[str, Layer | Engine],
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None = None,
    train: bool = True,
) -> RuleComparison:
    """Compare the gradients of several rules with the true gradient, layer by layer.

    With g the true gradient of a layer's parameters and r that of a rule,

        angle = arccos ⟨g, r⟩ / (‖g‖ ‖r‖),    ratio = ‖r‖ / ‖g‖

    All is one program, in which the forward is computed once: put the call under
    `jax.jit`, or inside a training step.

    Args:
        net: the network.
        rules: by name, networks that `fnn.rules` made from `net`, or functions with an
            engine's signature, such as `fnn.rules.forward_gradient`.
        loss: the loss.
        variables: the variables of `net`.
        batch: x (N, ...) and y (N, ...).
        key: the key of the step, for what draws random numbers.
        train: whether the network is in training mode.

    Returns:
        A `RuleComparison`: print it, draw it, or read `angle` and `ratio`.

    Raises:
        TypeError: a rule is neither a network nor an engine.
        ValueError: a rule has other variables than `net`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> batch = jnp.ones((5, 4)), jnp.zeros((5, 3))
        >>> rules = {"sign": fnn.rules.sign_symmetric(net, jax.random.key(1))}
        >>> loss = fnn.losses.SquaredError()
        >>> @jax.jit
        ... def compare(variables, batch):
        ...     return fnn.compare_rules(net, rules, loss, variables, batch)
        >>> found = compare(variables, batch)
        >>> found.angle["sign"]["2/Dense"].round(1), list(found.ratio["sign"])
        (Array(0., dtype=float32), ['0/Dense', '2/Dense'])

    Source: the angle as a measure of a rule: Lillicrap et al., Nature Communications
    7:13276 (2016), figure 1; the ratio of norms: Moskovitz, Litwin-Kumar and Abbott,
    arXiv:1812.06488.
    """
    expect_layer("net", net)
    expect_loss(loss)
    loss, batch = as_batch(loss, batch)
    variables = as_variables(variables)
    key = None if key is None else check_key(key)
    options = dict(key=key, train=train, l2=0.0, n=1)
    net = plain(net)
    engines = {name: _engine_and_net(name, one, net) for name, one in rules.items()}
    true = _by_layer(net, manual(net, loss, variables, batch, **options).grads)
    angle: dict[str, dict[str, Array]] = {}
    ratio: dict[str, dict[str, Array]] = {}
    for name, (engine, ruled) in engines.items():
        grads = engine(ruled, loss, variables, batch, **options).grads
        _expect_same_tree(name, grads, variables.params)
        found = _by_layer(net, grads)
        pairs = {path: _compare(g, found[path]) for path, g in true.items()}
        angle[name] = {path: pair[0] for path, pair in pairs.items()}
        ratio[name] = {path: pair[1] for path, pair in pairs.items()}
    return RuleComparison(angle, ratio)


def _engine_and_net(name: str, one: Any, net: Layer) -> tuple[Engine, Layer]:
    if isinstance(one, Layer):
        return manual, one
    if callable(one) and not isinstance(one, type):
        return one, net
    raise TypeError(
        f"compare_rules: {name!r} must be a network with another backward, or a "
        f"function with an engine's signature, got {shown(one)}"
    )


def _expect_same_tree(name: str, grads: PyTree, params: PyTree) -> None:
    if jax.tree.structure(grads) != jax.tree.structure(params):
        raise ValueError(
            f"compare_rules: {name!r} has other variables than the network, and cannot "
            "be compared at the same ones"
        )


def _by_layer(net: Layer, grads: PyTree) -> dict[str, list[Array]]:
    """Return the gradients of each layer's parameters, by the layer's path."""
    layers: dict[str, list[Array]] = {}
    for path, grad in named_params(net, grads).items():
        layers.setdefault(path.rpartition(".")[0], []).append(widen(grad))
    return layers


def _compare(true: list[Array], found: list[Array]) -> tuple[Array, Array]:
    """Return the angle in degrees, and the ratio of the norms."""

    def inner(a: list[Array], b: list[Array]) -> Array:
        return jnp.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()

    lengths = jnp.sqrt(inner(true, true)), jnp.sqrt(inner(found, found))
    # By the lengths of sum and difference: arccos would lose all small angles.
    units = (
        [g / length for g in gs]
        for gs, length in zip((true, found), lengths, strict=True)
    )
    pairs = list(zip(*units, strict=True))
    apart, together = (
        jnp.sqrt(jnp.stack([jnp.square(u + s * v).sum() for u, v in pairs]).sum())
        for s in (-1, 1)
    )
    degrees = 2 * jnp.arctan2(apart, together) * (180 / np.pi)
    return degrees, lengths[1] / lengths[0]
