"""An evaluation that was interrupted, or whose images changed, goes on with the scores of its JSON file."""

import json

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.comparison import read_scores
from framer_jax.evaluation.table import evaluate
from tests.support.image_folders import result_folders, save

IDS = ["psnr-y", "ssim-y"]


@pytest.fixture
def folders(tmp_path):
    return result_folders(tmp_path)


def interrupted(monkeypatch, after):
    """Scoring that is interrupted after a number of batches; the arguments of those before."""
    from framer_jax.evaluation import scoring

    calls = []
    original = scoring._score_files

    def score_files(*arguments):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(scoring, "_score_files", score_files)
    return calls


def test_an_interrupted_evaluation_goes_on(folders, tmp_path, monkeypatch):
    sr, gt = folders
    clean = evaluate(sr, gt, IDS)
    path = tmp_path / "scores.json"
    with monkeypatch.context() as patched:
        interrupted(patched, after=1)
        with pytest.raises(KeyboardInterrupt):
            evaluate(sr, gt, IDS, json_path=path)
    unfinished = json.loads(path.read_text())
    assert unfinished["metadata"]["complete"] is False
    assert [entry["psnr-y"] is None for entry in unfinished["images"]] == [False, False, True]
    with pytest.raises(ValueError, match=r"interrupted: finish it with the same command and --resume"):
        read_scores(path)
    with pytest.raises(FileExistsError, match=r"--resume goes on"):
        evaluate(sr, gt, IDS, json_path=path)
    with monkeypatch.context() as patched:
        scored = interrupted(patched, after=9)
        result = evaluate(sr, gt, IDS, json_path=path, resume=True)
    assert [[pair.name for pair in arguments[0]] for arguments in scored] == [["c"]]
    for name in IDS:
        np.testing.assert_array_equal(result.values[name], clean.values[name])
    assert read_scores(path).metadata["complete"] is True


def test_resuming_scores_what_changed_and_refuses_other_settings(folders, tmp_path, monkeypatch):
    sr, gt = folders
    path = tmp_path / "scores.json"
    evaluate(sr, gt, IDS, json_path=path)
    save(sr / "b.png", 77)
    scored = interrupted(monkeypatch, after=9)
    result = evaluate(sr, gt, IDS, json_path=path, resume=True)
    assert [[pair.name for pair in arguments[0]] for arguments in scored] == [["b"]]
    assert result.values["psnr-y"][1] == evaluate(sr, gt, IDS).values["psnr-y"][1]
    with pytest.raises(ValueError, match=r"were scored with crop_border 0 and 2: evaluate both alike"):
        evaluate(sr, gt, IDS, json_path=path, resume=True, crop_border=2)
    with pytest.raises(ValueError, match=r"--resume goes on with the file of --json: name one"):
        evaluate(sr, gt, IDS, resume=True)
    more = evaluate(sr, gt, ["psnr-rgb", *IDS], json_path=path, resume=True)
    assert not np.isnan(more.values["psnr-rgb"]).any()


def test_an_image_that_never_has_a_score_does_not_end_a_resumed_evaluation(folders, tmp_path):
    sr, gt = folders
    (sr / "b.png").write_text("not an image")
    path = tmp_path / "scores.json"
    first = evaluate(sr, gt, IDS, json_path=path)
    second = evaluate(sr, gt, IDS, json_path=path, resume=True)
    np.testing.assert_array_equal(second.values["psnr-y"], first.values["psnr-y"])
    assert [failure.image for failure in second.failures] == ["b"]


def test_a_long_evaluation_is_saved_now_and_then(folders, tmp_path, monkeypatch):
    from framer_jax.evaluation import table

    saved = []
    monkeypatch.setattr(table, "SAVED_EVERY", 0.0)
    monkeypatch.setattr(table, "write_json", lambda evaluation, path: saved.append(evaluation))
    evaluate(*folders, IDS, json_path=tmp_path / "scores.json")
    assert [evaluation.metadata["complete"] for evaluation in saved] == [False, False, True]
    assert [int(np.isnan(evaluation.values["psnr-y"]).sum()) for evaluation in saved[1:]] == [0, 0]


def test_no_score_or_note_of_the_file_is_lost(folders, tmp_path):
    sr, gt = folders
    path = tmp_path / "scores.json"
    pixels = np.asarray(Image.open(sr / "b.png"))
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(sr / "b.png")
    evaluate(sr, gt, IDS, json_path=path)
    before = path.read_text()
    with pytest.raises(ValueError, match=r"also has the scores of ssim-y: add it to --metrics, or name another --json"):
        evaluate(sr, gt, ["psnr-y"], json_path=path, resume=True)
    assert path.read_text() == before
    again = evaluate(sr, gt, IDS, json_path=path, resume=True)
    assert [(note.image, note.text) for note in again.notes] == [("b", "its transparency is ignored")]


def test_outputs_that_cannot_be_written_are_refused_before_scoring(folders, tmp_path, monkeypatch):
    from framer_jax.evaluation import table

    monkeypatch.setattr(table, "score_pairs", lambda *arguments, **options: pytest.fail("scored"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--json .*file/s\.json: .*file is a file: name another folder"):
        evaluate(*folders, IDS, json_path=tmp_path / "file" / "s.json")
    with pytest.raises(ValueError, match=r"--csv: .* is a folder: name another file"):
        evaluate(*folders, IDS, csv_path=tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="--seed is -1: it must be at least 0"):
        evaluate(*folders, IDS, seed=-1)
