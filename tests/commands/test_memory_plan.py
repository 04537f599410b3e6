"""The compiler's plan of a training step: `framer-jax info --memory` and tools/compile_for_topology.py."""

import importlib.metadata
import json

import jax
import pytest
from jax.sharding import PartitionSpec as P

from framer_jax import cli
from framer_jax.commands.memory_plan import abstract_step as steps
from framer_jax.commands.memory_plan import plan as plans
from framer_jax.commands.memory_plan.hlo import collectives
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.recipes.components.base_model import BASE
from tools import compile_for_topology as tool

HLO = """
HloModule jit_step, num_partitions=8

%gather.1 (param.1: bf16[2,4]) -> (bf16[2,4], bf16[16,4]) {
  %all-gather.7 = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%param.1), channel_id=3, dimensions={0}
  ROOT %custom-call.1 = (bf16[2,4], bf16[16,4]) custom-call(%all-gather.7), custom_call_target="AsyncCollectiveStart"
}

%fused.1 (param.2: bf16[2,4]) -> bf16[16,4] {
  ROOT %all-gather.8 = bf16[16,4]{1,0} all-gather(%param.2), channel_id=3, dimensions={0}
}

%unused (param.9: f32[8]) -> f32[8] {
  ROOT %all-reduce.9 = f32[8]{0} all-reduce(%param.9), channel_id=9, to_apply=%sum
}

%body (carried: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = (f32[8]{0}, f32[2]{0}) all-reduce-start(%x, %y), channel_id=1, to_apply=%sum
  ROOT %tuple.1 = (s32[], f32[8]) tuple(%i, %x)
}

%condition (carried.2: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(12)
  ROOT %compare.1 = pred[] compare(%i.2, %constant.5), direction=LT
}

ENTRY %main.1_spmd (param.3: bf16[2,4], param.4: f32[8]) -> f32[8] {
  %call-start = (bf16[2,4], bf16[16,4]) fusion(%param.3), kind=kCustom, calls=%gather.1
  %fusion.1 = bf16[16,4] fusion(%param.3), kind=kOutput, calls=%fused.1
  %while.1 = (s32[], f32[8]{0}) while(%tuple.9), condition=%condition, body=%body
  %permuted = (u8[3]{0}, u8[3]{0}, u32[], u32[]) collective-permute-start(%z), channel_id=5
  %all-gather.9 = ((f32[1], f32[2]), (f32[8], f32[16])) all-gather-start(%a, %b), channel_id=6, dimensions={0}
  ROOT %all-reduce.2 = pred[]{:T(128)} all-reduce(%all), channel_id=8, to_apply=%or
}
"""


def test_collectives_of_a_program():
    assert collectives(HLO) == {
        "all-gather": (2, 2 * 64 + 4 * 24),  # one split into two fusions, and one of two arrays
        "all-reduce": (13, 12 * 40 + 1),  # 12 in a loop and one outside; the one that is never called does not count
        "collective-permute": (1, 3),
    }


def tiny(*changes):
    sizes = ("depth=3", "dual_blocks=1", "heads=2", "head_width=8", "position_grid=8", "scan=True", *changes)
    others = (
        "dtype=float32",
        "text.clip_length=2",
        "text.t5_length=1",
        "text.clip_widths=(4, 4)",
        "text.width=16",
        "dit4sr.base_dtype=bfloat16",
    )
    settings = ("data.crop=32", "training.mesh.data=2", "training.mesh.fsdp=4", "training.fsdp_min_size=64")
    return to_dict(
        load_config(
            "framer_d_sd35",
            (
                *(f"recipe.denoiser.dit4sr_transformer.{size}" for size in sizes),
                *(f"recipe.{other}" for other in others),
                *settings,
            ),
        )
    )


def test_abstract_arguments_are_those_of_a_run():
    step, state, frozen, batch = steps.abstract_step(
        {**tiny(), "training": {**tiny()["training"], "global_batch": 8}}, jax.devices()
    )
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        "hr_latent": (8, 4, 4, 16),
        "lr_latent": (8, 4, 4, 16),
        "text": (8, 3, 16),
        "pooled_text": (8, 8),
    }
    assert {leaf.sharding.spec for leaf in batch.values()} == {P(("data", "fsdp"))}
    trained = state.params["denoiser"]["blocks_dual"]["attention"]["query_control"]["kernel"]
    base = frozen[BASE]["blocks_dual"]["attention"]["query"]["kernel"]
    assert (trained.shape, trained.dtype, trained.sharding.spec) == ((1, 16, 16), "float32", P(None, None, "fsdp"))
    assert (base.shape, base.dtype, base.sharding.spec) == ((1, 16, 16), "bfloat16", P(None, None, "fsdp"))
    assert "query" not in state.params["denoiser"]["blocks_dual"]["attention"]
    shapes, _ = jax.eval_shape(step, state, frozen, batch)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_methods_with_frozen_networks_are_described_by_their_shapes():
    """The teacher, the autoencoder, the extractor and DINOv2 of HF-Diff at full size, without a file."""
    recipe = steps.described_recipe(to_dict(load_config("hf_diff")))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(group)) for name, group in recipe.frozen.items()}
    assert sizes["teacher"] == 118_593_583
    assert sizes["distribution"] == 22_056_576
    assert set(sizes) == {"autoencoder", "teacher", "high_frequency", "distribution"}
    with pytest.raises(ConfigError, match=r"recipe\.teacher\.checkpoint: the step depends on weights whose shapes"):
        steps.described_recipe(to_dict(load_config("dtkd_swinir_small")))


