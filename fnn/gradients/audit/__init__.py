"""The audit: whether gradients are right, and which layer is wrong where not."""

__all__ = []
