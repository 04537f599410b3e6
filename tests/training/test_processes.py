"""Training as a process: signals, and several hosts."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.support import training_toys as toys
from tests.support.paths import ROOT
from tests.training.test_loop import losses, run

SIGNALLED = """
import os, signal, sys, threading
import tests.conftest
from pathlib import Path
from tests.training import test_loop as here
from tests.support import training_toys as toys
from PIL import Image

settings = toys.settings(steps=int(sys.argv[2]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
numbers = [signal.SIGTERM] if sys.argv[3] == "once" else [signal.SIGTERM, signal.SIGINT]

class Signalling:
    def __init__(self, batches):
        self.batches, self.count = batches, 0
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        self.count += 1
        if self.count == 3:
            for number in numbers:
                os.kill(os.getpid(), number)
        return next(self.batches)

result = here.run(sys.argv[1], settings, batches=Signalling(toys.batches()))
print(result.message)
"""


def signalled(workdir, steps, how):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SIGNALLED, str(workdir), str(steps), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_sigterm_saves_and_the_rest_is_exact(tmp_path):
    done = signalled(tmp_path / "parts", 6, "once")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stopped at step 3 of 6, saved in" in done.stdout
    assert "finishing this step, then saving" in done.stderr
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["3"]
    whole = run(tmp_path / "whole", toys.settings())
    rest = run(tmp_path / "parts", toys.settings())
    assert toys.same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_second_signal_stops_at_once(tmp_path):
    done = signalled(tmp_path, 1000, "twice")
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert not list((tmp_path / "checkpoints").iterdir())


def test_signal_handlers_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(tmp_path, toys.settings(steps=1))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


HOSTS = """
import sys
import jax

index, count, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
import numpy as np
from tests.training import test_loop as here
from tests.support import training_toys as toys

class Part:
    \"\"\"This host's half of the same global batches.\"\"\"

    def __init__(self, batches):
        self.batches, self.get_state, self.set_state = batches, batches.get_state, batches.set_state

    def __next__(self):
        return {name: np.split(value, count)[index] for name, value in next(self.batches).items()}

class Export:
    \"\"\"Only the first host writes.\"\"\"

    def digest(self, params, step):
        return str(step)

    def write(self, params, step, kinds):
        np.save(folder + "/kernel.npy", params["denoiser"]["out"]["kernel"])

    def outdated(self, kind, step, digest):
        return ""

for stop in (3, None):
    settings = toys.settings(mesh={"data": 1, "fsdp": 2}, stop_after=stop)
    here.run(folder, settings, batches=Part(toys.batches()), export=Export())
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_hosts(tmp_path):
    whole = run(tmp_path / "one", toys.settings())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "two").mkdir()
    commands = [[sys.executable, "-c", HOSTS, str(i), "2", port, str(tmp_path / "two")] for i in range(2)]
    hosts = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], errors
    for one, other in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    kernel = np.asarray(whole.state.params["denoiser"]["out"]["kernel"])
    np.testing.assert_allclose(np.load(tmp_path / "two" / "kernel.npy"), kernel, rtol=1e-4)
