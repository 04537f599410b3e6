"""An object store on this machine: an emulator of Google Cloud Storage in a process of its own."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from tests.support.hosts import free_address
from tests.support.paths import ROOT

BUCKET = "bucket"


@contextmanager
def object_store(monkeypatch) -> Iterator[str]:
    """The address gs://bucket of an empty store, which gcsfs and TensorStore reach; the test is skipped without it.

    It needs `pip install gcsfs gcp-storage-emulator`.
    """
    for name, value in {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}.items():
        monkeypatch.setenv(name, value)  # no search for credentials; read when gcsfs is imported
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    host, port = free_address().split(":")
    command = [sys.executable, "-m", "tests.support.gcs_emulator", host, port, BUCKET]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=quiet, stderr=quiet)
    address = f"http://{host}:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{address}/storage/v1/b/{BUCKET}").close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "the emulator has ended"
                time.sleep(0.1)
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            monkeypatch.setenv(name, address)
        _forget_file_systems()
        yield f"gs://{BUCKET}"
    finally:
        _forget_file_systems()
        server.kill()
        server.wait()


def _forget_file_systems() -> None:
    """fsspec and etils keep file systems, with the address that they were made with."""
    from etils.epath import backend

    fsspec.config.conf.pop("gcs", None)
    fsspec.config.conf["gcs"] = {"token": "anon"}
    type(backend.fsspec_backend)._get_filesystem.cache_clear()
    if "gcsfs" in sys.modules:
        sys.modules["gcsfs"].GCSFileSystem.clear_instance_cache()


def put(address: str, folder: str | os.PathLike[str]) -> None:
    """Upload the files of a local folder."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            fsspec.filesystem("gcs").put_file(str(path), f"{address}/{path.relative_to(folder).as_posix()}")
