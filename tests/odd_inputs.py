"""Wrong and odd inputs, drawn by hypothesis, and a judge of the result of each.

An input is a line of Python, so that lines of a log can be run again. Its result must
agree with a plain reference, or fnn must refuse it with an error of its own: raised by
a `raise` in fnn, not somewhere inside JAX or NumPy, and with a message. Everything else
is `Wrong`.

    FAMILIES[name].inputs     a strategy for lines
    FAMILIES[name].run(line)  "right" or "refused"; raises Wrong
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st
from odd_files import Wrong, is_refusal, raised_at

import fnn


class Family(NamedTuple):
    """A kind of input: a strategy that draws them, and a function that judges one."""

    inputs: st.SearchStrategy[str]
    run: Callable[[str], str]


def judge(line: str, call: Callable[[], Any], check: Callable[[Any], None]) -> str:
    """Return the verdict on a call: check its result, or judge its error."""
    try:
        with warnings.catch_warnings():
            # Some overflow on purpose, and some name a device that is not there.
            warnings.simplefilter("ignore")
            result = call()
    except Exception as error:
        notes = "".join(getattr(error, "__notes__", ()))
        if is_refusal(error) or "in augment(key" in notes or "in metric" in notes:
            # Or a function of the user raised it, and the note says which one.
            return "refused"
        file, number = raised_at(error)
        text = f"at {file}:{number}: {str(error)[:200]}".partition("\n")[0]
        raise Wrong(f"{line}\n    {type(error).__name__} {text}") from error
    try:
        check(result)
    except Exception as error:
        text = str(error).strip() or "a wrong result"
        raise Wrong(f"{line}\n    {type(error).__name__}: {text[:300]}") from error
    return "right"


def lines(template: str, **parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw lines of Python from a template and strategies for its parts."""
    return st.builds(template.format, **parts)


def some(*choices: str) -> st.SearchStrategy[str]:
    """Draw one of these lines."""
    return st.sampled_from(choices)


def _spelled(number: float) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return f"float({str(number)!r})"
    return repr(number)


#: Lines to put where a number is expected.
STRANGE = some(
    *("None", "True", "'3'", "''", "[]", "()", "{}", "print", "object()", "1j"),
    *("np.ones(2)", "jnp.ones((2, 2))", "float('nan')", "float('inf')", "-1", "0"),
    *("np.int64(3)", "np.float32(0.5)", "np.array(2)", "jnp.array(2)", "2**70", "b'3'"),
)
INTEGERS = st.integers(-3, 9).map(repr) | STRANGE
#: Without arrays, which a layer may hold in place of a number, for `vmap`.
NO_ARRAY = STRANGE.filter(lambda line: "ones" not in line)
REALS = st.floats(-2, 2, width=16).map(_spelled) | st.floats().map(_spelled) | NO_ARRAY

# ---- fit, evaluate and predict ---------------------------------------------------

X = np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3)
Y = np.linspace(1, -1, 6, dtype=np.float32)[:, None] ** 3
NET, LOSS = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
PARAMS = fnn.DenseParams(jnp.array([[0.5], [-1.0], [0.25]]), jnp.zeros(1))
VARIABLES = fnn.Variables((PARAMS,), ((),))
KEY, RATE = jax.random.key(0), 0.1
NAMES: dict[str, Any] = dict(
    fnn=fnn, jax=jax, np=np, jnp=jnp, optax=optax, X=X, Y=Y, NET=NET, LOSS=LOSS,
    KEY=KEY, VARIABLES=VARIABLES, RATE=RATE,
)  # fmt: skip


def value(line: str) -> Any:
    """Evaluate a line of Python."""
    return eval(line, dict(NAMES))


