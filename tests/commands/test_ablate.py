"""`framer-jax ablate` from the command line: two arms with two seeds of a tiny model, and all that may interrupt it."""

import json
import shutil
from pathlib import Path

import pytest

from framer_jax import cli
from framer_jax.commands.ablate import jobs as jobs_module
from framer_jax.images.decode import read_header
from framer_jax.porting.weights import load_weights
from tests.support.commands import fails
from tests.support.paths import CONFIGS
from tests.support.tiny import overrides, photos

BASE = CONFIGS / "quickstart_framer.py"

FILE = '''"""Two arms."""

from framer_jax.evaluation.ablation import Ablation, Overlay


def get_ablation():
    return Ablation(
        title="With and without",
        source="a test",
        base={base!r},
        arms={{"none": Overlay(("framer.objective=none",)), "full": Overlay(({full})), {more}}},
        reference="none",
        expected=(("full", "none"),),
        seeds=(0, 1),
        metrics=("psnr-y",),
    )
'''


def ablation_file(folder, full="", more=""):
    path = folder / "two_arms.py"
    path.write_text(FILE.format(base=str(BASE), full=full, more=more), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "photos")


def options(data, *changes):
    """What every first call needs; the tiny network and run of the tests."""
    tiny = [change for change in overrides(base=BASE) if not change.startswith("training.seed=")]
    tiny += [f"data.train={data}", f"data.validation={data}", "data.validation_count=0", *changes]
    return ["--photos", str(data), "--limit", "2", "--crop", "32", *(f"--set={change}" for change in tiny)]


def ablate(file, output, *words):
    return cli.main(["ablate", str(file), "--output", str(output), *map(str, words)])


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """(file, output) of an ablation that is complete: its first job was interrupted, its second one ran by --index."""
    folder = tmp_path_factory.mktemp("ablation")
    file, output = ablation_file(folder), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "_run_command", interrupted_after_training(jobs_module._run_command))
        assert ablate(file, output, *options(data)) == cli.INTERRUPTED
    assert (output / "runs" / "none-s0").is_dir() and not (output / "scores").exists()
    assert ablate(file, output, "--index", 1) == 0
    assert [path.name for path in (output / "scores").iterdir()] == ["none-s1.json"]
    assert not (output / "table.md").exists()  # a job of an array never collects
    assert ablate(file, output) == 0
    return file, output


def interrupted_after_training(run_command):
    def run(words):
        if words[0] == "upscale":
            raise KeyboardInterrupt
        return run_command(words)

    return run


def test_layout(done):
    _, output = done
    names = ["full-s0", "full-s1", "none-s0", "none-s1"]
    assert sorted(path.name for path in output.iterdir()) == [
        *("ablation.json", "images", "pairs", "runs", "scores", "table.json", "table.md")
    ]
    for folder in ("runs", "images"):
        assert sorted(path.name for path in (output / folder).iterdir()) == names
    assert sorted(path.stem for path in (output / "scores").iterdir()) == names
    sizes = {side: read_header(output / "pairs" / side / "photo_0.png")[:2] for side in ("lr", "hr")}
    assert sizes == {"lr": (8, 8), "hr": (32, 32)}
    assert sorted(path.name for path in (output / "pairs" / "lr").iterdir()) == ["photo_0.png", "photo_1.png"]
    manifest = json.loads((output / "pairs" / "manifest.jsonl").read_text().splitlines()[0])
    assert (manifest["seed"], manifest["geometry"], manifest["preset"]) == (7, "aligned", "light_one_stage")
    for name in names:
        arm, seed = name.split("-s")
        config = load_weights(output / "runs" / name / "weights.safetensors")[1]["config"]
        assert config["training"]["seed"] == int(seed)
        assert config["framer"]["objective"] == ("none" if arm == "none" else None)


def test_table(done):
    _, output = done
    content = json.loads((output / "table.json").read_text())
    (ablation,) = content["ablations"]
    assert content["missing"] == "" and ablation["reference"] == "none"
    assert {arm: list(of_arm["psnr-y"]) for arm, of_arm in ablation["means"].items()} == {
        "none": ["0", "1"],
        "full": ["0", "1"],
    }
    means = {arm: list(of_arm["psnr-y"].values()) for arm, of_arm in ablation["means"].items()}
    entry = ablation["differences"]["full"]["psnr-y"]
    assert entry["runs"] == pytest.approx([b - a for a, b in zip(means["none"], means["full"], strict=True)])
    assert entry["images"] == 2
    text = (output / "table.md").read_text(encoding="utf-8")
    assert "## With and without" in text and "`full` better than `none`" in text and "missing" not in text


