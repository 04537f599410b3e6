"""The command line as a process: closed standard streams, and signals."""

import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from framer_jax import cli
from tests.support.paths import ROOT
from tests.support.tiny import photo, photos

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as of POSIX")

MODULE = ("-m", "framer_jax")


LAUNCHER = """
import os, signal, sys
closed, ignored, *words = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs start with it ignored
if ignored:
    signal.signal(int(ignored), signal.SIG_IGN)
for descriptor in closed:
    os.close(int(descriptor))
os.execv(sys.executable, [sys.executable, *words])
"""
"""What prepares a process; `preexec_fn` would fork this one, of which JAX warns."""


def start(*words, folder, closed=(), ignored=None, **more):
    """A process of Python in a folder, without some descriptors, and with the usual action of SIGINT."""
    prepared = ("".join(map(str, closed)), "" if ignored is None else str(int(ignored)))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *prepared, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """(status, standard output, standard error)."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, out, err


# --- closed streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_an_image_is_upscaled_without_standard_streams(tmp_path, closed):
    """What is printed by C code must not end in the image either."""
    Image.fromarray(photo(16, 16)).save(tmp_path / "x.png")
    status, out, err = ended(start(*MODULE, "upscale", "x.png", "y.png", folder=tmp_path, closed=closed))
    assert status == 0
    assert "1 written" in out or 1 in closed
    assert err == ""
    with Image.open(tmp_path / "y.png") as image:
        image.load()
        assert image.size == (64, 64)
    assert json.loads((tmp_path / "y.png.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "y.png", "y.png.json"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("models",), 0),
        pytest.param(("doctor", "--json"), 0, marks=pytest.mark.slow),  # imports all packages
        (("--help",), 0),
        (("info", "nowhere"), 2),
        (("paint",), 2),
    ],
)
@pytest.mark.parametrize("closed", [(1,), (2,)])
def test_commands_without_a_standard_stream(tmp_path, words, expected, closed):
    status, out, err = ended(start(*MODULE, *words, folder=tmp_path, closed=closed))
    assert status == expected
    assert "Traceback" not in err
    assert bool(out) == (expected == 0 and closed == (2,))
    assert bool(err) == (expected == 2 and closed == (1,))


def test_closed_streams_are_closed_again(monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        assert [cli.main(["models"]), cli.main(["info", "nowhere"])] == [0, 2]
        assert (sys.stdin, sys.stdout, sys.stderr) == (None, None, None)


# --- signals ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import atexit, gc, os, signal, sys, time
from framer_jax import cli
from framer_jax.porting.files import atomic_write

number = getattr(signal, sys.argv[2])
atexit.register(os.abort)  # stands for threads that crash while Python is shut down

def wait():
    time.sleep(60)
    os._exit(3)  # nothing has ended it

def in_the_middle(words):
    with atomic_write("a.png") as path:
        path.write_bytes(b"half an image")
        os.kill(os.getpid(), number)
        wait()

def in_a_callback(words):
    def callback(phase, info):
        gc.callbacks.remove(callback)
        signal.raise_signal(number)
        [None for _ in range(10)]  # here it is raised, and ignored
    gc.callbacks.append(callback)
    with atomic_write("a.png"):
        gc.collect()
        wait()

def twice(words):
    try:
        in_the_middle(words)
    finally:
        os.kill(os.getpid(), number)
        wait()

def while_reporting(words):
    cli._interrupted = lambda name: signal.raise_signal(number)
    raise KeyboardInterrupt

cli._run = globals()[sys.argv[1]]
sys.argv[1:] = ["upscale", "in", "out"]
cli.run_process()
"""

STATUS = {"SIGINT": cli.INTERRUPTED, "SIGTERM": cli.TERMINATED}


@pytest.mark.parametrize("name", STATUS)
@pytest.mark.parametrize("when", ["in_the_middle", "in_a_callback", "twice", "while_reporting"])
def test_a_signal_ends_the_process_and_leaves_no_temporary_file(tmp_path, when, name):
    status, out, err = ended(start("-c", PROGRAM, when, name, folder=tmp_path))
    assert status == STATUS[name], err
    lines = ["framer-jax upscale: interrupted; " + cli.GOING_ON["upscale"]] if when != "while_reporting" else []
    assert (out, err.splitlines()) == ("", lines)
    assert not list(tmp_path.iterdir())


def test_an_ignored_sigterm_stays_ignored(tmp_path):
    program = PROGRAM.replace("wait()\n", "return 0\n").replace("atexit.register(os.abort)", "")
    process = start("-c", program, "in_the_middle", "SIGTERM", folder=tmp_path, ignored=signal.SIGTERM)
    assert ended(process) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_while_the_model_compiles_or_computes(tmp_path, name):
    photos(tmp_path / "in", 200, (20, 20))
    process = start(*MODULE, "upscale", "in", "out", folder=tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    first = process.stderr.readline()
    assert "tile" in first  # what will be computed; then its program is compiled
    process.send_signal(getattr(signal, name))
    status, out, err = ended(process)
    assert (status, out) == (STATUS[name], ""), err
    assert err.splitlines()[-1].startswith("framer-jax upscale: interrupted")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob(".*"))


def test_an_interrupt_that_became_another_error_is_one(monkeypatch, capsys):
    def interrupted(words):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("<function f> returned a result with an exception set") from error

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["upscale"]) == cli.INTERRUPTED
    assert capsys.readouterr().err.startswith("framer-jax upscale: interrupted")


def test_every_entry_is_the_same_function():
    assert '"framer-jax=framer_jax.cli:run_process"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    for name in ("cli.py", "__main__.py"):
        source = (ROOT / "framer_jax" / name).read_text(encoding="utf-8")
        assert source.endswith('if __name__ == "__main__":\n    run_process()\n')
