"""Training on true pairs by the command line: exact resumption, what the log and the card say, and what is refused."""

import pytest

from framer_jax import cli
from framer_jax.commands.train import train_from_config
from framer_jax.config import ConfigError
from framer_jax.inference.model import LAST
from framer_jax.porting.weights import load_weights
from tests.support import training_toys as toys
from tests.support.logs import read_json_lines
from tests.support.pairs import pairs
from tests.support.paths import CONFIGS
from tests.support.tiny import config, overrides, photos


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("pairs"))


def changes(folders, *more):
    lr, hr = map(str, folders)
    return (f"data.pairs={(lr, hr)!r}", f"data.validation_pairs={(lr, hr)!r}", *more)


def test_pairs_train_and_resume_exactly(folders, tmp_path, capsys):
    whole = train_from_config(config(*changes(folders)), tmp_path / "whole")
    assert whole.step == 2
    log = capsys.readouterr().err
    fast = "data.validation_count=0"
    part = train_from_config(config(*changes(folders, fast, "training.stop_after=1")), tmp_path / "parts")
    assert part.stopped
    moved = tmp_path / "moved"
    moved.mkdir()
    links = [moved / folder.name for folder in folders]
    for link, folder in zip(links, folders, strict=True):
        link.symlink_to(folder, target_is_directory=True)
    train_from_config(config(*changes(links, fast)), tmp_path / "parts")
    assert toys.same(*(load_weights(tmp_path / run / LAST)[0] for run in ("whole", "parts")))
    steps = [
        [{name: line[name] for name in ("step", "loss", "param_norm")} for line in lines if "loss" in line]
        for lines in (read_json_lines(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts"))
    ]
    assert steps[0] == steps[1]
    assert "pairs: 4 pairs; LR images are used as they are, without data.degradation light_one_stage\n" in log
    assert "alignment: 4 of 4 pairs compared by phase correlation: the LR images lie +0.00 down and +0.00 right" in log
    card = (tmp_path / "whole" / "card.md").read_text()
    assert "| data | pairs of LR images lr and HR images hr, crops of 32 pixels |" in card
    metadata = load_weights(tmp_path / "whole" / LAST)[1]
    assert metadata["config"]["data"]["pairs"] == ["lr", "hr"]
    with pytest.raises(ValueError, match="was trained on"):
        train_from_config(config(f"data.train={folders[1]}", f"data.validation={folders[1]}"), tmp_path / "whole")


def test_what_excludes_pairs_is_refused_before_anything_is_written(folders, tmp_path, capsys):
    photos(tmp_path / "photos", 1)
    run = tmp_path / "run"
    words = ["train", "--config", str(CONFIGS / "default.py"), "--workdir", str(run)]
    for change, message in (
        (f"data.train={tmp_path / 'photos'}", "which are two data sets: leave train at its default"),
        ("data.pairs=('lr',)", "data.pairs"),
        (f"data.pairs={(str(folders[1]), str(folders[0]))!r}", "LR images first"),
    ):
        sets = [f"--set={each}" for each in overrides(*changes(folders), change)]
        assert cli.main([*words, *sets]) == 2
        error = capsys.readouterr().err
        assert message in error.splitlines()[-1]
        assert not run.exists()


def test_records_are_made_of_photographs_only(folders, tmp_path):
    from framer_jax.commands.precompute.work import open_crops

    with pytest.raises(ConfigError, match=r"data\.pairs: precomputed records are of degraded photographs"):
        open_crops(config(*changes(folders)), tmp_path / "records")
