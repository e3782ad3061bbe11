"""Arguments of a wrong type: keys, arrays, sizes, paths. Each has fnn's own error.

The functions are found by introspection: a new one with a key, or a new argument of a
function of `fnn.data`, needs a row here.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from odd_files import is_refusal

import fnn
from fnn.layers import initializers

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 0, 1], np.int32)
IMAGES = jnp.ones((2, 4, 4, 1))
NET, LOSS = fnn.serial(fnn.Dropout(0.5), fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()
VARIABLES = NET.init(KEY, (3,))
SGD = fnn.optimizers.sgd(0.1)
BATCH = (X, Y)


@pytest.fixture(autouse=True)
def all_frames():
    """An error is fnn's own if fnn raised it, which the last frame shows."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


def refusal(call, *arguments, **options):
    """The text of an error that fnn raised itself."""
    with pytest.raises(Exception) as caught:
        call(*arguments, **options)
    assert is_refusal(caught.value), repr(caught.value)
    return str(caught.value)


# ---- Keys ------------------------------------------------------------------------

BAD_KEYS = {
    "an int": 1,
    "a NumPy int": np.int64(3),
    "a bool": True,
    "a float": 1.5,
    "a text": "0",
    "an array of an int": np.array(3),
    "a scalar of JAX": jnp.array(5),
    "a list": [0, 1],
    "a dict": {},
    "floats": jnp.zeros(2),
    "three words": jnp.zeros(3, jnp.uint32),
    "no words": np.zeros(0, np.uint32),
    "old keys": jnp.zeros((2, 2), jnp.uint32),
    "keys": jax.random.split(KEY),
    "one key in an array": KEY[None],
    "a function": jax.random.key,
    "objects": np.array([None, 1], object),
    "nothing": None,
}

WITH_KEY = {
    "autodiff": lambda k: fnn.autodiff(NET, LOSS, VARIABLES, BATCH, key=k, **STEP),
    "manual": lambda k: fnn.manual(NET, LOSS, VARIABLES, BATCH, key=k, **STEP),
    "compare_gradients": lambda k: fnn.compare_gradients(*PARTS, key=k),
    "compare_rules": lambda k: fnn.compare_rules(
        NET, {"itself": NET}, LOSS, VARIABLES, BATCH, key=k
    ),
    "directional_derivatives": lambda k: fnn.directional_derivatives(
        lambda w: w.sum(), jnp.ones(3), jnp.ones(3), key=k
    ),
    "explain": lambda k: fnn.explain(*PARTS, "1/Dense.bias", 0, key=k),
    "first_nonfinite": lambda k: fnn.first_nonfinite(*PARTS, key=k),
    "fit": lambda k: fnn.fit(NET, LOSS, SGD, train=BATCH, key=k, epochs=0),
    "objective": lambda k: fnn.objective(*PARTS, key=k),
    "record": lambda k: fnn.record(NET, VARIABLES, X, key=k, train=True),
    "spirals": lambda k: fnn.data.spirals(k, 4),
    "two_moons": lambda k: fnn.data.two_moons(k, 4),
    "xor": lambda k: fnn.data.xor(k, 4),
    "split": lambda k: fnn.data.split(X, Y, 0.5, k),
    # Found by no signature
    "value_and_grad": lambda k: fnn.value_and_grad(NET, LOSS)(VARIABLES, BATCH, key=k),
    "init": lambda k: NET.init(k, (3,)),
    "forward": lambda k: NET.forward(*VARIABLES, X, key=k, train=True),
}
STEP = dict(train=True, l2=0.0, n=4)
PARTS = NET, LOSS, VARIABLES, BATCH
#: Functions that work without a key, as nothing is drawn or the network is explained.
KEYLESS = {"objective", "explain"}
#: Functions that take a seed as well.
SEEDED = {"split"}
WITH_KEY |= {
    type(augment).__name__: lambda k, augment=augment: augment(k, IMAGES)
    for augment in (
        fnn.augmentations.compose(),
        fnn.augmentations.CutOut(2),
        fnn.augmentations.Flip(),
        fnn.augmentations.RandomCrop(1),
        fnn.augmentations.Shift(1),
    )
}
WITH_KEY |= {
    name: lambda k, name=name: drawn_by(name)(k, (3, 3))
    for name in initializers.__all__
    if name != "Initializer"
}


