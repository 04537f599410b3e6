"""docs/equations.md names functions that exist and that the library uses, and every loss term is in it."""

import ast
import re
from functools import cache

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "equations.md"
LOSSES = ROOT / "framer_jax" / "losses"

NAMES = sorted(set(re.findall(r"`(framer_jax(?:\.\w+)+)`", PAGE.read_text(encoding="utf-8"))))

WITHOUT_EQUATIONS = ("framer_settings.py", "framer_bands.py", "weight_schedule.py")
"""Files of losses/ whose functions need not all be on the page."""

AWAITING_RECIPES = tuple(
    f"framer_jax.losses.score_distillation.{name}" for name in ("vsd_direction", "regulariser_error")
)
"""Terms of methods that the library has no recipe of yet: nothing may use them. Whoever uses one removes it here."""


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def resolve(name):
    """(file, module, definition) of a dotted name: a function, a class, or a method of a class."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = ROOT.joinpath(*parts[:count]).with_suffix(".py")
        if path.is_file():
            break
    else:
        raise AssertionError(f"{name}: no such module")
    node = tree_of(path)
    for part in parts[count:]:
        kinds = ast.FunctionDef | ast.ClassDef
        node = next((child for child in node.body if isinstance(child, kinds) and child.name == part), None)
        assert node is not None, f"{name}: {path.relative_to(ROOT)} does not define {part}"
    return path, ".".join(parts[:count]), node


def imported_names(tree, module, name):
    """The names by which a file refers to a module, and to an object of it: (modules, objects)."""
    package, _, last = module.rpartition(".")
    modules, objects = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if node.module == package and alias.name == last:
                    modules.add(alias.asname or alias.name)
                if alias.name == name and (node.module or "").startswith("framer_jax"):
                    objects.add(alias.asname or alias.name)
    return modules, objects


def uses(node, objects, modules, name):
    """Whether code refers to an object by its name, or as an attribute of its module."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load) and child.id in objects:
            return True
        named = isinstance(child, ast.Attribute) and child.attr == name and isinstance(child.value, ast.Name)
        if named and child.value.id in modules:
            return True
    return False


def is_used(path, module, definition):
    name = definition.name
    for other in (ROOT / "framer_jax").rglob("*.py"):
        tree = tree_of(other)
        modules, objects = imported_names(tree, module, name)
        if other == path:
            objects = {name}
        if any(uses(node, objects, modules, name) for node in tree.body if node is not definition):
            return True
    return False


def is_called_as_method(definition):
    """Whether any file calls a method of that name; who owns it cannot be seen in the source."""
    for other in (ROOT / "framer_jax").rglob("*.py"):
        for node in ast.walk(tree_of(other)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == definition.name
            ):
                return True
    return False


def test_the_page_names_the_equations_of_framer():
    assert len(NAMES) > 30
    for name in ("intra_cl", "inter_cl", "faw", "fam", "framer_layer_loss", "framer_total", "framer_loss"):
        assert f"framer_jax.losses.framer.{name}" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists_is_documented_and_used(name):
    path, module, definition = resolve(name)
    assert ast.get_docstring(definition), f"{name} has no docstring"
    method = name.removeprefix(f"{module}.").count(".") == 1
    used = is_called_as_method(definition) if method else is_used(path, module, definition)
    assert used != (name in AWAITING_RECIPES), f"{name} is {'used: its recipe is there' if used else 'not used'}"


def test_every_loss_term_is_on_the_page():
    missing = [
        f"{path.stem}.{node.name}"
        for path in sorted(LOSSES.glob("*.py"))
        if path.name not in WITHOUT_EQUATIONS
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith(("_", "check_"))
        if f"framer_jax.losses.{path.stem}.{node.name}" not in NAMES
    ]
    assert not missing, f"docs/equations.md lacks {', '.join(missing)}"


def test_formulas_do_not_break_the_tables():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {5}
