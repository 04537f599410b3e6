"""Learned metrics of pyiqa: where weights are looked for, what is said where they are missing, and nothing downloaded.

The normal suite has a stub in the place of pyiqa; the last tests run the real one where it is installed.
"""

import csv
import importlib.util
import json
import socket

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.evaluation import learned
from framer_jax.evaluation.learned import LEARNED, LearnedNetwork, find_weights, learned_scores, load_learned
from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.porting.files import sha256_of
from tests.support.commands import fails
from tests.support.tiny import photo

REAL = pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="pyiqa is not installed")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, without the variables that move the caches out of it."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A package of the name pyiqa that must not be imported."""
    (tmp_path / "stub" / "pyiqa").mkdir(parents=True)
    (tmp_path / "stub" / "pyiqa" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "stub")


@pytest.fixture
def loaded(monkeypatch, stub):
    """A stub of loading: the score is the mean of the image, and calls are counted."""
    calls = []

    def load(name, path):
        def mean(image):
            assert image.dtype == np.float32 and image.ndim == 3
            calls.append(name)
            return float(image.mean())

        return mean

    monkeypatch.setattr(learned, "_load", load)
    monkeypatch.setattr(learned, "_settings", lambda: {"pyiqa": "0.0", "seed": 0})
    return calls


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sr").mkdir()
    for index in range(3):
        Image.fromarray(photo(48, 40, index)).save(tmp_path / "sr" / f"{index}.png")
    return tmp_path / "sr"