def drawn_by(name):
    make = getattr(initializers, name)
    return make(1.0) if name == "Constant" else make()


def public_names_with_key():
    """Public functions with an argument `key`, and classes that are called with one."""
    for module in (fnn, fnn.data, fnn.augmentations, initializers):
        for name, thing in vars(module).items():
            if name.startswith("_") or not callable(thing):
                continue
            called = thing
            if inspect.isclass(thing):
                called = vars(thing).get("__call__")
                if called is None or getattr(thing, "_is_protocol", False):
                    continue
            elif not inspect.isfunction(thing):
                continue
            if "key" in inspect.signature(called).parameters:
                yield name


def test_the_table_has_every_function_with_a_key():
    names = set(public_names_with_key())
    assert len(names) > 20
    assert names - WITH_KEY.keys() - {"Function", "check_key"} == set()


@pytest.mark.parametrize("name", WITH_KEY)
def test_bad_keys(name):
    for what, key in BAD_KEYS.items():
        if (what == "nothing" and name in KEYLESS) or (
            what in ("an int", "a NumPy int") and name in SEEDED
        ):
            continue
        text = refusal(WITH_KEY[name], key)
        assert "key" in text, (what, text)


def test_the_error_says_how_to_make_the_key():
    text = refusal(fnn.objective, *PARTS, key=np.int64(7))
    assert "pass key=jax.random.key(7). A run is a function of its key" in text
    assert "or a seed, an integer; got None" in refusal(fnn.data.split, X, Y, 0.5, None)


@pytest.mark.parametrize(
    "key", [KEY, jax.random.PRNGKey(0), np.array([0, 0], "uint32")]
)
def test_good_keys(key):
    expected = fnn.data.xor(KEY, 4)
    jax.tree.map(np.testing.assert_array_equal, fnn.data.xor(key, 4), expected)


# ---- Arrays ----------------------------------------------------------------------


class Tensor:
    """What torch's tensors are to NumPy, with and without a gradient."""

    def __init__(self, array, requires_grad=False):
        self.array, self.requires_grad = np.asarray(array), requires_grad
        self.shape, self.ndim, self.dtype = *(self.array.shape, self.array.ndim), "f32"

    def __len__(self):
        return len(self.array)

    def __getitem__(self, i):
        return Tensor(self.array[i], self.requires_grad)

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.array if dtype is None else self.array.astype(dtype)

    def detach(self):
        return Tensor(self.array)


class OnAnotherDevice(Tensor):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use .cpu()")


class Table:
    """What a table of pandas is to NumPy: it is indexed by names."""

    columns = ("a", "b", "c")

    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape, self.ndim = self.array.shape, self.array.ndim

    def __len__(self):
        return len(self.array)

    def __getitem__(self, name):
        raise KeyError(name)

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


#: Things in place of an array, made of one; with words of the error.
BAD_ARRAYS = {
    "a tensor with a gradient": (lambda a: Tensor(a, True), r"\.detach\(\)"),
    "tensors with gradients": (lambda a: [Tensor(r, True) for r in a], r"\.detach\(\)"),
    "a tensor of a GPU": (OnAnotherDevice, r"\.cpu\(\)|jnp\.asarray"),
    "a table of objects": (lambda a: Table(a.astype(object)), "a column of|asarray"),
    "a masked array": (lambda a: np.ma.array(a, mask=a > 0), r"masked entries.*filled"),
    "a list of masked": (
        lambda a: [np.ma.array(r, mask=np.ones_like(r)) for r in a],
        "masked entries|of MaskedArray",
    ),
    "texts": (lambda a: a.astype(str), "number the texts, by np.unique"),
    "a text": (lambda a: "data", "number the texts|asarray"),
    "a ragged list": (lambda a: [[1, 2], [3], [4], [5]], "different lengths|asarray"),
    "objects": (lambda a: np.array([None] * 4, object), "of object"),
    "a dict": (lambda a: {"a": 1}, "got dict"),
    "a set": (lambda a: {1, 2}, "got set"),
    "a generator": (lambda a: (r for r in a), "got generator"),
    "bytes": (lambda a: b"abcd", "bytes"),
    "nothing": (lambda a: None, "None"),
    "dates": (lambda a: a.astype("datetime64[s]"), "datetime64"),
    "durations": (lambda a: a.astype("timedelta64[s]"), "timedelta64"),
    "a function": (lambda a: print, "builtin_function"),
    "a class": (lambda a: np.ndarray, "type"),
    "void": (lambda a: a.astype("f4").view("V4"), "V"),
}


