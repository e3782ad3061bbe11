"""Private training: the noise, the sampling and the budget of DP-SGD.

    each example is in a batch with probability q = B/N, independently of all others
    g = (1/B) [ Σ_n min(1, C/‖g_n‖) g_n + σ C ξ ],    ξ ~ N(0, I)

One example more or less in the data changes the sum by at most C, and the noise hides
it: all steps together are (ε, δ)-differentially private, with an ε that the package
`dp-accounting` computes from σ, q and the number of steps.

It protects the training examples from whoever sees the parameters. It does not cover

- hyperparameters, early stopping or an architecture that were chosen by looking at the
  training data, nor validation data;
- what is reported about training data: train_loss, health, observations;
- statistics that layers track: BatchNorm in training is refused;
- augmentations that mix the examples of a batch;
- an attacker who knows the key, or the bits of the generator: JAX's threefry is not
  made for cryptography, and noise in float32 has gaps (Mironov, CCS 2012).

Legend: N examples, B the expected size of a batch, C the clipping norm, σ the noise
multiplier.

Source: Abadi et al., arXiv:1607.00133, algorithm 1.
"""

from typing import Any

import jax

from fnn.checks import expect_instance
from fnn.describe import shown
from fnn.passes.per_example.clipping import check_clip
from fnn.pytree import leaf, pytree
from fnn.typing import Number

__all__ = ["Private", "check_private", "steps_per_epoch"]

ACCOUNTANTS = ("pld", "rdp")


@pytree
class Private:
    """The settings of private training, for `fnn.fit(..., private=...)`.

    Args:
        clip: C > 0, the largest norm of an example's gradient.
        noise_multiplier: σ ≥ 0, the standard deviation of the noise on the sum, in
            units of C. 0 protects nothing: ε is infinite.
        delta: δ in (0, 1), the probability with which ε may not hold; well below 1/N.
        per_layer: whether each layer's part is clipped to C/√L by itself (see
            `fnn.per_example.clipped_grad`).
        accountant: "pld" (privacy loss distributions: tight) or "rdp" (Rényi
            divergences: fast, and what older papers report), of `dp-accounting`.

    Raises:
        ValueError, TypeError: a number is out of its range.

    Example:
        >>> import fnn
        >>> fnn.per_example.Private(clip=1.0, noise_multiplier=1.1, delta=1e-5)
        Private(clip=1.0, noise_multiplier=1.1)

    Source: Abadi et al., arXiv:1607.00133, algorithm 1.
    """

    clip: Number = leaf(shown=True)
    noise_multiplier: Number = leaf(shown=True)
    delta: float = 1e-5
    per_layer: bool = False
    accountant: str = "pld"

    def __post_init__(self) -> None:
        if isinstance(self.clip, int | float):
            check_clip(self.clip)
        sigma = self.noise_multiplier
        if isinstance(sigma, int | float) and not sigma >= 0:
            raise ValueError(f"Private: noise_multiplier must be ≥ 0, got {sigma}")
        if not isinstance(self.delta, float) or not 0 < self.delta < 1:
            raise ValueError(
                "Private: delta is a probability between 0 and 1, well below one over "
                f"the number of examples, got {shown(self.delta)}"
            )
        if self.accountant not in ACCOUNTANTS:
            raise ValueError(
                f"Private: accountant must be {' or '.join(map(repr, ACCOUNTANTS))}, "
                f"got {self.accountant!r}"
            )

    def epsilon(self, n: int, batch_size: int, epochs: int) -> float:
        """Compute ε after some epochs of `fnn.fit`, by `dp-accounting`.

        Examples are added or removed, not replaced, to tell two data sets apart.

        Args:
            n: N, the number of training examples.
            batch_size: B, of which there are ⌈N/B⌉ in an epoch.
            epochs: how many.

        Returns:
            ε, infinite without noise.

        Raises:
            ImportError: `dp-accounting` is not installed.
        """
        events, accountant = _accounting(self.accountant)
        steps = epochs * steps_per_epoch(n, batch_size)
        if steps == 0:
            return 0.0
        noisy = events.GaussianDpEvent(float(self.noise_multiplier))
        sampled = events.PoissonSampledDpEvent(batch_size / n, noisy)
        accountant.compose(events.SelfComposedDpEvent(sampled, steps))
        return float(accountant.get_epsilon(self.delta))


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return ⌈N/B⌉."""
    return -(-n // batch_size)


def check_private(private: Any) -> Private | None:
    """Return the settings, or None; raise where the budget could not be computed."""
    if private is None:
        return None
    expect_instance("private", private)
    if not isinstance(private, Private):
        raise TypeError(
            "private must be fnn.per_example.Private(clip=..., noise_multiplier=...), "
            f"got {shown(private)}"
        )
    if any(isinstance(part, jax.core.Tracer) for part in jax.tree.leaves(private)):
        raise TypeError("private: the budget needs numbers, got traced values")
    _accounting(private.accountant)
    return private


def _accounting(name: str) -> tuple[Any, Any]:
    """Return the module of events, and a new accountant."""
    try:
        from dp_accounting import dp_event
        from dp_accounting.pld import PLDAccountant
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise ImportError(
            "private training computes its budget by dp-accounting, which is not "
            "installed: pip install 'fnn[private]'"
        ) from error
    return dp_event, PLDAccountant() if name == "pld" else RdpAccountant()
