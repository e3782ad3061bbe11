"""Local losses: every block learns from a loss of its own, and passes nothing back.

Of each hidden block, with output h and the labels' rows t (one-hot for classes):

    pred        L(h A, y)           the network's loss, of a linear classifier A
    sim         mean (S(f(h)) − S(t))²
                S_nm the cosine of rows n and m, each less its mean;
                f a linear layer, or for images a 3×3 convolution
    predsim     (1 − β) pred + β sim

The last block learns from the network's loss. A and f are parameters too, and learn
from the same losses.

Legend: N examples, F features, K outputs.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks import positive_integer
from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.describe import shown
from fnn.dtypes import widen
from fnn.gradients.engines import Gradients
from fnn.gradients.penalty import has_penalty, penalty, penalty_grads
from fnn.layers.combinators import Serial, join_variables
from fnn.layers.convolution import Conv
from fnn.layers.dense import Dense
from fnn.layers.global_pooling import GlobalAvgPool
from fnn.layers.shape import Flatten
from fnn.losses import Loss
from fnn.network import child_key, output_shape
from fnn.passes.rules.blocks import Block, blocks_of, settled_serial
from fnn.typing import Array, Batch, Float, InShape, KeyArray, Number, PyTree, Scalar

__all__ = ["LocalLosses", "local_learning", "local_losses", "similarity"]

#: The weights of pred and of sim, given β.
KINDS = {
    "pred": lambda share: (1.0, 0.0),
    "sim": lambda share: (0.0, 1.0),
    "predsim": lambda share: (1.0 - share, share),
}


def local_losses(
    net: Layer, outputs: int, kind: str = "predsim", share: float = 0.99
) -> "LocalLosses":
    """Make the network whose blocks have local losses, for `local_learning`.

    Args:
        net: a `serial`. Its blocks begin at each layer with a weight; the last one ends
            in the outputs.
        outputs: K, how many outputs the network has.
        kind: "pred", "sim" or "predsim".
        share: β, the share of sim in predsim.

    Returns:
        A network with the forward of `net`. Its variables are those of `net`, and then
        those of what the local losses need.

    Raises:
        ValueError: the kind is unknown, or K no positive integer.
        TypeError: `net` is no `serial`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Relu(), fnn.Dense(3))
        >>> rule = fnn.rules.local_losses(net, 3, "pred")
        >>> variables = rule.init(jax.random.key(0), (4,))
        >>> grad = fnn.value_and_grad(
        ...     rule, fnn.losses.SoftmaxCrossEntropy(), engine=fnn.rules.local_learning
        ... )
        >>> batch = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> out = jax.jit(grad)(variables, batch)
        >>> out.grads[0][0].weight.shape
        (4, 8)

    Source: Nøkland and Eidnes, arXiv:1901.06656, section 2, eqs. 1 to 3.
    """
    if kind not in KINDS:
        raise ValueError(
            f"local_losses: kind must be {', '.join(map(repr, KINDS))}, "
            f"got {shown(kind)}"
        )
    settled = settled_serial(net)
    outputs = positive_integer("local_losses: outputs", outputs)
    weights = KINDS[kind](share)
    head = LocalHead(outputs, similarity=weights[1] != 0, prediction=weights[0] != 0)
    heads = (head,) * (len(blocks_of(settled)) - 1)
    return LocalLosses(settled, heads, weights)


@layer
class LocalLosses(Layer):
    """A network with a head for the local loss of each hidden block.

    Its forward is the network's, and its backward too, in which heads have no part;
    the engine `local_learning` is what uses them.

    Args:
        net: the network.
        heads: one for each block but the last.
        weights: the weights of pred and of sim.
    """

    net: Layer = leaf()
    heads: tuple[Layer, ...] = leaf(())
    weights: tuple[float, float] = (0.01, 0.99)

    @property
    def kind(self) -> str:
        return self.net.kind

    @property
    def children(self) -> dict[str, Layer]:
        return {"": self.net} | {f"head{i}": head for i, head in enumerate(self.heads)}

    def with_children(self, *layers: Layer) -> Layer:
        return LocalLosses(layers[0], layers[1:], self.weights)

    @property
    def blocks(self) -> list[Block]:
        """Return the blocks of the network."""
        net: Any = self.net
        return blocks_of(net)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        variables = [self.net.init(child_key(key, 0), in_shape)]
        shape = tuple(in_shape)
        for i, (block, head) in enumerate(zip(self.blocks, self.heads, strict=False)):
            layers = Serial(block.net.layers[block.numbers.start : block.numbers.stop])
            pairs = zip(*variables[0], strict=True)
            parts = [Variables(*pair) for pair in pairs]
            part = join_variables(parts[block.numbers.start : block.numbers.stop])
            shape = output_shape(layers, part, shape)
            variables.append(head.init(child_key(key, i + 1), shape))
        return join_variables(variables)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        key = child_key(key, 0)
        out = self.net.forward(params[0], state[0], x, key=key, train=train)
        return out._replace(
            saved=(out.saved, params[1:]), state=(out.state, *state[1:])
        )

    def backward(self, params: PyTree, saved: Any, dy: Array) -> Backward:
        inner, heads = saved
        dx, dparams = self.net.backward(params[0], inner, dy)
        return Backward(dx, (dparams, *jax.tree.map(jnp.zeros_like, heads)))


def local_learning(
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
    """Compute the gradients of all local losses: an engine for `local_losses`.

    Args:
        net: a network of `local_losses`.
        loss: the loss of the last block, and of pred.
        variables: the network's variables.
        batch: x and y.
        key: the key of the step.
        train: whether the network is in training mode.
        l2: λ of the penalty.
        n: n of the penalty.

    Returns:
        `Gradients`, as every engine; its `loss` is that of the outputs.

    Raises:
        TypeError: the network was not made by `local_losses`.

    Example: see `local_losses`.

    Source: Nøkland and Eidnes, arXiv:1901.06656, section 2.
    """
    if not isinstance(net, LocalLosses):
        raise TypeError(
            "local_learning is the engine of networks that fnn.rules.local_losses "
            f"makes, got {shown(net)}"
        )
    h, y = batch
    inner = Variables(variables.params[0], variables.state[0])
    dparams: list[PyTree] = []
    states: list[PyTree] = []
    dheads: list[PyTree] = []
    heads: list[Any] = [*zip(net.heads, variables.params[1:], strict=True), None]
    for block, head in zip(net.blocks, heads, strict=True):
        h, saved, new = block.forward(inner, h, child_key(key, 0), train)
        if head is None:
            dh = loss.delta(h, y)
        else:
            dh, dhead = head[0].local_backward(head[1], h, y, loss, net.weights)
            dheads.append(dhead)
        dparams += block.backward(inner.params, saved, dh)
        states += new
    value, params = loss.value(h, y), variables.params
    grads = (tuple(dparams), *dheads)
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
    if has_penalty(l2):
        value = value + penalty(net, params, l2, n)
        grads = jax.tree.map(jnp.add, grads, penalty_grads(net, params, l2, n))
    return Gradients(value, h, (tuple(states), *variables.state[1:]), grads)


# ---- The heads -------------------------------------------------------------------

#: Up to so many features the classifier sees all of them; beyond, their means.
MOST_FEATURES = 2048


@layer
class LocalHead(Layer):
    """The linear layers of one block's local losses: A for pred, f for sim.

    Args:
        outputs: K.
        similarity: whether there is a sim loss.
        prediction: whether there is a pred loss.
    """

    outputs: int
    similarity: bool = True
    prediction: bool = True

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        made: list[PyTree] = [(), ()]
        layers = self._classifier(in_shape), self._mixing(in_shape)
        for i, wanted in enumerate((self.prediction, self.similarity)):
            if wanted:
                made[i] = layers[i].init(jax.random.fold_in(key, i), in_shape).params
        return Variables(tuple(made), ())

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return Forward(x, saved=params, state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return Backward(dy, jax.tree.map(jnp.zeros_like, saved))

    def local_backward(
        self, params: PyTree, h: Array, y: Array, loss: Loss,
        weights: tuple[float, float],
    ) -> tuple[Array, PyTree]:  # fmt: skip
        """Return the gradients of the local loss: dh, and dparams of this layer."""
        dh, dparams = jnp.zeros_like(h), list(params)
        layers = self._classifier(h.shape[1:]), self._mixing(h.shape[1:])
        state = ((), ()), ()
        deltas = loss.delta, partial(_similarity_delta, self.outputs)
        for i, (head, weight) in enumerate(zip(layers, weights, strict=True)):
            if weight:
                out = head.forward(params[i], state[i], h)
                dy = jnp.asarray(weight, h.dtype) * deltas[i](out.y, y)
                dx, dparams[i] = head.backward(params[i], out.saved, dy)
                dh = dh + dx
        return dh, tuple(dparams)

    def _classifier(self, in_shape: InShape) -> Layer:
        small = math.prod(in_shape) <= MOST_FEATURES or len(in_shape) == 1
        return Serial((Flatten() if small else GlobalAvgPool(), Dense(self.outputs)))

    def _mixing(self, in_shape: InShape) -> Layer:
        features = in_shape[-1]
        return Dense(features) if len(in_shape) == 1 else Conv(features, 3)


# ---- Similarity ------------------------------------------------------------------


def similarity(x: Array, y: Array, outputs: int) -> Scalar:
    """Compute mean (S(x) − S(t))², how much the rows are alike in other ways.

    Args:
        x: features (N, ...).
        y: labels: classes (N,), or rows t (N, K).
        outputs: K.

    Returns:
        A scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> y = jnp.array([0, 1, 0])
        >>> print(jax.jit(similarity, static_argnums=2)(jnp.eye(2)[y], y, 2))
        0.0

    Source: Nøkland and Eidnes, arXiv:1901.06656, eq. 2.
    """
    (rows, _), targets = _normalized(x), _normalized(_targets(y, outputs, x))[0]
    return jnp.square(rows @ rows.T - targets @ targets.T).mean()


def _similarity_delta(outputs: int, x: Array, y: Array) -> Array:
    """Compute the derivative of `similarity` with respect to x.

    S = x̂ x̂ᵀ,  dS = 2 (S − T) / N²,  dx̂ = 2 dS x̂      (S and T are symmetric)
    x̂ = c/‖c‖,  c = x − mean(x):  dc = (dx̂ − x̂ ⟨x̂, dx̂⟩)/‖c‖,  dx = dc − mean(dc)
    """
    (rows, lengths), targets = _normalized(x), _normalized(_targets(y, outputs, x))[0]
    ds = 2 * (rows @ rows.T - targets @ targets.T) / len(x) ** 2
    drows = 2 * ds @ rows
    dc = (drows - rows * (rows * drows).sum(1, keepdims=True)) / lengths
    return (dc - dc.mean(1, keepdims=True)).reshape(x.shape).astype(x.dtype)


def _normalized(x: Array) -> tuple[Float[Array, "N F"], Float[Array, "N 1"]]:
    """Return each row less its mean, of length 1, and the lengths before."""
    rows = widen(x).reshape(len(x), math.prod(x.shape[1:]))
    centred = rows - rows.mean(1, keepdims=True)
    squares = jnp.square(centred).sum(1, keepdims=True)
    # A row of equal numbers has no direction: it stays 0, and gets no gradient.
    lengths = jnp.where(
        squares == 0, jnp.inf, jnp.sqrt(jnp.where(squares == 0, 1, squares))
    )
    return centred / lengths, lengths


def _targets(y: Array, outputs: int, like: Array) -> Array:
    """Return the rows t that labels stand for."""
    if y.ndim > 1:
        return y.astype(like.dtype)
    return jax.nn.one_hot(y.astype(jnp.int32), outputs, dtype=like.dtype)