def stream(x, y):
    def batches():
        yield x, y

    return batches


def fit(train=BATCH, **options):
    return fnn.fit(
        NET, LOSS, SGD, train=train, key=KEY, epochs=1, batch_size=4, **options
    )


#: Functions of an x or a y; those of `STRICT` take arrays of JAX and NumPy alone.
WITH_X = {
    "fit": lambda x: fit((x, Y)),
    "fit from a stream": lambda x: fit(stream(x, Y)),
    "fit's validation": lambda x: fit(validation=(x, Y)),
    "sweep": lambda x: fnn.sweep(
        lambda: (NET, LOSS, SGD), {}, train=(x, Y), keys=KEY, epochs=1, batch_size=4
    ),
    "evaluate": lambda x: fnn.evaluate(NET, LOSS, VARIABLES, (x, Y)),
    "predict": lambda x: fnn.predict(NET, VARIABLES, x),
    "value_and_grad": lambda x: fnn.value_and_grad(NET, LOSS)(
        VARIABLES, (x, Y), key=KEY
    ),
    "objective": lambda x: fnn.objective(NET, LOSS, VARIABLES, (x, Y), key=KEY),
    "compare_gradients": lambda x: fnn.compare_gradients(
        NET, LOSS, VARIABLES, (x, Y), key=KEY, numerical=False
    ),
    "explain": lambda x: fnn.explain(NET, LOSS, VARIABLES, (x, Y), "1/Dense.bias", 0),
    "first_nonfinite": lambda x: fnn.first_nonfinite(
        NET, LOSS, VARIABLES, (x, Y), key=KEY
    ),
    "accuracy": lambda x: fnn.accuracy(x, Y),
    "an augmentation": lambda x: fnn.augmentations.Flip()(KEY, x),
}
WITH_Y = {
    "fit": lambda y: fit((X, y)),
    "fit from a stream": lambda y: fit(stream(X, y)),
    "fit's validation": lambda y: fit(validation=(X, y)),
    "evaluate": lambda y: fnn.evaluate(NET, LOSS, VARIABLES, (X, y)),
    "value_and_grad": lambda y: fnn.value_and_grad(NET, LOSS)(
        VARIABLES, (X, y), key=KEY
    ),
    "compare_gradients": lambda y: fnn.compare_gradients(
        NET, LOSS, VARIABLES, (X, y), key=KEY
    ),
    "accuracy": lambda y: fnn.accuracy(X, y),
}
STRICT_X = {
    "record": lambda x: fnn.record(NET, VARIABLES, x),
    "forward": lambda x: NET.forward(*VARIABLES, x),
    "one layer": lambda x: fnn.Relu().forward((), (), x),
}
STRICT_Y = {
    "a loss's value": lambda y: LOSS.value(jnp.asarray(X), y),
    "a loss's delta": lambda y: LOSS.delta(jnp.asarray(X), y),
    "a loss's check": lambda y: LOSS.check((3,), y),
    "a loss of targets": lambda y: fnn.losses.SquaredError().value(jnp.ones((4, 1)), y),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_arrays(what):
    make, text = BAD_ARRAYS[what]
    for calls, good in ((WITH_X, X), (WITH_Y, Y), (STRICT_X, X), (STRICT_Y, Y)):
        for name, call in calls.items():
            got = refusal(call, make(good))
            assert re.search(text, got), (name, got)


@pytest.mark.parametrize("calls", [STRICT_X, STRICT_Y], ids=["x", "y"])
def test_layers_and_losses_take_arrays_alone(calls):
    for given in (X.tolist(), Tensor(X), Table(X), [Tensor(r) for r in X], 3, (1, 2)):
        for call in calls.values():
            assert "of JAX or NumPy" in refusal(call, given)


@pytest.mark.parametrize(
    "make",
    [Tensor, Table, lambda a: [Tensor(r) for r in a], lambda a: a.tolist(), list],
    ids=["tensor", "table", "list of tensors", "list", "list of rows"],
)
def test_what_numpy_takes_for_an_array_is_one(make):
    expected = fnn.evaluate(NET, LOSS, VARIABLES, BATCH)
    assert fnn.evaluate(NET, LOSS, VARIABLES, (make(X), make(Y))) == expected
    for train in ((make(X), make(Y)), stream(make(X), make(Y))):
        result, alike = (
            fit(train),
            fit(BATCH if isinstance(train, tuple) else stream(X, Y)),
        )
        jax.tree.map(np.testing.assert_array_equal, result.variables, alike.variables)
    (train_x, _), _ = fnn.data.split(make(X), make(Y), 0.5)
    assert train_x.shape == (2, 3)


def test_variables_are_arrays():
    wrong = jax.tree.map(Tensor, VARIABLES)
    for call in (
        lambda: fit(variables=wrong),
        lambda: fnn.evaluate(NET, LOSS, wrong, BATCH),
        lambda: fnn.predict(NET, wrong, X),
    ):
        assert "must be an array of numbers" in refusal(call)


# ---- fnn.data --------------------------------------------------------------------

NO_INTEGERS = ["2", 2.0, None, True, [2], np.array([2]), 1j]
NO_NUMBERS = ["0.2", None, True, [0.2], np.array([0.2, 0.2]), 1j, np.datetime64("2000")]
NO_FLAGS = ["yes", None, 1, [], np.array([True])]
NO_PATHS = [3, [], b"folder", 1.5, X]
NO_ROWS = [3, None, "text", {}, [[1], [2, 3]], {1, 2}, Tensor(X, True), KEY]

#: Every argument of every function of `fnn.data`, but keys, with values of no use.
DATA = {
    ("cifar10", "folder"): (lambda v: fnn.data.cifar10(v), NO_PATHS),
    ("mnist", "folder"): (lambda v: fnn.data.mnist(v), NO_PATHS),
    ("fashion_mnist", "folder"): (lambda v: fnn.data.fashion_mnist(v), NO_PATHS),
    ("read_idx", "path"): (lambda v: fnn.data.read_idx(v), [*NO_PATHS, None]),
    ("read_cifar_batch", "path"): (
        lambda v: fnn.data.read_cifar_batch(v),
        [*NO_PATHS, None],
    ),
    ("digits", "test_fraction"): (lambda v: fnn.data.digits(v), ["0.2", 1]),
    ("digits", "seed"): (lambda v: fnn.data.digits(seed=v), ["0", 2**70]),
    ("split", "x"): (lambda v: fnn.data.split(v, Y, 0.5), NO_ROWS),
    ("split", "y"): (lambda v: fnn.data.split(X, v, 0.5), NO_ROWS),
    ("split", "fraction"): (
        lambda v: fnn.data.split(X, Y, v),
        [*NO_NUMBERS, 0, 1, float("nan")],
    ),
    ("split", "stratify"): (
        lambda v: fnn.data.split(X, Y, 0.5, stratify=v),
        NO_FLAGS,
    ),
    ("ill_conditioned_bowl", "condition_number"): (
        lambda v: fnn.data.ill_conditioned_bowl(v),
        [*NO_NUMBERS, float("nan"), float("inf"), 0.5],
    ),
    ("ill_conditioned_bowl", "dim"): (
        lambda v: fnn.data.ill_conditioned_bowl(dim=v),
        [*NO_INTEGERS, 1],
    ),
    ("rosenbrock", "dim"): (lambda v: fnn.data.rosenbrock(v), [*NO_INTEGERS, 1]),
    ("spirals", "classes"): (
        lambda v: fnn.data.spirals(KEY, 4, v),
        [*NO_INTEGERS, 1],
    ),
}
for _name in ("xor", "two_moons", "spirals"):
    _draw = getattr(fnn.data, _name)
    DATA[_name, "n"] = (lambda v, draw=_draw: draw(KEY, v), [*NO_INTEGERS, 0])
    DATA[_name, "noise"] = (
        lambda v, draw=_draw: draw(KEY, 4, noise=v),
        [*NO_NUMBERS, -1.0, float("nan"), jnp.ones(2)],
    )


def test_the_table_has_every_argument_of_the_data_functions():
    arguments = {
        (name, argument)
        for name in fnn.data.__all__
        if inspect.isfunction(thing := getattr(fnn.data, name))
        for argument in inspect.signature(thing).parameters
        if argument != "key"
    }
    assert arguments == DATA.keys()


@pytest.mark.parametrize("name", DATA, ids=" ".join)
def test_wrong_arguments_of_the_data_functions(name):
    call, values = DATA[name]
    for value in values:
        assert refusal(call, value)


def test_targets_take_points():
    bowl, banana = fnn.data.ill_conditioned_bowl(dim=2), fnn.data.rosenbrock()
    for target in (bowl, banana):
        for theta in ("ab", None, [[1], [2, 3]], Tensor(np.ones(2), True), {}):
            assert "theta must be an array of numbers" in refusal(target.f, theta)
    assert float(bowl.f([2, 1])) == float(bowl.f(jnp.array([2.0, 1.0])))


def test_good_arguments_of_the_data_functions():
    same = fnn.data.split(X, Y, 0.5, 3)
    for given in ((np.float32(0.5), np.int64(3)), (jnp.array(0.5), jax.random.key(3))):
        other = fnn.data.split(X, Y, *given, stratify=np.False_)
        jax.tree.map(np.testing.assert_array_equal, same, other)
    names = fnn.data.split(np.array(["a", "b", "c", "d"]), Y, 0.5, stratify=True)
    assert sorted(np.concatenate([names.train[0], names.validation[0]])) == [*"abcd"]
    noisy = jax.vmap(lambda noise: fnn.data.xor(KEY, 4, noise)[0])(
        jnp.array([0.0, 1.0])
    )
    np.testing.assert_array_equal(noisy[0], fnn.data.xor(KEY, 4, 0)[0])


# ---- fnn.save and fnn.load -------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    """A result of fit and one of sweep."""
    stopping = fnn.EarlyStopping()
    result = fnn.fit(
        NET, LOSS, fnn.optimizers.adam(0.1), train=BATCH, validation=BATCH, key=KEY,
        epochs=0, batch_size=4, early_stopping=stopping,
    )  # fmt: skip
    one = np.zeros(1)
    return result, fnn.Sweep({"key": one}, VARIABLES, VARIABLES, {}, one, one, one)


NOT_SAVED = {
    "a network": (lambda r: NET, r"a layer, Serial\. Pass its variables: net\.init"),
    "a layer with numbers": (lambda r: fnn.BatchNorm(), "a layer, BatchNorm"),
    "a plan": (lambda r: fnn.plan(NET, (3,), batch_size=4), "a layer, Plan"),
    "a class": (lambda r: fnn.BatchNorm, "the class BatchNorm"),
    "a loss": (lambda r: LOSS, "a loss, SoftmaxCrossEntropy.*has no parameters"),
    "an optimizer": (lambda r: SGD, r"an optimizer, SGD.*result\.optimizer_state"),
    "optax's": (lambda r: optax.adam(0.1), "an optimizer, Gradient"),
    "a result": (lambda r: r[0], r"a FitResult\. Pass result\.variables"),
    "a sweep": (lambda r: r[1], r"a Sweep\. Pass swept\.variables"),
    "a data set": (lambda r: fnn.data.Dataset(BATCH, BATCH), r"a Dataset.*savez"),
    "a split": (lambda r: fnn.data.split(X, Y, 0.5), "data, a Split"),
    "a function": (lambda r: print, "a function, print"),
    "a lambda": (lambda r: lambda x: x, "a function, <lambda>"),
    "an augmentation": (lambda r: fnn.augmentations.Flip(), "a function, Flip"),
    "an initialiser": (lambda r: initializers.HeNormal(), "a function, HeNormal"),
    "a metric": (lambda r: fnn.metrics.top_k(2), "a function, TopK"),
    "early stopping": (lambda r: fnn.EarlyStopping(), "criterion.*result\\.stopping"),
    "a summary": (
        lambda r: fnn.summary(NET, (3,)),
        "cannot save rows/0/path: .* got str",
    ),
    "nothing": (lambda r: None, "got None"),
    "a text": (lambda r: "net", "cannot save value: .* got str"),
    "a set": (lambda r: {1}, "cannot save value.* got set"),
    "objects": (lambda r: np.array([None]), "of dtype object"),
    "texts": (lambda r: np.array(["a"]), "of dtype <U1"),
    "a generator": (lambda r: (i for i in X), "an iterator, of type generator"),
    "a masked array": (lambda r: np.ma.array([1, 2], mask=[0, 1]), "masked entries"),
    "a tensor": (lambda r: {"w": Tensor(X, True)}, r"cannot save w.*\.detach\(\)"),
    "in a pair": (lambda r: (NET, VARIABLES), "a layer, Serial at 0"),
    "in a dict": (lambda r: {"v": VARIABLES, "f": [SGD]}, "an optimizer, SGD at f/0"),
    "two networks": (lambda r: [NET, NET], "a layer, Serial at 0"),
}


@pytest.mark.parametrize("what", NOT_SAVED)
def test_what_is_no_tree_of_arrays_is_not_saved(what, runs, tmp_path):
    make, text = NOT_SAVED[what]
    path = tmp_path / "arch.npz"
    got = refusal(fnn.save, path, make(runs))
    assert re.search(text, got), got
    assert not list(tmp_path.iterdir())


def some_optax_states():
    masked = optax.masked(optax.sgd(0.1, 0.9), jax.tree.map(lambda _: True, PARAMS))
    return [
        optax.chain(optax.clip(1.0), optax.adam(0.1)).init(PARAMS),
        optax.MultiSteps(optax.adam(0.1), 2).init(PARAMS),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1).init(PARAMS),
        masked.init(PARAMS),
    ]


