"""Other backward passes over the same network: see README.md in this folder."""
