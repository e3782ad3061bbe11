"""Data: images of digits, clothes and things, toy problems, functions to minimise.

Data sets are NumPy arrays until training starts; toy problems are pure functions of a
`jax.random` key.

    digits, mnist, fashion_mnist,
    cifar10                          return a `Dataset`: .train and .test, each (x, y)
    split                            splits training data: .train and .validation
    read_idx, read_cifar_batch       read one file in the format of MNIST, of CIFAR-10
    xor, two_moons, spirals          return points (x, y) in the plane
    ill_conditioned_bowl, rosenbrock return a `Target`: .f, .start, .minimum
"""

from fnn.data.cifar import cifar10, read_cifar_batch
from fnn.data.datasets import Dataset, digits, fashion_mnist, mnist
from fnn.data.idx import read_idx
from fnn.data.splitting import Split, split
from fnn.data.toys import (
    Target,
    ill_conditioned_bowl,
    rosenbrock,
    spirals,
    two_moons,
    xor,
)

__all__ = [
    "Dataset",
    "Split",
    "Target",
    "cifar10",
    "digits",
    "fashion_mnist",
    "ill_conditioned_bowl",
    "mnist",
    "read_cifar_batch",
    "read_idx",
    "rosenbrock",
    "spirals",
    "split",
    "two_moons",
    "xor",
]
