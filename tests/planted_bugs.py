"""Wrong backwards, planted on purpose: the audit must find and locate each of them.

Those of layers for images are in `planted_image_bugs`, those of plans in
`planted_plan_bugs`; `BUGS` lists all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from planted_image_bugs import IMAGE_BUGS
from planted_plan_bugs import PLAN_BUGS
from planting import (
    CLASSES,
    HIDDEN,
    INPUTS,
    Bug,
    around,
    elementwise,
    images,
    plant,
    planted,
)

import fnn
from fnn import (
    Backward,
    DenseParams,
    EmbeddingParams,
    NormParams,
    PReluParams,
    RMSNormParams,
)
from fnn.layers.normalization import norm_dx
from fnn.losses import (
    AbsoluteError,
    Hinge,
    Huber,
    KullbackLeibler,
    Poisson,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)


def dense(dx=None, weight=None, bias=None) -> type:
    """Make a dense layer with some of its gradients replaced by f(params, x, dy)."""

    def backward(self, params, saved, dy):
        right = fnn.Dense.backward(self, params, saved, dy)
        wrong = [
            f(params, saved, dy) if f else good
            for f, good in (
                (dx, right.dx),
                (weight, right.dparams.weight),
                (bias, right.dparams.bias),
            )
        ]
        return Backward(wrong[0], DenseParams(*wrong[1:]))

    return plant(fnn.Dense, backward=backward)


def norm(parent: type, change: Callable) -> Any:
    """Make a normalisation whose right result is changed by `change`."""

    def backward(self, params, saved, dy):
        right = parent.backward(self, params, saved, dy)
        return change(right, params, saved, dy)

    return plant(parent, backward=backward)


def combinator(parent: type, backward: Callable) -> Any:
    return plant(parent, backward=backward)


# ---- Layers ----------------------------------------------------------------------


def _forget_shortcut(self, params, saved, dy):
    right = fnn.Residual.backward(self, params, saved, dy)
    body = self.body.backward(params.body, saved.body, dy)
    return Backward(body.dx, right.dparams)


def _forget_a_branch(self, params, saved, dy):
    right = fnn.Parallel.backward(self, params, saved, dy)
    first = self.branches[0].backward(params[0], saved[0][0], dy)
    return Backward(first.dx, right.dparams)


def _swap_slices(self, params, saved, dy):
    return fnn.Parallel.backward(self, params, saved, jnp.roll(dy, 1, axis=-1))


def _forget_the_others(self, params, saved, dy):
    """Take a product's backward for a sum's."""
    return fnn.Parallel(self.branches).backward(params, saved, dy)


def _forget_first_dparams(self, params, saved, dy):
    right = fnn.Serial.backward(self, params, saved, dy)
    first = jax.tree.map(jnp.zeros_like, right.dparams[0])
    return Backward(right.dx, (first, *right.dparams[1:]))


def _stop_early(self, params, saved, dy):
    """Return the dx of the last layer instead of the first one's."""
    right = fnn.Serial.backward(self, params, saved, dy)
    last = self.layers[-1].backward(params[-1], saved[-1], dy)
    return Backward(last.dx, right.dparams)


def _mask_again(self, params, saved, dy):
    """Draw another mask than the forward's."""
    other = jax.random.fold_in(saved.key, 1)
    return Backward(self.dropped(dy, self.kept(other, dy.shape)), ())


def _mask_only(self, params, saved, dy):
    """Apply the mask without the factor 1/(1 − p)."""
    return Backward(jnp.where(self.kept(saved.key, dy.shape), dy, 0), ())


def _same_shape_transpose(self, params, saved, dy):
    """Undo a row-major flattening as if it were column-major."""
    shape = saved.shape[1:]
    transposed = dy.reshape(shape[0], *reversed(shape[1:]))
    return Backward(jnp.transpose(transposed, (0, *range(len(shape) - 1, 0, -1))), ())


def _each_pixel_by_itself(right, params, saved, dy):
    """Take the means of a group over one pixel, not over all of them."""
    normalized, inverse_std = saved
    grad, normalized = (
        a.reshape(*dy.shape[:-1], 3, 2) for a in (dy * params.scale, normalized)
    )
    dx = norm_dx(grad, normalized, inverse_std, axes=(-1,))
    return right._replace(dx=dx.reshape(dy.shape))


def _the_batch_together(right, params, saved, dy):
    """Take means over all examples, as BatchNorm does."""
    return right._replace(dx=norm_dx(dy * params.scale, *saved, axes=(0, 1)))


