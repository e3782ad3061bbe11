"""Many training runs at once: one compiled program for all that share their shapes."""
