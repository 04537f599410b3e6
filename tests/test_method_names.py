"""One method, one package: outside its package, configurations and docs, no identifier or string is a method's name."""

import ast
from pathlib import Path

import pytest

from framer_jax.recipes.table import METHODS
from tests.support.paths import ROOT

PACKAGE = ROOT / "framer_jax"

BUILDS_ON = {"resshift": {"sinsr", "hf_diff"}, "sinsr": {"hf_diff"}}
"""Method → packages of methods that build on it: SinSR distills a ResShift chain, HF-Diff adds terms to its loss."""

ALLOWED = {
    "resshift": {
        "diffusion",  # the diffusion process, named after the paper that describes it
        "degradations",  # the degradation that was published with it
        "porting",  # the networks' weight maps
    },
    "hf_diff": {"recipes/hf_extractor/recipe.py", "commands/pretrain.py"},  # whose networks are for this method
    "realesrgan": {"commands/info.py", "commands/extras.py"},  # the extra with its authors' weights
    "dit4sr": {"porting/table.py"},  # its network's former name, which old files state
}
"""Method → layers or files where the same word is the name of something else."""

NAMED_ALIKE = tuple(f"framer_jax.{layer}." for layer in ("diffusion", "degradations", "models", "porting"))
"""Imports from these layers name a process, a network or its weight map."""


def words(path: Path):
    """(line, identifier or string) of a file, without docstrings; strings are split into words."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno if hasattr(node, "lineno") else 0, name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ImportFrom(module=module) if (module or "").startswith(NAMED_ALIKE):
                continue
            case ast.ImportFrom(module=module, names=names):
                for part in (*(module or "").split("."), *(alias.name for alias in names)):
                    yield node.lineno, part
            case ast.Import(names=names):
                for part in (part for alias in names for part in alias.name.split(".")):
                    yield node.lineno, part
            case ast.Constant(value=str(text)) if id(node) not in documentation:
                for part in text.replace("/", ".").replace("=", ".").replace(" ", ".").split("."):
                    yield node.lineno, part.strip("'\"`,:;()")


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_a_method_is_named_in_its_package_only(name):
    own = {name, *BUILDS_ON.get(name, set())}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        allowed = ALLOWED.get(name, ())
        if parts[0] in ("configs", *allowed) or "/".join(parts) in allowed:
            continue
        if parts[0] == "recipes" and (parts[1] in own or parts[1:] == ("table.py",)):
            continue
        wrong += [f"{path.relative_to(ROOT)}:{line} {word}" for line, word in words(path) if word == name]
    assert not wrong, "\n".join(wrong)


def test_every_package_of_recipes_is_a_method_of_the_table():
    packages = {path.parent.name for path in (PACKAGE / "recipes").glob("*/__init__.py")}
    pretraining = {"hf_extractor"}  # of a network that upscales nothing
    assert packages - {"components"} - pretraining == {method.name for method in METHODS}
