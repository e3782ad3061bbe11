"""Backward rules beside true backpropagation.

Of a network `net`, each of these makes one with the same variables and forward, whose
backward is another one, for `value_and_grad`, `fit` and the audit:

    feedback_alignment, sign_symmetric          dx by other weights than W
    direct_feedback_alignment                   the network's own error to every layer
    meprop, quantized_delta, noisy_delta,       δ changed on its way;
    clipped_delta, change_delta                 by a change of your own

Others have variables of their own, or are engines, passed as `engine=...`:

    kolen_pollack                               feedback weights that are learned
    local_losses, local_learning                a loss in every block
    forward_forward, forward_forward_learning   two forwards, a loss in every block
    forward_gradient                            a slope along a random direction

`Sign`, `Quantized` and `Spike` are activations with jumps and a surrogate slope.
`compare_rules`, also `fnn.compare_rules`, measures angles to the true gradient. The
audit, `fnn.compare_gradients`, compares a rule with what it claims.
"""

from fnn.passes.rules.compare import RuleComparison, compare_rules
from fnn.passes.rules.deltas import (
    ChangedDelta,
    Clip,
    Noise,
    Quantize,
    TopK,
    change_delta,
    clipped_delta,
    meprop,
    noisy_delta,
    quantized_delta,
)
from fnn.passes.rules.direct import DirectFeedback, direct_feedback_alignment
from fnn.passes.rules.feedback import Feedback, feedback_alignment, sign_symmetric
from fnn.passes.rules.forward_forward import (
    ForwardForward,
    forward_forward,
    forward_forward_learning,
)
from fnn.passes.rules.forward_gradient import forward_gradient
from fnn.passes.rules.keys import FixedKey
from fnn.passes.rules.kolen_pollack import (
    KolenPollack,
    KolenPollackParams,
    kolen_pollack,
)
from fnn.passes.rules.local_losses import (
    LocalLosses,
    local_learning,
    local_losses,
    similarity,
)
from fnn.passes.rules.surrogates import Quantized, Sign, Spike

__all__ = [
    "ChangedDelta",
    "Clip",
    "DirectFeedback",
    "Feedback",
    "FixedKey",
    "ForwardForward",
    "KolenPollack",
    "KolenPollackParams",
    "LocalLosses",
    "Noise",
    "Quantize",
    "Quantized",
    "RuleComparison",
    "Sign",
    "Spike",
    "TopK",
    "change_delta",
    "clipped_delta",
    "compare_rules",
    "direct_feedback_alignment",
    "feedback_alignment",
    "forward_forward",
    "forward_forward_learning",
    "forward_gradient",
    "kolen_pollack",
    "local_learning",
    "local_losses",
    "meprop",
    "noisy_delta",
    "quantized_delta",
    "sign_symmetric",
    "similarity",
]
