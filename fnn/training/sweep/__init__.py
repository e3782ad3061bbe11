"""Many trainings at once, in one compiled program."""

__all__ = []
