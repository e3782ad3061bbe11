"""Planning: an equivalent network that runs faster, and a table of the changes."""
