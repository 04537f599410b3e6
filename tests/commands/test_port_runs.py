"""`framer-jax port` of trained runs: merged with their base, stacked or not, as files, folders and LoRAs."""

import json

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import read_network
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.commands.train import initial_weights, train_from_config
from framer_jax.diffusion.noise import noise_field
from framer_jax.models.lora import init_lora, make_lora, merge
from framer_jax.models.mmdit import MMDiT, match_block_layout
from framer_jax.porting.diffusers_folder import read_config
from framer_jax.porting.files import sha256_of
from framer_jax.porting.lora import read_layers
from framer_jax.porting.mmdit import MMDIT
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import read_state
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.dit4sr.weights import read_base
from framer_jax.trees import flatten_names, nest_names
from tests.commands.test_port import port, refused
from tests.support.tiny import config, photos, ported, random_weights, weights

DEPTH = {"depth": 3, "dual_blocks": 2}

LORA = (
    "recipe.dit4sr.lora_modules=attention/(query|out)$",
    "recipe.dit4sr.lora_rank=2",
    "recipe.dit4sr.lora_alpha=3.0",
)

ALONE = ("recipe.dit4sr.trainable=nothing", *LORA)
"""The base with a LoRA; the control layers are not trained."""

SCAN = ("recipe.denoiser.dit4sr_transformer.scan=True",)

APART = MMDiT(**DEPTH)
"""A transformer whose blocks are not stacked."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and runs: of control layers and a LoRA, of a LoRA alone, and the first one with scanned blocks."""
    place = tmp_path_factory.mktemp("runs")
    ported(place / "base.safetensors", "mmdit", channels=48, **DEPTH)
    photos(place / "photos")
    weights(place / "both.safetensors", *knobs(place), *LORA)
    weights(place / "alone.safetensors", *knobs(place), *ALONE)
    params, metadata = load_weights(place / "both.safetensors")
    metadata["config"]["recipe"]["denoiser"]["dit4sr_transformer"]["scan"] = True
    stacked = {name: match_block_layout(group, APART.clone(scan=True)) for name, group in params.items()}
    save_weights(place / "scanned.safetensors", stacked, metadata)
    return place


def knobs(folder):
    return (
        "recipe.name=dit4sr",
        "recipe.space.statistics=image",  # wavelets instead of an autoencoder, which would be compiled too
        "recipe.denoiser.dit4sr_transformer.depth=3",
        "recipe.denoiser.dit4sr_transformer.dual_blocks=2",
        f"recipe.dit4sr.base_checkpoint={folder}/base.safetensors",
        "recipe.text.condition=zero",
    )


def expected(folder, run):
    """The whole transformer, merged in NumPy."""
    arguments = config(*knobs(folder))["recipe"]["denoiser"]["dit4sr_transformer"]
    groups, _ = load_weights(folder / f"{run}.safetensors")
    base = flatten_names(read_base(str(folder / "base.safetensors"), arguments, READER))[0]
    whole = dict(base) | flatten_names(groups["denoiser"])[0]
    factors = flatten_names(groups["lora"])[0]
    for path in {name.rpartition("/")[0] for name in factors}:
        product = factors[f"{path}/down"].astype(np.float64) @ factors[f"{path}/up"]
        whole[f"{path}/kernel"] = whole[f"{path}/kernel"] + 3.0 / 2 * product
    return whole


