"""Many training runs at once, in one compiled program."""
