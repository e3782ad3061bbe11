"""Augmentations: how they change images, and where an epoch applies them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of

import fnn
from fnn import optimizers
from fnn.augmentations import CutOut, Flip, RandomCrop, Shift, as_augmentation, compose
from fnn.gradients.engines import manual, value_and_grad
from fnn.losses import SoftmaxCrossEntropy
from fnn.training.compiled.descent import initial_carry
from fnn.training.compiled.epoch import epoch
from fnn.training.compiled.order import shuffle

KEY = jax.random.key(3)
N, H, W, C = 7, 5, 6, 2
# All pixels differ, none is zero, and half precision holds them exactly.
IMAGE = np.arange(1, 1 + H * W * C, dtype=np.float32).reshape(H, W, C)
IMAGES = np.stack([IMAGE[::-1] if n % 2 else IMAGE for n in range(N)])


# ---- Against NumPy loops ----------------------------------------------------------
# Each function returns all possible results of an augmentation of one image, by draw.


def moved(image, p, mode="constant"):
    padded = np.pad(image, ((p, p), (p, p), (0, 0)), mode)
    return {
        (a, b): padded[a : a + H, b : b + W]
        for a in range(2 * p + 1)
        for b in range(2 * p + 1)
    }


def flipped(image):
    mirrored = np.zeros_like(image)
    for j in range(W):
        mirrored[:, j] = image[:, W - 1 - j]
    return {False: image, True: mirrored}


def cut(image, size):
    found = {}
    for a, b in np.ndindex(H, W):
        found[a, b] = image.copy()
        for i in range(a - size // 2, a - size // 2 + size):
            for j in range(b - size // 2, b - size // 2 + size):
                if 0 <= i < H and 0 <= j < W:
                    found[a, b][i, j] = 0
    return found


CASES = {
    "Shift": (Shift(2), partial(moved, p=2)),
    "Shift far": (Shift(4), partial(moved, p=4)),
    "RandomCrop": (RandomCrop(1), partial(moved, p=1)),
    "reflect": (RandomCrop(3, "reflect"), partial(moved, p=3, mode="reflect")),
    "Flip": (Flip(), flipped),
    "CutOut": (CutOut(3), partial(cut, size=3)),
    "CutOut even": (CutOut(4), partial(cut, size=4)),
    "CutOut one": (CutOut(1), partial(cut, size=1)),
}
EACH = pytest.mark.parametrize(("augment", "possible"), CASES.values(), ids=CASES)
EVERY = [augment for augment, _ in CASES.values()]
EVERY.append(compose(RandomCrop(2, "reflect"), Flip(0.3), CutOut(2)))
EVERY_ONE = pytest.mark.parametrize("augment", EVERY, ids=repr)


@EACH
def test_every_result_is_one_of_those_of_the_loops(augment, possible):
    y = np.asarray(augment(KEY, IMAGES))
    for before, after in zip(IMAGES, y, strict=True):
        assert any((after == image).all() for image in possible(before).values())


def test_reflected_at_both_borders():
    y = np.asarray(RandomCrop(4, "reflect")(KEY, np.stack([IMAGE] * 99)))
    images = moved(IMAGE, 4, "reflect").values()
    assert all(any((after == image).all() for image in images) for after in y)


@pytest.mark.one_in(3)
@EACH
def test_every_draw_is_as_likely_as_any_other(augment, possible):
    images = possible(IMAGE)
    counts = {image.tobytes(): 0 for image in images.values()}
    assert len(counts) == len(images)  # each draw makes a different image
    n, freedom = 100 * len(images), len(images) - 1
    for image in np.asarray(augment(KEY, np.broadcast_to(IMAGE, (n, H, W, C)))):
        counts[image.tobytes()] += 1
    counts = np.array(list(counts.values()))
    # χ² with f degrees of freedom has mean f and variance 2f.
    assert ((counts - 100) ** 2 / 100).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_rows_and_columns_are_drawn_independently():
    # In a square image, the same draw for both would stay on the diagonal.
    y = np.asarray(CutOut(1)(KEY, np.ones((600, 6, 6, 1), np.float32)))
    _, row, column, _ = np.nonzero(y == 0)
    assert (row == column).mean() == pytest.approx(1 / 6, abs=0.06)


def test_flip_has_its_probability():
    y = Flip(0.2)(KEY, np.broadcast_to(IMAGE, (4000, H, W, C)))
    share = (np.asarray(y) == IMAGE[:, ::-1]).all((1, 2, 3)).mean()
    assert share == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 4000))


def test_the_ends_of_the_range():
    for augment in (Shift(0), RandomCrop(0, "reflect"), Flip(0), compose()):
        np.testing.assert_array_equal(augment(KEY, IMAGES), IMAGES)
    np.testing.assert_array_equal(Flip(1)(KEY, IMAGES), IMAGES[:, :, ::-1])


def test_a_shift_is_a_crop_padded_with_zeros():
    np.testing.assert_array_equal(Shift(3)(KEY, IMAGES), RandomCrop(3)(KEY, IMAGES))


# ---- A function of the key --------------------------------------------------------


@EVERY_ONE
def test_same_key_same_images_another_key_others(augment):
    first = np.asarray(augment(KEY, IMAGES))
    np.testing.assert_array_equal(first, augment(KEY, jnp.asarray(IMAGES)))
    np.testing.assert_array_equal(first, augment(jax.random.PRNGKey(3), IMAGES))
    np.testing.assert_array_equal(first, jax.jit(augment)(KEY, IMAGES))
    assert (first != np.asarray(augment(jax.random.key(4), IMAGES))).any()


@pytest.mark.one_in(7)
@EVERY_ONE
@pytest.mark.parametrize(
    "dtype",
    some_of(["float64", "bfloat16", "float16", "uint8", "int32"], ["float16", "uint8"]),
)
def test_draws_do_not_depend_on_the_dtype(augment, dtype):
    expected = np.asarray(augment(KEY, IMAGES))
    with jax.enable_x64(dtype == "float64"):
        y = jax.jit(augment)(KEY, jnp.asarray(IMAGES).astype(dtype))
    assert (y.shape, y.dtype) == (IMAGES.shape, dtype)
    np.testing.assert_array_equal(np.asarray(y, np.float32), expected)


def test_masks_of_bools_can_be_augmented():
    y = compose(Shift(2), Flip(), CutOut(2))(KEY, IMAGES > 9)
    assert y.dtype == bool


def test_composed_one_after_the_other_each_with_its_own_key():
    def darker(key, x):
        return x / 2

    keys = [jax.random.fold_in(KEY, i) for i in range(3)]
    y = CutOut(3)(keys[2], Shift(2)(keys[0], IMAGES) / 2)
    np.testing.assert_array_equal(compose(Shift(2), darker, CutOut(3))(KEY, IMAGES), y)
    twice = compose(Flip(), Flip())(KEY, np.broadcast_to(IMAGE, (400, H, W, C)))
    assert (np.asarray(twice) != IMAGE).any()  # not the same draw twice


# ---- Pytrees ----------------------------------------------------------------------


def test_a_rebuilt_augmentation_is_not_traced_again():
    traces = []

    def counted(key, x):
        traces.append(x.shape)
        return x

    @jax.jit
    def run(augment, key, x):
        return augment(key, x)

    def build(probability):
        return compose(Shift(1), Flip(probability), CutOut(2), counted)

    one, other = (run(build(p), KEY, IMAGES) for p in (0.5, 1))
    assert len(traces) == 1
    assert (one != other).any()
    run(compose(Shift(2), counted), KEY, IMAGES)
    assert len(traces) == 2  # the counter does count


def test_probabilities_can_be_vmapped():
    p = jnp.array([0.0, 0.5, 1.0])
    y = jax.vmap(lambda p: compose(Flip(p), Shift(1))(KEY, IMAGES))(p)
    for i in range(3):
        expected = compose(Flip(float(p[i])), Shift(1))(KEY, IMAGES)
        np.testing.assert_array_equal(y[i], expected)


@EVERY_ONE
def test_a_repr_can_be_pasted_back(augment):
    again = eval(repr(augment), vars(fnn.augmentations))
    assert again == augment
    assert hash(again) == hash(augment)
    assert as_augmentation(augment) is augment


# ---- In the epoch -----------------------------------------------------------------

CLASSES, EXAMPLES, BATCH = 3, 23, 5  # 4 full steps an epoch, and one of 3


def examples(seed, n):
    rng = np.random.default_rng(seed)
    y = np.arange(n, dtype=np.int32) % CLASSES
    x = rng.random((n, H, W, 1), dtype=np.float32)
    x[np.arange(n), y] += 1  # the class is the bright row: a flip keeps it
    return x, y


TRAIN, VALIDATION = examples(0, EXAMPLES), examples(1, 11)
NET = fnn.serial(fnn.Flatten(), fnn.Dropout(0.25), fnn.Dense(CLASSES))
LOSS, SGD = SoftmaxCrossEntropy(), optimizers.sgd(0.1)
AUGMENT = compose(Flip(), CutOut(2))
run = partial(fnn.fit, NET, LOSS, SGD, train=TRAIN, key=KEY, epochs=2, batch_size=BATCH)


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


class Counting:
    """An engine that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, *args, **kwargs):
        self.traces += 1
        return manual(*args, **kwargs)


