"""The chain rule of one parameter, written out factor by factor."""
