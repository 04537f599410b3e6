import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from framer_jax.diffusion import flow
from tests.support.real_weights import folders, weights_of
from tools.check_parity import main
from tools.parity.cases import Case, compare
from tools.parity.drawn_weights import named_weight
from tools.parity.real_weights import find_weights

SLOW = ("unet_sd2_tiny_duallora", "controlnet_sd2_tiny", "sinsr", "dit4sr_sd35_tiny", "realesrgan_primitives")
"""Programs that hold a U-Net several times, and two whose fixtures are compared by the tests of their own modules."""

COPIED = (
    *("framer_loss_B3", "color_fix", "dwt_pywt", "niqe", "schedulers"),
    *("resshift_schedule", "resshift_unet_small", "resshift_vq_small", "lpips_alex"),
    *("swinir_small60_nearestconv_x4", "swinir_lightweight_x4", "swinir_tiny_3conv"),
    *("rrdbnet_x4_tiny", "rrdbnet_x2_tiny", "rrdbnet_x1_tiny", "srvgg_tiny"),
    *("rrdbnet_esrgan_keys_x4_tiny", "rrdbnet_bsrgan_keys_x2_tiny"),
    *("vae_sd2_tiny", "vae_sd3_tiny"),
    *("sd35_medium_tiny", "tsd_loss"),
    *("unet_sd2_tiny", *SLOW),
    *("unet_discriminator_sn_tiny", "gan_losses", "inn", "dinov2_tiny"),
    *("ddpm_sd21", "csd_loss", "vsd_loss"),
    *("supresdiffgan_unet_tiny", "supresdiffgan_disc_tiny", "supresdiffgan_diffusion"),
    # Other configurations than the published ones, from tools/make_parity_cases.py.
    *("swinir_heads_positions", "swinir_gray_range", "resshift_unet_blocks_mask", "resshift_unet_plain_finer_mask"),
    *("resshift_vq_levels", "sd3_plain_dual_tuple"),
)

SHARED = ("resshift_unet_full", "resshift_vq_full", "resshift_sampling", "lpips_vgg", "dinov2_vits14")
"""Too large to copy into tests/fixtures, or too slow for every run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COPIED]
)
def test_copied_fixtures_are_within_tolerance(fixtures, name, capsys):
    assert main([str(fixtures / f"{name}.npz")]) == 0
    assert "EXCEEDED" not in capsys.readouterr().out


REAL = ("taesd_photo", "taesd3_photo", "realesrgan_real_general", "realesrgan_real_x4plus")
"""With real trained weights, which the repository does not carry."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_weights_are_within_tolerance(shared, name, capsys):
    fixture = shared / "parity" / f"{name}.npz"
    weights_of(fixture)  # skips without them
    assert main([str(fixture), "--weights", *folders()]) == 0
    printed = capsys.readouterr().out
    assert "EXCEEDED" not in printed