def _mean_taken_out(right, params, saved, dy):
    """Use LayerNorm's equation, although x̂ has a mean."""
    return right._replace(dx=norm_dx(dy * params.scale, *saved, axes=(-1,)))


_square = fnn.serial(
    fnn.Dense(HIDDEN), dense(dx=lambda p, x, dy: dy @ p.weight)(HIDDEN), fnn.Dense(3)
)
_images = fnn.serial(
    fnn.Reshape((1, INPUTS, 1)), fnn.BatchNorm(), fnn.Flatten(), fnn.Dense(CLASSES)
)
_gelu = fnn.Gelu.backward
_SOFTMAX = SoftmaxCrossEntropy()


LAYER_BUGS = [
    Bug("dense: dropped transpose, square weight", _square, _SOFTMAX, "1/Dense.dx"),
    planted(
        "dense: dropped transpose, raises",
        dense(dx=lambda p, x, dy: dy @ p.weight)(4),
        "1/Dense.backward",
    ),
    planted(
        "dense: weight gradient averaged once more",
        dense(weight=lambda p, x, dy: x.T @ dy / len(x))(4),
        "1/Dense.weight",
    ),
    planted(
        "dense: weight gradient of the wrong sign",
        dense(weight=lambda p, x, dy: -x.T @ dy)(4),
        "1/Dense.weight",
    ),
    planted(
        "dense: bias gradient averaged, not summed",
        dense(bias=lambda p, x, dy: dy.mean(0))(4),
        "1/Dense.bias",
    ),
    planted(
        "dense: bias gradient of the first example only",
        dense(bias=lambda p, x, dy: dy[0])(4),
        "1/Dense.bias",
    ),
    planted(
        "dense: off by one part in a million",
        dense(weight=lambda p, x, dy: x.T @ dy * (1 + 1e-6))(4),
        "1/Dense.weight",
    ),
    planted(
        "dense: weight gradient transposed, raises",
        dense(weight=lambda p, x, dy: dy.T @ x)(4),
        "1/Dense.backward",
    ),
    planted(
        "sigmoid: y (1 + y)",
        elementwise(fnn.Sigmoid, lambda s, y, dy: dy * y * (1 + y))(),
        "1/Sigmoid.dx",
    ),
    planted(
        "sigmoid: derivative taken of y, not of x",
        elementwise(
            fnn.Sigmoid,
            lambda s, y, dy: dy * jax.nn.sigmoid(y) * (1 - jax.nn.sigmoid(y)),
        )(),
        "1/Sigmoid.dx",
    ),
    planted(
        "tanh: 1 − y without the square",
        elementwise(fnn.Tanh, lambda s, y, dy: dy * (1 - y))(),
        "1/Tanh.dx",
    ),
    planted(
        "relu: missing mask", elementwise(fnn.Relu, lambda s, y, dy: dy)(), "1/Relu.dx"
    ),
    planted(
        "relu: mask on dy instead of y",
        elementwise(fnn.Relu, lambda s, y, dy: jnp.where(dy > 0, dy, 0))(),
        "1/Relu.dx",
    ),
    planted(
        "leaky relu: slope forgotten",
        elementwise(fnn.LeakyRelu, lambda s, x, dy: jnp.where(x > 0, dy, 0))(0.1),
        "1/LeakyRelu.dx",
    ),
    planted(
        "elu: alpha forgotten",
        elementwise(fnn.Elu, lambda s, x, dy: dy * jnp.where(x > 0, 1, jnp.exp(x)))(
            0.5
        ),
        "1/Elu.dx",
    ),
    planted(
        "gelu: x Φ'(x) forgotten",
        elementwise(fnn.Gelu, lambda s, x, dy: dy * s._phi(x)[0])(),
        "1/Gelu.dx",
    ),
    planted(
        "gelu: exact derivative of the approximation",
        elementwise(fnn.Gelu, lambda s, x, dy: _gelu(fnn.Gelu(), (), x, dy).dx)(
            approximate=True
        ),
        "1/Gelu.dx",
    ),
    planted(
        "silu: derivative of the sigmoid alone",
        elementwise(
            fnn.Silu,
            lambda s, x, dy: dy * jax.nn.sigmoid(x) * (1 - jax.nn.sigmoid(x)),
        )(),
        "1/Silu.dx",
    ),
    planted(
        "softplus: σ(−x)",
        elementwise(fnn.Softplus, lambda s, x, dy: dy * jax.nn.sigmoid(-x))(),
        "1/Softplus.dx",
    ),
    planted(
        "softmax: only the diagonal of the Jacobian",
        elementwise(fnn.Softmax, lambda s, y, dy: dy * y * (1 - y))(),
        "1/Softmax.dx",
    ),
    planted(
        "log softmax: the softmax's derivative",
        elementwise(
            fnn.LogSoftmax,
            lambda s, y, dy: (
                jnp.exp(y) * (dy - (dy * jnp.exp(y)).sum(-1, keepdims=True))
            ),
        )(),
        "1/LogSoftmax.dx",
    ),
    planted(
        "prelu: the slope's gradient from all x",
        norm(
            fnn.PRelu,
            lambda b, p, x, dy: b._replace(dparams=PReluParams((dy * x).sum(0))),
        )(),
        "1/PRelu.slope",
    ),
    planted(
        "prelu: a slope of 1 below 0",
        norm(fnn.PRelu, lambda b, p, x, dy: b._replace(dx=dy))(),
        "1/PRelu.dx",
    ),
    planted(
        "clip: the upper bound forgotten",
        elementwise(fnn.Clip, lambda s, y, dy: jnp.where(y > s.low, dy, 0))(-0.3, 0.3),
        "1/Clip.dx",
    ),
    planted(
        "hard sigmoid: a slope of 1",
        elementwise(fnn.HardSigmoid, lambda s, x, dy: jnp.where(abs(x) < 3, dy, 0))(),
        "1/HardSigmoid.dx",
    ),
    planted(
        "hard swish: the sigmoid's slope alone",
        elementwise(fnn.HardSwish, lambda s, x, dy: dy * (x + 3) / 6)(),
        "1/HardSwish.dx",
    ),
    planted(
        "dense at positions: the first position only",
        fnn.serial(
            fnn.Reshape((1, HIDDEN)),
            fnn.Upsample(3),
            norm(
                fnn.Dense,
                lambda b, p, x, dy: b._replace(
                    dparams=DenseParams(x[:, 0].T @ dy[:, 0], b.dparams.bias)
                ),
            )(2),
            fnn.Flatten(),
        ),
        "1/2/Dense.weight",
    ),
    Bug(
        "embedding: a row is set, not added to",
        fnn.serial(
            fnn.Lambda(lambda x: (x > 0).astype(x.dtype)),
            norm(
                fnn.Embedding,
                lambda b, p, ids, dy: b._replace(
                    dparams=EmbeddingParams(jnp.zeros_like(p.weight).at[ids].set(dy))
                ),
            )(2, 4),
            fnn.Flatten(),
            fnn.Dense(CLASSES),
        ),
        _SOFTMAX,
        "1/Embedding.weight",
    ),
    planted(
        "pad: shifted by one",
        images(elementwise(fnn.Pad, lambda s, saved, dy: dy[:, 2:])(((1, 1),))),
        "1/2/Pad.dx",
    ),
    planted(
        "crop: the border mirrored",
        images(
            elementwise(
                fnn.Crop,
                lambda s, saved, dy: jnp.pad(dy, ((0, 0), (0, 1), (0, 0))),
            )(((1, 0),))
        ),
        "1/2/Crop.dx",
    ),
    planted(
        "identity: a factor 2",
        elementwise(fnn.Identity, lambda s, y, dy: 2 * dy)(),
        "1/Identity.dx",
    ),
    planted(
        "flatten: rearranged",
        fnn.serial(
            fnn.Dense(6),
            fnn.Reshape((2, 3)),
            plant(fnn.Flatten, backward=_same_shape_transpose)(),
        ),
        "1/2/Flatten.dx",
    ),
    planted(
        "reshape: examples reversed",
        fnn.serial(
            fnn.Dense(6),
            elementwise(fnn.Reshape, lambda s, x, dy: dy.reshape(x.shape[1:])[::-1])(
                (2, 3)
            ),
            fnn.Flatten(),
        ),
        "1/1/Reshape.dx",
    ),
    planted(
        "upsample: a block averaged, not summed",
        images(
            elementwise(
                fnn.Upsample,
                lambda s, saved, dy: dy.reshape(len(dy), 4, 2, 6).mean(2),
            )(2)
        ),
        "1/2/Upsample.dx",
    ),
    planted(
        "upsample: the first copy only",
        images(elementwise(fnn.Upsample, lambda s, saved, dy: dy[:, ::2])(2)),
        "1/2/Upsample.dx",
    ),
    planted(
        "upsample: tiled, not repeated",
        images(
            elementwise(
                fnn.Upsample,
                lambda s, saved, dy: dy.reshape(len(dy), 2, 4, 6).sum(1),
            )(2)
        ),
        "1/2/Upsample.dx",
    ),
    planted(
        "dropout: missing mask",
        elementwise(fnn.Dropout, lambda s, saved, dy: dy)(0.4),
        "1/Dropout.dx",
    ),
    planted(
        "dropout: another mask",
        plant(fnn.Dropout, backward=_mask_again)(0.4),
        "1/Dropout.dx",
    ),
    planted(
        "dropout: missing factor",
        plant(fnn.Dropout, backward=_mask_only)(0.4),
        "1/Dropout.dx",
    ),
    planted(
        "batch norm: statistics taken for constants",
        norm(
            fnn.BatchNorm,
            lambda b, p, s, dy: b._replace(dx=dy * p.scale * s.arrays[1]),
        )(),
        "1/BatchNorm.dx",
    ),
    planted(
        "batch norm: the mean's share forgotten",
        norm(
            fnn.BatchNorm,
            lambda b, p, s, dy: b._replace(
                dx=b.dx + s.arrays[1] * (dy * p.scale).mean(0)
            ),
        )(),
        "1/BatchNorm.dx",
    ),
    planted(
        "batch norm: scale's gradient without x̂",
        norm(
            fnn.BatchNorm,
            lambda b, p, s, dy: b._replace(
                dparams=NormParams(scale=dy.sum(0), bias=dy.sum(0))
            ),
        )(),
        "1/BatchNorm.scale",
    ),
    planted(
        "batch norm: evaluated as in training",
        norm(
            fnn.BatchNorm,
            lambda b, p, s, dy: b._replace(
                dx=b.dx - s.arrays[1] * (dy * p.scale).mean(0)
            ),
        )(),
        "1/BatchNorm.dx",
        train=False,
    ),
    planted(
        "layer norm: gamma forgotten",
        norm(fnn.LayerNorm, lambda b, p, s, dy: b._replace(dx=b.dx * 0.5))(),
        "1/LayerNorm.dx",
    ),
    planted(
        "layer norm: bias's gradient over the wrong axis",
        norm(
            fnn.LayerNorm,
            lambda b, p, s, dy: b._replace(
                dparams=b.dparams._replace(bias=jnp.full(dy.shape[-1], dy.sum()))
            ),
        )(),
        "1/LayerNorm.bias",
    ),
    planted(
        "RMS norm: the mean taken out, as in layer norm",
        norm(fnn.RMSNorm, _mean_taken_out)(),
        "1/RMSNorm.dx",
    ),
    planted(
        "RMS norm: the root mean square taken for a constant",
        norm(
            fnn.RMSNorm,
            lambda b, p, s, dy: b._replace(dx=dy * p.scale * s[1]),
        )(),
        "1/RMSNorm.dx",
    ),
    planted(
        "RMS norm: scale's gradient without x̂",
        norm(
            fnn.RMSNorm,
            lambda b, p, s, dy: b._replace(dparams=RMSNormParams(dy.sum(0))),
        )(),
        "1/RMSNorm.scale",
    ),
    planted(
        "instance norm: means over the batch too",
        images(norm(fnn.InstanceNorm, _the_batch_together)()),
        "1/2/InstanceNorm.dx",
    ),
    planted(
        "instance norm: bias's gradient averaged over the pixels",
        images(
            norm(
                fnn.InstanceNorm,
                lambda b, p, s, dy: b._replace(
                    dparams=b.dparams._replace(bias=dy.mean(1).sum(0))
                ),
            )()
        ),
        "1/2/InstanceNorm.bias",
    ),
    planted(
        "group norm: each pixel by itself",
        images(norm(fnn.GroupNorm, _each_pixel_by_itself)(3)),
        "1/2/GroupNorm.dx",
    ),
    planted(
        "group norm: one scale's gradient for a group",
        images(
            norm(
                fnn.GroupNorm,
                lambda b, p, s, dy: b._replace(
                    dparams=b.dparams._replace(
                        scale=b.dparams.scale.reshape(3, 2).mean(1).repeat(2)
                    )
                ),
            )(3)
        ),
        "1/2/GroupNorm.scale",
    ),
]