def test_fit_augments_as_the_loop_written_by_hand():
    grad_fn = jax.jit(value_and_grad(NET, LOSS, "manual", n=EXAMPLES))
    init_key, train_key = jax.random.split(KEY)
    variables = NET.init(init_key, (H, W, 1))
    for e in (1, 2):
        order_key, step_key = jax.random.split(jax.random.fold_in(train_key, e))
        order = np.asarray(shuffle(order_key, EXAMPLES))
        for t, first in enumerate(range(0, EXAMPLES, BATCH)):
            x, y = (part[order[first : first + BATCH]] for part in TRAIN)
            key = jax.random.fold_in(step_key, t)
            x = AUGMENT(jax.random.fold_in(key, 0x6175676D), x)
            out = grad_fn(variables, (x, y), key=key)
            params = jax.tree.map(lambda a, g: a - 0.1 * g, variables.params, out.grads)
            variables = fnn.Variables(params, out.state)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, run(augment=AUGMENT).variables, variables)


def test_same_key_same_bits():
    first = run(augment=AUGMENT)
    assert same_bits(first.carry, run(augment=AUGMENT).carry)
    assert not same_bits(first.carry, run(augment=AUGMENT, key=jax.random.key(4)).carry)
    assert not same_bits(first.carry, run().carry)
    part = run(augment=AUGMENT, epochs=1)
    assert same_bits(first.carry, run(augment=AUGMENT, resume=part).carry)


