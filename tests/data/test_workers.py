"""Programs that worker processes cannot import, and workers that end."""

import signal
import sys
from types import ModuleType

import pytest

from framer_jax.data import workers
from framer_jax.data.contents import SAMPLE, file_digests

GUARDED = "if __name__ == '__main__':\n    check()\n"


def called(monkeypatch, tmp_path, text, count=2, name="script.py"):
    """Run a script that calls `check_main_module`, as Python runs the main module."""
    file = tmp_path / name
    file.write_text(text)
    main = ModuleType("__main__")
    main.__file__ = str(file)
    main.check = lambda: workers.check_main_module(count)
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile(text, str(file), "exec"), main.__dict__)


@pytest.mark.parametrize(
    "text",
    [
        GUARDED,
        "def main():\n    check()\n\n" + GUARDED.replace("check", "main"),
        "if __name__ != '__main__':\n    raise SystemExit\ncheck()\n",
    ],
)
def test_a_guarded_script_is_taken(monkeypatch, tmp_path, text):
    called(monkeypatch, tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [("check()\n", 1), ("def main():\n    check()\n\nmain()\n", 4), ("for _ in (0,):\n    check()\n", 2)],
)
def test_a_script_without_a_guard_is_refused_in_one_line(monkeypatch, tmp_path, text, line):
    message = rf"data\.workers=2 in .*script\.py, line {line}, without a main guard: put .* or set data\.workers=0"
    with pytest.raises(workers.WorkerError, match=message) as caught:
        called(monkeypatch, tmp_path, text)
    assert "\n" not in str(caught.value)
    called(monkeypatch, tmp_path, text, count=0)


def test_a_program_from_standard_input_is_refused(monkeypatch):
    main = ModuleType("__main__")
    main.__file__ = "<stdin>"
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(workers.WorkerError, match=r"standard input .*__main__.* or set data\.workers=0"):
        workers.check_main_module(1)
    del main.__file__  # an interactive session
    workers.check_main_module(1)


class Dead:
    def __init__(self, message):
        self.message = message

    def __next__(self):
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGKILL, r"\(SIGKILL; the system may have run out of memory\)"),
        (-signal.SIGSEGV, r"\(SIGSEGV\)"),
        (3, r"\(exit code 3\)"),
    ],
)
def test_the_end_of_a_worker_is_one_line(code, reason):
    batches = workers.WorkerBatches(Dead(f"{workers.DIED} with exit code {code}. Search the logs above"))
    with pytest.raises(workers.WorkerError, match=rf"a process that loads data \(data\.workers\) has ended {reason}"):
        next(batches)
    with pytest.raises(RuntimeError, match="another"):
        next(workers.WorkerBatches(Dead("another")))


def test_contents_are_compared_by_size_and_a_sample(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(10 * SAMPLE))
    before = file_digests({"a": path, "missing": tmp_path / "b"})
    assert before["missing"] == "unreadable"
    for position in (0, 5 * SAMPLE, 10 * SAMPLE - 1):
        data = bytearray(10 * SAMPLE)
        data[position] = 1
        path.write_bytes(data)
        assert file_digests({"a": path})["a"] != before["a"]
    path.write_bytes(bytes(10 * SAMPLE + 1))
    assert file_digests({"a": path})["a"] != before["a"]
    path.write_bytes(bytes(10 * SAMPLE))
    assert file_digests({"a": path})["a"] == before["a"]
