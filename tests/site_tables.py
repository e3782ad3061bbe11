"""Two pages of the site that are computed: what each layer can, and the gallery.

    PYTHONPATH=. python tests/site_tables.py     # writes both

`tests/test_site.py` compares what stands there with what is computed.
"""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
from cases import LAYERS, LayerCase

import fnn
from fnn.core import Layer
from fnn.passes.curvature.kfac import kfac_factors
from fnn.passes.formulas import has_formula
from fnn.passes.independence import expect_independent
from fnn.passes.rules.base import has_weight, may_have_weight
from fnn.planning.rewrites import REWRITES

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "scripts" / "site" / "pages"

# ---- What each layer can ---------------------------------------------------------

CAPABILITIES = """\
# What each layer can

This table is computed from the code, and a test compares the two.

| {columns} |
| {dashes} |
{rows}

- **audit**: the number of settings in which the tests hold the handwritten backward
  against autodiff and central differences, and run the layer under `jit` and `vmap`.
- **plan**: the layer can be a part of a faster kernel, alone or with its neighbours
  ([plans](../../../fnn/planning/README.md)).
- **single examples**: "formula", the gradients of single examples are never formed;
  "backward", by `vmap` of the layer's own backward; "none to form", it has no
  parameters; "eval only", in training no example has a gradient of its own
  ([the derivations](../../../fnn/passes/README.md#1-gradients-of-single-examples)).
- **rules**: "weights", a rule may replace Wᵀ or change δ here; "through", the layer
  passes δ on as it always does.
- **curvature**: products with the Hessian and with the Gauss-Newton matrix go through
  every layer; "KFAC", its weight has Kronecker factors, too.
- **half precision**: y and dx of bfloat16 arguments are bfloat16.
- **mesh**: "split", each device has its part of the batch to itself; "whole batch", its
  statistics are those of all devices.
"""

COLUMNS = (
    *("layer", "audit", "plan", "single examples", "rules", "curvature"),
    *("half precision", "mesh"),
)


def layer_cases() -> dict[type, list[LayerCase]]:
    """Return the rows of `cases.py` by class, of layers without children."""
    found: dict[type, list[LayerCase]] = {}
    for case in LAYERS:
        layer = case.layer
        if not layer.children and layer.wrapped is None and layer != fnn.serial():
            found.setdefault(type(layer), []).append(case)
    return found


