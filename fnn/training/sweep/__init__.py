"""Many trainings at once, in one compiled program."""

__all__: list[str] = []
