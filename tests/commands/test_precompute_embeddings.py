"""`framer-jax precompute embeddings` with encoders in plain Python, and the joining of their features."""

import sys

import numpy as np
import pytest

from framer_jax.cli import main
from framer_jax.commands.precompute.embeddings import cast_to_storage, embed_captions, embed_texts, write_text
from framer_jax.commands.precompute.text_encoders import TextEncoder, encoder_folders
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.text_condition import read_text
from framer_jax.data.captions import Caption, caption_line
from framer_jax.data.embeddings import CaptionEmbeddings
from framer_jax.data.records import RecordFiles, read_names
from framer_jax.data.text import (
    ClipTextSettings,
    Encoded,
    TextEmbedding,
    TextSettings,
    check_text,
    join_encoders,
    zero_text,
)
from tests.support.texts import SETTINGS, encoder, encoders

NAMES = ("b.png", "a.png", "c/d.png")
CAPTIONS = {name: Caption(name, "", f"This is {name}.") for name in NAMES}


def test_layout_of_joined_features():
    assert TextSettings().shapes == {"text": (154, 4096), "pooled_text": (2048,)}
    all_encoders = encoders()
    left, right, t5 = (all_encoders[name].encode(["x", "y"]) for name in all_encoders)
    tokens, pooled = embed_texts(["x", "y"], all_encoders, SETTINGS)
    assert tokens.shape == (2, 5, 12) and pooled.shape == (2, 9) and tokens.dtype == pooled.dtype == np.float32
    np.testing.assert_array_equal(tokens[:, :3], np.concatenate([left[0], right[0], np.zeros((2, 3, 3))], axis=2))
    np.testing.assert_array_equal(tokens[:, 3:], t5.tokens)
    np.testing.assert_array_equal(pooled, np.concatenate([left[1], right[1]], axis=1))


def test_the_text_of_stable_diffusion_2_is_the_tokens_of_one_encoder(tmp_path):
    sizes = ClipTextSettings(length=3, width=6)
    assert ClipTextSettings().shapes == {"text": (77, 1024)}
    tokens = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    one = {"clip_h": TextEncoder(lambda texts: Encoded(tokens[: len(texts)]), "digest")}
    embedding = embed_texts(["x", "y"], one, sizes)
    np.testing.assert_array_equal(embedding.tokens, tokens)
    assert embedding.pooled is None and embedding.as_condition().keys() == {"text"}
    embed_captions({name: CAPTIONS[name] for name in NAMES[:2]}, one, tmp_path / "rows", Work(2, 2), sizes)
    records = RecordFiles(tmp_path / "rows")
    assert records[1].keys() - {"record"} == {"prompt"} and records[1]["prompt"].shape == (3, 6)
    write_text(tmp_path / "null.safetensors", "", one, sizes)
    null, digests = read_text(tmp_path / "null.safetensors")
    assert digests == {"clip_h": "digest"} and null.shapes == zero_text(sizes).shapes
    photos = [f"{name}" for name in NAMES[:2]]
    texts = CaptionEmbeddings(photos, null, tmp_path / "rows", caption_dropout=0.0)
    drawn = texts.draw(0, np.random.default_rng(0))
    assert drawn.keys() == {"text"} and texts.batch_entries == ("text",)
    with pytest.raises(ValueError, match=r"clip_h gives 3 tokens of 6 features, not 3 of 7: .* --width belong to"):
        embed_texts(["x"], one, ClipTextSettings(length=3, width=7))
    with pytest.raises(ValueError, match="mine holds text, this run needs text and pooled_text: make it with"):
        check_text(null.shapes, SETTINGS, "mine")
    with pytest.raises(ValueError, match=r"mine holds text and pooled_text, this run needs text: make it with"):
        check_text(zero_text(SETTINGS).shapes, sizes, "mine")
    with pytest.raises(ValueError, match="must be at least 1"):
        ClipTextSettings(length=0)


def test_encoders_of_both_versions_are_not_mixed(tmp_path, capsys):
    words = ("precompute", "embeddings", "--null", "--output", str(tmp_path / "null.safetensors"), "--clip-h", "a")
    for others, option in ((("--t5", "b"), "--t5"), (("--zeros", "t5"), "--zeros")):
        assert main([*words, *others]) == 2
        assert f"--clip-h is for Stable Diffusion 2, and {option} for Stable Diffusion 3" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["clip_l", "clip_g", "t5"])
def test_zeros_replace_a_missing_encoder(missing):
    complete, without = (
        embed_texts(["x"], some, SETTINGS) for some in (encoders(), encoders(*{*encoders()} - {missing}))
    )
    places = {
        "clip_l": (np.s_[:, :3, :4], np.s_[:, :4]),
        "clip_g": (np.s_[:, :3, 4:9], np.s_[:, 4:]),
        "t5": (np.s_[:, 3:], np.s_[:, :0]),
    }
    for value, place in zip(complete, places[missing], strict=True):
        value[place] = 0
    for value, other in zip(complete, without, strict=True):
        np.testing.assert_array_equal(value, other)