PARAMS = VARIABLES.params
SAVED = {
    "variables": lambda r: VARIABLES,
    "parameters": lambda r: PARAMS,
    "no parameters": lambda r: fnn.serial(fnn.Relu()).init(KEY, (3,)),
    "a carry": lambda r: r[0].carry,
    "a state": lambda r: r[0].optimizer_state,
    "the state of early stopping": lambda r: r[0].stopping,
    "states of optax": lambda r: some_optax_states(),
    "a history": lambda r: r[0].history,
    "variables of a sweep": lambda r: r[1].variables,
    "gradients": lambda r: fnn.Gradients(jnp.ones(()), X, (), PARAMS),
    "a dict": lambda r: {"a": np.ones(2), "b": [jnp.ones(2, jnp.bfloat16), (KEY,)]},
    "an array": lambda r: jnp.ones(3),
    "keys": lambda r: jax.random.split(KEY),
}


@pytest.mark.parametrize("what", SAVED)
def test_trees_of_arrays_are_saved(what, runs, tmp_path):
    tree = SAVED[what](runs)
    fnn.save(tmp_path / "tree.npz", tree)
    again = fnn.load(tmp_path / "tree.npz", like=tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)


def test_wrong_paths_and_trees_to_load(tmp_path):
    path = tmp_path / "v.npz"
    fnn.save(path, VARIABLES)
    for wrong in (VARIABLES, 3, None, b"v.npz"):
        assert "path must be a path" in refusal(fnn.save, wrong, VARIABLES)
        assert "path must be a path" in refusal(fnn.load, wrong, like=VARIABLES)
    assert "fnn.load expected variables" in refusal(fnn.load, path, like=NET)
    assert "fnn.load expected variables" in refusal(fnn.load, path, like=None)
    text = refusal(jax.jit(lambda v: fnn.save(path, v)), VARIABLES)
    assert "outside of jax.jit" in text