def identity(key, x):
    return x


def test_the_layers_draw_what_they_draw_without_augmentation():
    assert same_bits(run().carry, run(augment=identity).carry)


def test_every_step_and_epoch_has_draws_of_its_own():
    # With one image many times, a learning rate of 0 and no dropout, only the draws can
    # change J.
    net = fnn.serial(fnn.Flatten(), fnn.Dense(CLASSES))
    train = tuple(jnp.stack([part[0]] * EXAMPLES) for part in TRAIN)
    carry = initial_carry(optimizers.sgd(0.0), net.init(KEY, (H, W, 1)))
    of_epoch = partial(epoch, net, LOSS, optimizers.sgd(0.0), carry, train)
    steps = [
        of_epoch(KEY, number, augment=Shift(2), engine=manual, batch_size=BATCH).losses
        for number in (1, 2)
    ]
    assert len(set(np.concatenate(steps).tolist())) == 10


def test_validation_is_never_augmented():
    shapes = []

    def black(key, x):
        shapes.append(x.shape)
        return 0 * x

    result = run(augment=black, validation=VALIDATION)
    plain = fnn.evaluate(NET, LOSS, result.variables, VALIDATION)
    assert result.history["validation_loss"][-1] == plain["loss"]
    assert {shape[0] for shape in shapes} == {5, 3}
    params = result.variables.params[2]
    start = NET.init(jax.random.split(KEY)[0], (H, W, 1)).params[2]
    assert same_bits(params.weight, start.weight)  # black images teach it nothing
    assert not same_bits(params.bias, start.bias)


@pytest.mark.thorough
def test_fit_learns_from_augmented_images():
    augment = compose(RandomCrop(1, "reflect"), Flip(), CutOut(1))
    result = run(augment=Flip(), epochs=80, validation=VALIDATION)
    assert result.history["validation_accuracy"][-1] > 0.9
    losses = run(augment=augment, epochs=40).history["train_loss"]
    assert losses[-5:].mean() < losses[:5].mean()


@pytest.mark.thorough
def test_fit_in_float64():
    with jax.enable_x64(True):
        train = TRAIN[0].astype(np.float64), TRAIN[1]
        result = run(train=train, augment=AUGMENT)
    assert result.variables.params[2].weight.dtype == np.float64
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    single = run(augment=AUGMENT, variables=jax.tree.map(jnp.float32, start_of(result)))
    jax.tree.map(close, result.variables, single.variables)


def start_of(result):
    with jax.enable_x64(True):
        return NET.init(jax.random.split(KEY)[0], (H, W, 1))


