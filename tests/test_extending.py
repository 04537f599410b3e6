"""docs/extending.md, followed to the letter on a copy of the package."""

import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from framer_jax.recipes.method import Method
from tests.support.paths import ROOT
from tests.support.tiny import RUN, photos

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

TABLE = "framer_jax/recipes/table.py"

SECTIONS = ("Add a method", "Add a network", "Add a loss", "Add a dataset", "Add a metric", "Add a weight map")

TINY = (
    *("recipe.student.swinir.channels=8", "recipe.student.swinir.depths=(1, 1)", "recipe.student.swinir.heads=2"),
    *RUN,
    *("data.validation_count=0", "training.steps=1", "training.global_batch=2", "training.best_metric=None"),
)

SCRIPT = """
import sys
import framer_jax
from framer_jax.cli import main

photos, *overrides = sys.argv[1:]
print(framer_jax.__file__)
options = [option for override in overrides for option in ("--set", override)]
assert main(["train", "--config", "charbonnier_small", "--workdir", "run", *options]) == 0
assert main(["info", "charbonnier", "--knobs"]) == 0
assert main(["upscale", f"{photos}/photo_0.png", "upscaled.png", "--weights", "run"]) == 0
"""


def section(title):
    """The text of one section of the page."""
    return re.split(r"^## ", PAGE.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def code_blocks():
    """File → its code in the section on methods; a block belongs to the last file named before it."""
    text, blocks = section("Add a method"), {}
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        path = re.findall(r"`((?:framer_jax|configs)/[\w/]+\.py)`", text[: block.start()])[-1]
        assert path not in blocks, path
        blocks[path] = block[1]
    return blocks


def with_method(table, code):
    """The source of the table of methods with the import and the line that the page adds."""
    (name,) = re.findall(r"^    (\w+)\.METHOD,$", code, flags=re.MULTILINE)
    assert f"import (\n    augkd,\n    {name},\n    ...\n)\n" in code
    assert code.count("\nMETHODS: tuple[Method, ...] = (\n") == 1
    table, imports = re.subn(
        r"(?<=^from framer_jax\.recipes import \(\n    augkd,\n)", f"    {name},\n", table, flags=re.M
    )
    head, start, rest = table.partition("\nMETHODS: tuple[Method, ...] = (\n")
    assert imports == 1 and start
    lines, end, tail = rest.partition("\n)\n")
    return f"{head}{start}{lines}\n    {name}.METHOD,{end}{tail}"


def test_the_method_of_the_page_trains_and_upscales(tmp_path):
    for folder in ("framer_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = code_blocks()
    package = "framer_jax/recipes/charbonnier"
    files = {f"{package}/{name}.py" for name in ("settings", "recipe", "__init__")}
    assert blocks.keys() == {*files, TABLE, "configs/charbonnier_small.py"}
    (tmp_path / package).mkdir()
    for path, code in blocks.items():
        if path == TABLE:
            code = with_method((tmp_path / path).read_text(encoding="utf-8"), code)
        else:
            assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(code, encoding="utf-8")
    images = photos(tmp_path / "photos")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, images, *TINY, f"data.train={images}", f"data.validation={images}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.startswith(str(tmp_path / "framer_jax"))
    assert "recipe.charbonnier.epsilon" in result.stdout
    assert (tmp_path / "upscaled.png").is_file()


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_names_what_exists(title):
    text = section(title)
    added = ("framer_jax/recipes/charbonnier", "configs/charbonnier_small.py")
    paths = [
        path
        for path in re.findall(r"`((?:framer_jax|configs|tests|docs)/[\w/.]+)`", text)
        if not path.startswith(added)
    ]
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
    for symbol, path in re.findall(r"`(\w+)`\s+(?:in|of)\s+`(framer_jax/[\w/]+\.py)`", text):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert hasattr(module, symbol), (symbol, path)


def test_the_page_names_fields_of_the_record():
    paragraph = section("Add a method").split("declare it in the same record")[1]
    named = set(re.findall(r"\(`(\w+)`\)", paragraph))
    assert len(named) > 5
    assert named <= {field.name for field in dataclasses.fields(Method)}
