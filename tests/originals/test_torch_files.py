"""Pickles of PyTorch: read, and written for it."""

import pytest

from tests.commands.test_port import port, refused
from tests.support.checkpoints import small_states
from tests.support.originals import torch


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


def test_pytorch_itself_reads_and_writes(states, tmp_path, capsys):
    state = {key: torch.from_numpy(value) for key, value in states["resshift_unet"].items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "in.pth")
    words = ("--model", "resshift_unet")
    assert port(tmp_path / "in.pth", tmp_path / "ours.safetensors", *words) == 0
    assert "removed      state_dict, module." in capsys.readouterr().out
    assert port(tmp_path / "ours.safetensors", tmp_path / "back.pth", *words, "--to", "torch") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    (tmp_path / "short.pth").write_bytes((tmp_path / "in.pth").read_bytes()[:-1000])
    torch.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "object.pth")
    capsys.readouterr()
    for name, message in (("short", "cut short"), ("object", "no other is used")):
        assert port(tmp_path / f"{name}.pth", tmp_path / "out.safetensors", *words) == 2
        refused(capsys, message)
