"""Damaged networks of ncnn: one line that names the file, from every door, and nothing is written."""

import random

import pytest
from PIL import Image

from tests.support.checkpoints import small_states
from tests.support.hostile import cases, contents, refused, run
from tests.support.ncnn import write_ncnn
from tests.support.tiny import photo


@pytest.fixture(scope="module")
def states(fixtures):
    both = small_states(fixtures)
    return both["rrdbnet"], both["srvgg"]


def cut(text, data, draw):
    return text, data[: draw.randrange(len(data))]


def longer(text, data, draw):
    return text, data + draw.randbytes(draw.randrange(1, 9))


def other_flag(text, data, draw):
    return text, draw.choice([b"\x01\x00\x00\x00", b"PK\x03\x04", b"\xff\xff\xff\xff"]) + data[4:]


def line_lost(text, data, draw):
    lines = text.split("\n")
    del lines[draw.randrange(2, len(lines) - 1)]
    return "\n".join(lines), data


def line_with(text, draw, kind, old, new):
    lines = text.split("\n")
    index = draw.choice([number for number, line in enumerate(lines) if line.startswith(kind) and old in line])
    lines[index] = lines[index].replace(old, new, 1)
    return "\n".join(lines)


def other_number(text, data, draw):
    value = draw.choice(["", "x", "nan", "inf", "-3", "1e99", "0", "1,2"])
    return line_with(text, draw, "Convolution", " 1=3 ", f" 1={value} "), data


def sizes_lost(text, data, draw):
    return line_with(text, draw, "Convolution", draw.choice([" 0=", " 1=", " 6=", " 5="]), " 77="), data


def resized(text, data, draw):
    return line_with(text, draw, "Interp", "0=1", draw.choice(["0=2", "0=3"])), data


def other_start(text, data, draw):
    return draw.choice(["", "7767518\n" + text[8:], "\x00" + text, "ünï" + text, "<html>" + text]), data


BROKEN = (cut, longer, other_flag, line_lost, other_number, sizes_lost, resized, other_start)


def broken(draw):
    return draw.choice(BROKEN), draw.randrange(2), draw.choice([".param", ".bin"]), draw.random()


@pytest.mark.parametrize("case", cases(broken, fast=24, slow=300))
def test_a_damaged_network_is_one_line_and_leaves_nothing(states, case, tmp_path, capsys):
    damage, kind, suffix, seed = case
    path = write_ncnn(tmp_path / "net", states[kind])
    text, data = damage(path.read_text(), path.with_suffix(".bin").read_bytes(), random.Random(seed))
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".bin").write_bytes(data)
    Image.fromarray(photo(8, 8)).save(tmp_path / "photo.png")
    before = contents(tmp_path)
    model = ("rrdbnet", "srvgg")[kind]
    named = path.with_suffix(suffix)
    refused(run(capsys, "port", named, tmp_path / "out.safetensors", "--model", model), "net.")
    refused(run(capsys, "upscale", tmp_path / "photo.png", tmp_path / "out.png", "--weights", named), "net.")
    assert contents(tmp_path) == before


def test_every_kind_of_damage_is_refused(states, tmp_path, capsys):
    """Each once, so that the fast run misses none."""
    for damage in BROKEN:
        path = write_ncnn(tmp_path / "net", states[1])
        text, data = damage(path.read_text(), path.with_suffix(".bin").read_bytes(), random.Random(damage.__name__))
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".bin").write_bytes(data)
        refused(run(capsys, "port", path, tmp_path / "out.safetensors", "--model", "srvgg"), "net.")


def test_one_file_of_two_is_said(states, tmp_path, capsys):
    path = write_ncnn(tmp_path / "net", states[1])
    binary = path.with_suffix(".bin")
    data = binary.read_bytes()
    out = tmp_path / "out.safetensors"
    binary.unlink()
    refused(run(capsys, "port", path, out, "--model", "srvgg"), "net.bin: no such file", "a .param and a .bin")
    path.unlink()
    binary.write_bytes(data)
    refused(run(capsys, "port", binary, out, "--model", "srvgg"), "net.bin", "needs net.param next to it")
    assert not out.exists()