def put(path, content=b"weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_weights_are_found_where_pyiqa_keeps_them(home, tmp_path, monkeypatch):
    assert find_weights("musiq-koniq") is None
    file = LEARNED["musiq-koniq"].file
    hub = home / ".cache" / "huggingface" / "hub" / "models--chaofengc--IQA-PyTorch-Weights"
    cached = put(hub / "snapshots" / "abc" / file)
    assert find_weights("musiq-koniq") == cached
    downloaded = put(home / ".cache" / "torch" / "hub" / "pyiqa" / file)
    assert find_weights("musiq-koniq") == downloaded
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    assert find_weights("musiq-koniq") == cached
    moved = put(tmp_path / "elsewhere" / "hub" / "pyiqa" / file)
    assert find_weights("musiq-koniq") == moved
    older = put(home / ".cache" / "clip" / "RN50.pt")
    assert find_weights("clipiqa") == older
    newer = put(tmp_path / "elsewhere" / "hub" / "clip" / "RN50.pt")
    assert find_weights("clipiqa") == newer


def test_the_reason_names_the_file_and_the_folders(home, stub, monkeypatch):
    networks, reasons = load_learned([*LEARNED, "psnr-y"], {})
    assert not networks and list(reasons) == list(LEARNED)
    for name, reason in reasons.items():
        assert "\n" not in reason and LEARNED[name].file in reason and f"--pyiqa-weights {name}=FILE" in reason
        assert str(home / ".cache" / "torch" / "hub") in reason and "not installed" not in reason
    monkeypatch.setattr(learned, "is_installed", lambda: False)
    put(home / ".cache" / "torch" / "hub" / "clip" / "RN50.pt")
    reasons = load_learned(["clipiqa", "musiq-koniq"], {})[1]
    assert reasons["clipiqa"] == "clipiqa is left out: pyiqa is not installed (pip install 'framer_jax[eval]')"
    assert "not installed" in reasons["musiq-koniq"] and "musiq_koniq_ckpt" in reasons["musiq-koniq"]
    with pytest.raises(ValueError, match="clipiqa is left out: pyiqa is not installed"):
        score(np.zeros((1, 32, 32, 3), np.float32), None, ["clipiqa"])


def test_a_package_that_cannot_be_imported_is_a_reason(home, stub):
    put(home / ".cache" / "torch" / "hub" / "clip" / "RN50.pt")
    networks, reasons = load_learned(["clipiqa"], {})
    assert not networks and "clipiqa is left out: pyiqa cannot load" in reasons["clipiqa"]
    assert "\n" not in reasons["clipiqa"] and "RuntimeError: imported" in reasons["clipiqa"]


def test_scores_do_not_depend_on_the_batch(home, loaded):
    put(home / ".cache" / "torch" / "hub" / "pyiqa" / LEARNED["musiq-koniq"].file)
    networks, reasons = load_learned(["musiq-koniq"], {})
    assert not reasons
    images = np.random.default_rng(0).random((3, 40, 36, 3), np.float32)
    images[2] = images[1]
    made = score(images, None, ["musiq-koniq"], networks=networks, crop_border=2)["musiq-koniq"]
    np.testing.assert_allclose(made, images[:, 2:-2, 2:-2].mean(axis=(1, 2, 3)), rtol=1e-6)
    assert len(loaded) == 2, "what fills up a batch is not computed again"
    with pytest.raises(ValueError, match="musiq-koniq needs images of at least 32x32 pixels; got 34x30"):
        learned_scores(networks["musiq-koniq"], images, crop_border=3)


def test_values_beyond_the_range_are_clipped():
    network = LearnedNetwork("clipiqa", lambda image: float(image.max() - image.min()), (), {})
    images = np.random.default_rng(0).normal(0.5, 1, (1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(learned_scores(network, images), [1.0])


def test_the_command_scores_what_it_can(home, loaded, folder, tmp_path, capsys):
    weights = put(tmp_path / "musiq.pth")
    report, table = tmp_path / "scores.json", tmp_path / "scores.csv"
    command = ["evaluate", str(folder), "--metrics", "maniqa-pipal,musiq-koniq"]
    outputs = ["--json", str(report), "--csv", str(table)]
    assert cli.main([*command, "--pyiqa-weights", f"musiq-koniq={weights}", *outputs]) == 1
    printed = capsys.readouterr().out
    assert "musiq-koniq ↑" in printed and printed.count("maniqa-pipal – there is no MANIQA_PIPAL") == 1
    assert [list(row) for row in csv.DictReader(table.read_text().splitlines())] == [["image", "musiq-koniq"]] * 3
    metadata = json.loads(report.read_text())["metadata"]
    entry = metadata["metrics"]["musiq-koniq"]
    assert entry["weights"] == [{"file": "musiq.pth", "sha256": sha256_of(weights)}]
    assert entry["pyiqa"] == "0.0" and entry["seed"] == 0 and entry["higher_is_better"]
    assert list(metadata["metrics"]) == ["musiq-koniq"] and list(metadata["unavailable"]) == ["maniqa-pipal"]
    fails(capsys, cli.main(["evaluate", str(folder), "--metrics", "clipiqa"]), r"clipiqa is left out: there is no RN50")
    words = ["--overwrite", *outputs[:1], str(weights), "--pyiqa-weights", f"musiq-koniq={weights}"]
    fails(capsys, cli.main([*command, *words]), "the file of --pyiqa-weights")


def test_scores_of_other_weights_are_not_compared(home, loaded, folder, tmp_path, capsys):
    files = []
    for index in range(3):
        weights = put(tmp_path / f"{index}.pth", b"one" if index < 2 else b"other")
        files.append(str(tmp_path / f"{index}.json"))
        words = ["--pyiqa-weights", f"musiq-koniq={weights}", "--json", files[-1]]
        assert cli.main(["evaluate", str(folder), "--metrics", "musiq-koniq", *words]) == 0
    capsys.readouterr()
    assert cli.main(["compare", *files[:2]]) == 0
    assert "musiq-koniq" in capsys.readouterr().out
    fails(capsys, cli.main(["compare", *files[1:]]), "have other variants or weights of musiq-koniq")


def test_an_image_that_pyiqa_cannot_score_is_missing(home, loaded, folder, tmp_path, capsys, monkeypatch):
    def load(name, path):
        def score_or_fail(image):
            if image.shape == (48, 40, 3):
                raise RuntimeError("out of\nmemory")
            return 1.0

        return score_or_fail

    monkeypatch.setattr(learned, "_load", load)
    Image.fromarray(photo(40, 40, 9)).save(folder / "good.png")
    words = ["--metrics", "musiq-koniq", "--pyiqa-weights", f"musiq-koniq={put(tmp_path / 'a.pth')}"]
    assert cli.main(["evaluate", str(folder), *words]) == 1
    printed = capsys.readouterr().out
    assert "3 of 4 images lack scores" in printed and "1.0000" in printed
    assert "musiq-koniq: pyiqa cannot score the image (RuntimeError: out of memory)" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["musiq-koniq"], r"--pyiqa-weights 'musiq-koniq': give METRIC=FILE"),
        (["musiq=a.pth"], r"one of musiq-koniq, maniqa-koniq, maniqa-pipal, clipiqa"),
        (["clipiqa="], r"give METRIC=FILE"),
        (["clipiqa=none.pt"], r"clipiqa=none\.pt: the metric is not computed: leave it out"),
        (["musiq-koniq=none.pth"], r"musiq-koniq=none\.pth: there is no such file: correct the path"),
    ],
)
def test_bad_options_are_one_line(folder, capsys, words, message):
    arguments = ["evaluate", str(folder), "--metrics", "musiq-koniq", "--pyiqa-weights", *words]
    fails(capsys, cli.main(arguments), message)


