"""Files of a run: checkpoints, and trees of arrays that are saved and loaded."""
