"""The version of fnn, and what differs between the versions of jax that it runs on."""

import warnings

import jaxlib

__all__ = ["__version__", "transposes_mapped_products", "warn_about_jaxlib"]

__version__ = "0.2.0"
"""The version of fnn, as in `0.2.0`."""

#: Versions of jaxlib that compute wrong results. The entry of 0.10.2 can go when fnn
#: needs jax 0.11 or newer, which Python 3.11 cannot install.
WRONG = {
    "0.10.2": (
        "jaxlib 0.10.2 computes wrong results on the CPU "
        "(https://github.com/jax-ml/jax/issues/39103). Install another version: jax "
        "0.12 on Python 3.12 or newer, jax 0.10.1 on Python 3.11."
    )
}


def warn_about_jaxlib(version: str = jaxlib.__version__) -> None:
    """Warn where this version of jaxlib computes wrong results.

    `import fnn` calls it, and so warns once in a process.

    Args:
        version: the version of jaxlib, by default that which is installed.

    Example:
        >>> warn_about_jaxlib("0.12.0")
    """
    if version in WRONG:
        warnings.warn(WRONG[version], RuntimeWarning, stacklevel=3)


def transposes_mapped_products(version: str = jaxlib.__version__) -> bool:
    """Return whether (dyᵀ x)ᵀ can be mapped: jaxlib 0.10 ends the process over it.

    Under `vmap`, beside a sum of dy, it fails a check of its own on the layout of dy,
    and aborts. This can go when fnn needs jax 0.11 or newer.
    """
    return not version.startswith("0.10.")
