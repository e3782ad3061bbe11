"""What a training leaves on the disk, and how it is read back."""

__all__ = []
