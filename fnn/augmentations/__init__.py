"""Augmentations: random changes of images under which their labels stay true.

    augment(key, x) -> x        a batch of images to one of the same shape and dtype

An augmentation is a pure function of its key: the same key returns the same images, bit
for bit, and every image has a draw of its own. `fnn.fit(..., augment=...)` compiles it
into the epoch and applies it to the training minibatches only. Any function with that
signature works. The classes here are pytrees: probabilities are leaves (changing one
does not compile again), numbers of pixels are structure.

    Shift, RandomCrop, Flip     move the pixels
    CutOut                      removes some pixels
    compose                     applies several, one after the other

Draws are float32 and int32, and do not depend on the dtype of x.
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