def test_names_of_hosts_are_not_resolved():
    with learned._offline(), pytest.raises(OSError, match="downloads nothing"):
        socket.create_connection(("localhost", 9))
    assert socket.getaddrinfo("127.0.0.1", 9)


def test_learned_metrics_are_rows_of_the_table():
    for name in LEARNED:
        row = METRICS[name]
        assert not row.needs_reference and row.higher_is_better and "pyiqa" in row.description
        assert row.fits(32, 40) and not row.fits(31, 40)


@REAL
def test_the_real_package_without_weights(home, folder, capsys):
    arguments = ["evaluate", str(folder), "--metrics", ",".join(LEARNED)]
    fails(capsys, cli.main(arguments), *(LEARNED[name].file for name in LEARNED))


@REAL
@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_the_real_package_with_random_weights(home, tmp_path, name, monkeypatch):
    """The weights that are read are those that are computed with, and the scores repeat."""
    torch = pytest.importorskip("torch")
    pyiqa = pytest.importorskip("pyiqa")
    row = LEARNED[name]
    torch.manual_seed(1)
    if "maniqa" in name:  # one crop in the place of twenty
        configurations = pytest.importorskip("pyiqa.default_model_configs").DEFAULT_CONFIGS
        monkeypatch.setitem(configurations[row.pyiqa_name]["metric_opts"], "test_sample", 1)
    path = tmp_path / row.file
    if row.is_clip:
        from pyiqa.archs.clip_model import CLIP

        with learned._quiet():  # a program, as OpenAI publishes it
            clip = CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12).eval()
            inputs = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)
            torch.jit.save(torch.jit.trace(clip, inputs, check_trace=False), path)
    else:
        with learned._untrained_trunk() if "maniqa" in name else learned._quiet():
            model = pyiqa.create_metric(row.pyiqa_name, device=torch.device("cpu"), pretrained=False)
        torch.save(model.net.state_dict(), path)
    networks, reasons = load_learned([name], {name: path})
    assert not reasons
    images = np.stack([photo(240, 256, seed) for seed in range(2)]).astype(np.float32) / np.float32(255)
    first, second = (score(images, None, [name], networks=networks)[name] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    if not row.is_clip:
        with torch.no_grad():
            expected = [float(model(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))) for image in images]
        np.testing.assert_allclose(first, expected, rtol=1e-5)
