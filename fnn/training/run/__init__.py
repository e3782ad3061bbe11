"""One training, from its specification to its result."""

__all__: list[str] = []
