"""A sample of the inputs of `scripts/soak/inputs.py`, and the faults it has found."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import odd_commands
import odd_inputs
import odd_layers
import odd_losses
import odd_positions
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from odd_files import READERS, Wrong, is_refusal
from odd_inputs import judge

import fnn

FAMILIES = {
    name: family
    for module in (odd_inputs, odd_layers, odd_losses, odd_positions, odd_commands)
    for name, family in module.FAMILIES.items()
}
VERDICTS = ("right", "refused", "not a label of this dtype")
SAMPLE = {
    "fit": 60,
    "evaluate, predict": 40,
    "layers": 80,
    "numbers": 20,
    "losses": 80,
    "positions": 15,
    "files": 80,
    "command lines": 6,
}


@pytest.fixture(autouse=True)
def as_a_user_has_it():
    """Run with JAX's usual promotion of dtypes, and with all frames of a traceback."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_traceback_filtering", before)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", SAMPLE)
def test_odd_inputs_are_right_or_refused(name):
    @settings(
        max_examples=SAMPLE[name],
        phases=[Phase.explicit, Phase.generate],  # lines are too short to shrink
        suppress_health_check=list(HealthCheck),
    )
    @given(FAMILIES[name].inputs)
    def every(line):
        assert FAMILIES[name].run(line) in VERDICTS

    every()


FIT = (
    "fnn.fit(NET, LOSS, fnn.optimizers.sgd(RATE), train=(X, Y), key=KEY, epochs=1, "
    "batch_size=6, variables=VARIABLES{0})"
)
EVALUATE = "fnn.evaluate(NET, LOSS, VARIABLES, (X, Y), metrics={0})"


def fit(**other: str) -> str:
    """Write a call of fit with other options, or another optimizer, net or loss."""
    sgd = "fnn.optimizers.sgd(RATE)"
    line = FIT.replace(sgd, other.pop("optimizer", sgd))
    for name, positional in (("net", "NET"), ("loss", "LOSS")):
        line = line.replace(f"{positional},", f"{other.pop(name, positional)},")
    for name, old in (("train", "(X, Y)"), ("key", "KEY"), ("variables", "VARIABLES")):
        line = line.replace(f"{name}={old}", f"{name}={other.pop(name, old)}")
    return line.format("".join(f", {name}={part}" for name, part in other.items()))


def early_stop(options: str) -> str:
    return fit(validation="(X, Y)", early_stopping=f"fnn.EarlyStopping({options})")


INTEGERS = "[-1, 0, 1, 2, 100, 120]"

