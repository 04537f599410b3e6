"""Processes of one distributed run on this machine."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

from tests.support.paths import ROOT

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "",  # one device each: more of them on CPU can hang (jax 0.10)
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}


@contextmanager
def train_processes(*words: list[str]):
    """Start `framer-jax train --distributed` with each list of words as one process; they are killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    common = ["--distributed", "--coordinator", coordinator, "--processes", str(len(words))]
    processes = [
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
        yield processes
    finally:
        for process in processes:
            process.kill()  # jax.distributed catches SIGTERM
            process.wait()
            process.stdout.close()
            process.stderr.close()
