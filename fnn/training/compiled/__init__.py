"""The compiled program of training: an epoch, on one device or on many."""
