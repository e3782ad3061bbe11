"""The records of a run, in an event file that TensorBoard opens.

TensorBoard's own package writes the file; neither TensorFlow nor PyTorch is needed. It
is imported when a `TensorBoard` is made, and not before.
"""

import os
import time
from collections.abc import Mapping
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fnn.checks import is_integer
from fnn.describe import shown
from fnn.named_leaves import leaves_by_name

__all__ = ["TensorBoard"]

#: The first words of names in records; TensorBoard shows them as groups.
_GROUPS = ("train", "validation")

_BINS = 30


class TensorBoard:
    """A writer of every epoch's record, for `tensorboard --logdir folder` to show.

    Pass it to `fnn.fit` as `on_epoch`, or call it with records of your own. Each is
    written under its "epoch", and is in the file when the call returns:

        a number               a scalar; train_loss becomes train/loss
        an array               a histogram of its entries
        a dict, tuple, list    its parts, such as health/0/Dense.weight

    TensorBoard keeps scalars in float32. A histogram leaves out NaN and infinity; their
    number becomes a scalar, `<name>/not_finite`.

    Args:
        folder: the folder of the event file, created if it does not exist. Each object
            starts a file of its own in it, and TensorBoard joins the files of a folder:
            use the same folder for a run that is resumed, and another one for another
            run.

    Raises:
        ImportError: tensorboard is not installed.
        NotADirectoryError: `folder` is a file.

    Example:
        >>> import fnn, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with fnn.TensorBoard(folder) as board:  # fnn.fit(..., on_epoch=board)
        ...         board({"epoch": 1, "train_loss": 0.7, "validation_accuracy": 0.9})
        ...     [file] = Path(folder).iterdir()
        >>> file.name.startswith("events.out.tfevents.")
        True
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard(...) writes with the tensorboard package, which is not "
                "installed: pip install 'fnn[tensorboard]'"
            ) from error
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"folder must be a directory to put an event file into, got the file "
                f"{self.folder}"
            )
        self._writer: Any = EventFileWriter(str(self.folder))

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the record of an epoch, as `fit(on_epoch=...)` passes it.

        Args:
            record: numbers and arrays by name, or dicts of them; "epoch" is the step.

        Raises:
            TypeError: there is no "epoch", or a value is neither number nor array.
            ValueError: the file has been closed.
        """
        if not isinstance(record, Mapping) or not is_integer(record.get("epoch")):
            raise TypeError(
                'expected a record with the number of its epoch, such as {"epoch": 1, '
                f'"train_loss": 0.7}}, got {shown(record)}'
            )
        rest = {name: value for name, value in record.items() if name != "epoch"}
        values = [
            value
            for name, leaf in leaves_by_name(rest).items()
            for value in _summary_values(_tag(name), _as_numbers(name, leaf))
        ]
        self._write(values, record["epoch"])

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Write a picture.

        Args:
            name: the name of the picture, such as "weights/0".
            figure: a Matplotlib figure, or anything with its `savefig`.
            step: the number of the epoch that it shows.

        Raises:
            TypeError: `figure` is not a figure.
            ValueError: the file has been closed.
        """
        if not hasattr(figure, "savefig"):
            raise TypeError(
                f"figure must be a Matplotlib figure, got {type(figure).__name__}: "
                "pass axes.figure, or what plt.figure() returns"
            )
        file = BytesIO()
        figure.savefig(file, format="png")
        png = file.getvalue()
        # Bytes 16 to 23 of any PNG file are its width and its height, big-endian.
        width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
        summary = _proto("summary").Summary
        image = summary.Image(
            width=width,
            height=height,
            colorspace=4,  # red, green, blue and opacity
            encoded_image_string=png,
        )
        self._write([summary.Value(tag=name, image=image)], step)

    def close(self) -> None:
        """Close the file. Nothing can be written after that."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, values: list[Any], step: int) -> None:
        if self._writer is None:
            raise ValueError(
                f"the event file in {self.folder} has been closed: make another "
                "TensorBoard of the same folder to write more"
            )
        event = _proto("event").Event(wall_time=time.time(), step=step)
        event.summary.value.extend(values)
        self._writer.add_event(event)
        self._writer.flush()  # so that this epoch can be seen now


def _proto(name: str) -> Any:
    """Import a module of TensorBoard's protocol buffers; its classes have no types."""
    return import_module(f"tensorboard.compat.proto.{name}_pb2")


def _tag(name: str) -> str:
    """Return the tag of a name: `train/loss` for `train_loss`."""
    for group in _GROUPS:
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return name


def _as_numbers(name: str, leaf: Any) -> np.ndarray:
    try:
        return np.asarray(leaf, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"record: {name} must be a number or an array of numbers, got "
            f"{type(leaf).__name__} {leaf!r}"
        ) from error


def _summary_values(tag: str, numbers: np.ndarray) -> list[Any]:
    """Return a scalar for a number, a histogram for an array."""
    value = _proto("summary").Summary.Value
    if numbers.ndim == 0:
        return [value(tag=tag, simple_value=float(numbers))]
    finite = numbers[np.isfinite(numbers)]
    values: list[Any] = []
    if not_finite := numbers.size - finite.size:
        values = [value(tag=f"{tag}/not_finite", simple_value=not_finite)]
    if not finite.size:
        return values
    # Not np.histogram, which refuses numbers that are too close for this many bins.
    limits = np.unique(np.linspace(finite.min(), finite.max(), _BINS + 1)[1:])
    bins = np.searchsorted(limits[:-1], finite, side="right")
    histogram = _proto("histogram").HistogramProto(
        min=finite.min(),
        max=finite.max(),
        num=finite.size,
        sum=finite.sum(),
        sum_squares=np.square(finite).sum(),
        bucket_limit=limits,
        bucket=np.bincount(bins, minlength=len(limits)),
    )
    return [value(tag=tag, histo=histogram), *values]