def test_a_complete_ablation_returns_at_once(done, capsys, monkeypatch):
    file, output = done
    monkeypatch.setattr(jobs_module, "_run_command", lambda words: pytest.fail(f"ran {words}"))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert ablate(file, output) == 0
    assert capsys.readouterr().err.count(": complete\n") == 4
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert ablate(file, output, "--index", 3) == 0


def test_the_list_has_the_commands(done, capsys):
    file, output = done
    capsys.readouterr()
    assert ablate(file, output, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("# --index")] == [
        f"# --index {index}: {name}, complete"
        for index, name in enumerate(("none-s0", "none-s1", "full-s0", "full-s1"))
    ]
    train, upscale, evaluate = lines[1:4]
    assert train.startswith(f"framer-jax train --config {BASE} --workdir {output / 'runs' / 'none-s0'} --set ")
    assert train.endswith("--set framer.objective=none --set training.seed=0")
    folders = f"{output / 'pairs' / 'lr'} {output / 'images' / 'none-s0'}"
    assert upscale.startswith(f"framer-jax upscale {folders} --weights {output / 'runs' / 'none-s0'} --recipe {BASE} ")
    assert f"--reference {output / 'pairs' / 'hr'} --metrics psnr-y" in evaluate
    assert len(lines) == 4 * 4 + 1 and "--index 0 to 3, then --collect" in lines[-1]


def test_other_settings_are_refused(done, data, capsys, tmp_path):
    file, output = done
    more = photos(tmp_path / "photos", 4, size=(44, 52))
    for words, message in (
        (["--seeds", "0,2"], "the seeds 1 of earlier calls are missing: give all seeds, or another --output"),
        (["--metrics", "psnr-rgb"], "--metrics was"),
        (["--steps", "2"], "--steps was None in the first call, and is 2 now"),
        (["--base", "starter"], "--base was .*quickstart_framer.py in the first call, and is starter now"),
        (options(data, "training.steps=3"), "--set training.steps was 2 in the first call, and is 3 now"),
        (["--photos", more], "sha256 of the images was"),
        (["--crop", "24"], "crop of the images was 32 in the first call, and is 24 now"),
    ):
        fails(capsys, ablate(file, output, *words), r"ablation\.json", message)
    assert ablate(file, output, *options(data, "training.log_every=2")) == 0  # no weights depend on it
    capsys.readouterr()
    other = ablation_file(tmp_path, full="'framer.weight=0.5',")
    fails(capsys, ablate(other, output), r"the overlay of full was .* now")


def test_seeds_and_arms_may_be_added(done, tmp_path, monkeypatch, capsys):
    """What is complete stays complete; later calls remember the addition, and nothing may be left out any more."""
    file, output = done
    grown = shutil.copytree(output, tmp_path / "out")
    more = ablation_file(tmp_path, more="'l2': Overlay(('framer.objective=l2',))")
    started = []

    def interrupt(words):
        started.append(words[words.index("--workdir") + 1])
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs_module, "_run_command", interrupt)
    assert ablate(file, grown, "--seeds", "0,1,2") == cli.INTERRUPTED
    assert ablate(file, grown) == cli.INTERRUPTED
    assert ablate(more, grown) == cli.INTERRUPTED
    assert [Path(folder).name for folder in started] == ["none-s2"] * 3
    record = json.loads((grown / "ablation.json").read_text())
    assert (record["seeds"], list(record["arms"])) == ([0, 1, 2], ["none", "full", "l2"])
    capsys.readouterr()
    fails(capsys, ablate(more, grown, "--seeds", "0,1"), "the seeds 2 of earlier calls are missing")
    fails(capsys, ablate(file, grown), "the arms l2 of earlier calls are missing")


def test_what_is_asked_may_be_corrected_before_the_first_step(data, tmp_path, capsys):
    """And a training that stops early is no result: the next call resumes it."""
    file, output = ablation_file(tmp_path), tmp_path / "out"
    words = [word.replace(f"data.train={data}", "data.train=nowhere") for word in options(data)]
    assert ablate(file, output, *words, "--index", "0") == 1
    assert "none-s0: " in capsys.readouterr().err
    assert "data.train=nowhere" in json.loads((output / "ablation.json").read_text())["overrides"]
    assert ablate(file, output, *options(data, "training.stop_after=1"), "--seeds", "5", "--index", "0") == 1
    assert "none-s5: the training stopped at step 1 of 2 (training.stop_after)" in capsys.readouterr().err
    assert json.loads((output / "ablation.json").read_text())["seeds"] == [5]
    fails(capsys, ablate(file, output, "--seeds", "6", "--index", "0"), "the seeds 5 of earlier")
    assert ablate(file, output, *options(data), "--index", "0") == 0
    assert load_weights(output / "runs" / "none-s5" / "weights.safetensors")[1]["step"] == 2


