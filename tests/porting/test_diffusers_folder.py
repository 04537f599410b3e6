"""Folders of config.json and weights: reading, errors, and atomic writing."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from framer_jax.porting import diffusers_folder
from framer_jax.porting.diffusers_folder import find_model, read_files, read_folder, write_folder

CONFIG = {"_class_name": "Toy", "widths": [1, 2]}
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def tensors():
    rng = np.random.default_rng(0)
    state = {f"layer.{i}.weight": rng.standard_normal((4, 8)).astype(np.float32) for i in range(5)}  # 128 bytes each
    return state | {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.asarray(2, np.float32)}


def sharded(folder):
    write_folder(folder, CONFIG, tensors(), max_shard_bytes=300)
    return folder


@pytest.mark.parametrize(("limit", "files"), [(10_000, 1), (300, 3), (1, 7)])
def test_what_was_written_is_read(tmp_path, limit, files):
    write_folder(tmp_path / "deep" / "model", CONFIG, tensors(), max_shard_bytes=limit)
    config, state = read_folder(tmp_path / "deep" / "model")
    assert config == CONFIG
    assert state.keys() == tensors().keys()
    for key, value in tensors().items():
        np.testing.assert_array_equal(state[key], value)
    names = sorted(path.name for path in (tmp_path / "deep" / "model").iterdir())
    assert len(names) == files + (2 if files > 1 else 1)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]  # nothing else is left
    if files == 3:
        assert names[1] == "diffusion_pytorch_model-00001-of-00003.safetensors"
        index = json.loads((tmp_path / "deep" / "model" / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors().values())


def test_names_of_transformers_variants_and_half_precision(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a": np.ones(2, np.float16)}, tmp_path / "model.safetensors")
    save_file({"a": np.full(2, 3, ml_dtypes.bfloat16)}, tmp_path / "model.fp16.safetensors")
    for variant, value in (("", 1.0), ("fp16", 3.0)):
        array = read_folder(tmp_path, variant)[1]["a"]
        assert array.dtype == np.float32 and (array == value).all()
    with pytest.raises(
        FileNotFoundError, match=r"lacks diffusion_pytorch_model\.bf16\.safetensors.*it holds model\.fp16"
    ):
        read_folder(tmp_path, "bf16")


def test_a_sharded_variant(tmp_path):
    sharded(tmp_path / "model")
    (tmp_path / "model" / INDEX).rename(tmp_path / "model" / INDEX.replace("index.json", "index.fp16.json"))
    assert read_folder(tmp_path / "model", "fp16")[1].keys() == tensors().keys()


def test_the_only_variant_is_taken_with_a_note(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a": np.ones(2, np.float16)}, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    files = find_model(tmp_path)
    assert files.weights == ("diffusion_pytorch_model.fp16.safetensors",) and files.config == CONFIG
    assert files.notes == (f"{tmp_path.name} holds no weights but the variant 'fp16', which was taken",)
    assert [path.name for path in files.paths()] == ["config.json", *files.weights]
    assert find_model(tmp_path, variant="fp16").notes == ()
    save_file({"a": np.ones(2, np.float16)}, tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(FileNotFoundError, match=r"fetch it, or name a variant \(bf16, fp16\)"):
        find_model(tmp_path)
    with pytest.raises(ValueError, match=r"fp16\.safetensors: a variant is of a folder.*omit the variant 'fp16'"):
        find_model(tmp_path / "diffusion_pytorch_model.fp16.safetensors", variant="fp16")


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("with_index", [True, False])
def test_an_index_or_a_shard_stands_for_all(tmp_path, with_index, with_config):
    folder = sharded(tmp_path / "model")
    if not with_config:
        (folder / "config.json").unlink()
    if not with_index:
        (folder / INDEX).unlink()
    for name in [shard(1), shard(3), *([INDEX] if with_index else [])]:
        files = find_model(folder / name)
        assert files.config == (CONFIG if with_config else None)
        assert files.weights == (shard(1), shard(2), shard(3))
        assert files.notes == ((f"{name} is one of 3 shards, and all were read",) if name != INDEX else ())
        read = read_files(files).tensors
        assert read.keys() == tensors().keys()
        for key, value in tensors().items():
            np.testing.assert_array_equal(read[key], value)
    (folder / shard(2)).unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00003"):
        read_files(find_model(folder / shard(1)))


def test_shards_of_a_variant_and_without_shards(tmp_path):
    folder = sharded(tmp_path / "model")
    (folder / INDEX).unlink()
    for number in (1, 2, 3):  # both places in which diffusers has written the variant
        name = f"diffusion_pytorch_model-{number:05d}-of-00003.fp16.safetensors"
        (folder / shard(number)).rename(folder / name)
    assert len(find_model(folder / name).weights) == 3
    save_file({"a": np.ones(2, np.float64)}, tmp_path / "any.safetensors")
    alone = find_model(tmp_path / "any.safetensors")
    assert alone.weights == ("any.safetensors",) and alone.config is None
    assert read_files(alone).notes == ("1 tensors of float64, such as 'a', were cast to float32",)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        find_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize("with_index", [True, False])
def test_prefixes_of_shards_are_removed_from_all_at_once(tmp_path, with_index):
    prefixed = {f"module._orig_mod.{key}": value for key, value in tensors().items()}
    write_folder(tmp_path / "model", CONFIG, prefixed, max_shard_bytes=300)
    if not with_index:
        (tmp_path / "model" / INDEX).unlink()
    file = read_files(find_model(tmp_path / "model" / shard(2)))
    assert (file.tensors.keys(), file.removed) == (tensors().keys(), "module.")


def shard(number):
    return f"diffusion_pytorch_model-{number:05d}-of-00003.safetensors"


def point_outside(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["scalar"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


SPOILED = {
    "missing": (lambda folder: (folder / shard(2)).unlink(), FileNotFoundError, "lacks 1 of 3 shards"),
    "cut": (lambda folder: (folder / shard(2)).write_bytes((folder / shard(2)).read_bytes()[:-9]), ValueError, "cut"),
    "swapped": (lambda folder: (folder / shard(1)).replace(folder / shard(3)), FileNotFoundError, "lacks 1 of 3"),
    "other": (lambda folder: save_file({"x": np.ones(1)}, folder / shard(3)), ValueError, "of other shards"),
    "outside": (point_outside, ValueError, "not a file next to it"),
    "index": (lambda folder: (folder / INDEX).write_text("{}"), ValueError, "no 'weight_map'"),
    "no index": (lambda folder: (folder / INDEX).unlink(), FileNotFoundError, "lacks diffusion_pytorch_model.safetens"),
    "config": (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, "lacks config.json"),
    "json": (lambda folder: (folder / "config.json").write_text("{\n"), ValueError, "cannot be read as JSON"),
    "list": (lambda folder: (folder / "config.json").write_text("[]"), ValueError, "holds a list"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_folders_are_errors_of_one_line(tmp_path, name):
    spoil, kind, message = SPOILED[name]
    spoil(sharded(tmp_path / "model"))
    with pytest.raises(kind, match=message) as caught:
        read_folder(tmp_path / "model")
    assert "\n" not in str(caught.value) and str(tmp_path / "model") in str(caught.value)


def test_no_folder_and_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_folder(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no weights at all"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="no tensors"):
        write_folder(tmp_path / "new", CONFIG, {})


def test_an_older_folder_is_replaced_only_on_request(tmp_path):
    folder = sharded(tmp_path / "model")
    new = {"a": np.ones(3, np.float32)}
    with pytest.raises(FileExistsError, match="exists"):
        write_folder(folder, CONFIG, new)
    write_folder(folder, CONFIG, new, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 'notes\.txt'"):
        write_folder(folder, CONFIG, new, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="holds 'file'"):
        write_folder(tmp_path / "file", CONFIG, new, overwrite=True)


def test_a_failure_leaves_the_older_folder(tmp_path, monkeypatch):
    folder = sharded(tmp_path / "model")

    def fail(path, state):
        raise OSError("disk full")

    monkeypatch.setattr(diffusers_folder, "write_state", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, CONFIG, {"a": np.ones(3, np.float32)}, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "new", CONFIG, {"a": np.ones(3, np.float32)})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert read_folder(folder)[1].keys() == tensors().keys()