#: Inputs that once led to raw errors or to wrong answers, with their right verdict.
FOUND = [
    ("fit", fit(), "right"),
    ("fit", fit(train="(X.astype('complex64'), Y)"), "refused"),  # took the real part
    ("fit", fit(train="(np.ma.array(X, mask=X > 0), Y)"), "refused"),  # ignored it
    ("fit", fit(train="(np.ma.array(X), Y)"), "right"),
    ("fit", fit(train="(X.astype('int64') + 2**40, Y)"), "refused"),  # cut to 32 bits
    ("fit", fit(train="(X.astype('int64'), Y)"), "right"),
    ("fit", fit(train="(jax.random.split(KEY, 6), Y)"), "refused"),
    ("fit", fit(train="lambda: iter([(X * 1j, Y)])"), "refused"),
    ("fit", fit(train="lambda: iter([(np.ma.array(X, mask=X > 0), Y)])"), "refused"),
    ("fit", fit(l2="{}"), "refused"),
    ("fit", fit(l2="b'3'"), "refused"),
    ("fit", fit(l2="np.array(2)"), "right"),
    ("fit", fit(engine="{}"), "refused"),
    ("fit", fit(plan="np.ones(2)"), "refused"),
    ("fit", fit(key="jnp.zeros(3, jnp.uint32)"), "refused"),
    ("fit", fit(key="np.array([0, 1], 'uint32')"), "right"),
    ("fit", fit(net="print"), "refused"),
    ("fit", fit(net="[NET]"), "refused"),
    ("fit", fit(loss="fnn.losses"), "refused"),
    ("fit", fit(variables="jax.tree.map(str, VARIABLES)"), "refused"),
    ("fit", fit(optimizer="fnn.optimizers.sgd(jnp.ones((2, 2)))"), "refused"),
    ("fit", early_stop("patience=[]"), "refused"),
    ("fit", early_stop("monitor=np.ones(2)"), "refused"),
    ("fit", early_stop("mode=np.ones(2)"), "refused"),
    ("fit", early_stop("min_delta=[]"), "refused"),
    ("evaluate, predict", EVALUATE.format("{3: fnn.accuracy}"), "refused"),
    ("evaluate, predict", EVALUATE.format("{'m': lambda z, y: None}"), "refused"),
    ("evaluate, predict", EVALUATE.format("{'m': lambda z, y: z}"), "refused"),
    ("evaluate, predict", EVALUATE.format("{'m': lambda z: z.mean()}"), "refused"),
    ("evaluate, predict", EVALUATE.format("{'m': lambda z, y: z.mean()}"), "right"),
    ("layers", "fnn.Elu(None) | (4,) | (2, *shape) | True", "refused"),
    ("layers", "fnn.LeakyRelu('1') | (4,) | (2, *shape) | True", "refused"),
    ("layers", "fnn.LeakyRelu(np.ones(2) > 0) | (4,) | (2, *shape) | True", "refused"),
    ("layers", "fnn.LeakyRelu(np.nan) | (4,) | (2, *shape) | True", "refused"),
    (
        "layers",
        "fnn.Conv(1, 2, padding=2**70) | (4, 4, 1) | (2, *shape) | True",
        "refused",
    ),
    ("layers", "fnn.Dense(2**70) | (4,) | (2, *shape) | True", "refused"),
    ("layers", "fnn.Lambda(None) | (4,) | (2, *shape) | True", "refused"),
    ("layers", "fnn.GroupNorm(2) | (4,) | (0, *shape) | True", "right"),
    (
        "numbers",
        "fnn.Gelu(approximate=True) | float32 | [1e20, -1e20, 0, 9, -9, 1]",
        "right",
    ),
    *(("numbers", f"{f} | int32 | {INTEGERS}", "right") for f in odd_layers.FORMULAS),
    ("numbers", f"fnn.AvgPool(2) | uint8 | {INTEGERS}", "right"),
    ("numbers", f"fnn.Gelu() | uint8 | {INTEGERS}", "right"),
    ("losses", "fnn.losses.SquaredError() | () | 1.0 | np.array(1)", "refused"),
    ("losses", "fnn.losses.Huber(object()) | (4, 3) | 1.0 | np.eye(4, 3)", "refused"),
    (
        "losses",
        "fnn.losses.SoftmaxCrossEntropy(None) | (4, 3) | 1.0 | np.eye(4, 3)",
        "refused",
    ),
]


@pytest.mark.parametrize(("family", "line", "verdict"), FOUND)
def test_faults_that_were_found_stay_mended(family, line, verdict):
    assert FAMILIES[family].run(line) == verdict


# ---- Files -----------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return exec, ("import os; os.environ['FNN_BOMB'] = 'went off'",)


def test_no_reader_unpickles(tmp_path):
    # Not even where the size is the one in the header.
    pickled = pickle.dumps(np.array([Bomb()], dtype=object))
    pickled += bytes(-len(pickled) % 8)
    header = (
        f"{{'descr': '|O', 'fortran_order': False, 'shape': ({len(pickled) // 8},)}}"
    )
    entry = (
        b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + pickled
    )
    for reader in READERS:
        for content in (pickled, entry):
            for first in range(3):  # see READERS: plain, compressed, in an archive
                with pytest.raises(ValueError):
                    READERS[reader](bytes([first]) + content, tmp_path)
    assert "FNN_BOMB" not in os.environ
    pickle.loads(pickled)  # the bomb does go off when it is unpickled
    assert os.environ.pop("FNN_BOMB") == "went off"


def npz(entry: bytes, table: bytes = b'{"a": "float32"}') -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("dtypes.json", table)
        archive.writestr("a.npy", entry)
    return file.getvalue()


def npy(header: str, rest: bytes = b"", version: bytes = b"\1\0") -> bytes:
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode() + rest


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"


INTACT = npz(npy(HEADER, bytes(8)))