def same(params, reference, tolerance=1e-6):
    leaves = flatten_names(params)[0]
    assert leaves.keys() == reference.keys()
    for name, leaf in leaves.items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, reference[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("run", ["both", pytest.param("scanned", marks=pytest.mark.slow)])
def test_a_run_becomes_a_folder_of_the_whole_transformer(folder, tmp_path, capsys, run):
    assert (
        port(folder / f"{run}.safetensors", tmp_path / "out", "--model", "dit4sr_transformer", "--to", "diffusers") == 0
    )
    printed = capsys.readouterr().out
    for file in (f"{run}.safetensors", "base.safetensors"):
        assert f"{file}  {sha256_of(folder / file)}" in printed
    assert "variant 'correct', lr_attention 'added': DiT4SR's released code computes something else" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    written = read_config(tmp_path / "out")
    assert written["_class_name"] == "SD3Transformer2DModel" and written["dual_attention_layers"] == [0, 1]
    assert (written["num_layers"], written["sample_size"], written["pos_embed_max_size"]) == (3, 128, 32)
    again = read_network("dit4sr_transformer", tmp_path / "out")
    assert (again.arguments["variant"], again.arguments["depth"]) == ("correct", 3)
    same(again.params, expected(folder, "both"))


@pytest.mark.slow  # three ports of a run; the folder is checked above
def test_a_merged_run_may_also_be_a_file_of_framer_jax_or_pytorch(folder, tmp_path):
    """In framer_jax's format, it can be the base of another run."""
    words = (folder / "both.safetensors", tmp_path / "ours.safetensors", "--model", "dit4sr_transformer")
    assert port(*words) == 0
    metadata = load_weights(tmp_path / "ours.safetensors")[1]
    assert metadata["model"] == "dit4sr_transformer" and metadata["arguments"]["control_scale"] == 1.2
    assert [file["file"] for file in metadata["source"]["files"]] == ["both.safetensors", "base.safetensors"]
    arguments = config(*knobs(folder))["recipe"]["denoiser"]["dit4sr_transformer"]
    same(read_base(str(tmp_path / "ours.safetensors"), arguments, READER), expected(folder, "both"))
    assert port(words[0], tmp_path / "torch.safetensors", "--model", "dit4sr_transformer", "--to", "torch") == 0
    same(read_network("dit4sr_transformer", tmp_path / "torch.safetensors").params, expected(folder, "both"))


def test_a_lora_alone_becomes_the_base_model_again(folder, tmp_path, capsys):
    words = ("--model", "mmdit", "--to", "diffusers")
    assert port(folder / "alone.safetensors", tmp_path / "out", *words) == 0
    plain = {name: leaf for name, leaf in expected(folder, "alone").items() if "control" not in name}
    same(read_network("mmdit", tmp_path / "out").params, plain)
    capsys.readouterr()
    assert port(folder / "both.safetensors", tmp_path / "other", *words) == 2
    refused(
        capsys, "both.safetensors: its control layers have an effect", "is not zero", "use --model dit4sr_transformer"
    )
    joint = ("recipe.denoiser.dit4sr_transformer.lr_attention=joint",)
    weights(tmp_path / "joint.safetensors", *knobs(folder), *ALONE, *joint)
    assert port(tmp_path / "joint.safetensors", tmp_path / "other", *words) == 2
    refused(capsys, "LR tokens take weight in the softmax")
    assert port(folder / "both.safetensors", tmp_path / "other", "--model", "swinir", "--to", "torch") == 2
    refused(capsys, "a run of dit4sr becomes dit4sr_transformer or mmdit, not swinir")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("run", ["alone", pytest.param("scanned", marks=pytest.mark.slow)])
def test_a_lora_is_written_by_itself(folder, tmp_path, capsys, run):
    words = (
        folder / f"{run}.safetensors",
        tmp_path / "lora.safetensors",
        "--model",
        "dit4sr_transformer",
        "--to",
        "lora",
    )
    assert port(*words) == 0
    assert "parameters that were trained with it are not in it" in capsys.readouterr().out
    state, _ = read_state(tmp_path / "lora.safetensors")
    # two factors of two layers of three blocks, no alphas
    assert len(state) == 2 * 2 * 3 and "transformer.transformer_blocks.2.attn.to_out.0.lora_A.weight" in state
    base = read_network("mmdit", folder / "base.safetensors").params
    (layers,) = read_layers(MMDIT, base, state, "lora").values()
    assert set(layers.alphas.values()) == {2.0}  # the rank: ours is in the factor
    if run == "scanned":  # whose control layers are trained too
        return
    merged = merge(base, {"a": make_lora(*layers)})
    plain = {name: leaf for name, leaf in expected(folder, run).items() if "control" not in name}
    same(jax.tree.map(np.asarray, merged), plain)
    assert port(*words, "--overwrite", "--check", folder) == 2
    refused(capsys, "--check compares whole models")
    assert port(folder / "base.safetensors", tmp_path / "other.safetensors", "--model", "mmdit", "--to", "lora") == 2
    refused(capsys, "no LoRA was trained in it")


def test_a_run_is_merged_with_its_own_base_only(folder, tmp_path, capsys):
    """The base next to the run comes before the one at the recorded path; another one is refused."""
    params, metadata = load_weights(folder / "both.safetensors")
    metadata["config"]["recipe"]["dit4sr"]["base_checkpoint"] = "base.safetensors"
    run = tmp_path / "run.safetensors"
    save_weights(run, params, metadata)
    words = (run, tmp_path / "out", "--model", "dit4sr_transformer", "--to", "diffusers")
    assert port(*words) == 2
    refused(capsys, "run.safetensors needs the base model 'base.safetensors'", "put it next to the weights")
    (tmp_path / "base.safetensors").write_bytes((folder / "base.safetensors").read_bytes())
    assert port(*words) == 0
    save_weights(run, params, metadata | {"weights": {"recipe.dit4sr.base_checkpoint": 64 * "0"}})
    assert port(*words, "--overwrite") == 2
    refused(capsys, "base.safetensors is not the base model that", "was trained with")
    lacking = {name: leaf for name, leaf in flatten_names(params)[0].items() if "block_1/mlp/conv" not in name}
    save_weights(run, nest_names(lacking), metadata)
    assert port(*words, "--overwrite") == 2
    refused(capsys, "missing (2): denoiser/block_1/mlp/conv_control/bias")


def test_a_base_in_bfloat16_is_written_as_it_was_in_training(folder, tmp_path):
    weights(tmp_path / "run.safetensors", *knobs(folder), "recipe.dit4sr.base_dtype=bfloat16")
    assert (
        port(tmp_path / "run.safetensors", tmp_path / "out", "--model", "dit4sr_transformer", "--to", "diffusers") == 0
    )
    kernel_of_run = read_network("dit4sr_transformer", tmp_path / "out").params["context"]["kernel"]
    kernel = load_weights(folder / "base.safetensors")[0]["context"]["kernel"]
    np.testing.assert_array_equal(kernel_of_run, np.asarray(jax.numpy.asarray(kernel, jax.numpy.bfloat16), np.float32))
    assert np.any(kernel_of_run != kernel)


@pytest.mark.parametrize("name", ["mmdit", "dit4sr_transformer", "kl_autoencoder"])
def test_ported_models_become_folders_and_come_back(tmp_path, name, capsys):
    first = ported(tmp_path / "first.safetensors", name)
    assert port(first, tmp_path / "out", "--model", name, "--to", "diffusers") == 0
    assert port(first, tmp_path / "out", "--model", name, "--to", "diffusers") == 2
    refused(capsys, "exists", "--overwrite")
    assert port(first, tmp_path / "out", "--model", name, "--to", "diffusers", "--overwrite") == 0
    assert port(tmp_path / "out", tmp_path / "again.safetensors", "--model", name) == 0
    (params, metadata), (again, other) = (load_weights(tmp_path / f"{file}.safetensors") for file in ("first", "again"))
    same(again, flatten_names(params)[0], 0)
    arguments = json.loads(json.dumps(metadata["arguments"]))
    assert {key: other["arguments"][key] for key in arguments} == arguments


def test_others_have_no_folders(tmp_path, capsys):
    first = ported(tmp_path / "first.safetensors", "swinir")
    assert port(first, tmp_path / "out", "--model", "swinir", "--to", "diffusers") == 2
    refused(capsys, "there are no folders of swinir, only of ", "dit4sr_transformer", "use --to torch")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    base = ported(tmp_path / "base.safetensors", "mmdit")
    assert port(base, tmp_path / "mine", "--model", "mmdit", "--to", "diffusers", "--overwrite") == 2
    refused(capsys, "holds 'notes.txt'")
    assert port(base, base, tmp_path / "out", "--model", "mmdit", "--to", "diffusers") == 2
    refused(capsys, "--to diffusers takes one file of framer_jax")


# --- scanned and not --------------------------------------------------------------------------------------------------


@pytest.mark.slow  # two trainings
def test_scanned_and_unscanned_runs_start_each_other(folder):
    """And give the same images."""
    lr = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
    images = []
    for scan, file in ((SCAN, "both"), ((), "scanned"), (SCAN, "scanned")):
        settings = config(*knobs(folder), *LORA, *scan)["recipe"]
        recipe = build_recipe(settings)
        params, digest = initial_weights(recipe, settings, str(folder / f"{file}.safetensors"))
        assert digest == sha256_of(folder / f"{file}.safetensors")
        assert ("blocks_dual" in params["lora"]) == bool(scan)
        if (scan, file) == (SCAN, "both"):
            assert params["lora"]["blocks_dual"]["attention"]["query"]["down"].shape == (2, 16, 2)
        if images and scan:
            continue  # the same program as the first
        images.append(jax.jit(recipe.mean)(params, recipe.frozen, lr, noise_field(jax.random.key(7), 1)))
    np.testing.assert_allclose(*images, atol=2e-5)
    assert np.std(images[0]) > 0.01


@pytest.mark.slow
def test_a_scanned_run_with_a_lora_is_trained_from_an_unscanned_one(folder, tmp_path):
    data = [f"data.{part}={folder}/photos" for part in ("train", "validation")]
    settings = config(*knobs(folder), *LORA, *SCAN, *data)
    result = train_from_config(settings, tmp_path / "run", init=str(folder / "both.safetensors"))
    assert result.step == 2 and np.isfinite(result.scalars["loss"])
    trained, _ = load_weights(tmp_path / "run" / "weights.safetensors")
    start = match_block_layout(load_weights(folder / "both.safetensors")[0]["lora"], APART.clone(scan=True))
    before, after = flatten_names(start)[0], flatten_names(trained["lora"])[0]
    assert before.keys() == after.keys() and all(np.any(after[name] != leaf) for name, leaf in before.items())
    (tmp_path / "run" / "base.safetensors").write_bytes((folder / "base.safetensors").read_bytes())
    run, out = tmp_path / "run" / "weights.safetensors", tmp_path / "out"
    assert port(run, out, "--model", "dit4sr_transformer", "--to", "diffusers") == 0
    kernel_of_run = read_network("dit4sr_transformer", out).params["block_1"]["attention"]["query"]["kernel"]
    factors = trained["lora"]["blocks_dual"]["attention"]["query"]
    base = load_weights(folder / "base.safetensors")[0]["block_1"]["attention"]["query"]["kernel"]
    np.testing.assert_allclose(kernel_of_run, base + 1.5 * factors["down"][1] @ factors["up"][1], atol=1e-6)


# --- TSD-SR -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "base", "group", "key", "scan"),
    [
        ("mmdit", "base", "lora", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", False),
        pytest.param(
            *("mmdit", "base", "lora", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", True),
            marks=pytest.mark.slow,
        ),
        ("kl_autoencoder", "vae", "encoder_lora", "vae.encoder.conv_in.lora_A.weight", False),
    ],
)
def test_a_run_of_tsd_sr_becomes_a_transformer_and_an_autoencoder(tmp_path, capsys, model, base, group, key, scan):
    for name, file in (("mmdit", "base"), ("kl_autoencoder", "vae")):
        ported(tmp_path / f"{file}.safetensors", name)
    whole = load_weights(tmp_path / f"{base}.safetensors")[0]
    lora = init_lora(jax.random.key(0), whole, "block_0/attention/query$|encoder/conv_in", 2, 2.0)
    factors = random_weights(dict(lora.factors))
    settings = config("recipe.name=tsd_sr", "recipe.tsd_sr.lora_scale=0.5")
    settings["recipe"]["tsd_sr"]["base_checkpoint"] = "base.safetensors"
    settings["recipe"]["space"]["checkpoint"] = "vae.safetensors"
    run = tmp_path / "run.safetensors"
    settings["recipe"]["denoiser"]["mmdit"]["scan"] = scan
    save_weights(
        run, {group: match_block_layout(factors, MMDiT(depth=2, dual_blocks=1, scan=scan))}, {"config": settings}
    )
    assert port(run, tmp_path / "out", "--model", model, "--to", "diffusers") == 0
    merged = merge(whole, {"a": make_lora(factors, 1.0)})  # half of the rank
    same(read_network(model, tmp_path / "out").params, flatten_names(jax.tree.map(np.asarray, merged))[0])
    assert port(run, tmp_path / "lora.safetensors", "--model", model, "--to", "lora") == 0
    state, _ = read_state(tmp_path / "lora.safetensors")
    assert len(state) == 2 and key in state
    (layers,) = read_layers(MAPS[model], whole, state, "lora").values()
    same(jax.tree.map(np.asarray, merge(whole, {"a": make_lora(*layers)})), flatten_names(merged)[0])
    capsys.readouterr()
    for other, fault in (
        ("dit4sr_transformer", "a run of tsd_sr becomes mmdit or kl_autoencoder"),
        (model, "is the base's own"),
    ):
        if other == model:
            save_weights(run, {"other": factors}, {"config": settings})
        assert port(run, tmp_path / "other", "--model", other, "--to", "diffusers") == 2
        refused(capsys, "run.safetensors", fault)