def test_a_damaged_record_is_named(done, capsys, tmp_path):
    file, _ = done
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"arms": {}}'):
        (tmp_path / "out" / "ablation.json").write_text(text)
        fails(capsys, ablate(file, tmp_path / "out"), r"ablation\.json is damaged, or of another program: remove it")


@pytest.fixture
def copy(done, tmp_path):
    """The complete ablation, to be changed."""
    return done[0], Path(shutil.copytree(done[1], tmp_path / "out"))


def test_missing_jobs_are_named(copy, capsys):
    file, output = copy
    (output / "scores" / "full-s1.json").unlink()
    assert ablate(file, output, "--collect") == 1
    out, err = capsys.readouterr()
    assert err.strip() == "1 of 4 jobs are missing: full-s1 (--index 3)"
    assert "**1 of 4 jobs are missing: full-s1 (--index 3)**" in out
    (ablation,) = json.loads((output / "table.json").read_text())["ablations"]
    assert list(ablation["means"]["full"]["psnr-y"]) == ["0"]
    shutil.rmtree(output / "scores")
    (output / "table.md").unlink()
    assert ablate(file, output, "--collect") == 1
    assert "4 of 4 jobs are missing" in capsys.readouterr().err and not (output / "table.md").exists()


def test_images_of_other_weights_are_refused(copy, capsys):
    file, output = copy
    for name in ("none-s0", "none-s1"):
        (output / "scores" / f"{name}.json").unlink()
    shutil.rmtree(output / "images" / "none-s0")
    shutil.copytree(output / "images" / "none-s1", output / "images" / "none-s0")
    assert ablate(file, output, "--index", 0) == 1
    assert "holds images of other weights than" in capsys.readouterr().err
    assert ablate(file, output, "--index", 1) == 0  # trained and upscaled before


def test_an_interrupted_evaluation_is_not_complete_and_goes_on(copy, capsys):
    file, output = copy
    path = output / "scores" / "none-s0.json"
    whole = json.loads(path.read_text())
    unfinished = json.loads(path.read_text())
    unfinished["metadata"]["complete"] = False
    unfinished["images"][0]["psnr-y"] = None
    path.write_text(json.dumps(unfinished))
    assert ablate(file, output, "--list") == 0
    assert "# --index 0: none-s0, trained" in capsys.readouterr().out
    assert ablate(file, output, "--collect") == 1
    assert "1 of 4 jobs are missing: none-s0 (--index 0)" in capsys.readouterr().err
    assert ablate(file, output) == 0
    again = json.loads(path.read_text())
    assert again["metadata"]["complete"] is True
    assert [image["psnr-y"] for image in again["images"]] == [image["psnr-y"] for image in whole["images"]]


def test_a_table_needs_the_record_of_the_first_job(copy, capsys):
    file, output = copy
    (output / "ablation.json").unlink()
    table = (output / "table.md").read_text()
    fails(capsys, ablate(file, output, "--collect"), "has no ablation.json, which the first job writes")
    assert (output / "table.md").read_text() == table


def test_metrics_that_the_images_are_too_small_for_are_refused_first(data, tmp_path, capsys):
    file = ablation_file(tmp_path)
    status = ablate(file, tmp_path / "out", *options(data), "--metrics", "ms-ssim-y")
    fails(capsys, status, "--crop 32 is too small for ms-ssim-y, which needs 161x161 pixels")
    status = ablate(file, tmp_path / "out", *options(data), "--metrics", "seam")
    fails(capsys, status, "--metrics seam: score the images with `framer-jax evaluate`")
    assert not (tmp_path / "out").exists()


def test_scores_without_a_metric_are_named(copy, capsys):
    file, output = copy
    path = output / "scores" / "none-s0.json"
    content = json.loads(path.read_text())
    del content["metadata"]["metrics"]["psnr-y"]
    path.write_text(json.dumps(content))
    assert ablate(file, output, "--index", 0) == 1
    assert "none-s0.json lacks psnr-y: remove it, and the images are scored again" in capsys.readouterr().err