def test_changed_probabilities_do_not_compile_again():
    engine = Counting()
    first = run(augment=compose(Flip(0.5), Shift(1)), engine=engine)
    traces = engine.traces
    again = run(augment=compose(Flip(0.5), Shift(1)), engine=engine)
    other = run(augment=compose(Flip(0), Shift(1)), engine=engine)
    run(augment=identity, engine=engine)
    after_a_function = engine.traces
    run(augment=identity, engine=engine)
    assert same_bits(first.carry, again.carry)
    assert not same_bits(first.carry, other.carry)
    assert traces < after_a_function == engine.traces  # and the engine does count
    assert after_a_function == 2 * traces


# ---- Bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Shift(-1), ValueError, "Shift: pixels must be .* at least 0, got -1"),
        (lambda: Shift(1.5), ValueError, "pixels must be .* an integer .* got 1.5"),
        (lambda: Shift(True), ValueError, "pixels must be .* got True"),
        (lambda: RandomCrop("4"), ValueError, "RandomCrop: padding must .* got '4'"),
        (lambda: RandomCrop(4, "wrap"), ValueError, "'zeros' or 'reflect', got 'wrap'"),
        (lambda: CutOut(0), ValueError, "CutOut: size must .* at least 1, got 0"),
        (lambda: Flip(1.1), ValueError, r"probability must be in \[0, 1\], got 1.1"),
        (lambda: Flip(float("nan")), ValueError, "probability must be in .* got nan"),
        (lambda: Flip("half"), TypeError, "Flip.probability must be a number"),
        (lambda: compose(Flip), TypeError, r"is the class Flip; pass an instance, Fli"),
        (lambda: compose(Flip(), 4), TypeError, r"augment\(key, x\) -> x, such.*got 4"),
        (
            lambda: Flip()(KEY, IMAGE),
            ValueError,
            r"Flip\(\) expected an input of shape \(N, H, W, C\), got \(5, 6, 2\)",
        ),
        (
            lambda: Shift(5)(KEY, IMAGES),
            ValueError,
            r"Shift\(pixels=5\) expected images with sides of 6 .* got 5 × 6: nothing",
        ),
        (lambda: RandomCrop(5)(KEY, IMAGES), ValueError, "sides of 6 pixels or more"),
        (lambda: CutOut(6)(KEY, IMAGES), ValueError, "sides of 6 pixels or more"),
        (lambda: CutOut(2)(None, IMAGES), TypeError, r"got None: pass key=jax\.random"),
        (lambda: compose()(7, IMAGES), TypeError, r"got 7: pass key=jax\.random\.key"),
    ],
)
def test_refuses(call, error, text):
    with pytest.raises(error, match=text):
        call()


class Unhashable(list):
    def __call__(self, key, x):
        return x


GRAY = jnp.zeros((H, W, 1))


@pytest.mark.parametrize(
    ("augment", "error", "text"),
    [
        (
            "flip",
            TypeError,
            r"augment must be a function augment\(key, x\) -> x, .*'fl",
        ),
        (Flip, TypeError, r"augment is the class Flip; pass an instance, Flip\("),
        (
            lambda key, x: x[:, 1:],
            ValueError,
            r"expected float32\[3, 5, 6, 1\], got float32\[3, 4, 6, 1\]",
        ),
        (
            lambda key, x: x.astype(jnp.bfloat16),
            ValueError,
            r"the shape and dtype .* got bfloat16\[3, 5, 6, 1\]",
        ),
        (lambda key, x: (x, key), ValueError, r"got \(float32\[3, 5, 6, 1\], key<fry>"),
        (lambda key, x: None, ValueError, "got None"),
        (
            lambda key, x: x if len(x) == 3 else x[1:],  # in the full batches alone
            ValueError,
            r"expected float32\[5, 5, 6, 1\], got float32\[4, 5, 6, 1\]",
        ),
        (lambda x: x, TypeError, r"in augment\(key, x\), x of shape \(3, 5, 6, 1\)"),
        (Shift(5), ValueError, r"sides of 6 pixels .*\nin augment\(key, x\), x of"),
        (
            Unhashable([GRAY, object()]),
            TypeError,
            "must be hashable, got .*: make it a",
        ),
    ],
)
def test_fit_refuses(augment, error, text):
    engine = Counting()  # to assert that nothing was compiled
    with pytest.raises(error) as raised:
        run(augment=augment, engine=engine)
    shown = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert engine.traces == 0
    assert re.search(text, shown, re.DOTALL)
