"""fnn: the backward pass you can read, check and replace."""

from fnn import losses
from fnn.core import (
    Backward,
    Forward,
    Layer,
    Variables,
    layer,
    leaf,
    named_params,
    walk,
)
from fnn.gradients import *  # noqa: F403
from fnn.layers import *  # noqa: F403

