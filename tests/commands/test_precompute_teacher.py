"""`framer-jax precompute teacher`, and training that reads what it wrote."""

import json
import re

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.cli import main
from framer_jax.commands.provenance import check_records
from framer_jax.commands.shard_option import parse_shard
from framer_jax.config import ConfigError
from framer_jax.data.records import MANIFEST, RecordFiles, file_name, write_manifest, write_records
from framer_jax.diffusion.noise import noise_field
from framer_jax.recipes.sinsr.recipe import TRAJECTORY_ENTRIES
from tests.support.engines import in_reverse, use_engine
from tests.support.tiny import config, overrides, photos, weights

SAMPLES, PER_FILE = 10, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photographs, a teacher, and the records of SinSR."""
    place = tmp_path_factory.mktemp("precompute")
    photos(place / "photos", count=5)
    weights(place / "teacher.safetensors", "recipe.denoiser.name=resshift_unet")
    assert precompute(place, "records") == 0
    return place


def knobs(place):
    return (
        "recipe.name=sinsr",
        "training.best_metric=sample/psnr-y",
        "recipe.denoiser.name=resshift_unet",
        f"recipe.sinsr.teacher_checkpoint={place}/teacher.safetensors",
        f"data.train={place}/photos",
    )


def command(*words, place, more=()):
    settings = (*overrides(*knobs(place)), *more)
    return main([*words, "--config", "configs/default.py", *(word for knob in settings for word in ("--set", knob))])


def precompute(place, output, *words, more=()):
    options = ("--output", str(place / output), "--samples", str(SAMPLES), "--per-file", str(PER_FILE), *words)
    return command("precompute", "teacher", *options, place=place, more=more)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_record_depends_on_its_number_only(place):
    files = contents(place / "records")
    assert sorted(files) == [*(file_name(number) for number in range(3)), MANIFEST]
    for shard in ("0/2", "1/2"):
        assert precompute(place, "sharded", "--shard", shard, "--batch", "16") == 0
    first, second = RecordFiles(place / "records"), RecordFiles(place / "sharded")
    assert len(first) == len(second) == SAMPLES
    for number in range(SAMPLES):
        for name, value in first[number].items():
            np.testing.assert_allclose(second[number][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    record = first[3]
    assert {name: (value.dtype.name, value.shape) for name, value in record.items()} == {
        "hr": ("uint8", (32, 32, 3)),
        "lr": ("uint8", (8, 8, 3)),
        **dict.fromkeys(TRAJECTORY_ENTRIES, ("float32", (8, 8, 48))),
        "record": ("int32", ()),
    }
    assert len({first[number]["chain_start"].tobytes() for number in range(SAMPLES)}) == SAMPLES


def test_the_shards_of_an_engine(place, capsys, monkeypatch):
    use_engine(monkeypatch, in_reverse)
    assert precompute(place, "by_engine", "--engine", "ray") == 0
    assert "3 files of records written, 0 were there; train with" in capsys.readouterr().out
    assert contents(place / "by_engine").keys() == contents(place / "records").keys()
    first, second = RecordFiles(place / "records"), RecordFiles(place / "by_engine")
    for number in range(SAMPLES):
        for name, value in first[number].items():
            np.testing.assert_allclose(second[number][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert precompute(place, "by_engine", "--engine", "ray", more=("training.seed=5",)) == 2
    assert "shards 0, 1 of 2: " in (error := capsys.readouterr().err)
    assert "holds records that were made otherwise" in error


def test_it_goes_on_where_it_stopped(place, capsys):
    before = contents(place / "records")
    (place / "records" / file_name(1)).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 files.*records-00001.*once more"):
        RecordFiles(place / "records")
    assert precompute(place, "records") == 0
    assert "1 files of records written, 2 were there" in capsys.readouterr().out
    assert contents(place / "records") == before


@pytest.mark.slow  # tests/recipes/test_dtkd.py reads records too
def test_training_reads_them_and_needs_no_teacher(place):
    settings = config(*knobs(place))["recipe"]
    trained, reading = build_recipe(settings), build_recipe(settings, data="teacher")
    bare = build_recipe(settings, "inference", "teacher")
    records = [RecordFiles(place / "records")[number] for number in range(2)]
    batch = {name: np.stack([record[name] for record in records]) for name in ("hr", "lr", *TRAJECTORY_ENTRIES)}
    batch |= {name: batch[name].astype(np.float32) / 255 for name in ("hr", "lr")}
    arguments = ({}, batch, jax.random.key(0), np.int32(0))
    loss = bare.updates[0].loss(trained.initial_params, bare.frozen, *arguments)  # without the teacher's weights
    # the teacher's trajectories from other noise
    noise = noise_field(jax.random.key(1), 2)
    trajectories = trained.precompute(trained.frozen, batch, noise)
    other = reading.updates[0].loss(
        trained.initial_params, reading.frozen, {}, {**batch, **trajectories}, *arguments[2:]
    )
    np.testing.assert_allclose(loss.metrics["consistency"], other.metrics["consistency"], rtol=1e-5)
    assert np.all(np.abs(loss.metrics["distillation"] - other.metrics["distillation"]) > 0)
    run = place / "run"
    assert command("train", "--workdir", str(run), place=place, more=(f"data.train={place}/records",)) == 0
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["distillation"]) for line in logged if "distillation" in line)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("data.degradation=bicubic",), r"made with data\.degradation 'light_one_stage', this run has 'bicubic'"),
        (("data.crop=64",), r"made with data\.crop 32, this run has 64"),
        (("recipe.resshift.kappa=2.0",), r"kappa"),
    ],
)
def test_records_of_another_run_are_refused(place, capsys, more, message):
    if "kappa" in more[0]:
        weights(place / "other.safetensors", "recipe.denoiser.name=resshift_unet", *more)
        more = (*more, f"recipe.sinsr.teacher_checkpoint={place}/other.safetensors")
    more = (f"data.train={place}/records", *more)
    assert command("train", "--workdir", str(place / "never"), place=place, more=more) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (place / "never").exists()


def test_records_of_other_photographs_of_the_same_names_are_not_kept(place, capsys):
    photos(place / "elsewhere" / "photos", count=5, size=(48, 40))
    assert precompute(place, "records", more=(f"data.train={place}/elsewhere/photos",)) == 2
    assert "records that were made otherwise (contents): name another folder" in capsys.readouterr().err


def test_what_cannot_be_precomputed(place, capsys):
    for words, more, message in (
        ((), ("training.seed=1",), "made otherwise (seed): name another folder, or use --overwrite"),
        (("--batch", "3"), (), "--batch 3 must be a multiple of the 8 devices"),
        (("--samples", "0"), (), "--samples must be at least 1"),
        (("--shard", "2/2"), (), "--shard must be I/N with 0 <= I < N"),
        ((), (f"data.train={place}/records",), "holds records already"),
        (("--output", str(place / "photos")), (), "would replace the photographs"),
    ):
        assert precompute(place, "records", *words, more=more) == 2
        assert message in capsys.readouterr().err
    settings = [word for knob in overrides(f"data.train={place}/photos") for word in ("--set", knob)]
    words = ("--config", "default", "--output", str(place / "never"), "--samples", "8")
    assert main(["precompute", "teacher", *words, *settings]) == 2
    assert "the recipe 'resshift' has no teacher whose outputs could be precomputed" in capsys.readouterr().err
    assert parse_shard("3/4") == (3, 4)


def test_files_appear_whole_and_damage_is_named(tmp_path):
    def failing():
        yield {"hr": np.zeros(3, np.uint8)}
        raise RuntimeError("stopped")

    manifest = {"samples": 2, "per_file": 2, "kind": "teacher"}
    write_manifest(tmp_path, manifest)
    with pytest.raises(RuntimeError, match="stopped"):
        write_records(tmp_path / file_name(0), failing())
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    write_records(tmp_path / file_name(0), [{"hr": np.zeros(3, np.uint8)}])
    with pytest.raises(ValueError, match="holds 1 records, not the 2"):
        RecordFiles(tmp_path)
    write_manifest(tmp_path, {**manifest, "per_file": 1}, overwrite=True)
    assert not (tmp_path / file_name(0)).exists()
    (tmp_path / MANIFEST).write_text('{"samples": 1, "per_file": 0}')
    with pytest.raises(ValueError, match=r"records\.json is damaged"):
        RecordFiles(tmp_path)
    with pytest.raises(ConfigError, match="lacks data, outputs, weights: make the records again"):
        check_records({"kind": "teacher"}, {}, "records")
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        RecordFiles(tmp_path)
