"""Fixtures of family realesrgan_real, with random weights in the place of the real ones."""

import hashlib
import json

import numpy as np

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.porting.ncnn import read_ncnn
from framer_jax.porting.torch_files import write_state
from tests.inference.test_named_models import state_of
from tests.support.ncnn import write_ncnn
from tools.check_parity import main

IMAGE = np.random.default_rng(0).random((1, 3, 9, 7)).astype(np.float32)


def output(name, path):
    """The network's output for `IMAGE`, channels first."""
    ported = read_network(name, path)
    model = build_network(name, ported.arguments)
    return np.asarray(model.apply({"params": ported.params}, IMAGE.transpose(0, 2, 3, 1))[0]).transpose(0, 3, 1, 2)


def write_fixture(path, config, files, arrays):
    weights = {key: {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for key, file in files}
    outputs = [name for name in arrays if name.startswith("out/")]
    meta = {"family": "realesrgan_real", "config": config, "salt": "", "models": {}, "weights": weights}
    meta["float32_vs_float64"] = {name: {"atol": 1e-5} for name in outputs}
    np.savez(path, meta=json.dumps(meta), **{"in/x": IMAGE}, **arrays)
    return str(path)


def test_blends_with_the_weak_denoise_twin(tmp_path, capsys):
    states = {key: state_of("srvgg", factor) for key, factor in (("general", 1.0), ("wdn", 0.5))}
    states["blend"] = {key: 0.25 * states["general"][key] + 0.75 * states["wdn"][key] for key in states["wdn"]}
    for key, state in states.items():
        write_state(tmp_path / f"{key}.safetensors", {name: np.float32(value) for name, value in state.items()})
    general, wdn, blend = (output("srvgg", tmp_path / f"{key}.safetensors") for key in states)
    arrays = {
        "out/general": general,
        "out/wdn_every3": wdn[:, :, ::3, ::3],
        "out/dni_0.25_every3": blend[:, :, ::3, ::3],
    }
    first = states["general"]["body.0.weight"]
    last = max(int(key.split(".")[1]) for key in states["general"])
    config = {"net": "srvgg", "num_feat": first.shape[0], "num_conv": last // 2 - 1, "strengths": [0.25]}
    files = [(key, tmp_path / f"{key}.safetensors") for key in ("general", "wdn")]
    fixture = write_fixture(tmp_path / "case.npz", config, files, arrays)
    assert main([fixture, "--weights", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in arrays) and "not compared" not in printed
    assert main([fixture]) == 2
    assert "needs the real weights general.safetensors" in capsys.readouterr().err
    swin = write_fixture(tmp_path / "swin.npz", config | {"net": "swinir"}, files, arrays)
    assert main([swin, "--weights", str(tmp_path)]) == 3
    assert "net 'swinir' is not supported, only rrdb and srvgg" in capsys.readouterr().err


def test_files_of_ncnn_and_the_table_of_their_tensors(tmp_path, capsys):
    """The two files need not have one name; a tensor that differs from the table is a contradiction."""
    param = write_ncnn(tmp_path / "network.param", state_of("rrdbnet", blocks=2))
    state, y = read_ncnn(param), output("rrdbnet", param)
    files = [
        ("param", param.rename(tmp_path / "a.param")),
        ("bin", (tmp_path / "network.bin").rename(tmp_path / "b.bin")),
    ]
    channels, growth = state["conv_first.weight"].shape[0], state["body.0.rdb1.conv1.weight"].shape[0]
    config = {"net": "rrdb", "scale": 4, "num_feat": channels, "num_block": 2, "num_grow_ch": growth}

    def row(key, value):
        shape = ",".join(map(str, value.shape))
        return f"{key}\t{shape}\t{value.sum():.9e}\t{value.flat[0]:.9e}\t{np.abs(value).sum():.9e}"

    rows = [row(key, np.float64(value)) for key, value in state.items()]
    for changed, status in ((None, 0), (row("conv_last.bias", np.ones(3)), 1), ("other\t3\t0\t0\t0", 1)):
        table = [changed if changed and line.startswith("conv_last.bias") else line for line in rows]
        arrays = {"out/y": y, "weight_table/model": np.array(table)}
        fixture = write_fixture(tmp_path / "case.npz", config, files, arrays)
        assert main([fixture, "--weights", str(tmp_path)]) == status
        assert ("conv_last.bias" in capsys.readouterr().err) == bool(status)
