"""What runs inside one compiled program: an epoch, and many devices."""

__all__ = []
