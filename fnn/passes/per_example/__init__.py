"""Statistics of the gradients of single examples, from one walk backwards.

With g_n the gradient of the loss of example n alone, not divided by N:

    norms                       ‖g_n‖, in all, by parameter and (by_layer) by layer
    gram, ntk                   ⟨g_n, g_m⟩; the inner products of the outputs' gradients
    variance, signal_noise,     how much the g_n differ, and the batch size for which
    noise_scale, NoiseAverage   signal and noise of their mean are equal
    clipped_grad                (1/N) Σ_n min(1, C/‖g_n‖) g_n
    Private                     clipping, noise and budget of `fnn.fit(private=...)`
    gradients, map_gradients    the g_n themselves, all at once or in chunks
    register, Outer, check      a formula for a layer of your own, and its check

Each is `function(net, loss)` and returns a pure function of the variables and a batch.
`fnn/passes/README.md` derives them.
"""

from fnn.passes.factors import Outer
from fnn.passes.formulas import register
from fnn.passes.per_example.check import CheckedFormulas, FormulaCheck, check
from fnn.passes.per_example.clipping import clipped_grad
from fnn.passes.per_example.gradients import gradients, map_gradients
from fnn.passes.per_example.gram import gram, ntk
from fnn.passes.per_example.noise import (
    NoiseAverage,
    SignalNoise,
    noise_scale,
    signal_noise,
    variance,
)
from fnn.passes.per_example.norms import ExampleNorms, by_layer, norms
from fnn.passes.per_example.private import Private

__all__ = [
    "CheckedFormulas",
    "ExampleNorms",
    "FormulaCheck",
    "NoiseAverage",
    "Outer",
    "Private",
    "SignalNoise",
    "by_layer",
    "check",
    "clipped_grad",
    "gradients",
    "gram",
    "map_gradients",
    "noise_scale",
    "norms",
    "ntk",
    "register",
    "signal_noise",
    "variance",
]
