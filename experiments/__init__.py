"""Experiments: one question per script, answered on the terminal and in a run folder.

`python -m experiments` lists them; the code that they share is in `experiments.shared`.
"""

from importlib.util import find_spec

_needed = ("rich", "tyro", "matplotlib", "sklearn")
_missing = [name for name in _needed if find_spec(name) is None]
if _missing:
    raise SystemExit(
        f"The experiments need {', '.join(_missing)}, which this Python does not have: "
        "pip install 'fnn[experiments]'"
    )
