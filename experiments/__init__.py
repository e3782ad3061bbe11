"""Experiments: one question per script, answered on the terminal and in a run folder.

`python -m experiments` lists them. What they share:

    command_line    a typed Config as options; mistakes in plain words
    terminal        numbered steps, tables, a progress bar over epochs
    seeds           mean and deviation over seeds
    runs            the run folder: JSON, JSON lines, versions
    problem         from options to network, loss, optimizer and data
    recipe          gradient check, training and test, for any network and images
    networks        LeNet, an all-convolutional and a residual network
    published       settings of published results, as a table for `reproduce`
    published_runs  training and measuring with such a setting
    few_digits      few examples, some labels wrong, for what should regularize
    tuning          learning rates for the comparison of optimizers
    answers         what an experiment that asks one question leaves
    figures         one style for all pictures; learning curves, mistakes
    sweep_figures   what is measured under several seeds, over hyperparameters
"""

from importlib.util import find_spec

_needed = ("rich", "tyro", "matplotlib", "sklearn")
_missing = [name for name in _needed if find_spec(name) is None]
if _missing:
    raise SystemExit(
        f"The experiments need {', '.join(_missing)}, which this Python does not have: "
        "pip install 'fnn[experiments]'"
    )
