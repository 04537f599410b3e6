"""`--engine`: what it refuses, and how shards are computed and joined, by an engine of this process."""

import pickle
import sys
from argparse import Namespace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from framer_jax.commands import engine_option, shard_tasks
from framer_jax.commands.engine_option import FAILED, Plan, ShardedCommand, run_sharded
from framer_jax.commands.shard_option import parse_shard
from framer_jax.commands.shard_tasks import Outcome, Task, run_task
from tests.support.engines import engine_of, in_reverse, repeated, use_engine
from tests.support.hostile import contents, refused, run
from tests.support.tiny import photos

RAY = ("--engine", "ray")

LIMITS = ("--tile", "32", "--overlap", "8")


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(engine_option, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("upscale", "in", "out", "--ray-shards", "2"), "--ray-shards is for --engine ray: add this"),
        (("upscale", "in", "out", *RAY, "--shard", "0/2"), "makes shards itself: omit --shard 0/2"),
        (("upscale", "in", "out", *RAY, "--overwrite"), "remove the old results or name another output"),
        (("upscale", "in", *RAY, "--in-place"), "have no fixed shards: name an output"),
        (("upscale", "in", "out", *RAY, "--ray-shards", "0"), "--ray-shards must be at least 1"),
        (("upscale", "in", "out", *RAY, "--ray-cpus", "-1"), "--ray-cpus must be at least 1"),
        (("upscale", "in", "out", *RAY, "--weights", "gs://a/b"), "--weights"),
        (("degrade", "in", "out", "--preset", "bicubic", *RAY, "--preview", "2"), "--preview shows photographs of all"),
        (("degrade", "in", "out", "--preset", "bicubic", "--shard", "0/2", "--overwrite"), "omit it, or --shard"),
        (("evaluate", "in", *RAY), "write their scores next to the file of --json"),
        (("evaluate", "in", "--shard", "0/2"), "next to the file of --json: name one"),
        (("evaluate", "in", "--shard", "0/2", "--json", "a.json", "--csv", "a.csv"), "--csv has the scores of all"),
        (("precompute", "embeddings", "--null", "--output", "a.safetensors", *RAY), "one text has no shards"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(
    words, message, installed, tmp_path, capsys, monkeypatch
):
    photos(tmp_path / "in", 2, (16, 20))
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert message in refused(run(capsys, *words))
    assert contents(tmp_path) == before


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(engine_option, "find_spec", lambda name: None if name == "pyarrow" else name)
    photos(tmp_path / "in", 2, (16, 20))
    line = refused(run(capsys, "upscale", tmp_path / "in", tmp_path / "out", *RAY))
    assert "needs the package pyarrow: pip install 'framer_jax[ray]'" in line


@pytest.fixture
def use(monkeypatch):
    """Takes an engine in place of Ray's."""
    return partial(use_engine, monkeypatch)


def number_of(arguments):
    return parse_shard(arguments.shard)[0]


def command(compute, parts=3):
    return ShardedCommand(
        lambda arguments: Plan(parts, "facts"),
        compute,
        lambda arguments, facts, results: (facts, *results),
        lambda arguments, result: print(result) or 0,
    )


def arguments(**changes):
    names = {"command": "toy", "engine": "ray", "shard": "0/1", "quiet": False}
    return Namespace(**{**names, "ray_address": None, "ray_shards": None, "ray_cpus": None, **changes})


def test_results_are_joined_in_the_order_of_the_shards(use, capsys):
    use(in_reverse)
    assert run_sharded(arguments(), command(lambda each: each.shard), {}) == 0
    printed = capsys.readouterr()
    assert printed.out == "('facts', '0/2', '1/2')\n"
    assert "Two slots; 3 images or files in 2 shards" in printed.err
    run_sharded(arguments(ray_shards=8), command(lambda each: each.shard), {})
    assert capsys.readouterr().out == "('facts', '0/3', '1/3', '2/3')\n"  # no more than there are images
    use(repeated)
    run_sharded(arguments(), command(lambda each: each.quiet, 1), {})
    printed = capsys.readouterr()
    assert printed.out == "('facts', True)\n"
    assert "begun again, since their worker died: shards 0" in printed.err


def test_an_error_in_one_shard_does_not_lose_the_others(use, capsys):
    use(in_reverse)

    def compute(each):
        if number_of(each) == 1:
            raise OSError("the disk\nis full")
        return each.shard

    assert run_sharded(arguments(ray_shards=3), command(compute), {}) == FAILED
    printed = capsys.readouterr()
    assert printed.out == "('facts', '0/3', '2/3')\n"
    assert "framer-jax toy: shard 1 of 3: the disk is full" in printed.err
    use(lambda tasks: (pair for pair in in_reverse(tasks) if len(tasks) == 1 or pair[0]))
    assert run_sharded(arguments(), command(number_of), {}) == FAILED
    printed = capsys.readouterr()
    assert printed.out == "('facts', 1)\n"
    assert "shard 0 of 2: it has no result: its worker was lost" in printed.err


def test_one_error_of_all_shards_is_one_line_and_a_bug_has_its_traceback(use, capsys):
    use(in_reverse)

    def refuse(each):
        raise ValueError("made otherwise")

    assert run_sharded(arguments(quiet=True), command(refuse), {}) == FAILED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "framer-jax toy: shards 0, 1 of 2: made otherwise\n"
    refusing = command(number_of)._replace(check=refuse)
    with pytest.raises(ValueError, match=r"^made otherwise$"):
        run_sharded(arguments(), refusing, {})
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError|KeyError"):
        run_sharded(arguments(), refusing._replace(check=lambda each: {}["a"]), {})


def test_a_worker_without_the_folder_says_so(tmp_path):
    outcome = run_task(Task(number_of, arguments(), str(tmp_path / "none")))
    assert "start the command in a folder that all machines of the cluster share" in outcome.error
    assert pickle.loads(run_task(Task(number_of, arguments(), str(tmp_path))).result) == 0


def test_upscale_in_shards_that_are_repeated(use, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", 3, (12, 16))
    (tmp_path / "in" / "bad.png").write_bytes(b"not an image")
    words = ("upscale", "in")
    use(repeated)
    assert "bad.png" in refused(run(capsys, *words, "out", *LIMITS, *RAY))
    assert not list(tmp_path.glob("out/*"))
    outcome = run(capsys, *words, "out", *LIMITS, *RAY, "--continue-on-error")
    assert outcome.status == 1
    assert outcome.out.startswith("3 written, 0 skipped, 1 failed")
    assert run(capsys, *words, "local", *LIMITS, "--continue-on-error").status == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert "exist: choose another output" in refused(run(capsys, *words, "out", *LIMITS, *RAY, "--continue-on-error"))
    (tmp_path / "out" / "photo_1.png").unlink()
    outcome = run(capsys, *words, "out", *LIMITS, *RAY, "--continue-on-error", "--skip-existing")
    assert outcome.out.startswith("1 written, 2 skipped, 1 failed")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_degrade_in_shards_that_are_repeated(use, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", 3, (16, 20))
    intact = (tmp_path / "in" / "photo_0.png").read_bytes()
    (tmp_path / "in" / "photo_9.png").write_bytes(intact[: len(intact) // 2])  # its header is intact
    (tmp_path / "in" / "photo_8.png").write_bytes(b"no image")
    words = ("--preset", "bicubic", "--pairs")
    use(repeated, slots=5)  # one shard has the damaged photograph alone
    outcome = run(capsys, "degrade", "in", "out", *words, *RAY)
    expected = run(capsys, "degrade", "in", "local", *words)
    assert (outcome.status, outcome.out) == (1, expected.out.replace("local", "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    (tmp_path / "out" / "lr" / "photo_1.png").unlink()
    assert (
        "1 degraded by bicubic (aligned geometry), 2 were there"
        in run(capsys, "degrade", "in", "out", *words, *RAY).out
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_evaluate_in_shards(use, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "sr", 3, (16, 20))
    photos(tmp_path / "gt", 2, (16, 20))
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(tmp_path / "gt" / "photo_1.png")
    words = ("evaluate", "sr", "--reference", "gt", "--metrics", "psnr-y,ssim-y")
    use(in_reverse, slots=3)
    outcome = run(capsys, *words, "--json", "ray.json", "--csv", "ray.csv", *RAY)
    expected = run(capsys, *words, "--json", "local.json", "--csv", "local.csv")
    assert (outcome.status, outcome.out) == (1, expected.out)
    assert (tmp_path / "ray.csv").read_text() == (tmp_path / "local.csv").read_text()
    assert not list(tmp_path.glob("ray-*"))
    # as a job array, without an engine
    for shard in ("0/2", "1/2"):
        assert "images scored" in run(capsys, *words, "--json", "jobs.json", "--shard", shard).out
    assert "--resume joins them" in refused(run(capsys, *words, "--json", "jobs.json"))
    assert run(capsys, *words, "--json", "jobs.json", "--csv", "jobs.csv", "--resume").out == expected.out
    assert (tmp_path / "jobs.csv").read_text() == (tmp_path / "local.csv").read_text()


def test_a_lost_check_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="was lost"):
        shard_tasks.run_shards(arguments(), command(number_of), engine_of(lambda tasks: iter(())))
    assert Outcome().error == ""


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch, tmp_path, capsys):
    def init(**options):
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(engine_option, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, is_initialized=lambda: False))
    photos(tmp_path / "in", 1, (16, 20))
    words = ("upscale", tmp_path / "in", tmp_path / "out", *RAY, "--ray-address", "localhost:1")
    assert "no connection to a cluster (localhost:1): The current node" in refused(run(capsys, *words))
    assert not (tmp_path / "out").exists()