COMBINATOR_BUGS = [
    planted(
        "residual: shortcut forgotten",
        combinator(fnn.Residual, _forget_shortcut)(fnn.Dense(HIDDEN)),
        "1/Residual.dx",
    ),
    Bug(
        "residual: shortcut forgotten in the first layer",
        fnn.serial(
            combinator(fnn.Residual, _forget_shortcut)(fnn.Dense(INPUTS)),
            fnn.Dense(CLASSES),
        ),
        _SOFTMAX,
        "0/Residual.dx",
    ),
    planted(
        "residual: a bug inside the body",
        fnn.residual(
            fnn.serial(
                fnn.Dense(4),
                elementwise(fnn.Relu, lambda s, y, dy: dy)(),
                fnn.Dense(HIDDEN),
            )
        ),
        "1/Residual/body/1/Relu.dx",
    ),
    planted(
        "residual: a bug in the projection",
        fnn.residual(fnn.Dense(4), dense(bias=lambda p, x, dy: dy.mean(0))(4)),
        "1/Residual/projection/Dense.bias",
    ),
    planted(
        "parallel: a branch's dx forgotten",
        combinator(fnn.Parallel, _forget_a_branch)((fnn.Dense(4), fnn.Dense(4))),
        "1/Parallel.dx",
    ),
    planted(
        "parallel: slices of dy swapped",
        combinator(fnn.Parallel, _swap_slices)(
            (fnn.Dense(2), fnn.Dense(4)), "concatenate"
        ),
        "1/Parallel.dparams",
    ),
    planted(
        "parallel: a product's branches get dy",
        combinator(fnn.Parallel, _forget_the_others)(
            (fnn.Dense(4), fnn.Dense(4)), "product"
        ),
        "1/Parallel.dparams",
    ),
    planted(
        "serial: the first layer's gradient dropped",
        combinator(fnn.Serial, _forget_first_dparams)((fnn.Dense(4), fnn.Tanh())),
        "1.dparams",
    ),
    planted(
        "serial: stops after one layer",
        combinator(fnn.Serial, _stop_early)((fnn.Tanh(), fnn.Sigmoid())),
        "1.dx",
    ),
]

