"""The audit: decide whether gradients are right, and name the layer that is wrong."""
