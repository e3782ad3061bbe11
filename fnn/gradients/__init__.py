"""Gradients by hand, by autodiff and from the definition, and their comparison."""
