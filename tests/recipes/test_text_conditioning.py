"""The section `recipe.text`, as recipes read it."""

from pathlib import Path

import pytest

from framer_jax.config import default, to_dict
from framer_jax.recipes.components.text import NULL, read_text, read_texts, text_sizes, text_widths


def section(**changes):
    recipe = to_dict(default("dit4sr"))["recipe"]
    return {"text": {**recipe["text"], "condition": "zero", **changes}}


def test_sizes_come_from_the_section():
    config = section(clip_widths=[4, 8], width=16, clip_length=1, t5_length=2)
    assert text_widths(config) == {"context_width": 16, "pooled_width": 12}
    assert {NULL} == read_texts(config).keys()
    assert read_texts(config)[NULL].shapes == text_sizes(config).shapes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "none"}, "recipe.text.condition is 'none': it must be one of captions, null, zero"),
        ({"clip_widths": [1, 2, 3]}, r"recipe.text.clip_widths is \(1, 2, 3\): it must be a list of 2 whole numbers"),
        ({"condtion": "zero"}, "unknown knob recipe.text.condtion: did you mean 'condition'"),
        ({"prompt_embedding": "p"}, "'zero' takes no embeddings: leave recipe.text.prompt_embedding empty"),
        ({"condition": "null"}, "recipe.text.null_embedding is empty"),
    ],
)
def test_bad_sections_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read_texts(section(**changes))


def test_a_missing_text_is_named_by_its_path_and_its_knob_if_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "null.safetensors"
    for knob, start in (("", ""), ("recipe.text.null_embedding", "recipe.text.null_embedding: ")):
        with pytest.raises(FileNotFoundError, match=f"^{start}{path}: there is no such file"):
            read_text(path, *([knob] if knob else []))