def arguments(case: LayerCase, dtype=jnp.float32) -> tuple:
    """Return the shapes of a layer's variables, and of a batch."""
    variables = jax.eval_shape(
        lambda key: case.layer.init(key, case.in_shape), jax.random.key(0)
    )
    kind = jnp.int32 if case.ids else dtype
    x = jax.ShapeDtypeStruct((case.batch, *case.in_shape), kind)

    def convert(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    return jax.tree.map(convert, variables), x


def mixes_examples(case: LayerCase) -> bool:
    """Return whether an example's y depends on other examples in training."""
    variables, x = arguments(case)

    def run(variables, x, key):
        saved = case.layer.forward(*variables, x, key=key, train=True).saved
        expect_independent("", saved, case.layer, *variables, x, key, True)

    try:
        jax.eval_shape(run, variables, x, jax.random.key(0))
    except ValueError as error:
        assert "batch" in str(error)
        return True
    return False


def stays_in_half_precision(case: LayerCase) -> bool:
    """Return whether y and dx of bfloat16 arguments are bfloat16."""
    variables, x = arguments(case, jnp.bfloat16)

    def run(variables, x, key):
        y, saved, _ = case.layer.forward(*variables, x, key=key, train=True)
        return y, case.layer.backward(variables.params, saved, y).dx

    y, dx = jax.eval_shape(run, variables, x, jax.random.key(0))
    return y.dtype == jnp.bfloat16 and (bool(case.ids) or dx.dtype == jnp.bfloat16)


def has_kronecker_factors(case: LayerCase) -> bool:
    """Return whether KFAC has factors for a weight of this layer."""
    net = fnn.serial(case.layer, fnn.Flatten())
    if not jax.tree.leaves(arguments(case)[0].params) or mixes_examples(case):
        return False
    variables = net.init(jax.random.key(0), case.in_shape)
    x = arguments(case)[1]
    z = jax.eval_shape(lambda v, x: net.forward(*v, x).y, variables, x)
    factors = kfac_factors(net, fnn.losses.SquaredError())
    return bool(jax.eval_shape(factors, variables, (x, z)))


def capability_row(kind: type, cases: list[LayerCase]) -> str:
    """Return one row of the table."""
    case = max(cases, key=lambda case: len(jax.tree.leaves(arguments(case)[0].params)))
    params = arguments(case)[0].params
    planned = any(kind in kinds for row in REWRITES for kinds in row.pattern)
    mixes = mixes_examples(case)
    if mixes:
        single = "eval only"
    elif not jax.tree.leaves(params):
        single = "none to form"
    else:
        single = "formula" if has_formula(case.layer) else "backward"
    weights = may_have_weight(case.layer) and has_weight(params)
    cells = [
        f"`{kind.__name__}`",
        str(len(cases)),
        "yes" if planned else "–",
        single,
        "weights" if weights else "through",
        "products, KFAC" if has_kronecker_factors(case) else "products",
        "yes" if stays_in_half_precision(case) else "–",
        "whole batch" if mixes else "split",
    ]
    return "| " + " | ".join(cells) + " |"


def capabilities() -> str:
    """Return the page, of all public layers that are no combinators."""
    rows = [capability_row(kind, cases) for kind, cases in layer_cases().items()]
    return CAPABILITIES.format(
        columns=" | ".join(COLUMNS),
        dashes=" | ".join(["---"] * len(COLUMNS)),
        rows="\n".join(rows),
    )


def layers_without_a_row() -> list[str]:
    """Return the public layers that have neither children nor a row."""
    combinators = "Each Fork Frozen Layer Merge Parallel Probed Residual Select Serial"
    known = {kind.__name__ for kind in layer_cases()} | set(combinators.split())
    known |= {"Plan", "Remat", "Shared", "Tied"}  # each is as the layers inside
    public = [name for name in vars(fnn) if isinstance(vars(fnn)[name], type)]
    return [
        name
        for name in public
        if issubclass(vars(fnn)[name], Layer) and name not in known
    ]


# ---- The gallery -----------------------------------------------------------------

GALLERY = """\
# Gallery

Every picture is what one command draws, on data that needs no download unless it says
so. The sentences are what the scripts printed; the settings are on [the page of the
experiments](../../../experiments/README.md).
"""

#: Pictures that are not called as their script, and the script's options.
COMMANDS = {
    "learning_curves": "train_digits",
    "mnist_lenet": "train_images --dataset mnist",
    "noise_scale_mnist": "noise_scale --dataset mnist",
}
TITLES = {
    "laplace": "A Laplace posterior",
    "mnist_lenet": "A LeNet on MNIST",
    "noise_scale_mnist": "Noise scale of MNIST",
}


def question(script: str) -> str:
    """Return the first line of a script's docstring."""
    source = (ROOT / "experiments" / f"{script.split()[0]}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def sentence(script: str) -> str:
    """Return what the page of the experiments says of a script, without links."""
    text = (ROOT / "experiments" / "README.md").read_text("utf-8")
    for block in re.split(r"\n\n|\n(?=- )", text):
        name = rf"(?:\*\*.*\*\* \(`{script}`\)\.|- `{script}`:) (.*)"
        begins = re.match(name, block, re.DOTALL)
        if begins:
            plain = re.sub(r"\(?\[[^]]*\]\([^)]*\)\)?", "", begins[1])
            plain = " ".join(plain.split())
            return "" if plain.endswith("?") else plain  # a question is asked above
    return ""


def gallery() -> str:
    """Return the page with every picture, its question, sentence and command."""
    parts = [GALLERY]
    for picture in sorted((ROOT / "experiments" / "pictures").glob("*.png")):
        command = COMMANDS.get(picture.stem, picture.stem)
        title = TITLES.get(picture.stem, picture.stem.replace("_", " ").capitalize())
        says = sentence(command)
        asked = question(command)
        parts.append(
            f"## {title}\n\n{asked}\n\n"
            f"![{asked}](../../../experiments/pictures/{picture.name})\n\n"
            + (f"{says}\n\n" if says else "")
            + f"```sh\npython -m experiments.{command}\n```\n"
        )
    return "\n".join(parts)


GENERATED = {"capabilities.md": capabilities, "gallery.md": gallery}

if __name__ == "__main__":
    for name, page in GENERATED.items():
        (PAGES / name).write_text(page(), "utf-8")