def test_a_job_that_fails_does_not_end_the_others(data, tmp_path, capsys):
    """The teacher `next` compares neighbors, whose shapes differ in a U-Net: an error when training begins."""
    file, output = ablation_file(tmp_path, more="'next': Overlay(('framer.teacher=next',))"), tmp_path / "out"
    words = [*options(data), "--seeds", "5", "--arms", "none,next"]
    assert ablate(file, output, *words) == 1
    out, err = capsys.readouterr()
    assert "failed: next-s5: framer.teacher 'next' compares neighbors" in err
    assert "1 of 2 jobs are missing: next-s5 (--index 1)" in err
    assert "| `none` | `framer.objective=none` | 1 |" in out
    assert [path.name for path in (output / "scores").iterdir()] == ["none-s5.json"]


def test_pairs_that_are_there_are_used_if_they_are_the_same(done, data, tmp_path, capsys):
    file, output = done
    other = tmp_path / "out"
    shutil.copytree(output / "pairs", other / "pairs")
    words = [*options(data), "--index", "9"]
    fails(capsys, ablate(file, other, *words), "--index 9: there are 4 jobs, from 0 to 3")
    assert not (other / "ablation.json").exists()
    words = options(data)
    words[words.index("--limit") + 1] = "3"
    fails(capsys, ablate(file, other, *words), r"lr holds images of other names than .*: remove .*pairs")
    words = [*options(data), "--degradation-seed", "8"]
    fails(capsys, ablate(file, other, *words), "was made with the seed 7, and 8 is asked for")
    assert not (other / "ablation.json").exists()


def test_images_that_are_given(done, tmp_path, data, capsys):
    """--lr and --reference in place of photographs: nothing is made."""
    file, output = done
    other = tmp_path / "out"
    shutil.copytree(output / "runs", other / "runs")  # trained before, by hand
    pairs = ["--lr", output / "pairs" / "lr", "--reference", output / "pairs" / "hr"]
    sets = [word for word in options(data) if word.startswith("--set=")]
    assert ablate(file, other, *pairs, *sets, "--index", "2") == 0
    assert not (other / "pairs").exists()
    given, made = (json.loads((folder / "scores" / "full-s0.json").read_text()) for folder in (other, output))
    assert given["summary"] == made["summary"]
    capsys.readouterr()
    fails(capsys, ablate(file, other, *pairs, "--crop", "8"), "--lr gives the images, so --crop has no effect")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no images to upscale: give --photos HR_FOLDER, or --lr FOLDER and --reference FOLDER"),
        (["--lr", "x"], "--lr and --reference belong together"),
        (["--photos", "nowhere"], "nowhere: no such folder"),
        (["--seeds", "a"], "--seeds a: give whole numbers, such as 0,1,2"),
        (["--seeds", "0,0"], "the seed 0 is given twice"),
        (["--arms", "none,ful"], "--arms: there is no arm 'ful': did you mean 'full'"),
        (["--arms", "full"], "compares with the arm 'none'"),
        (["--metrics", "psnr"], "there is no metric 'psnr'"),
        (["--steps", "0"], "--steps is 0: it must be at least 1"),
        (["--limit", "0"], "--limit is 0: it must be at least 1"),
        (["--degradation-seed", "-1"], "--degradation-seed is -1: it must not be negative"),
        (["--set", "training.seed=3"], "--set training.seed: the seeds are those of --seeds"),
        (["--set", "training.step=3"], "the arm 'none' on .*unknown knob"),
        (["--base", "starter"], "the arms 'none' and 'full' are the same training on starter"),
        (["--crop", "1000", "--photos", "{data}"], "is smaller than --crop 1000"),
        (["--photos", "{data}", "--metrics", "niqe"], "the metric niqe needs a pristine model"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(words, message, data, tmp_path, capsys):
    words = [word.format(data=data) for word in words]
    fails(capsys, ablate(ablation_file(tmp_path), tmp_path / "out", *words), message)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_ablation(): return 1", r"get_ablation\(\) must return an Ablation, not int"),
        ("x = 1", "has no attribute 'get_ablation'"),
    ],
)
def test_files_that_give_no_ablation(text, message, tmp_path, capsys):
    (tmp_path / "a.py").write_text(text)
    fails(capsys, ablate(tmp_path / "a.py", tmp_path / "out", "--list"), message)


def test_several_ablations_share_their_runs(tmp_path, capsys):
    assert ablate("framer:table2,framer:table5", tmp_path / "out", "--list") == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# --index")]
    assert len(listed) == 3 * (4 + 3) and sum("full-s" in line for line in listed) == 3
    fails(
        capsys,
        ablate("framer:table2,dtkd:table4", tmp_path / "out", "--list"),
        r"the ablations differ in --base \(framer_d_sd35 and dtkd_swinir_small\)",
    )
