import json
import logging
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli, compile_cache
from framer_jax.inference.model import BEST, LAST
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.version import __version__
from tests.support.commands import fails
from tests.support.logs import read_json_lines
from tests.support.paths import CONFIGS
from tests.support.tiny import config, overrides, photo, photos, weights

DEFAULT, FRAMED = (str(CONFIGS / f"{name}.py") for name in ("default", "quickstart_framer"))
UPSCALE = ("--mode", "mean", "--tile", "16", "--overlap", "4", "--tile-batch", "2")


def train(workdir, data, *changes, path=DEFAULT, init=None):
    changes = (*overrides(base=path), f"data.train={data}", f"data.validation={data}", *changes)
    start = [] if init is None else ["--init", str(init)]
    return cli.main(
        ["train", "--config", path, "--workdir", str(workdir), *start, *(f"--set={change}" for change in changes)]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The working folder of a finished run of two steps."""
    workdir = tmp_path_factory.mktemp("run")
    assert train(workdir, data) == 0
    return workdir


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_weights_checkpoints_and_logs(run):
    _, metadata = load_weights(run / LAST)
    assert metadata["step"] == 2
    assert metadata["framer_jax_version"] == __version__
    assert metadata["config"]["data"]["train"] == "photos"  # the folder's name, not where it lay
    assert (run / BEST).is_file()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "2"}
    lines = read_json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert [line["step"] for line in lines if "validation/mean/psnr-y" in line] == [1, 2]
    assert [path.suffix for path in (run / "images").iterdir()] == [".png", ".png"]


def test_the_same_command_resumes(run, data, capsys):
    before = (run / LAST).read_bytes()
    assert train(run, data) == 0
    out, err = capsys.readouterr()
    assert out == "already complete: 2 of 2 steps are made\n"
    assert f"resumed at step 2 from {run / 'checkpoints' / '2'}" in err
    assert (run / LAST).read_bytes() == before


def altered(path):
    """Change one bit of the numbers in a weights file."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_weights_that_are_missing_altered_or_older_are_written_again(run, data, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    before = {name: (workdir / name).read_bytes() for name in (LAST, BEST)}
    params, metadata = load_weights(workdir / LAST)
    for name, damage, words in (
        (LAST, Path.unlink, "is missing: written again from the checkpoint of step 2"),
        (LAST, lambda path: save_weights(path, params, {**metadata, "step": 1}), "is of step 1: written again"),
        (BEST, altered, "was altered: written again"),
        (BEST, lambda path: path.write_bytes(b"{}"), "is damaged: written again"),
    ):
        damage(workdir / name)
        assert train(workdir, data) == 0
        assert f"note: {workdir / name} {words}" in capsys.readouterr().err
        assert (workdir / name).read_bytes() == before[name]


def test_photographs_that_were_replaced_under_the_same_names(run, data, tmp_path, capsys):
    workdir, moved = shutil.copytree(run, tmp_path / "run"), shutil.copytree(data, tmp_path / "photos")
    assert train(workdir, moved) == 0
    Image.fromarray(photo(40, 48, seed=9)).save(moved / "photo_1.png")
    capsys.readouterr()
    status = train(workdir, moved, f"data.validation={data}")
    fails(capsys, status, r"other contents \(photo_1\.png\): give the same data, or a new working folder")


def test_starting_from_weights(run, data, tmp_path, capsys):
    assert train(tmp_path / "more", data, "training.stop_after=1", init=run / LAST) == 0
    assert capsys.readouterr().out.startswith("stopped at step 1 of 2, saved in ")
    first, second = (load_weights(folder / LAST)[0]["denoiser"] for folder in (run, tmp_path / "more"))
    # one Adam step moves every number by about the learning rate, not back to another random start
    np.testing.assert_allclose(first["conv_in"]["kernel"], second["conv_in"]["kernel"], atol=0.01)


def test_framer_leaves_no_trace_in_the_weights(run, data, tmp_path):
    assert train(tmp_path / "framed", data, "framer.variant=paper", "training.stop_after=1", path=FRAMED) == 0
    plain, framed = (load_weights(folder / LAST)[0] for folder in (run, tmp_path / "framed"))
    assert set(framed) == {"denoiser"}
    assert set(framed["denoiser"]) == set(plain["denoiser"])
    assert "framer_ratio" in read_json_lines(tmp_path / "framed" / "metrics.jsonl")[0]


def test_a_truncated_image_is_named_and_skipped(data, tmp_path, caplog):
    folder = photos(tmp_path / "photos", 3)
    whole = (folder / "photo_1.png").read_bytes()
    (folder / "photo_1.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path / "run", folder, f"data.validation={data}", "training.stop_after=1") == 0
    named = [entry.getMessage() for entry in caplog.records if "photo_1.png" in entry.getMessage()]
    assert len(named) == 1
    assert named[0].startswith("skipping the damaged image photo_1.png (")


def test_a_loss_that_is_not_a_number_stops_the_run(data, tmp_path, capsys):
    nan = weights(tmp_path / "nan.safetensors", fill=float("nan"))
    fails(capsys, train(tmp_path / "run", data, init=nan), r"nan\.safetensors: 'denoiser/.* values that are not finite")
    poisoned = weights(tmp_path / "poisoned.safetensors", fill=1e30)
    status = train(tmp_path / "run", data, init=poisoned)
    fails(
        capsys,
        status,
        r"loss is NaN or infinite at step 1 \(.*the first step: no update was made yet, .* a setting or the weights",
        r"settings that differ from their defaults: .*training\.",
        r"records (photo_[012]\.png, ){7}photo_[012]\.png",
        "no checkpoint yet",
        alone=False,
    )
    assert not (tmp_path / "run" / LAST).exists()


def test_a_loss_that_explodes_names_the_last_checkpoint(data, tmp_path, capsys):
    workdir = tmp_path / "run"
    # best_metric off: images of the exploded model have no score
    growing = ("training.learning_rate=10", "training.weight_decay=1000")  # each step takes 10⁴ times the weights away
    length = ("training.steps=30", "training.validate_every=30")
    status = train(workdir, data, *growing, *length, "training.best_metric=None")
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 1 < steps[-1] < 15
    fails(
        capsys,
        status,
        rf"(loss|gradient|parameter or mutable state) is NaN or infinite at step {steps[-1] + 1} \(loss denoiser",
        r"records (photo_[012]\.png, ){7}photo_[012]\.png",
        f"last checkpoint {workdir / 'checkpoints' / str(steps[-1])}$",
        alone=False,
    )


@pytest.mark.parametrize(
    ("changes", "patterns"),
    [
        (
            ["training.mesh.data=-1", "training.global_batch=12"],
            [r"global_batch 12 is not divisible by 8 devices .*use 8 or 16"],
        ),
        (["training.stepz=3"], ["unknown knob 'training.stepz': did you mean 'training.steps'"]),
        (["recipe.name=resnet"], [r"unknown method recipe\.name 'resnet': did you mean 'resshift'"]),
        (["framer.variant=mine"], ["framer.variant is 'mine': it must be one of none, paper, released"]),
        (["framer.variant=paper", "framer.objective=all"], ["all"]),
        (["data.degradation=fog"], ["data.degradation is 'fog': unknown degradation preset 'fog': choose one of"]),
        (["data.crop=30"], ["data.crop 30 must be a multiple of 8"]),
        (["data.crop=48"], [r"photo_0\.png is 48 x 40, smaller than the crop of 48 .*use a smaller crop"]),
        (["training.steps=0"], [r"training\.steps is 0: .* at least 1"]),
        (["training.mesh.data=3", "training.mesh.fsdp=3"], ["mesh .* does not fit 8 devices"]),
        (["data.train=/there/is/none"], ["no folder /there/is/none: give a folder of photographs"]),
        (["data.validation=/there/is/none"], ["no folder /there/is/none"]),
    ],
    ids=lambda value: value[-1].split("=")[0] if isinstance(value, list) else None,
)
def test_bad_settings_are_one_line(changes, patterns, data, tmp_path, capsys):
    status = train(tmp_path / "run", data, *changes)
    fails(capsys, status, *patterns)


def test_bad_folders_are_one_line(data, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(capsys, train(tmp_path / "run", empty), "empty holds no image .*give a folder of photographs")
    (empty / "notes.txt").write_text("not an image")
    fails(capsys, train(tmp_path / "run", empty), "empty holds no image")
    (empty / "notes.png").write_text("not an image either")
    fails(capsys, train(tmp_path / "run", empty), "empty holds no readable image: give photographs")
    mixed = photos(tmp_path / "mixed")
    for name in ("a.png", "b.png"):
        (mixed / name).write_text("damaged")
    message = r"more than 1 % of the images are damaged: repair them under their names; .*--workdir: a\.png, b\.png"
    fails(capsys, train(tmp_path / "run", mixed), message, alone=False)
    assert not (tmp_path / "run").exists()


def test_bad_weights_to_start_from_are_one_line(data, tmp_path, capsys):
    workdir = tmp_path / "run"
    fails(
        capsys, train(workdir, data, init=tmp_path / "no.safetensors"), r"no\.safetensors: no such file, and no shipped"
    )
    other = weights(tmp_path / "wide.safetensors", "recipe.denoiser.unet.channels=(8, 16)")
    fails(capsys, train(workdir, data, init=other), r"wide\.safetensors does not fit this model; .*another shape")
    (tmp_path / "torch.pth").write_bytes(pickle.dumps({"weight": 1}))
    message = r"torch\.pth is not a file of a framer_jax run, .* fit .*'unet'"
    fails(capsys, train(workdir, data, init=tmp_path / "torch.pth"), message)
    assert not workdir.exists()


def test_foreign_work_folders_are_one_line(run, data, tmp_path, capsys):
    status = train(run, data, "training.b1=0.8")
    fails(capsys, status, "of another configuration: training.b1 0.9 then, 0.8 now", "or use a new working folder")
    foreign = tmp_path / "foreign"
    (foreign / "checkpoints" / "5" / "params").mkdir(parents=True)
    status = train(foreign, data)
    message = r"checkpoint .*/5 is damaged or incomplete \(it lacks state, data, about\): no other checkpoint is left"
    fails(capsys, status, message)
    (tmp_path / "file").write_text("")
    fails(capsys, train(tmp_path / "file", data), "file", alone=False)


# --- upscale ----------------------------------------------------------------------------------------------------------


def test_upscale_one_file(model, data, tmp_path, capsys):
    target = tmp_path / "large.png"
    words = ["upscale", str(data / "photo_0.png"), str(target), "--weights", str(model), *UPSCALE, "--seed", "7"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "1 written, 0 skipped, 0 failed\n"
    with Image.open(target) as large:
        assert large.size == (4 * 48, 4 * 40)
    record = json.loads((tmp_path / "large.png.json").read_text(encoding="utf-8"))
    assert record["framer_jax"] == __version__
    assert record["checkpoint"]["path"] == str(model)
    assert len(record["checkpoint"]["sha256"]) == 64
    assert record["config"] == config()
    assert record["settings"] | {"mode": "mean", "seed": 7, "tile": 16, "color_fix": "none"} == record["settings"]
    assert record["input"] | {"name": "photo_0.png", "width": 48, "height": 40} == record["input"]
    pixels = target.read_bytes()
    fails(capsys, cli.main(words), r"large\.png, .*large\.png\.json exist: choose another output", alone=False)
    assert target.read_bytes() == pixels
    assert cli.main([*words, "--overwrite"]) == 0
    assert target.read_bytes() == pixels  # the same seed gives the same bytes


def test_upscale_a_folder_with_a_training_run(run, data, tmp_path, capsys):
    words = ["upscale", str(data), str(tmp_path / "out"), "--weights", str(run), *UPSCALE, "--suffix", "_x4"]
    assert cli.main([*words, "--color-fix", "wavelet"]) == 0
    names = {f"photo_{index}_x4.png{end}" for index in range(3) for end in ("", ".json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert cli.main([*words, "--skip-existing"]) == 0
    assert "0 written, 3 skipped, 0 failed" in capsys.readouterr().out


def test_upscale_continues_after_a_bad_image_with_the_flag(model, tmp_path, capsys):
    folder = photos(tmp_path / "photos", 2)
    (folder / "bad.png").write_text("not an image")
    words = ["upscale", str(folder), str(tmp_path / "out"), "--weights", str(model), *UPSCALE]
    fails(capsys, cli.main(words), r"bad\.png: not an image", alone=False)
    assert cli.main([*words, "--overwrite", "--continue-on-error"]) == 1
    assert "2 written, 0 skipped, 1 failed" in capsys.readouterr().out


def test_upscale_samples_by_default(model, data, tmp_path):
    words = ["upscale", str(data / "photo_0.png"), str(tmp_path), "--weights", str(model), *UPSCALE[2:]]
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "photo_0.png.json").read_text())["settings"]["mode"] == "sample"


def test_bad_upscale_inputs_are_one_line(model, data, tmp_path, capsys):
    def upscale(source, *more, weights=model, output=tmp_path / "out"):
        return cli.main(["upscale", str(source), str(output), "--weights", str(weights), *more])

    good = data / "photo_0.png"
    fails(capsys, upscale(tmp_path / "missing.png"), r"missing\.png: no such file or folder")
    fails(capsys, upscale(good, weights=tmp_path / "no.safetensors"), r"no\.safetensors: no such weight file")
    fails(capsys, upscale(good, weights=data), r"photos holds no weights\.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_weights(foreign, {"unet": {"kernel": np.zeros(3, np.float32)}}, {})
    fails(capsys, upscale(good, weights=foreign), r"foreign\.safetensors: the weights carry no configuration")
    fails(capsys, upscale(good, weights=good), r"photo_0\.png: not a safetensors file")
    fails(capsys, upscale(good, "--tile", "0"), "tile 0 must be a whole number from 1")
    (tmp_path / "empty").mkdir()
    fails(capsys, upscale(tmp_path / "empty"), "empty: no image in this folder")
    assert not (tmp_path / "out").exists()


# --- info -------------------------------------------------------------------------------------------------------------


def info(capsys, *words):
    assert cli.main(["info", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_info_of_the_environment(capsys):
    facts = info(capsys)
    assert facts["framer_jax"] == __version__
    assert facts["backend"] == "cpu"
    assert [device["id"] for device in facts["devices"]] == list(range(8))
    assert cli.main(["info"]) == 0
    assert re.search(rf"^framer_jax +{__version__}$", capsys.readouterr().out, re.MULTILINE)


def test_info_of_a_model(model, capsys):
    facts = info(capsys, str(model))
    assert (facts["recipe"], facts["scale"], facts["step"]) == ("resshift", 4, 0)
    assert facts["bytes"] == model.stat().st_size
    assert facts["parameters"] == info(capsys, str(model.parent / "tiny.safetensors"))["parameters"] > 0
    assert facts["config"] == config()


def test_info_of_a_configuration(capsys):
    facts = info(capsys, FRAMED)
    assert facts["recipe"] == "resshift+framer"
    assert facts["parameters"] > 1_000_000
    assert facts["config"]["framer"]["variant"] == "paper"
    assert info(capsys, "quickstart_framer") == facts  # by name
    assert info(capsys, "framer_u_taesd_small:lambda_0.01")["config"]["framer"]["weight"] == 0.01
    fails(capsys, cli.main(["info", "nowhere.py"]), r"no configuration file 'nowhere\.py'")
    fails(capsys, cli.main(["info", "nowhere"]), "nowhere: no such weight file")


# --- the command line itself ------------------------------------------------------------------------------------------


def test_help_and_usage(capsys):
    for words in (["--help"], *([name, "--help"] for name in cli.COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 0
        assert "framer-jax" in capsys.readouterr().out
    for words in ([], ["paint"], ["train"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        assert "framer-jax" in capsys.readouterr().err


def test_tracebacks_on_request(monkeypatch):
    monkeypatch.setenv("FRAMER_JAX_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["info", "nowhere"])


def test_compiled_programs_are_kept_below_the_home_folder_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative/path"):  # to be ignored, as the specification of XDG says
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert compile_cache._cache_folder() == tmp_path / ".cache" / "framer_jax" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert compile_cache._cache_folder() == tmp_path / "x" / "framer_jax" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compile_cache.os, "access", lambda path, mode: False)
    assert compile_cache._cache_folder() is None
    monkeypatch.undo()

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compile_cache.Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compile_cache._cache_folder() is None


def test_configurations_without_their_suffix_are_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    for name, message in (
        ("mine", r"no configuration named '.*/mine': did you mean the file '.*/mine\.py'\?"),
        ("notes.txt", r"notes\.txt' is a file whose name does not end in \.py: give the name of a shipped"),
        ("", r"' is a folder: give the name of a shipped configuration, or a Python file"),
    ):
        status = cli.main(["train", "--config", str(tmp_path / name), "--workdir", str(tmp_path / "run")])
        fails(capsys, status, message)


def test_an_interrupted_training_says_how_to_go_on(run, data, monkeypatch, capsys):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("framer_jax.commands.train.train_from_config", interrupted)
    assert train(run, data) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"interrupted; step 2 is saved in {run / 'checkpoints' / '2'}: run the same command to resume")
