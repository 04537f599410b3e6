"""Several processes on this machine as the hosts of one training run."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import CONFIGS, ROOT

# One device each: more of them on CPU can hang (jax 0.10).
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}


def free_address() -> str:
    """An address for the coordinator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def train_processes(*words: list[str]) -> Iterator[list[subprocess.Popen]]:
    """Start `framer-jax train --distributed` with each list of words as one process; they are killed at the end."""
    common = ["--distributed", "--coordinator", free_address(), "--processes", str(len(words))]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", "framer_jax.cli", "train", *part, *common, "--process", str(index)],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, part in enumerate(words)
    ]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.kill()  # jax.distributed catches SIGTERM
            host.wait()
            host.stdout.close()
            host.stderr.close()


def train_on_hosts(count: int, workdir: Path, changes: Sequence[str]) -> list[tuple[int, list[str], str]]:
    """`framer-jax train` in `count` processes; (exit status, lines of stdout, stderr) of each."""
    words = ["--config", str(CONFIGS / "default.py"), "--workdir", str(workdir)]
    with train_processes(*[[*words, *(f"--set={change}" for change in changes)]] * count) as hosts:
        outputs = [host.communicate(timeout=600) for host in hosts]
    return [
        (host.returncode, [line for line in out.splitlines() if not line.startswith("[Gloo]")], error)
        for host, (out, error) in zip(hosts, outputs, strict=True)
    ]