def with_bytes(at: int, what: bytes) -> bytes:
    """Return the intact archive with other bytes in its first directory entry."""
    start = INTACT.index(b"PK\1\2") + at
    return INTACT[:start] + what + INTACT[start + len(what) :]


def with_wrong_offset() -> bytes:
    """Return the intact archive with its directory's offset five bytes too large."""
    (offset,) = struct.unpack("<I", INTACT[-6:-2])
    return INTACT[:-6] + struct.pack("<I", offset + 5) + INTACT[-2:]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (with_wrong_offset(), ""),
        (npz(npy(HEADER.replace(")", "\0"), bytes(8))), ""),
        (npz(npy(f"if 1:\n  a\n b\n{HEADER}", bytes(8))), ""),
        (npz(npy(HEADER.replace("2", "-" * 9000 + "2"), bytes(8))), ""),
        (npz(npy(HEADER, bytes(8)), b"[" * 100_000), ""),
        (npz(npy(HEADER, bytes(8), b"\3\0")), r"version \(3, 0\) of the npy format"),
        (npz(npy(HEADER, bytes(9))), "a has 9 bytes, where its header says 8"),
        (with_bytes(8, b"\1"), "encrypted"),
        (with_bytes(10, b"\x0e"), "compressed in a way that NumPy does not write"),
    ],
    ids=["offset", "bracket", "indentation", "signs", "brackets", "version", "length",
         "encrypted", "compression"],
)  # fmt: skip
def test_damage_of_any_kind_is_called_damage(content, text, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    message = rf"is not a checkpoint .* or it is damaged: .*{text}"
    with pytest.raises(ValueError, match=message) as caught:
        fnn.load(path, {"a": np.zeros(2, np.float32)})
    assert not str(caught.value).endswith(": ")


def test_a_header_cannot_ask_for_memory(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(npy(HEADER.replace("2,", f"{2**26},"))))
    tracemalloc.start()
    with pytest.raises(ValueError, match="where its header says"):
        fnn.load(tmp_path / "x.npz", {"a": np.zeros(2, np.float32)})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_intact_archive_is_loaded(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(npy(HEADER, np.float32([1, 2]).tobytes())))
    loaded = fnn.load(tmp_path / "x.npz", {"a": np.zeros(2, np.float32)})
    assert loaded["a"].tolist() == [1, 2]


# ---- The judge can fail ----------------------------------------------------------


def test_the_judge_knows_who_raised_an_error():
    def raw():
        return jnp.ones(2) @ jnp.ones(3)

    def accident():
        return fnn.serial(fnn.Relu()).backward(((),), 3, jnp.ones((2, 3)))  # iter(3)

    def own():
        return fnn.Dense(0)

    def user():
        raise ValueError("not fnn's")

    assert judge("", own, print) == "refused"
    for call in (raw, accident, user):
        with pytest.raises(Exception) as caught:
            call()
        assert not is_refusal(caught.value)
        with pytest.raises(Wrong):
            judge("", call, print)


TANH = "fnn.Tanh() | float32 | [1, 2, 3, 4, 5, 6]"
WRONG_TANH = {"fnn.Tanh()": lambda x: np.tanh(x) * 1.001}
POOL = "fnn.MaxPool(2) | (8, 7, 4) | (2, *shape) | True"
SOFTMAX = "fnn.losses.SoftmaxCrossEntropy() | (4, 3) | 1.0 | np.full((4, 3), 1 / 3)"
PREDICT = "fnn.predict(NET, VARIABLES, X, 2)"


@pytest.mark.parametrize(
    ("family", "line", "module", "name", "wrong"),
    [
        ("fit", FIT.format(""), odd_inputs, "real", lambda x: np.asarray(x) + 0.1),
        ("evaluate, predict", PREDICT, odd_inputs, "real", lambda x: 2 * np.asarray(x)),
        ("layers", POOL, odd_layers, "expected_shape", lambda layer, shape: shape),
        ("numbers", TANH, odd_layers, "FORMULAS", WRONG_TANH),
        ("losses", SOFTMAX, odd_losses, "softmax", lambda z: z),
    ],
    ids=["fit", "predict", "layers", "numbers", "losses"],
)
def test_a_wrong_answer_is_seen(family, line, module, name, wrong, monkeypatch):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(Wrong):
        FAMILIES[family].run(line)
