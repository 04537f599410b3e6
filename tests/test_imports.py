import ast
import subprocess
import sys

import framer_jax
from tests.support.paths import ROOT

PACKAGE = ROOT / "framer_jax"

OPTIONAL = (
    *("torch", "diffusers", "transformers", "cv2", "matplotlib", "skimage", "sklearn", "tensorboardX", "tensorflow"),
    *("pyiqa", "timm", "torchvision", "wandb", "gradio", "flatbuffers", "jax2onnx", "onnx", "onnxruntime", "ray"),
)
"""What an installation may lack; only functions import it."""

GROUND = ("frequency", "diffusion", "degradations")
FIRST = ("models", "losses", "data", "porting")

LAYERS = {
    # no JAX
    "images": (),
    # pure jnp, no flax, no configuration
    "frequency": (),
    "diffusion": (),
    "degradations": (),
    # these do not import each other
    "models": GROUND,
    "losses": GROUND,
    "data": (*GROUND, "images", "porting.files"),  # files that appear whole or not at all
    "porting": GROUND,
    "recipes": (*GROUND, *FIRST),
    "checkpoints": (*GROUND, *FIRST, "recipes"),
    # neither of these imports the other
    "training": ("recipes.base", "recipes.tracing"),  # the types of a recipe, what one reads, and the name of no method
    "inference": (*GROUND, "images", "data.files", "porting", "recipes", "checkpoints", "progress"),
    "evaluation": (*GROUND, *FIRST, "images", "recipes", "checkpoints", "inference", "progress"),
    # configurations are generated from the settings of every layer
    "overrides": (*GROUND, *FIRST, "recipes", "checkpoints"),
    "sections": (*GROUND, *FIRST, "recipes", "training"),
    "config": (*GROUND, *FIRST, "recipes", "checkpoints", "training", "overrides", "sections"),
    "commands": (
        *GROUND,
        *FIRST,
        "images",
        "recipes",
        "checkpoints",
        "training",
        "inference",
        "evaluation",
        "overrides",
        "config",
        "console",
        "progress",
    ),
    "cli": ("commands", "console"),
    "__main__": ("cli",),
    "console": (),
    "progress": (),
    "api": (*GROUND, *FIRST, "images", "recipes", "checkpoints", "training", "inference", "config", "commands"),
    "__init__": ("api",),
    # files that every layer may import
    "knobs": (),
    "compile_cache": (),
    "paths": (),
    "errors": (),
    "macs": (),
    "trees": (),
    "version": (),
    "weights": (),
}
"""Layer → the layers (or single files of one) that it may import, besides itself and `EVERYWHERE`."""

EVERYWHERE = ("compile_cache", "errors", "knobs", "macs", "paths", "trees", "version")

FORBIDDEN = {
    "images": ("jax", "flax", "optax", "orbax", "grain", "clu", "ml_collections"),
    **dict.fromkeys(GROUND, ("flax", "optax", "orbax", "grain", "clu", "ml_collections")),
    "models": ("optax", "orbax", "grain", "clu", "ml_collections"),
    "losses": ("flax", "optax", "orbax", "grain", "clu", "ml_collections"),
    "recipes": ("optax", "orbax", "grain", "clu", "ml_collections"),
    "checkpoints": ("optax", "orbax", "grain", "clu", "ml_collections"),
    "training": ("ml_collections",),
    "inference": ("torch", "optax", "orbax", "grain", "clu", "ml_collections"),
    "evaluation": ("optax", "orbax", "grain", "clu", "ml_collections"),
}
"""Layer → packages that it must not import."""


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    """(layer, path) of every file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        yield (parts[0] if len(parts) > 1 else path.stem), path


def allowed(layer, name):
    first, *rest = name.split(".")
    if first != "framer_jax":
        return first not in FORBIDDEN.get(layer, ())
    inner = ".".join(rest) + "."
    return inner == "." or any(inner.startswith(f"{other}.") for other in (layer, *EVERYWHERE, *LAYERS[layer]))


def test_layers_import_only_from_the_layers_below():
    wrong = []
    for layer, path in files():
        assert layer in LAYERS, f"{layer} is in no layer: add it to the table"
        wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in imports(path) if not allowed(layer, name)]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_layers_has_no_cycle():
    def above(layer, seen=()):
        assert layer not in seen, f"cycle: {seen}"
        for below in LAYERS[layer]:
            above(below.split(".")[0], (*seen, layer))

    for layer in LAYERS:
        above(layer)
    assert not set(FIRST) & {below for layer in FIRST for below in LAYERS[layer]}


def test_optional_packages_are_imported_inside_functions_only():
    for _, path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & set(OPTIONAL), path


PROGRAM = """
import importlib, pkgutil, sys
class Absent:  # a None in sys.modules would confuse scipy, which looks there for torch
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {optional}:
            raise ModuleNotFoundError("no module named " + name, name=name)
sys.meta_path.insert(0, Absent())
import framer_jax
assert "jax" not in sys.modules, "importing the package alone must be instant"
import framer_jax.cli
assert "jax" not in sys.modules
for module in pkgutil.walk_packages(framer_jax.__path__, "framer_jax."):
    importlib.import_module(module.name)
"""


def test_everything_imports_without_the_optional_packages():
    command = [sys.executable, "-c", PROGRAM.format(optional=OPTIONAL)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_layer_says_what_it_is():
    for folder in [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")]:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_the_public_surface():
    assert sorted(framer_jax.__all__) == [
        "__version__",
        "band_masks",
        "degrade",
        "framer_loss",
        "load_model",
        "make_step",
        "methods",
        "port",
        "read_image",
        "upscale",
        "write_image",
    ]
    for name in framer_jax.__all__:
        assert getattr(framer_jax, name).__doc__
    for name in ("upscale", "write_image"):  # what the three-line use shows
        assert f"framer_jax.{name}(" in (framer_jax.__doc__ or "")


def test_no_file_names_a_place_on_this_machine():
    places = ["/" + name + "/" for name in ("work", "root")]
    searched = [
        ROOT / "README.md",
        *(
            path
            for folder in ("framer_jax", "configs", "tools", "tests", "docs")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".sh", ".md", ".toml", ".json", ".csv", ".txt")
        ),
    ]
    hits = [
        f"{path.relative_to(ROOT)} holds {place}"
        for path in searched
        if path.is_file()
        for place in places
        if place in path.read_text(encoding="utf-8")
    ]
    assert not hits, "\n".join(hits)
