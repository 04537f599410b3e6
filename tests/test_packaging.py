"""What setup.py declares: every package that is imported, the marker of types, and who made it."""

import ast
import re
import runpy
import sys
from types import SimpleNamespace

import pytest

from tests.support.paths import ROOT

DISTRIBUTIONS = {"PIL": "Pillow", "absl": "absl-py", "orbax": "orbax-checkpoint", "pywt": "PyWavelets"}
"""Package → the distribution that provides it, where its name differs."""

OURS = ("framer_jax", "configs")


@pytest.fixture(scope="module")
def declared():
    """The keyword arguments of `setup`."""
    arguments = {}
    stub = SimpleNamespace(setup=arguments.update, find_packages=lambda include: list(include))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", stub)
        runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def normalised(name):
    return re.split(r"[^\w.-]", name.replace("_", "-").lower())[0]


def imported():
    """(top-level package, whether a module imports it when it is imported itself, file)."""
    for folder in OURS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in {name.split(".")[0] for name in names} - {*OURS} - sys.stdlib_module_names:
                    yield name, node in tree.body, path.relative_to(ROOT)


def test_every_imported_package_is_declared(declared):
    required = {normalised(text) for text in declared["install_requires"]}
    optional = {normalised(text) for texts in declared["extras_require"].values() for text in texts}
    undeclared = set()
    for name, always, path in imported():
        distribution = normalised(DISTRIBUTIONS.get(name, name))
        if distribution not in required and (always or distribution not in optional):
            undeclared.add(f"{path} imports {name}")
    assert not undeclared, "\n".join(sorted(undeclared))
    assert {"pywavelets", "absl-py", "array-record", "etils"} <= required


def test_the_parts_of_the_comparison_page_are_packaged(declared):
    folder = ROOT / "framer_jax" / "evaluation" / "comparison_page"
    packaged = {
        path
        for part in declared["package_data"][".".join(folder.relative_to(ROOT).parts)]
        for path in folder.glob(part)
    }
    assert packaged == {path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}


def test_types_and_authors_are_packaged(declared):
    assert (ROOT / "framer_jax" / "py.typed").is_file()
    assert "py.typed" in declared["package_data"]["framer_jax"]
    assert "Typing :: Typed" in declared["classifiers"]
    assert declared["author"] == "The framer_jax authors"
    assert not [name for name in declared["classifiers"] if name.startswith("License ::")]  # `license` says it
