import math

import jax
import pytest
from tiny import CONFIGS, MODEL, RUN, photos

from framer_jax.commands.train import train_from_config
from framer_jax.config import load_config, to_dict
from framer_jax.inference.model import expected_params, load_model
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.training.logging import read_json_lines
from framer_jax.training.settings import TrainingSettings

FILES = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "__init__")
by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@by_name
def test_as_it_is(path):
    """The whole configuration makes a recipe and settings, and its head tells what the house asks for."""
    config = to_dict(load_config(path))
    recipe = add_framer(build_recipe(config["recipe"]), config["framer"])
    assert all(math.prod(leaf.shape) for leaf in jax.tree.leaves(expected_params(recipe)))
    settings = TrainingSettings(**config["training"])
    assert config["data"]["crop"] % (recipe.scale * recipe.lr_multiple) == 0
    assert settings.steps > 0
    head = path.read_text(encoding="utf-8").split('"""')[1]
    assert f"--config configs/{path.name}" in head
    if path.stem != "default":
        assert all(word in head for word in ("Command:", "Hardware:", "Expected time:", "Expected:"))


@by_name
def test_one_step(path, tmp_path):
    folder = photos(tmp_path / "photos")
    where = (f"data.train={folder}", f"data.validation={folder}")
    config = to_dict(load_config(path, (*MODEL, *RUN, *where, "training.stop_after=1")))
    result = train_from_config(config, tmp_path / "run")
    assert result.step == 1
    assert math.isfinite(result.scalars["loss"])
    framed = config["framer"]["reading"] != "none"
    assert ("framer_ratio" in result.scalars) == framed
    assert ("framer_heads" in result.state.params) == framed
    logged = {name for line in read_json_lines(tmp_path / "run" / "metrics.jsonl") for name in line}
    assert {"loss", "validation/mean/psnr-y", "validation/sample/psnr-y", "validation/bicubic/psnr-y"} <= logged
    model = load_model(tmp_path / "run")
    assert set(model.params) == {"denoiser"}
    assert model.metadata["step"] == 1