def test_real_weights_are_found_by_their_digest(tmp_path, capsys):
    """Under any name and in any package, but never by the name alone; what is missing is one line."""
    contents = {name: f"the bytes of {name}".encode() for name in ("plain.bin", "zipped.bin", "packed.ckpt")}
    entries = {name: {"file": name, "sha256": hashlib.sha256(value).hexdigest()} for name, value in contents.items()}
    for name in ("zipped.bin", "packed.ckpt"):
        entries[name] = {"package": "some==1", "member": f"some/deep/{name}", "sha256": entries[name]["sha256"]}
    (tmp_path / "weights" / "sub").mkdir(parents=True)
    (tmp_path / "weights" / "plain.bin").write_bytes(b"an older version")
    (tmp_path / "weights" / "sub" / "renamed").write_bytes(contents["plain.bin"])
    (tmp_path / "weights" / "broken.whl").write_bytes(b"PK\x03\x04")
    with zipfile.ZipFile(tmp_path / "weights" / "some.whl", "w") as archive:
        archive.writestr("some/deep/zipped.bin", contents["zipped.bin"])
    with tarfile.open(tmp_path / "weights" / "some.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("some/deep/packed.ckpt")
        info.size = len(contents["packed.ckpt"])
        archive.addfile(info, io.BytesIO(contents["packed.ckpt"]))
    files = find_weights(entries, [str(tmp_path / "weights")])
    assert {name: path.read_bytes() for name, path in files.items()} == contents

    meta = {"family": "taesd", "config": {}, "salt": "", "models": {}, "float32_vs_float64": {}}
    meta["weights"] = {"encoder": {**entries["zipped.bin"], "sha256": "0" * 64}}
    np.savez(tmp_path / "case.npz", meta=json.dumps(meta))
    for words, text in (
        ((), "needs the real weights zipped.bin (sha256 000000000000…, from the package some==1)"),
        (("--weights", str(tmp_path / "weights")), f"none of {tmp_path / 'weights'} does"),
        (("--weights", str(tmp_path / "nowhere")), "nowhere: there is no such folder"),
    ):
        assert main([str(tmp_path / "case.npz"), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_shared_fixtures_are_within_tolerance(shared, name, capsys):
    assert main([str(shared / "parity" / f"{name}.npz")]) == 0
    assert "EXCEEDED" not in capsys.readouterr().out


def test_named_weights_follow_the_rule():
    np.testing.assert_array_equal(
        named_weight("conv_in.weight", (2, 3))[0], np.float32([-0.72667104, -0.18906602, -0.5436261])
    )
    np.testing.assert_allclose(named_weight("norm.weight", (3,))[:2], [0.7610975, 1.2502217], rtol=1e-7)
    np.testing.assert_allclose(named_weight("norm.bias", (3,))[:2], [0.03473961, -0.08788448], rtol=1e-6)
    np.testing.assert_allclose(named_weight("bn.running_var", (2,)), [1.0932888, 1.0375375], rtol=1e-7)
    assert not np.array_equal(named_weight("a.weight", (2, 2), salt="x"), named_weight("a.weight", (2, 2)))
    np.testing.assert_allclose(named_weight("a.weight", (2, 2), gain=2.0), 2 * named_weight("a.weight", (2, 2)))


def write_case(path, family="schedulers", **arrays):
    meta = '{"family": "%s", "config": {"shift": 3.0, "flow_steps": []}, "salt": "", "models": {}, '
    meta += '"float32_vs_float64": {"out/fm_train_sigmas": {"atol": 1e-6}}}'
    np.savez(path, meta=meta % family, **{"in/x": np.zeros((1, 1, 2, 2)), "in/n": np.zeros((1, 1, 2, 2))}, **arrays)
    return str(path)


def test_exit_status(tmp_path, capsys):
    tables = {"out/fm_train_timesteps": np.zeros(1000)}
    wrong = write_case(tmp_path / "wrong.npz", **{"out/fm_train_sigmas": np.zeros(1000)}, **tables)
    assert main([wrong]) == 1
    assert "EXCEEDED" in capsys.readouterr().out
    foreign = write_case(tmp_path / "foreign.npz", family="elsewhere")
    assert main([foreign]) == 3
    assert "'elsewhere' is not supported (supported: " in capsys.readouterr().err
    assert main([foreign, wrong]) == 1  # what differs is more than what is not known
    assert main([foreign, str(tmp_path / "none.npz")]) == 2
    assert main([str(tmp_path / "none.npz")]) == 2
    np.savez(tmp_path / "plain.npz", a=np.zeros(2))
    assert main([str(tmp_path / "plain.npz")]) == 2


def test_files_may_lack_some_outputs_but_not_all(fixtures, tmp_path, capsys):
    sigmas = flow.training_sigmas(3.0)
    assert main([write_case(tmp_path / "fewer.npz", **{"out/fm_train_sigmas": sigmas})]) == 0
    assert main([write_case(tmp_path / "none.npz", **{"out/betas": np.zeros(3)})]) == 1
    assert "nothing was compared" in capsys.readouterr().err
    with np.load(fixtures / "color_fix.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if "tile_weights" not in name}
    np.savez(tmp_path / "color.npz", **arrays)
    assert main([str(tmp_path / "color.npz")]) == 0
    del arrays["in/source"]
    np.savez(tmp_path / "color.npz", **arrays)
    assert main([str(tmp_path / "color.npz")]) == 2
    assert "lacks 'in/source'" in capsys.readouterr().err


def changed(fixtures, path, name, *, drop=(), **entries):
    """A fixture with other entries of its configuration; those of a nested section as 'section.entry'."""
    with np.load(fixtures / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files if key not in drop}
    meta = json.loads(str(arrays["meta"]))
    for place, value in entries.items():
        *sections, last = place.split(".")
        node = meta["config"]
        for section in sections:
            node = node[section]
        node[last] = value
    np.savez(path, **arrays | {"meta": json.dumps(meta)})
    return str(path)


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("swinir_tiny_3conv", {"qk_scale": 0.5}, "qk_scale 0.5 is not supported, only None"),
        ("swinir_tiny_3conv", {"img_size": [32, 64]}, "img_size [32, 64] is not supported"),
        ("swinir_tiny_3conv", {"upsampler": "", "upscale": 2}, "upscale 2 with upsampler '' is not supported"),
        ("swinir_tiny_3conv", {"rpe": True}, "rpe True is not known to this tool"),
        ("resshift_unet_small", {"unet.image_size": 16}, "window_size 8 is not supported with image_size 16"),
        ("resshift_unet_small", {"unet.lq_size": 48}, "lq_size 48 is not supported"),
        ("resshift_unet_small", {"unet.dims": 3}, "dims 3 is not supported, only 2"),
        ("resshift_unet_small", {"unet.in_channels": 5}, "in_channels 5 is not supported with out_channels 3"),
        ("resshift_unet_small", {"unet.channel_mult": [1.5, 2, 2]}, "channel_mult [1.5, 2, 2] is not supported"),
        ("resshift_vq_small", {"ddconfig.attn_type": "linear"}, "attn_type 'linear' is not supported"),
        ("resshift_schedule", {"common.schedule_name": "ldm"}, "schedule_name 'ldm' is not supported"),
        ("vae_sd3_tiny", {"act_fn": "relu"}, "act_fn 'relu' is not supported"),
        ("vae_sd3_tiny", {"use_post_quant_conv": True}, "use_quant_conv and use_post_quant_conv differ"),
        ("sd35_medium_tiny", {"qk_norm": "layer_norm"}, "qk_norm 'layer_norm' is not supported"),
        ("sd35_medium_tiny", {"out_channels": 8}, "out_channels 8 is not supported, only 16"),
        ("unet_sd2_tiny", {"unet.act_fn": "gelu"}, "act_fn 'gelu' is not supported, only 'silu'"),
        ("unet_sd2_tiny", {"unet.attention_head_dim": 5}, "heads is (5, 5, 5, 5): 5 heads do not divide the width"),
        ("unet_sd2_tiny", {"unet.mask": True}, "mask True is not known to this tool"),
        ("controlnet_sd2_tiny", {"controlnet.global_pool_conditions": True}, "global_pool_conditions True is not"),
        ("lpips_alex", {"net": "squeeze"}, "net 'squeeze' is not supported"),
        ("rrdbnet_x4_tiny", {"arch": "other"}, "arch 'other' is not supported"),
        ("rrdbnet_x4_tiny", {"num_in_ch": 4}, "num_in_ch 4 and num_out_ch 3 differ"),
        ("rrdbnet_x2_tiny", {"scale": 8}, "scale 8 is not supported, only 4 or 2 or 1"),
        ("srvgg_tiny", {"act_type": "gelu"}, "act_type 'gelu' is not supported"),
        ("inn", {"num_heads": 8}, "num_heads 8 is not known to this tool"),
        ("dinov2_tiny", {"arch": "vit_tiny"}, "arch 'vit_tiny' is not supported"),
        ("dinov2_tiny", {"vit.block_chunks": 4}, "block_chunks 4 is not supported, only 0"),
        ("dinov2_tiny", {"vit.ffn_layer": "identity"}, "ffn_layer 'identity' is not supported"),
        ("dinov2_tiny", {"vit.num_heads": 5}, "heads is 5: it must divide the width, 48"),
        ("tsd_loss", {"substeps": 3}, "weights [1.0] are not supported with substeps 3"),
    ],
)
def test_what_cannot_be_expressed_is_one_line_with_the_setting(fixtures, tmp_path, capsys, name, entries, words):
    assert main([changed(fixtures, tmp_path / "case.npz", name, **entries)]) == 3
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and "case.npz" in line and not printed.out


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("swinir_tiny_3conv", {"num_heads": [2, 4]}, "swinir infers group_heads () instead of (2, 4)"),
        ("swinir_heads_positions", {"mlp_ratio": 2}, "mlp_ratio 1.5 instead of 2"),
        ("resshift_unet_small", {"unet.resblock_updown": True}, "resampling 'conv' instead of 'block'"),
        ("resshift_unet_small", {"unet.use_scale_shift_norm": False}, "time 'scale_shift' instead of 'add'"),
        ("resshift_vq_small", {"ddconfig.num_res_blocks": [1, 1, 2]}, "blocks 1 instead of (1, 1, 2)"),
        ("rrdbnet_x4_tiny", {"num_block": 3}, "rrdbnet infers blocks 2 instead of 3"),
        ("rrdbnet_bsrgan_keys_x2_tiny", {"sf": 4}, "infers scale 2 instead of 4, variant 'bsrgan' instead of"),
        ("srvgg_tiny", {"num_conv": 16}, "srvgg infers depth 4 instead of 16"),
        ("inn", {"num_layers": 8}, "hf_extractor infers modules 3 instead of 8"),
        ("vae_sd2_tiny", {"layers_per_block": 1}, "blocks 2 instead of 1"),
        ("unet_sd2_tiny", {"unet.layers_per_block": 1}, "sd_unet infers blocks 2 instead of 1"),
        ("controlnet_sd2_tiny", {"controlnet.conditioning_channels": 1}, "image_channels 3 instead of 1"),
        ("dinov2_tiny", {"vit.num_register_tokens": 4}, "dinov2 infers registers 0 instead of 4"),
        (
            "sd35_medium_tiny",
            {"dual_attention_layers": [1]},
            "dual_blocks 2 instead of 0, dual_layers () instead of",
        ),
        ("sd35_medium_tiny", {"pos_embed_max_size": 32}, "position_grid 24 instead of 32"),
    ],
)
def test_a_weight_map_that_infers_something_else_fails(fixtures, tmp_path, capsys, name, entries, words):
    assert main([changed(fixtures, tmp_path / "case.npz", name, **entries)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_files_that_are_no_fixtures_are_one_line(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("none")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "empty.npz").touch()
    np.savez(tmp_path / "list.npz", meta="[]")
    np.savez(tmp_path / "bare.npz", meta='{"family": "swinir"}')
    for name in ("text", "cut", "empty", "list", "bare"):
        assert main([str(tmp_path / f"{name}.npz")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name}.npz is not a parity fixture" in line


@pytest.mark.parametrize("substeps", [2, 4])
def test_a_target_score_loss_of_several_sub_steps(tmp_path, capsys, substeps):
    """The released loop, in NumPy."""
    rng, shape = np.random.default_rng(0), (2, 4, 3, 5)
    weights = [1.0, 0.3, 0.3, 0.3][:substeps]
    z, z_hr, noise = (rng.standard_normal(shape) for _ in range(3))
    sigmas = np.sort(rng.random((2, substeps + 1)), axis=1)[:, ::-1]
    arrays = {"in/z": z, "in/z_hr": z_hr, "in/noise": noise, "in/sigmas": sigmas}
    first = sigmas[:, :1, None, None]
    student, hr = ((1 - first) * x + first * noise for x in (z, z_hr))
    variational, matching = np.zeros(shape), np.zeros(shape)
    for step, weight in enumerate(weights):
        teacher, teacher_hr, regulariser = (rng.standard_normal(shape) for _ in range(3))
        names = ("v_teacher", "v_teacher_hr", "v_reg")
        arrays |= {f"in/{name}_{step}": v for name, v in zip(names, (teacher, teacher_hr, regulariser), strict=True)}
        arrays |= {f"out/noisy_student_{step}": student, f"out/noisy_hr_{step}": hr}
        now, after = (sigmas[:, index, None, None, None] for index in (step, step + 1))
        variational = variational + weight * now**2 * (teacher - regulariser)
        matching = matching + weight * now**2 * (teacher - teacher_hr)
        student, hr = student - (now - after) * regulariser, hr - (now - after) * teacher_hr
    direction = 0.6 * variational + 0.4 * matching
    arrays |= {"out/grad_vsd": variational, "out/grad_tsm": matching, "out/direction": direction}
    arrays |= {"out/loss": 0.5 * np.mean(direction**2), "grad/z": direction / direction.size}
    meta = {"family": "tsd_loss", "config": {"substeps": substeps, "weights": weights}, "salt": "", "models": {}}
    meta["notes"] = "direction = 0.6 grad_vsd + 0.4 grad_tsm; loss = …"
    meta["float32_vs_float64"] = {name: {"atol": 1e-5} for name in arrays if not name.startswith("in/")}
    arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    np.savez(tmp_path / "tsd.npz", meta=json.dumps(meta), **arrays)
    assert main([str(tmp_path / "tsd.npz")]) == 0
    printed = capsys.readouterr().out
    assert "not compared" not in printed and f"out/noisy_hr_{substeps - 1}" in printed


def test_niqe_crop_sizes_are_read_from_output_names(fixtures, tmp_path, capsys):
    with np.load(fixtures / "niqe.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for side, status in (("192", 0), ("190", 1)):  # half of 190 has another shape
        changed = {name.replace("size_192", f"size_{side}"): value for name, value in arrays.items()}
        np.savez(tmp_path / "niqe.npz", **changed)
        assert main([str(tmp_path / "niqe.npz")]) == status
        assert f"out/half_size_{side}" in capsys.readouterr().out


def test_a_wrong_shape_or_nan_never_passes():
    case = Case("f", {}, "", {"out/y": 1e9}, {}, {"out/y": np.zeros((2, 2))})
    assert not compare(case, "out/y", np.zeros((2, 3))).passed
    assert not compare(case, "out/y", np.full((2, 2), np.nan)).passed
    assert compare(case, "out/y", np.ones((2, 2))).passed
