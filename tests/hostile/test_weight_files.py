"""Files of weights as people have them: damaged, of something else, or wrapped; port takes them or says why not."""

import io
import json
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.porting.maps import to_torch
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.weights import load_weights
from framer_jax.trees import flatten_names
from tests.support.hostile import cases, contents, refused, run
from tests.support.tiny import TINY, random_weights

ARGUMENTS = TINY["swinir"] | {"depths": (1,)}


@pytest.fixture(scope="module")
def model():
    """(a small SwinIR's state dict, our parameters)."""
    params = random_weights(network_shapes("swinir", build_network("swinir", ARGUMENTS)), None)
    return to_torch(SWINIR, params, "", ARGUMENTS), params


def archive(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return buffer.getvalue()


def float_key(state, draw):
    return draw.choice(sorted(key for key, value in state.items() if value.dtype == np.float32))


def with_value(state, draw, value):
    key = float_key(state, draw)
    changed = state[key].copy()
    changed.flat[draw.randrange(changed.size)] = value
    return save(state | {key: changed}), key


def with_dtype(state, draw, dtype):
    key = float_key(state, draw)
    return save(state | {key: np.ones(state[key].shape, dtype)}), key


def without(state, draw):
    key = float_key(state, draw)
    return save({name: value for name, value in state.items() if name != key}), ""


def with_shape(state, draw):
    key = float_key(state, draw)
    return save(state | {key: np.ones((*state[key].shape, 1), np.float32)}), ""


def cut(state, draw):
    whole = save(state)
    return whole[: draw.randrange(1, len(whole))], ""


def renamed(state, draw):
    key = float_key(state, draw)
    return save({f"{name}x" if name == key else name: value for name, value in state.items()}), ""


BROKEN = {
    "cut": cut,
    "empty": lambda state, draw: (b"", "empty"),
    "noise": lambda state, draw: (draw.randbytes(draw.randrange(1, 400)), ""),
    "a web page": lambda state, draw: (b"<html>404</html>", "web page"),
    "a pointer": lambda state, draw: (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "a GGUF": lambda state, draw: (b"GGUF" + bytes(90), "GGUF"),
    "a zip": lambda state, draw: (archive("data.txt")[:-20], "cut short"),
    "a program": lambda state, draw: (archive("m/code/__torch__.py", "m/constants.pkl"), "TorchScript"),
    "arrays": lambda state, draw: (archive("a.npy", "b.npy"), "NumPy"),
    "no tensors": lambda state, draw: (save({}), "it holds nothing"),
    "not a number": lambda state, draw: with_value(state, draw, np.nan),
    "infinite": lambda state, draw: with_value(state, draw, draw.choice([np.inf, -np.inf])),
    "too large for float32": lambda state, draw: (
        save({key: value.astype(np.float64) * 1e300 for key, value in state.items() if value.dtype == np.float32}),
        "not finite",
    ),
    "integers": lambda state, draw: with_dtype(state, draw, draw.choice([np.int64, np.uint8, np.bool_])),
    "complex": lambda state, draw: with_dtype(state, draw, np.complex64),
    "quantised": lambda state, draw: (save(state | {"conv_first.weight_scale": np.ones(3)}), "quantised"),
    "a tensor is missing": without,
    "another shape": with_shape,
    "another name": renamed,
    "an unknown tensor": lambda state, draw: (save(state | {"strange": np.ones(3, np.float32)}), "strange"),
    "two models": lambda state, draw: (
        save({f"{name}.{key}": value for name in ("net_a", "net_b") for key, value in state.items()}),
        "net_b",
    ),
    "a LoRA": lambda state, draw: (save({"conv_first.lora_A.weight": np.ones((2, 3), np.float32)}), "a LoRA"),
    "a header that is no JSON": lambda state, draw: ((9).to_bytes(8, "little") + b"{nonsense" + bytes(9), "header"),
}


def broken(draw):
    suffix = draw.choice([".safetensors", ".pth", ".ckpt", ".pt", ".bin"])
    name = draw.choice(["in", "in [1]", "ünï", "a b", "-x"])
    return draw.choice(sorted(BROKEN)), f"{name}{suffix}", draw.random()


@pytest.mark.parametrize("case", cases(broken, fast=40, slow=400))
def test_a_file_that_cannot_be_used_is_one_line_and_leaves_nothing(model, case, tmp_path, capsys):
    kind, name, seed = case
    content, words = BROKEN[kind](model[0], random.Random(seed))
    (tmp_path / name).write_bytes(content)
    (tmp_path / "old.safetensors").write_bytes(b"precious")
    before = contents(tmp_path)
    out = tmp_path / ("old.safetensors" if seed < 0.5 else "new.safetensors")
    outcome = run(capsys, "port", tmp_path / name, out, "--model", "swinir", *(["--overwrite"] if seed < 0.5 else []))
    refused(outcome, name, words)
    assert contents(tmp_path) == before


def test_every_kind_is_refused(model, tmp_path, capsys):
    """Each once, so that the fast run misses none."""
    for kind, make in BROKEN.items():
        content, words = make(model[0], random.Random(kind))
        (tmp_path / "in.pth").write_bytes(content)
        refused(run(capsys, "port", tmp_path / "in.pth", tmp_path / "out.safetensors", "--model", "swinir"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


AVERAGED = ("params_ema", "model_ema", "ema", "generator_ema", "ema_state_dict")


def wrapped(draw):
    """(prefix, prefix of the averages or '', dtype, parts of a trainer, number of shards, suffix)."""
    words = ["module", "model", "net_g", "generator", "_orig_mod", "net", "backbone", "module"]
    prefix = "".join(f"{word}." for word in draw.choices(words, k=draw.randrange(4)))
    averaged = f"{draw.choice(AVERAGED)}." if draw.random() < 0.5 else ""
    dtype = draw.choice(["float32", "float64", "float16", "bfloat16"])
    extra = draw.sample(
        ["discriminator.0.weight", "loss.vgg.0.bias", "n_averaged", "optimizer.step"], draw.randrange(3)
    )
    return prefix, averaged, dtype, tuple(extra), draw.choice([1, 1, 3]), draw.choice([".safetensors", ".pth"])


@pytest.mark.parametrize("case", cases(wrapped, fast=24, slow=200))
def test_a_wrapped_file_is_read_as_the_model_within(model, case, tmp_path, capsys):
    prefix, averaged, dtype, extra, shards, suffix = case
    state, params = model
    short = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)

    def cast(value):
        return value.astype(short) if value.dtype == np.float32 else value

    tensors = {f"{averaged or prefix}{key}": cast(value) for key, value in state.items()}
    if averaged:  # the last weights, which must not be taken
        tensors |= {f"{prefix}{key}": value * 2 for key, value in state.items()}
    tensors |= dict.fromkeys(extra, np.ones(3, np.float32))
    path = tmp_path / f"in{suffix}"
    if shards > 1:
        names = [f"in-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
        weight_map = {key: names[index % shards] for index, key in enumerate(sorted(tensors))}
        for name in names:
            save_file({key: tensors[key] for key, file in weight_map.items() if file == name}, tmp_path / name)
        path = tmp_path / "in.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": weight_map}))
    else:
        save_file(tensors, path)
    outcome = run(capsys, "port", path, tmp_path / "out.safetensors", "--model", "swinir")
    assert (outcome.status, outcome.err) == (0, "")
    leaves = flatten_names(load_weights(tmp_path / "out.safetensors")[0])[0]
    expected = flatten_names(params)[0]
    assert leaves.keys() == expected.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, cast(expected[name]).astype(np.float32))
    assert (f"took {averaged}" in outcome.out) == bool(averaged)
    assert ("were cast to float32" in outcome.out) == (dtype == "float64")
    for name in extra:
        assert name.split(".")[0] in outcome.out