def test_encoders_of_other_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"clip_l gives 3 tokens of 5 features, not 3 of 4: .*CLIP-L and CLIP-G swapped"
    ):
        embed_texts(["x"], {"clip_l": encoder("clip_l", width=5)}, SETTINGS)
    with pytest.raises(ValueError, match="clip_g gives a pooled embedding of none, not 5"):
        join_encoders({"clip_g": Encoded(np.zeros((1, 3, 5)))}, 1, SETTINGS)
    with pytest.raises(ValueError, match="do not fit into 8"):
        TextSettings(clip_widths=(4, 5), width=8)
    with pytest.raises(ValueError, match="must be at least 1"):
        TextSettings(t5_length=0)
    with pytest.raises(ValueError, match=r"mine has text embeddings of shape \(5, 12\), this run has \(154, 4096\)"):
        check_text(SETTINGS.shapes, TextSettings(), "mine")


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_records_are_sorted_by_photograph_name(tmp_path, storage):
    work = Work(samples=3, per_file=2, batch=8)
    arguments = (CAPTIONS, encoders("clip_l", "clip_g"), tmp_path)
    assert embed_captions(*arguments, work._replace(shard=(1, 2)), SETTINGS, storage) == (1, 0)
    assert embed_captions(*arguments, work, SETTINGS, storage) == (1, 1)
    records = RecordFiles(tmp_path)
    assert read_names(tmp_path) == sorted(NAMES)
    assert records.manifest["text"]["encoders"] == {
        "clip_l": "digest of clip_l",
        "clip_g": "digest of clip_g",
        "t5": "zeros",
    }
    assert len(records) == len(NAMES)
    for number, name in enumerate(sorted(NAMES)):
        record = records[number]
        expected = embed_texts([CAPTIONS[name].caption], encoders("clip_l", "clip_g"), SETTINGS)
        for value, other in zip(expected, (record["prompt"], record["pooled"]), strict=True):
            assert other.dtype == storage
            np.testing.assert_array_equal(value[0].astype(storage), other)


def test_other_captions_or_encoders_do_not_mix(tmp_path):
    work = Work(samples=3, per_file=2)
    embed_captions(CAPTIONS, encoders(), tmp_path, work, SETTINGS)
    other = CAPTIONS | {"a.png": Caption("a.png", "", "Another.")}
    with pytest.raises(ValueError, match=r"made otherwise \(captions\)"):
        embed_captions(other, encoders(), tmp_path, work, SETTINGS)
    with pytest.raises(ValueError, match=r"made otherwise \(text\)"):
        embed_captions(CAPTIONS, encoders("t5"), tmp_path, work, SETTINGS)
    renamed = {name.upper(): caption for name, caption in CAPTIONS.items()}
    with pytest.raises(ValueError, match=r"made otherwise \(names\)"):
        embed_captions(renamed, encoders(), tmp_path, work, SETTINGS)
    assert embed_captions(renamed, encoders(), tmp_path, work, SETTINGS, overwrite=True) == (2, 0)
    assert read_names(tmp_path) == sorted(renamed)
    (tmp_path / "names.json").write_text("[]\n")
    with pytest.raises(ValueError, match=r"names\.json is missing or damaged: .* once more"):
        read_names(tmp_path)
    with pytest.raises(ValueError, match="no caption to embed"):
        embed_captions({}, encoders(), tmp_path, work, SETTINGS)


def test_one_text_is_one_file(tmp_path):
    path = tmp_path / "null.safetensors"
    write_text(path, "", encoders("clip_l", "clip_g"), SETTINGS)
    text, digests = read_text(path)
    assert digests["t5"] == "zeros" and digests["clip_g"] == "digest of clip_g"
    for value, other in zip(text, embed_texts([""], encoders("clip_l", "clip_g"), SETTINGS), strict=True):
        np.testing.assert_array_equal(value, other[0].astype(np.float16))
    assert np.any(text.tokens != zero_text(SETTINGS).tokens)
    with pytest.raises(FileExistsError, match="add --overwrite"):
        write_text(path, "", encoders(), SETTINGS)
    with pytest.raises(ValueError, match="condition 'zero'"):
        write_text(path, "", {}, SETTINGS, overwrite=True)
    with pytest.raises(ValueError, match=r"name the file of one text \*\.safetensors"):
        write_text(tmp_path / "null.npz", "", encoders(), SETTINGS)


def test_an_overflow_is_refused():
    with pytest.raises(ValueError, match="not finite in float16: use --storage float32"):
        cast_to_storage(TextEmbedding(np.full((1, 1), 1e6, np.float32), np.zeros(1, np.float32)), "float16")


def test_every_encoder_is_given_or_replaced_by_zeros(tmp_path):
    for name in ("text_encoder", "text_encoder_2"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has no text_encoder_3/: give --t5 FOLDER, or --zeros t5"):
        encoder_folders(str(tmp_path), {}, [])
    assert encoder_folders(str(tmp_path), {}, ["t5"]) == {
        "clip_l": tmp_path / "text_encoder",
        "clip_g": tmp_path / "text_encoder_2",
    }
    assert encoder_folders("", {"t5": str(tmp_path)}, ["clip_l", "clip_g"]) == {"t5": tmp_path}
    with pytest.raises(ValueError, match="there is no --clip-l: give --clip-l FOLDER, or --zeros clip_l"):
        encoder_folders("", {"t5": str(tmp_path)}, [])
    with pytest.raises(ValueError, match="--t5 and --zeros t5 contradict each other"):
        encoder_folders(str(tmp_path), {"t5": str(tmp_path)}, ["t5"])


def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(caption_line(caption) for caption in CAPTIONS.values()))
    model = ("--model", str(tmp_path), "--zeros", "t5", "clip_g")
    (tmp_path / "text_encoder").mkdir()
    for words, message in (
        (("--null",), "there is no --clip-l: give --clip-l FOLDER"),
        (("--null", "--clip-length", "0"), "must be at least 1"),
        (("--captions", str(captions), "--batch", "0", *model), "--batch must be at least 1"),
        (("--captions", str(tmp_path / "none.jsonl"), *model), "no such file: make it with"),
        (("--captions", str(captions), *model), "pip install 'framer_jax[torch]'"),
        (("--null", *model), "pip install 'framer_jax[torch]'"),
    ):
        assert main(["precompute", "embeddings", "--output", str(tmp_path / "null.safetensors"), *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
