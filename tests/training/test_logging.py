"""Writers of logs: JSON lines, the console, TensorBoard."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from framer_jax.training.logging import JsonLinesWriter, LoggingSettings, TensorBoardWriter, WandbWriter, default_writer
from tests.support.logs import read_json_lines


def test_json_lines_drop_later_entries_when_a_run_resumes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(path)
    for step in (2, 4, 6):
        writer.write_scalars(step, {"loss": step / 2})
    writer.write_text(4, "run", "words")
    with path.open("a") as file:
        file.write('{"step": 8, "lo')  # a killed run
    writer.resume(4)
    writer.write_scalars(6, {"loss": 9.0})
    assert [(entry["step"], entry["loss"]) for entry in read_json_lines(path)] == [(2, 1.0), (4, 2.0), (6, 9.0)]
    assert len(path.read_text().splitlines()) == 4


def test_json_lines_are_json_for_undefined_scalars_too(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    JsonLinesWriter(tmp_path / "log").write_scalars(1, {"a": np.nan, "b": np.inf, "c": -np.inf, "d": np.float32(0.5)})
    line = json.loads((tmp_path / "log").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "a": None, "b": None, "c": None, "d": 0.5}


def test_images_with_nan_are_written(tmp_path):
    writer = default_writer(tmp_path, quiet=True)
    writer.write_images(1, {"first": np.full((4, 4, 3), np.nan)})
    with Image.open(tmp_path / "images" / "first_0000001.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 0)


def test_default_writer(tmp_path, capsys):
    folder = tmp_path / "not" / "yet"
    assert not (default_writer(folder) and folder.exists())  # a refused run leaves no folder
    writer = default_writer(tmp_path)
    writer.resume(0)
    writer.write_scalars(3, {"loss": 0.12349, "images_per_second": 10.0})
    writer.write_images(3, {"validation/first": np.full((4, 5, 3), 0.5)})
    writer.write_text(3, "run", "stopped")
    writer.close()
    assert capsys.readouterr().err.splitlines() == ["step 3  loss 0.1235  images_per_second 10", "run: stopped"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss"] == 0.12349
    with Image.open(tmp_path / "images" / "validation_first_0000003.png") as image:
        assert image.size == (5, 4)
        assert image.getpixel((0, 0)) == (128, 128, 128)


def test_tensorboard_writer(tmp_path):
    pytest.importorskip("tensorboardX")
    assert default_writer(tmp_path / "run", LoggingSettings(tensorboard=True)) is not None
    writer = TensorBoardWriter(tmp_path)
    writer.resume(2)
    writer.write_scalars(3, {"loss": 1.0})
    writer.write_images(3, {"first": np.zeros((4, 4, 3))})
    writer.write_text(3, "run", "words")
    writer.close()
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_wandb_writer_goes_on_in_its_record(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    ids = []
    for step in (1, 2):
        writer = default_writer(run, LoggingSettings(wandb="project"))
        assert (run / "wandb").exists() == (step == 2)  # a refused run leaves no folder
        writer.write_scalars(step, {"loss": 1.0})
        ids.append(wandb.run.id)
        writer.write_images(step, {"first": np.zeros((4, 4, 3))})
        writer.write_text(step, "run", "words")
        writer.close()
    assert ids[0] == ids[1] == (run / "wandb" / "id.txt").read_text()
    assert list((run / "wandb").rglob("*.wandb"))


def test_wandb_without_a_key_is_one_line(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**arguments):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", refuse)
    writer = WandbWriter(tmp_path, "project")
    with pytest.raises(
        ValueError,
        match=r"wandb='project': No API key configured. Use `wandb login`; set WANDB_API_KEY, or WANDB_MODE=offline",
    ):
        writer.write_scalars(1, {"loss": 1.0})


def test_wandb_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'framer_jax\[wandb\]'"):
        default_writer(tmp_path, LoggingSettings(wandb="project"))


def test_the_console_shows_the_total_of_a_long_table_and_the_log_has_all_of_it(tmp_path, capsys):
    table = "\n".join(["| name | size |", *(f"| kernel_{index} | 3 |" for index in range(40)), "Total: 120"])
    writer = default_writer(tmp_path)
    writer.write_text(0, "parameters", table)
    writer.write_text(0, "run", "training\nwith a note")
    writer.close()
    assert capsys.readouterr().err == (
        "parameters: Total: 120 (all 42 lines: metrics.jsonl)\nrun:\ntraining\nwith a note\n"
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["value"] == table