MODULE = "layers.0.residual_group.blocks.0.attn.proj"


def lora(state, alpha=None):
    width = state[f"{MODULE}.weight"].shape[0]
    rng = np.random.default_rng(1)
    factors = {"lora_A": rng.standard_normal((2, width)), "lora_B": rng.standard_normal((width, 2))}
    tensors = {f"{MODULE}.{name}.weight": value.astype(np.float32) for name, value in factors.items()}
    return tensors | ({} if alpha is None else {f"{MODULE}.alpha": np.asarray(alpha, np.float32)})


@pytest.mark.parametrize(
    ("stated", "option", "scale", "note"),
    [
        ({}, None, 1.0, "no alpha is stated: it was assumed to equal the rank"),
        ({"lora_alpha": 8}, None, 4.0, "added with alpha / rank 4"),
        ({"lora_alpha": 8}, "3", 1.5, "added with alpha / rank 1.5"),
    ],
)
def test_a_lora_is_added_to_its_base_with_the_alpha_it_states(model, tmp_path, capsys, stated, option, scale, note):
    state, params = model
    save_file(state, tmp_path / "base.safetensors")
    (tmp_path / "peft").mkdir()
    save_file(lora(state), tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **stated}))
    words = ("port", tmp_path / "base.safetensors", tmp_path / "peft", tmp_path / "out.safetensors")
    outcome = run(capsys, *words, "--model", "swinir", *(["--alpha", option] if option else []))
    assert (outcome.status, outcome.err) == (0, "") and note in outcome.out
    merged, metadata = load_weights(tmp_path / "out.safetensors")
    factors = lora(state)
    product = factors[f"{MODULE}.lora_B.weight"] @ factors[f"{MODULE}.lora_A.weight"]
    kernel = merged["group_0"]["block_0"]["attention"]["project"]["kernel"]
    np.testing.assert_allclose(kernel, (state[f"{MODULE}.weight"] + scale * product).T, atol=1e-5)
    assert [file["file"] for file in metadata["source"]["files"]][1:] == [
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    np.testing.assert_array_equal(merged["conv_in"]["kernel"], params["conv_in"]["kernel"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{MODULE}.lora_A.weight": np.full((2, 8), np.inf, np.float32)}, ("not finite",)),
        ({f"{MODULE}.lora_B.weight": np.ones((4, 2), np.float32)}, ("of another size",)),
        ({f"{MODULE}.alpha": np.float32([1, 2])}, ("not one finite number",)),
        ({"strange.lora_A.weight": np.ones((2, 8), np.float32)}, ("unknown to it", "strange")),
    ],
)
def test_a_lora_that_cannot_be_added_is_one_line(model, tmp_path, capsys, change, words):
    save_file(model[0], tmp_path / "base.safetensors")
    save_file(lora(model[0], 2) | change, tmp_path / "lora.safetensors")
    before = contents(tmp_path)
    files = (tmp_path / "base.safetensors", tmp_path / "lora.safetensors", tmp_path / "out.safetensors")
    refused(run(capsys, "port", *files, "--model", "swinir"), "lora.safetensors", *words)
    assert contents(tmp_path) == before


def test_options_without_what_they_are_of_are_refused(model, tmp_path, capsys):
    save_file(model[0], tmp_path / "base.safetensors")
    save_file(lora(model[0]), tmp_path / "lora.safetensors")
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    words = ("--model", "swinir")
    refused(run(capsys, "port", base, out, *words, "--alpha", "3"), "--alpha is of a LoRA")
    refused(
        run(capsys, "port", base, tmp_path / "lora.safetensors", out, *words, "--alpha", "nan"),
        "--alpha",
        "nan",
        "finite",
    )
    refused(run(capsys, "port", base, out, *words, "--variant", "fp16"), "a variant is of a folder")
    refused(run(capsys, "port", tmp_path / "lora.safetensors", out, *words), "a LoRA alone")
    assert not out.exists()
