"""`framer-jax app`: what its page computes, without Gradio; and what it refuses before it serves anything."""

import signal
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.commands import app
from framer_jax.commands.app import offered_models
from framer_jax.commands.app.work import comparison, upscale_uploads
from framer_jax.inference.model import load_model
from tests.support.commands import fails
from tests.support.paths import CONFIGS
from tests.support.tiny import photo, weights

SMALL = CONFIGS / "swinir_small.py"


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("weights") / "mine.safetensors", base=SMALL)


@pytest.fixture(scope="module")
def results(file, tmp_path_factory):
    """Of two images of the same name, one that is no image, and a transparent one."""
    uploads = tmp_path_factory.mktemp("uploads")
    paths = []
    for folder, name in (("a", "photo.png"), ("b", "photo.png")):
        (uploads / folder).mkdir()
        Image.fromarray(photo(20, 24)).save(uploads / folder / name)
        paths.append(uploads / folder / name)
    (uploads / "no <b>image.png").write_bytes(b"GIF89a")
    rgba = np.dstack([photo(20, 24, 1), np.full((20, 24), 128, np.uint8)])
    Image.fromarray(rgba).save(uploads / "glass.png")
    paths += [uploads / "no <b>image.png", uploads / "glass.png"]
    calls = []
    folder = tmp_path_factory.mktemp("results")
    results = upscale_uploads(paths, load_model(file), folder, 0.5, 2.0, lambda *numbers: calls.append(numbers))
    return results, calls, folder


def test_every_image_has_a_result_or_a_line(results):
    outcome, calls, folder = results
    assert [path.name for path in outcome.files] == ["photo_x2.png", "photo_x2_2.png", "glass_x2.png"]
    assert all(folder in path.parents for path in outcome.files)
    assert [size(path) for path in outcome.files] == [(48, 40)] * 3
    (line,) = outcome.failures
    assert line.startswith("no <b>image.png: ") and str(Path("uploads")) + "/" not in line
    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_comparison_has_two_images_of_one_size(results, tmp_path):
    outcome, _, _ = results
    assert size(outcome.before) == size(outcome.after) == (48, 40)
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((30, 3000, 3), np.uint8)).save(large)
    (tmp_path / "out").mkdir()
    before, after = comparison(outcome.files[0], large, tmp_path / "out")
    assert size(before) == size(after) == (2400, 24)


def test_models_that_are_offered(file, monkeypatch):
    models = offered_models(None, str(file))
    assert models.names[0] == models.chosen == "mine.safetensors"
    assert "starter" in models.names
    assert models.model("mine.safetensors") is models.model("mine.safetensors")
    assert models.model("starter") is models.model("starter")
    with pytest.raises(ValueError, match=r"there is no model .\.\./secret. here"):
        models.model("../secret")
    assert offered_models(None, None).chosen == "standard"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000: it must be a number from 0 to 65535"),
        (["--largest-upload", "0"], "--largest-upload is 0.0: it must be above 0"),
        (["--model", "startr"], "did you mean 'starter'"),
        (["--weights", "none.safetensors"], "none.safetensors"),
    ],
)
def test_bad_arguments_are_one_line(words, message, capsys):
    fails(capsys, cli.main(["app", *words]), message)


def test_a_port_that_is_taken(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        fails(capsys, cli.main(["app", "--port", str(port)]), f"--port {port} cannot be used .*: choose another one")


def test_gradio_is_an_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    fails(capsys, cli.main(["app"]), r"needs Gradio .*: pip install 'framer_jax\[app\]'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_page_and_removes_the_photographs(number, monkeypatch, capsys):
    """And a second one during the removal does not stop it."""
    folders = []
    remove = tempfile.TemporaryDirectory.cleanup

    def interrupted(folder):
        signal.raise_signal(number)
        remove(folder)

    def serve(models, folder, *options):
        (folder / "photo.png").write_bytes(b"private")
        folders.append(folder)
        return "http://127.0.0.1/"

    monkeypatch.setattr(app, "prepare_gradio", lambda folder: None)
    monkeypatch.setattr(app.page, "serve", serve)
    monkeypatch.setattr(app.page, "wait", lambda: signal.raise_signal(number))
    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", interrupted)
    before = signal.getsignal(number)
    assert cli.main(["app", "--port", "0"]) == 0
    assert "ended" in capsys.readouterr().out
    assert not folders[0].exists()
    assert signal.getsignal(number) == before
