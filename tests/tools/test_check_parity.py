import numpy as np
import pytest

from framer_jax.diffusion import flow
from tools.check_parity import main
from tools.parity.cases import Case, compare
from tools.parity.drawn_weights import named_weight

COPIED = (
    *("framer_loss_B3", "color_fix", "dwt_pywt", "niqe", "realesrgan_primitives", "schedulers"),
    *("resshift_schedule", "resshift_unet_small", "resshift_vq_small", "sinsr", "lpips_alex"),
    *("swinir_small60_nearestconv_x4", "swinir_lightweight_x4", "swinir_tiny_3conv"),
    *("vae_sd2_tiny", "vae_sd3_tiny"),
    *("sd35_medium_tiny", "dit4sr_sd35_tiny"),
)

SHARED = ("resshift_unet_full", "resshift_vq_full", "resshift_sampling", "lpips_vgg")
"""Too large to copy into tests/fixtures, or too slow for every run."""


@pytest.mark.parametrize("name", COPIED)
def test_copied_fixtures_are_within_tolerance(fixtures, name, capsys):
    assert main([str(fixtures / f"{name}.npz")]) == 0
    assert "EXCEEDED" not in capsys.readouterr().out


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
    foreign = write_case(tmp_path / "foreign.npz", family="inn")
    assert main([foreign]) == 2
    assert "'inn' is not supported yet" in capsys.readouterr().err
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


def test_niqe_crop_sizes_are_read_from_output_names(fixtures, tmp_path, capsys):
    with np.load(fixtures / "niqe.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for side, status in (("192", 0), ("190", 1)):  # half of 190 has another shape
        changed = {name.replace("size_192", f"size_{side}"): value for name, value in arrays.items()}
        np.savez(tmp_path / "niqe.npz", **changed)
        assert main([str(tmp_path / "niqe.npz")]) == status
        assert f"out/half_size_{side}" in capsys.readouterr().out


def test_a_wrong_shape_or_nan_never_passes():
    case = Case("f", {}, {"out/y": 1e9}, {}, {"out/y": np.zeros((2, 2))})
    assert not compare(case, "out/y", np.zeros((2, 3))).passed
    assert not compare(case, "out/y", np.full((2, 2), np.nan)).passed
    assert compare(case, "out/y", np.ones((2, 2))).passed
