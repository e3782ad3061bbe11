"""The forward-forward algorithm: two forwards, and a loss in every block.

A label is written into the first K entries of x. A block learns to be active where the
label is right, and quiet where it is wrong: with the goodness g = mean of h² over the
features of its output h,

    L = (1/N) Σ_n [ softplus(θ − g(h⁺_n)) + softplus(g(h⁻_n) − θ) ]
    ∂L/∂h⁺ = −σ(θ − g) (2/F) h⁺ / N,    ∂L/∂h⁻ = σ(g − θ) (2/F) h⁻ / N

h⁺ with the label of the example, h⁻ with another one, drawn at random. Each block gets
the output of the one before divided by its root mean square: else its goodness could
simply be handed on. Nothing is passed back from one block to another.

To classify, every label is tried: z_k is the goodness with label k, added up over all
blocks but the first (over the only one, where there is one).

Legend: N examples, K classes, F features of a block's output.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks import positive_integer, require_key
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer, leaf
from fnn.describe import shown
from fnn.dtypes import widen
from fnn.gradients.engines import Gradients
from fnn.gradients.penalty import has_penalty, penalty, penalty_grads
from fnn.losses import Loss
from fnn.passes.rules.blocks import Block, blocks_of, settled_serial
from fnn.passes.rules.keys import for_rule
from fnn.typing import Array, Batch, InShape, KeyArray, Number, PyTree

__all__ = ["ForwardForward", "forward_forward", "forward_forward_learning"]

EPS = 1e-8


def forward_forward(
    net: Layer, classes: int, threshold: Number = 2.0
) -> "ForwardForward":
    """Make the network that learns by the forward-forward algorithm.

    Its outputs z (N, K) are the goodness of each label, so that `fit` and `evaluate`
    know its accuracy; it is trained by the engine `forward_forward_learning`.

    Args:
        net: a `serial` of hidden blocks alone, without a layer of K outputs.
        classes: K, at most the number of entries of an example.
        threshold: θ, in units of the mean of h².

    Returns:
        A network with the variables of `net`.

    Raises:
        TypeError: `net` is no `serial`.
        ValueError: K is no positive integer; or, from the forward, an example has fewer
            entries.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Relu(), fnn.Dense(8), fnn.Relu())
        >>> rule = fnn.rules.forward_forward(net, classes=3)
        >>> variables = rule.init(jax.random.key(0), (5,))
        >>> jax.jit(rule.forward)(*variables, jnp.ones((4, 5))).y.shape
        (4, 3)

    Source: Hinton, arXiv:2212.13345, sections 2.1 and 3.3, eq. 1.
    """
    settled = settled_serial(net)
    return ForwardForward(
        settled, positive_integer("forward_forward: classes", classes), threshold
    )


@layer
class ForwardForward(Layer):
    """A network whose outputs are the goodness of each label.

    Args:
        net: the network.
        classes: K.
        threshold: θ.
    """

    net: Layer = leaf()
    classes: int
    threshold: Number = leaf(2.0)

    @property
    def kind(self) -> str:
        return self.net.kind

    @property
    def blocks(self) -> list[Block]:
        """Return the blocks of the network."""
        net: Any = self.net
        return blocks_of(net)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        self._check(in_shape)
        return self.net.init(key, in_shape)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        self._check(x.shape[1:])
        z = self._goodness_of_labels(params, state, x, key)
        return Forward(z, saved=(x, state, key), state=state)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> Backward:
        # The derivative of z, which the algorithm itself does not use.
        x, state, key = saved
        _, pull_back = jax.vjp(
            lambda params, x: self._goodness_of_labels(params, state, x, key), params, x
        )
        dparams, dx = pull_back(dy)
        return Backward(dx, dparams)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return None

    def with_label(self, x: Array, y: Array) -> Array:
        """Write labels (N,) into the first K entries of each example."""
        flat = x.reshape(len(x), math.prod(x.shape[1:]))
        marks = jax.nn.one_hot(y, self.classes, dtype=x.dtype)
        return jnp.concatenate([marks, flat[:, self.classes :]], 1).reshape(x.shape)

    def _goodness_of_labels(
        self, params: PyTree, state: PyTree, x: Array, key: KeyArray | None
    ) -> Array:
        """Return z (N, K): every example with every label, in evaluation."""
        n, k, blocks = len(x), self.classes, self.blocks
        labels = jnp.tile(jnp.arange(k), n)
        h = self.with_label(jnp.repeat(x, k, axis=0), labels)
        total: list[Array] = []
        for block in blocks:
            h, _, _ = block.forward(Variables(params, state), h, key, train=False)
            total.append(goodness(h))
            h = _normalized(h)
        used = total[1:] or total
        return sum(used[1:], start=used[0]).reshape(n, k)

    def _check(self, in_shape: InShape) -> None:
        if math.prod(in_shape) < self.classes:
            raise ValueError(
                f"forward_forward writes the label into the first {self.classes} "
                f"entries of an example; examples of shape {tuple(in_shape)} have "
                "fewer"
            )


def goodness(h: Array) -> Array:
    """Return the mean of h² over the features of each example, (N,)."""
    return jnp.square(widen(h)).reshape(len(h), math.prod(h.shape[1:])).mean(1)


def _normalized(h: Array) -> Array:
    """Divide each example by its root mean square: its direction is what is left."""
    rms = jnp.sqrt(goodness(h) + EPS).reshape(-1, *[1] * (h.ndim - 1))
    return (widen(h) / rms).astype(h.dtype)


def forward_forward_learning(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: KeyArray | None,
    train: bool,
    l2: Number,
    n: int | Array,
) -> Gradients:
    """Compute the gradients of all blocks' losses: the engine of `forward_forward`.

    The equations are those of the module `fnn.passes.rules.forward_forward`.

    Args:
        net: a network of `forward_forward`.
        loss: not used; labels must be classes (N,).
        variables: the network's variables.
        batch: x and y.
        key: the key of the step, from which wrong labels are drawn.
        train: whether the network is in training mode.
        l2: λ of the penalty.
        n: n of the penalty.

    Returns:
        `Gradients`, as every engine; its `loss` is the sum of the blocks' losses.

    Raises:
        TypeError: the network was not made by `forward_forward`, or labels are rows.
        ValueError: there is no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Relu())
        >>> rule = fnn.rules.forward_forward(net, classes=3)
        >>> variables = rule.init(jax.random.key(0), (5,))
        >>> grad = fnn.value_and_grad(
        ...     rule,
        ...     fnn.losses.SoftmaxCrossEntropy(),
        ...     engine=fnn.rules.forward_forward_learning,
        ... )
        >>> batch = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> out = jax.jit(grad)(variables, batch, key=jax.random.key(1))
        >>> out.grads[0].weight.shape
        (5, 8)

    Source: Hinton, arXiv:2212.13345, section 2.
    """
    if not isinstance(net, ForwardForward):
        raise TypeError(
            "forward_forward_learning is the engine of networks that "
            f"fnn.rules.forward_forward makes, got {shown(net)}"
        )
    x, y = batch
    if y.ndim != 1:
        raise TypeError(
            f"forward_forward needs labels (N,), the classes, got shape {y.shape}"
        )
    step_key = for_rule(require_key(net, key))
    shift = jax.random.randint(step_key, y.shape, 1, max(net.classes, 2), jnp.int32)
    right = y.astype(jnp.int32)
    wrong = (right + shift) % net.classes
    # Both halves in one batch: one forward, and BatchNorm sees both.
    h = jnp.concatenate([net.with_label(x, right), net.with_label(x, wrong)])
    value, dparams, states = _learn(net, variables, h, key, train)
    params = variables.params
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), dparams, params)
    if has_penalty(l2):
        value = value + penalty(net, params, l2, n)
        grads = jax.tree.map(jnp.add, grads, penalty_grads(net, params, l2, n))
    outputs = net.forward(*variables, x).y
    return Gradients(value, outputs, states, grads)


def _learn(
    net: ForwardForward, variables: Variables, h: Array, key: KeyArray | None,
    train: bool,
) -> tuple[Array, PyTree, PyTree]:  # fmt: skip
    """Return the sum of the losses, the gradients, and the new states.

    The first half of h has right labels, the second half wrong ones.
    """
    n = len(h) // 2
    signs = jnp.concatenate([-jnp.ones(n), jnp.ones(n)])
    total = jnp.zeros(())
    dparams: list[PyTree] = []
    states: list[PyTree] = []
    for block in net.blocks:
        h, saved, new = block.forward(variables, h, key, train)
        g = goodness(h)
        sign, threshold = signs.astype(g.dtype), jnp.asarray(net.threshold, g.dtype)
        margin = sign * (g - threshold)  # > 0 where the goodness is on the wrong side
        total = total.astype(g.dtype) + jax.nn.softplus(margin).sum() / n
        slope = sign * jax.nn.sigmoid(margin) * 2 / (math.prod(h.shape[1:]) * n)
        dh = slope.reshape(-1, *[1] * (h.ndim - 1)) * widen(h)
        dparams += block.backward(variables.params, saved, dh.astype(h.dtype))
        states += new
        h = _normalized(h)
    return total, tuple(dparams), tuple(states)
