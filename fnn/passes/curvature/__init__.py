"""Curvature: second derivatives of the loss, from the same forward and backward.

    hvp, ggn_vp             products of the Hessian, and of Gauss-Newton, with a v
    ggn_diagonal            the diagonal of Gauss-Newton, exact or estimated
    kfac_factors            Kronecker factors of each layer's block, expand or reduce
    kfac, precondition      a damped KFAC step, in optax's form
    trace, diagonal         Hutchinson's estimates
    operator                either matrix as a linear operator, also for scipy
    spectrum                eigenvalues of either, by Lanczos' iteration of matfree
    register, LossHessian   the Hessian of a loss of your own

The matrices are those of the mean loss of a batch, without a penalty. The diagonal and
KFAC ask for single examples, and refuse layers that mix them, as BatchNorm in training.
"""

from fnn.passes.curvature.diagonal import ggn_diagonal
from fnn.passes.curvature.hutchinson import diagonal, trace
from fnn.passes.curvature.kfac import KroneckerFactors, kfac_factors
from fnn.passes.curvature.kfac_step import kfac, precondition
from fnn.passes.curvature.loss_hessians import LossHessian, register
from fnn.passes.curvature.operator import CurvatureOperator, operator
from fnn.passes.curvature.products import ggn_vp, hvp
from fnn.passes.curvature.spectrum import Spectrum, spectrum

__all__ = [
    "CurvatureOperator",
    "KroneckerFactors",
    "LossHessian",
    "Spectrum",
    "diagonal",
    "ggn_diagonal",
    "ggn_vp",
    "hvp",
    "kfac",
    "kfac_factors",
    "operator",
    "precondition",
    "register",
    "spectrum",
    "trace",
]