#: {0} is X or Y, in other types and shapes, and things that are no arrays.
ARRAYS = some(
    *("{0}", "{0}.tolist()", "jnp.asarray({0})", "{0}.astype('float64')", "{0}[::-1]"),
    *("{0}.astype('float16')", "jnp.asarray({0}, jnp.bfloat16)", "{0}.astype(bool)"),
    *("{0}.astype('int32')", "{0}.astype('int64')", "{0}.astype('int8')", "{0} > 0"),
    *("{0}.astype('uint8')", "{0}.astype('complex64')", "{0} * 1j", "{0}.astype(str)"),
    *("{0}.astype(object)", "{0}.astype('float32').T", "np.asfortranarray({0})"),
    *("{0}[0]", "{0}[:0]", "{0}[:1]", "{0}[:-1]", "{0}[None]", "{0}[..., None]"),
    *("{0}[:, :0]", "{0}.ravel()", "np.repeat({0}, 2, 1)", "np.repeat({0}, 2, 0)"),
    *("{0} * np.nan", "{0} / 0", "{0} * 1e30", "{0}.astype('f8') * 1e300", "-{0}"),
    *("np.ma.array({0}, mask={0} > 0)", "np.ma.array({0})", "np.matrix({0})"),
    *("({0} * 100).astype('int64') + 2**40", "({0} * 9).astype('int64').tolist()"),
    *("({0} * 100).astype('uint32')", "({0} * 1e6).astype('datetime64[s]')"),
    *("[[1, 2], [3]]", "[[2**40] * 3] * 6", "[None] * 6", "['a'] * 6", "range(6)"),
    *("{0}.astype('>f4')", "{0}.astype('float128')", "{0}.view('V4')", "iter({0})"),
    *("np.float32(1)", "3", "'X'", "None", "print", "jax.random.split(KEY, 6)"),
    *("{0}.tobytes()", "memoryview({0})", "np.where({0} > 0.9, np.inf, {0})"),
)
DATA = st.one_of(
    lines("({x}, {y})", x=some("X"), y=ARRAYS.map(lambda a: a.format("Y"))),
    lines("({x}, {y})", x=ARRAYS.map(lambda a: a.format("X")), y=some("Y")),
    lines("[{x}, {y}]", x=some("X", "X.tolist()"), y=some("Y", "Y[:, 0]", "X", "KEY")),
    some("X", "(X,)", "(X, Y, Y)", "{'x': X, 'y': Y}", "None", "fnn.data.xor", "'ab'"),
    some(
        "fnn.data.Dataset((X, Y), (X, Y))", "zip(X, Y)", "np.stack([X, X])", "((), ())"
    ),
)
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "train": DATA,
    "validation": DATA,
    "key": INTEGERS
    | some("jax.random.PRNGKey(1)", "jax.random.split(KEY)", "KEY[None]",
        "np.uint32(7)",
           "jax.random.key(1, impl='rbg')", "np.array([0, 1], 'uint32')",
           "jnp.zeros(3, jnp.uint32)", "jnp.zeros(2)"),
    "epochs": some("1", "2", "np.int32(1)") | STRANGE.filter(lambda n: n != "2**70"),
    "batch_size": INTEGERS,
    "mesh": STRANGE,
    "engine": some("'manual'", "'autodiff'", "'Manual'", "'jax'") | STRANGE,
    "plan": some("'fast'", "'exact'", "'FAST'", "'slow'") | STRANGE,
    "augment": some("lambda key, x: x", "lambda x: x", "lambda key, x: x[1:]",
        "fnn.Relu",
                    "lambda key, x: None", "lambda key, x: x > 0", "fnn.Dropout(0.5)",
                    "fnn.augmentations.Shift(1)", "fnn.augmentations.Shift") | STRANGE,
    "variables": some("NET.init(KEY, (4,))", "fnn.Dense(1).init(KEY, (3,))", "(1, 2)",
                      "fnn.Variables((), ())", "VARIABLES.params", "list(VARIABLES)",
                      "jax.tree.map(np.asarray, VARIABLES)", "tuple(VARIABLES)",
                      "jax.tree.map(lambda a: a.astype(int), VARIABLES)",
                      "jax.tree.map(lambda a: a * np.nan, VARIABLES)",
                      "jax.tree.map(lambda a: a[None], VARIABLES)",
                      "jax.tree.map(lambda a: a.astype(jnp.bfloat16), VARIABLES)",
                      "jax.tree.map(str, VARIABLES)") | STRANGE,
    "early_stopping": lines("fnn.EarlyStopping(patience={n})", n=INTEGERS)
    | lines("fnn.EarlyStopping(min_delta={n})", n=REALS)
    | lines("fnn.EarlyStopping(subset={n})", n=INTEGERS | REALS)
    | lines("fnn.EarlyStopping(every={n})", n=INTEGERS)
    | lines("fnn.EarlyStopping(monitor={n})", n=STRANGE)
    | lines("fnn.EarlyStopping(mode={n})", n=STRANGE)
    | some("fnn.EarlyStopping", "3", "True", "fnn.EarlyStopping()"),
    "metrics": some("{'m': lambda z, y: (z - y).mean()}", "{'m': fnn.losses}", "{}",
                    "{'loss': fnn.accuracy}", "[fnn.accuracy]", "{3: fnn.accuracy}",
                    "{'m': lambda z, y: z}", "{'m': lambda z, y: None}",
                    "{'m': lambda z: z.mean()}") | STRANGE,
    "l2": REALS,
    "on_epoch": some("lambda record: None", "[].append"),
    "resume": STRANGE,
    "checkpoint_dir": some("0", "3.5", "True", "[]", "object()", "fnn.Checkpoints"),
    "validation_device": some("'cpu'", "'another'", "jax.devices()", "0", "print"),
}  # fmt: skip
OPTIMIZERS = st.one_of(
    lines("fnn.optimizers.sgd({rate})", rate=REALS),
    lines("fnn.optimizers.momentum(0.1, {beta})", beta=REALS),
    lines("fnn.optimizers.adam({rate})", rate=REALS),
    some("fnn.optimizers.adam", "'adam'", "None", "optax.sgd(0.1)", "0.1"),
)


