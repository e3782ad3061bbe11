"""The layers, one family per file; in each, forward and backward side by side."""