# ---- Losses ----------------------------------------------------------------------


def _loss(
    name: str, parent: type, delta: Callable, *args: float, **options: Any
) -> Bug:
    wrong = plant(parent, delta=delta)(*args, **options)
    return Bug(name, around(fnn.Sigmoid()), wrong, "loss.delta")


LOSS_BUGS = [
    _loss(
        "softmax: a factor 1/n lost",
        SoftmaxCrossEntropy,
        lambda self, z, y: SoftmaxCrossEntropy.delta(self, z, y) * len(z),
    ),
    _loss(
        "softmax: smoothing forgotten in delta",
        SoftmaxCrossEntropy,
        lambda self, z, y: SoftmaxCrossEntropy().delta(z, y),
        0.1,
    ),
    _loss(
        "sigmoid: y − a, the lecture's cost without its minus sign",
        SigmoidCrossEntropy,
        lambda self, z, y: -SigmoidCrossEntropy.delta(self, z, y),
    ),
    _loss(
        "sigmoid: derivative of the squared error's output layer",
        SigmoidCrossEntropy,
        lambda self, z, y: (
            SigmoidCrossEntropy.delta(self, z, y)
            * jax.nn.sigmoid(z)
            * (1 - jax.nn.sigmoid(z))
        ),
    ),
    _loss(
        "squared error: a factor 2",
        SquaredError,
        lambda self, z, y: 2 * SquaredError.delta(self, z, y),
    ),
    _loss(
        "softmax: divided by all labels, not by those that count",
        SoftmaxCrossEntropy,
        lambda self, z, y: (
            SoftmaxCrossEntropy.delta(self, z, y) * (y != 0).mean(dtype=z.dtype)
        ),
        ignore=0,
    ),
    _loss(
        "softmax: class weights forgotten in the divisor",
        SoftmaxCrossEntropy,
        lambda self, z, y: (
            SoftmaxCrossEntropy.delta(self, z, y)
            * jnp.asarray(self.class_weights, z.dtype)[y].mean()
        ),
        class_weights=(1, 2, 3),
    ),
    _loss(
        "hinge: the right class forgotten",
        Hinge,
        lambda self, z, y: jnp.maximum(Hinge.delta(self, z, y), 0),
    ),
    _loss(
        "divergence: the entropy's derivative",
        KullbackLeibler,
        lambda self, z, y: -KullbackLeibler.delta(self, z, y),
    ),
    _loss(
        "absolute error: the error itself",
        AbsoluteError,
        lambda self, z, y: SquaredError().delta(z, y),
    ),
    _loss(
        "poisson: the output taken for the mean",
        Poisson,
        lambda self, z, y: (z - y) / len(z),
    ),
    _loss(
        "huber: not clipped",
        Huber,
        lambda self, z, y: SquaredError().delta(z, y),
        0.3,
    ),
]

BUGS = LAYER_BUGS + IMAGE_BUGS + PLAN_BUGS + COMBINATOR_BUGS + LOSS_BUGS