@st.composite
def fits(draw) -> str:
    """Draw a call of fit with up to three unusual options."""
    chosen = {"train": "(X, Y)", "key": "KEY", "epochs": "0", "batch_size": "6"}
    chosen |= {"variables": "VARIABLES"}
    names = draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3, unique=True))
    if "early_stopping" in names:
        chosen["validation"] = "(X, Y)"
    chosen |= {name: draw(OPTIONS[name]) for name in names}
    if chosen["train"] in ("fnn.data.xor", "zip(X, Y)"):  # a source of batches
        chosen["train"] = "(X, Y)"
    net = draw(some(*["NET"] * 12, "fnn.Dense", "None", "print", "fnn.Relu()", "[NET]"))
    loss = draw(some(*["LOSS"] * 12, "fnn.losses.Huber", "None", "fnn.losses", "print"))
    sgd = some("fnn.optimizers.sgd(RATE)")
    optimizer = draw(sgd if names else OPTIMIZERS)
    options = ", ".join(f"{name}={line}" for name, line in chosen.items())
    return f"fnn.fit({net}, {loss}, {optimizer}, {options})"


def arguments(line: str, name: str) -> tuple[tuple, dict[str, Any]]:
    """Evaluate the arguments of a line that calls `name`."""
    call = line.replace(name, "ARGUMENTS", 1)
    return eval(call, dict(NAMES, ARGUMENTS=lambda *args, **options: (args, options)))


def real(given: Any) -> np.ndarray:
    """Return the numbers of an array in float64; refuse what has none."""
    array = np.asarray(given)
    assert not np.ma.isMaskedArray(given) or not given.mask.any(), "a mask was ignored"
    assert jnp.issubdtype(array.dtype, np.number) or array.dtype == bool, "no numbers"
    assert not jnp.issubdtype(array.dtype, np.complexfloating), "complex was accepted"
    return array.astype(np.float64)


