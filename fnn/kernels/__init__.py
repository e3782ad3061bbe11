"""Fast forward/backward pairs in the inner layout; README.md derives them."""

__all__ = ()
