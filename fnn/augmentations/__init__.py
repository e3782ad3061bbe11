"""Augmentations: random changes of images under which their labels stay true.

    augment(key, x) -> x        a batch of images to one of the same shape and dtype

A pure function of its key: the same key gives the same images, bit for bit, and every
image has a draw of its own. `fnn.fit(..., augment=...)` compiles it into the epoch and
gives it the training minibatches alone. A function of your own with that signature is
as good as those here, which are pytrees: probabilities are leaves (changing one does
not compile again), numbers of pixels are structure.

    Shift, RandomCrop, Flip     move the pixels
    CutOut                      removes some
    compose                     one after the other

Draws are float32 and int32 whatever the dtype of x, so that they do not depend on it.
"""

from fnn.augmentations.composition import (
    Augmentation,
    Compose,
    Function,
    as_augmentation,
    compose,
)
from fnn.augmentations.cutout import CutOut
from fnn.augmentations.moves import Flip, RandomCrop, Shift

__all__ = [
    "Augmentation",
    "Compose",
    "CutOut",
    "Flip",
    "Function",
    "RandomCrop",
    "Shift",
    "as_augmentation",
    "compose",
]
