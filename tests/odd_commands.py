"""Damaged files for the readers, and wrong command lines for the experiments.

No command really runs: the last option names a folder that is not empty, which every
experiment refuses after it has checked all other options. A wrong option must be
refused before that.
"""

import contextlib
import importlib
import io
import shlex
import tempfile
from pathlib import Path
from unittest import mock
from urllib.error import URLError

from hypothesis import strategies as st
from odd_files import READERS, Wrong, is_refusal, seeds
from odd_inputs import Family, some

from experiments.__main__ import experiments

# ---- Files -----------------------------------------------------------------------


def damaged(reader: str) -> st.SearchStrategy[str]:
    """Draw a whole file with some bytes changed, cut off, inserted or doubled."""
    with tempfile.TemporaryDirectory() as folder:
        whole = [data.hex() for data in seeds(reader, Path(folder))]
    change = st.tuples(
        st.floats(0, 1),
        some("set", "cut", "drop", "double", "zeros"),
        st.integers(0, 255) | st.sampled_from([0, 1, 127, 128, 255]),
    )
    return st.builds(
        lambda data, changes: (
            f"{reader} {_changed(bytes.fromhex(data), changes).hex()}"
        ),
        st.sampled_from(whole),
        st.lists(change, max_size=4),
    )


def _changed(data: bytes, changes: list[tuple[float, str, int]]) -> bytes:
    first, data = data[:1], data[1:]  # the first names the kind of the rest
    for share, change, byte in changes:
        # Half of the changes in the first bytes, where a header is.
        size = len(data) if byte % 2 else min(len(data), 64)
        i = round(share * max(size - 1, 0))
        match change:
            case "set":
                data = data[:i] + bytes([byte]) + data[i + 1 :]
            case "cut":
                data = data[:i]
            case "drop":
                data = data[:i] + data[i + 1 + byte % 8 :]
            case "double":
                data = data[: i + byte] + data[i:]
            case "zeros":
                data = data[:i] + bytes(byte) + data[i:]
    return first + data


def run_file(line: str) -> str:
    """Read the file, which may be refused."""
    reader, _, data = line.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        try:
            READERS[reader](bytes.fromhex(data), Path(folder))
        except Exception as error:
            if is_refusal(error):
                return "refused"
            raise Wrong(f"{line[:400]}\n    {type(error).__name__}: {error}") from error
    return "right"


# ---- Command lines ---------------------------------------------------------------

#: Values that are no numbers.
UNREADABLE = (
    "x",
    "1.5.2",
    "--",
    "1e",
    "[1]",
    "None",
    "",
    "-",
    "ä",
    "0x1g",
    "1 2",
    "'1'",
)
ODD = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-0.0",
    "1e-400",
    "99999999999999999999",
)
#: Its checks open a connection, so it only gets options that cannot be parsed.
CONNECTS = "train_distributed"


def options(name: str) -> list[str]:
    """Return the options of an experiment that take a number."""
    module = importlib.import_module(f"experiments.{name}")
    fields = getattr(module.Config, "__dataclass_fields__", {})
    return [
        f"--{field.name.replace('_', '-')}"
        for field in fields.values()
        if field.type in (int, float, "int", "float")
    ]


NUMERIC = {name: options(name) or ["--seed"] for name in experiments()}


@st.composite
def command_lines(draw) -> str:
    """Draw an experiment with one to three options, of which at least one is wrong."""
    name = draw(st.sampled_from(sorted(NUMERIC)))
    argv = []
    numeric = st.sampled_from(NUMERIC[name])
    for option in draw(st.lists(numeric, max_size=2, unique=True)):
        values = UNREADABLE if name == CONNECTS else UNREADABLE + ODD
        argv += [option, draw(st.sampled_from(values))]
    extra = draw(
        some("", "--unknown 3", "--seed", "loose", "--dataset nothing", "--out", "-x",
             "--engine jax", "--networks none", "--data-dir nowhere --dataset mnist",
             "--seeds=", "--check maybe", "--epochs 1 --epochs 2", "--Seed 1", "--")
    )  # fmt: skip
    if name == CONNECTS:
        extra = "--unknown 3"
    return shlex.join([name, *argv, *shlex.split(extra)])


def run_command(line: str) -> str:
    """Run the command, which must exit with status 2 and a message, no traceback."""
    name, *argv = shlex.split(line)
    main = importlib.import_module(f"experiments.{name}").main
    stderr, offline = io.StringIO(), mock.Mock(side_effect=URLError("no network"))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "file").touch()
        stack.enter_context(mock.patch("fnn.data.download.urlopen", offline))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            status = main([*argv, "--out", folder])
        except SystemExit as end:
            status = end.code
        except Exception as error:
            raise Wrong(f"{line}\n    {type(error).__name__}: {error}") from error
    message = stderr.getvalue()
    if status != 2 or not message.strip() or "Traceback" in message:
        raise Wrong(f"{line}\n    exit status {status}, {message[:200]!r}")
    impossible = set(UNREADABLE) & set(argv) or "--unknown" in argv
    if impossible and "already holds something" in message:
        raise Wrong(f"{line}\n    an option that cannot be parsed was accepted")
    return "refused"


FAMILIES = {
    "files": Family(st.one_of(*map(damaged, READERS)), run_file),
    "command lines": Family(command_lines(), run_command),
}