def run_fit(line: str) -> str:
    """Call fit, and check it against NumPy where NumPy can compute the same."""

    def call() -> tuple:
        args, options = arguments(line, "fnn.fit")
        return args, options, fnn.fit(*args, **options)

    return judge(line, call, check_fit)


def check_fit(done: tuple) -> None:
    """Check the result of fit by the equation of gradient descent on all examples."""
    (net, loss, optimizer), options, result = done
    epochs = int(options["epochs"])
    assert result.epochs <= epochs
    assert len(result.history["train_loss"]) == result.epochs
    if net is not NET or loss is not LOSS:
        return
    shapes = jax.tree.map(jnp.shape, result.last_variables)
    assert shapes == jax.tree.map(jnp.shape, VARIABLES), f"shapes {shapes}"
    x, y = map(real, options["train"])
    start = options["variables"]
    plain = (
        isinstance(optimizer, type(fnn.optimizers.sgd(RATE)))
        and options.get("augment") is None
    )
    rate = RATE if not plain else optimizer.learning_rate
    plain = plain and isinstance(rate, float)
    if len(x) != options["batch_size"] or not plain or start is None:
        return
    [[w, b]] = jax.tree.map(lambda a: np.asarray(a, np.float64), start[0])
    y = y.reshape(len(x), 1)
    for _ in range(result.epochs):
        delta = (x @ w + b - y) / len(x)
        penalty = float(options.get("l2", 0)) / len(x) * w
        w, b = w - rate * (x.T @ delta + penalty), b - rate * delta.sum(0)
    if np.abs([*w.ravel(), *b, *x.ravel(), *y.ravel()]).max() < 1e3:
        [got] = result.last_variables.params
        half = {np.asarray(part).dtype.itemsize for part in jax.tree.leaves(start)} & {
            2
        }
        close = dict(rtol=0.05, atol=0.05) if half else dict(rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.asarray(got.weight, float), w, **close)
        np.testing.assert_allclose(np.asarray(got.bias, float), b, **close)


EVALUATIONS = st.one_of(
    lines("fnn.evaluate(NET, LOSS, VARIABLES, {data}, {size})", data=DATA,
        size=INTEGERS),
    lines("fnn.evaluate(NET, LOSS, {v}, (X, Y), metrics={m})", v=OPTIONS["variables"],
          m=OPTIONS["metrics"]),
    lines("fnn.predict(NET, VARIABLES, {x}, {size})", size=INTEGERS | some("2", "4"),
          x=ARRAYS.map(lambda a: a.format("X"))),
    lines("fnn.predict({net}, VARIABLES, X)", net=STRANGE | some("fnn.Dense", "LOSS")),
)  # fmt: skip


def run_evaluation(line: str) -> str:
    """Call evaluate or predict, and compare the result with x W + b."""
    name = line.partition("(")[0]

    def call() -> tuple:
        args, options = arguments(line, name)
        return args, value(name)(*args, **options)

    def check(done: tuple) -> None:
        args, result = done
        x, y = args[3] if name == "fnn.evaluate" else (args[2], None)
        variables = args[1] if name == "fnn.predict" else args[2]
        [[w, b]] = jax.tree.map(lambda a: np.asarray(a, np.float64), variables[0])
        z = real(x) @ w + b
        if y is not None:
            z = np.square(z - real(y).reshape(z.shape)).sum(1).mean() / 2
            result = result["loss"]
        if np.abs(z).max() < 1e30:
            np.testing.assert_allclose(
                np.asarray(result, float), z, rtol=0.05, atol=0.05
            )

    return judge(line, call, check)


FAMILIES = {
    "fit": Family(fits(), run_fit),
    "evaluate, predict": Family(EVALUATIONS, run_evaluation),
}