@pytest.mark.parametrize(
    ("config", "base", "autoencoder"),
    [("framer_u_pisa_sr", 865_910_724, 83_653_863), ("osediff_sd21", 865_910_724, 83_653_863)],
)
def test_one_step_methods_are_described_at_full_size(config, base, autoencoder):
    """With the U-Net and the autoencoder of Stable Diffusion 2, LPIPS, and all texts: none of them in a file."""
    recipe = steps.described_recipe(to_dict(load_config(config)))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[name])) for name in (BASE, "autoencoder")}
    assert sizes == {BASE: base, "autoencoder": autoencoder}
    assert set(recipe.frozen["texts"]) == {"null", "prompt", "negative"}
    assert "lpips" in recipe.frozen
    assert set(recipe.batch_entries) == {"hr", "lr", "text"}


def test_tsd_sr_is_described_scanned_or_not():
    """Stable Diffusion 3's transformer by its configured size, 24 blocks of which a scan stacks all but the last."""
    for scan in (False, True):
        config = to_dict(load_config("framer_tsd_sr_sd3", [f"recipe.denoiser.mmdit.scan={scan}"]))
        recipe = steps.described_recipe(config)
        assert sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[BASE])) == 2_028_328_000
        assert ("block_0" in recipe.frozen[BASE]) is not scan


def test_a_phase_alone():
    config = to_dict(load_config("framer_u_pisa_sr"))
    recipe = steps.with_update(steps.described_recipe(config), "semantic")
    (update,) = recipe.updates
    assert (update.name, update.every, update.start, update.stop) == ("semantic", 1, 0, None)
    with pytest.raises(
        ValueError, match=r"--update: pisa_sr.framer has no update 'second': choose one of pixel, semantic"
    ):
        steps.with_update(steps.described_recipe(config), "second")


@pytest.mark.slow  # compiles for eight devices
def test_plan_for_fake_devices(monkeypatch):
    monkeypatch.setitem(plans.MEMORY, "cpu", 16)
    plan = plans.plan_step(tiny(), "cpu:8", jax.devices(), per_chip=1)
    assert (plan.chips, plan.global_batch, plan.mesh) == (8, 8, {"data": 2, "fsdp": 4})
    assert plan.fits
    assert plan.flops > 0
    assert plan.peak > 0
    number, size = plan.collectives["all-gather"]
    assert 0 < number < size
    assert "paper" in str(next(plans.table([plan]).columns[0].cells))


@pytest.mark.parametrize("name", ["v5e", "v9:4x4", "v5e:4", "v5e:4x4x4x4"])
def test_unknown_topologies(name):
    with pytest.raises(ValueError, match=r"unknown topology .* write a generation \(v4, v5e, .* such as v5e:4x4"):
        plans.topology_devices(name)


def test_missing_libtpu_names_the_remedy(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plans, "version", missing)
    with pytest.raises(ImportError, match=r'libtpu is not installed: pip install "framer_jax\[tpu\]"'):
        plans.topology_devices("v5e:4x4")


def test_refuses_a_batch_that_does_not_split(capsys, monkeypatch):
    changes = ["--set", "training.mesh.fsdp=4", "--topology", "v5e:4x4", "--per-chip", "0", "--only", "base"]
    monkeypatch.setattr(tool, "topology_devices", lambda name: jax.devices())
    monkeypatch.setattr("sys.argv", ["tool", *changes, "--set", "training.global_batch=12"])
    assert tool.main() == 2
    assert capsys.readouterr().err.startswith(
        "compile_for_topology: training.global_batch 12 is not divisible by 8 devices"
    )


SMALL = ("recipe.denoiser.unet.channels=(8, 8)", "data.crop=32", "training.global_batch=2", "training.mesh.data=1")


def small(*changes):
    return ["info", "flow_unet", "--memory", *(f"--set={change}" for change in (*SMALL, *changes))]


def test_memory_of_a_step_on_these_devices(capsys):
    """The arguments are parameters, two moments and the average (float32), and the batch."""
    assert cli.main([*small("training.mesh.data=-1", "training.global_batch=8"), "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["topology"], plan["chips"], plan["global_batch"], plan["fits"]) == ("these devices", 8, 8, None)
    assert plan["temporaries"] > 0
    assert plan["peak"] == plan["arguments"] + plan["temporaries"] + plan["outputs"]
    assert plan["collectives"]["all-reduce"][0] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "flow_unet", "--per-chip", "2"], "--per-chip belongs to --memory: add --memory"),
        (["info", "--memory"], "--memory needs a configuration: name a shipped one, or a file"),
        (["info", "model.safetensors", "--memory"], "--memory needs a configuration, and model.safetensors is none"),
        (["info", "starter", "--memory", "--topology", "v9:4x4"], "unknown topology 'v9:4x4': write a generation"),
        (["info", "starter", "--memory", "--set", "data.corp=32"], "did you mean 'data.crop'"),
        (["info", "flow_unet", "--memory", "--per-chip", "0"], "--per-chip is 0: it must be at least 1"),
        (["info", "flow_unet", "--memory", "--cost"], "--cost and --memory exclude each other"),
        (["info", "flow_unet", "--memory", "--topology", "v9:4x4"], "unknown topology 'v9:4x4': write a generation"),
        (["info", "starter", "--set", "data.crop=32"], "--set changes a configuration: name one, or leave it out"),
        (["info", "flow_unet", "--set", "data.corp=32"], "did you mean 'data.crop'"),
    ],
)
def test_bad_requests_for_the_memory_are_one_line(words, message, capsys):
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_overrides_change_what_info_says(capsys):
    assert cli.main(["info", "flow_unet", "--set", "data.crop=32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["data"]["crop"] == 32
