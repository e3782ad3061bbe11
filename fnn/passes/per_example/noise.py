"""The signal in a batch's gradient, its noise, and the batch size that balances them.

The gradients g_n of single examples scatter around the gradient G of the whole data,
with a covariance Σ. The mean of B of them has the squared error tr Σ / B, so that its
signal to noise is B ‖G‖² / tr Σ, and it is 1 for a batch of

    B_simple = tr Σ / ‖G‖²      the gradient noise scale

examples. Smaller batches are mostly noise, and larger ones waste examples. Both parts
are estimated without bias from the mean Ḡ of N examples, and from their norms, which
are those of N batches of one:

    ‖G‖² ≈ (N ‖Ḡ‖² − mean ‖g_n‖²) / (N − 1)
    tr Σ ≈ (mean ‖g_n‖² − ‖Ḡ‖²) N / (N − 1)

Legend: N examples, B a batch size.

Source: McCandlish, Kaplan and Amodei, arXiv:1812.06162, section 2.2 and appendix A.1,
with B_small = 1 and B_big = N.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables
from fnn.dtypes import widen
from fnn.losses import Loss
from fnn.passes.observe import ExampleRecords, function_of_records
from fnn.passes.records import (
    squares_in,
    sum_of_squares_in,
    total_of,
    weighted_sum,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Batch, Number, PyTree, Scalar

__all__ = ["NoiseAverage", "SignalNoise", "noise_scale", "signal_noise", "variance"]


class SignalNoise(NamedTuple):
    """The two parts of a gradient, each a scalar.

    Args:
        signal: an estimate of ‖G‖², the squared norm of the gradient. It has no bias,
            and so it may be negative where the batch holds little but noise.
        noise: an estimate of tr Σ, the variance of one example's gradient.
    """

    signal: Array
    noise: Array

    @property
    def noise_scale(self) -> Array:
        """Return B_simple = tr Σ / ‖G‖², a number of examples."""
        return self.noise / self.signal

    def signal_to_noise(self, batch_size: Number) -> Array:
        """Return B ‖G‖² / tr Σ, of the mean of B gradients."""
        return jnp.asarray(batch_size, self.signal.dtype) * self.signal / self.noise


def signal_noise(
    net: Layer, loss: Loss, *, precision: str | None = None
) -> Callable[..., SignalNoise]:
    """Make a function that estimates the signal and the noise of a batch's gradient.

    The equations are those of the module `fnn.passes.per_example.noise`.

    Args:
        net: the network.
        loss: the loss.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True) -> SignalNoise`. An estimate from
        one batch is rough: average several, with `NoiseAverage`, before the ratio.

    Raises:
        ValueError: from f: there are fewer than two examples, or a layer mixes them.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), (1,)))
        >>> batch = jnp.zeros((2, 1)), jnp.array([1.0, 3.0])  # gradients −1 and −3
        >>> f = jax.jit(fnn.per_example.signal_noise(net, loss))
        >>> found = f(variables, batch)
        >>> print(found.signal, found.noise, found.signal_to_noise(2))
        3.0 2.0 3.0
    """

    def compute(found: ExampleRecords, params: PyTree) -> SignalNoise:
        records, n, _ = found
        _expect_two(n)
        each = total_of(squares_in(records), n).mean()
        mean = weighted_sum(records, jnp.full(n, 1 / n), params)
        whole = _squared_norm(mean, each)
        return SignalNoise(
            signal=(n * whole - each) / (n - 1), noise=(each - whole) * n / (n - 1)
        )

    return function_of_records(net, loss, precision, compute)


def noise_scale(
    net: Layer, loss: Loss, *, precision: str | None = None
) -> Callable[..., Array]:
    """Make a function that estimates the gradient noise scale from one batch.

        B_simple = tr Σ / ‖G‖²

    Args:
        net: the network.
        loss: the loss.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> a scalar, in examples. It is
        rough, and may be negative: `signal_noise` gives the two parts, whose averages
        over a run (`NoiseAverage`) have a better ratio.

    Raises:
        ValueError: from f: there are fewer than two examples, or a layer mixes them.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), (1,)))
        >>> batch = jnp.zeros((2, 1)), jnp.array([1.0, 3.0])
        >>> f = jax.jit(fnn.per_example.noise_scale(net, loss))
        >>> print(f"{f(variables, batch):.3f}")
        0.667

    Source: McCandlish, Kaplan and Amodei, arXiv:1812.06162, eq. 2.9 and appendix A.1.
    """
    of_batch = signal_noise(net, loss, precision=precision)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> Scalar:
        return of_batch(variables, batch, key=key, train=train).noise_scale

    return f


@pytree
class NoiseAverage:
    """An estimate of signal and noise that follows a run: moving averages of both.

        S ← d S + (1 − d) signal,    V ← d V + (1 − d) noise,    B_simple ≈ V / S

    The averages start at 0, which makes both too small by the same factor: their ratio
    is right from the first step on.

    Args:
        decay: d in [0, 1), the share that each step keeps.

    Raises:
        ValueError: d is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> average = fnn.per_example.NoiseAverage(0.5)
        >>> state = average.init()
        >>> for signal, noise in [(1.0, 8.0), (3.0, 4.0)]:
        ...     found = fnn.per_example.SignalNoise(jnp.array(signal), jnp.array(noise))
        ...     state = average.update(found, state)
        >>> print(state.noise_scale.round(3))
        2.286

    Source: McCandlish, Kaplan and Amodei, arXiv:1812.06162, appendix A.1.
    """

    decay: float = leaf(0.95)

    def __post_init__(self) -> None:
        if isinstance(self.decay, float) and not 0 <= self.decay < 1:
            raise ValueError(
                "NoiseAverage: decay is the share that is kept and must be in [0, 1), "
                f"got {self.decay}"
            )

    def init(self) -> SignalNoise:
        """Return the averages before the first step: zeros."""
        return SignalNoise(jnp.zeros(()), jnp.zeros(()))

    def update(self, found: SignalNoise, state: SignalNoise) -> SignalNoise:
        """Return the averages after a step in which `found` was estimated."""

        def average(new: Array, old: Array) -> Array:
            keep = jnp.asarray(self.decay, old.dtype)
            return keep * old + (1 - keep) * new.astype(old.dtype)

        return SignalNoise(*map(average, found, state))


def variance(
    net: Layer, loss: Loss, *, precision: str | None = None
) -> Callable[..., PyTree]:
    """Make a function that computes the variance of the gradient, entry by entry.

        V = Σ_n (g_n − ḡ)² / (N − 1) = (Σ_n g_n² − N ḡ²) / (N − 1)

    Args:
        net: the network.
        loss: the loss.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> a tree like the parameters.

    Raises:
        ValueError: from f: there are fewer than two examples, or a layer mixes them.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), (1,)))
        >>> batch = jnp.zeros((2, 1)), jnp.array([1.0, 3.0])  # gradients −1 and −3
        >>> f = jax.jit(fnn.per_example.variance(net, loss))
        >>> f(variables, batch)[0].bias
        Array([2.], dtype=float32)

    Source: Dangel, Kunstner and Hennig, arXiv:1912.10985, table 1.
    """

    def compute(found: ExampleRecords, params: PyTree) -> PyTree:
        records, n, _ = found
        _expect_two(n)
        means = weighted_sum(records, jnp.full(n, 1 / n), params)
        squares = sum_of_squares_in(records)
        return jax.tree.map(lambda s, m: _variance(s, widen(m), n), squares, means)

    return function_of_records(net, loss, precision, compute)


def _variance(squares: Array, mean: Array, n: int) -> Array:
    """Return the variance; a difference that rounding makes negative is 0."""
    return jnp.maximum(squares - n * jnp.square(mean), 0) / (n - 1)


def _squared_norm(tree: PyTree, like: Array) -> Array:
    squares = [jnp.square(widen(part)).sum() for part in jax.tree.leaves(tree)]
    return sum(squares, start=jnp.zeros_like(like))


def _expect_two(n: int) -> None:
    if n < 2:
        raise ValueError(
            f"a variance between examples needs at least two of them, got {n}"
        )
