"""`framer-jax doctor` in installations of which a part is broken."""

import json
import os
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest

from framer_jax import cli
from framer_jax.commands import doctor, doctor_checks
from framer_jax.commands.doctor_checks import BROKEN, MISSING, NOTE, OK, Finding
from framer_jax.commands.extras import EXTRAS
from framer_jax.inference import model
from tests.support.hostile import run
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Nothing is imported in other processes, and the cache is the test's own."""
    monkeypatch.setattr(doctor_checks, "_probe", lambda code: (0, '[["cpu", "cpu", "CpuDevice(id=0)"]]'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "FRAMER_JAX_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


def found(check):
    return {finding.name: finding for finding in check()}


def failing(*modules, reason="ImportError: libx.so: cannot open"):
    return lambda code: (
        (1, reason) if any(f"import {name}" in code for name in modules) else (0, '[["cpu", "cpu", ""]]')
    )


def test_a_healthy_installation(capsys):
    outcome = run(capsys, "doctor")
    assert (outcome.status, outcome.err) == (0, "")
    for words in ("ok       packages", "jax", "devices", "1 (cpu)", "model starter", "nothing needs to be mended"):
        assert words in outcome.out
    outcome = run(capsys, "doctor", "--json")
    report = json.loads(outcome.out)
    assert report["healthy"]
    assert {"state", "name", "detail", "remedy"} == report["findings"][0].keys()


def test_packages_that_cannot_be_imported(monkeypatch, capsys):
    monkeypatch.setattr(doctor_checks, "_probe", failing("jax", "flax"))
    outcome = run(capsys, "doctor")
    assert outcome.status == 1
    assert "cannot be imported: ImportError: libx.so: cannot open (nor can flax)" in outcome.out
    assert "-> pip install --force-reinstall jax" in outcome.out
    assert "devices" in outcome.out
    assert "not looked at: a package or a device that they need is broken" in outcome.out
    assert "extra photos" in outcome.out  # the rest is looked at
    assert "mend what is broken" in outcome.out


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    monkeypatch.setattr(
        doctor_checks.importlib.metadata,
        "requires",
        lambda name: ["gone_package>=1", "numpy<1", "jax>=0.4,<99", 'torch>=2; extra == "torch"'],
    )
    listed = found(doctor_checks.check_required)
    assert listed["gone_package"] == Finding(
        BROKEN, "gone_package", "is not installed", "pip install 'gone_package>=1'"
    )
    assert "numpy<1 is needed" in listed["numpy"].detail
    assert "jax" not in listed
    assert "torch" not in listed

    def unknown(name):
        raise doctor_checks.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor_checks.importlib.metadata, "requires", unknown)
    assert found(doctor_checks.check_required)["packages"].state == OK  # the last one of that name: versions


def test_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(doctor_checks, "_probe", failing("json", reason="RuntimeError: no cuda"))
    (finding,) = doctor_checks.check_devices()
    assert (finding.state, "no cuda" in finding.detail) == (BROKEN, True)
    assert "unset JAX_PLATFORMS, which asks for 'cuda'" in finding.remedy
    assert found(doctor_checks.check_system)["JAX_PLATFORMS"].state == NOTE
    monkeypatch.setattr(doctor_checks, "_probe", lambda code: (0, 'warning\n[["cpu", "cpu", ""]]'))
    monkeypatch.setattr(doctor_checks.shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = found(doctor_checks.check_devices)["GPU"]
    assert (finding.state, finding.remedy) == (MISSING, "pip install 'framer_jax[cuda12]'")


def test_the_compilation_cache(monkeypatch, tmp_path):
    assert found(doctor_checks.check_cache)["compilation cache"].state == OK
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    finding = found(doctor_checks.check_cache)["compilation cache"]
    assert (finding.state, "is a file" in finding.detail) == (BROKEN, True)
    assert finding.remedy.startswith("export JAX_COMPILATION_CACHE_DIR=")

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(doctor_checks.tempfile, "TemporaryFile", refused)
        assert "Permission denied" in found(doctor_checks.check_cache)["compilation cache"].detail
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    assert found(doctor_checks.check_cache)["compilation cache"].state == NOTE
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(doctor_checks, "cache_base", lambda: None)
    assert "no home folder" in found(doctor_checks.check_cache)["compilation cache"].detail


def test_a_full_disk_is_named(monkeypatch):
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    assert {finding.state for finding in doctor_checks.check_disk()} == {BROKEN}


def test_damaged_and_missing_weights(monkeypatch, tmp_path):
    damaged = tmp_path / "starter.safetensors"
    damaged.write_bytes(model.SHIPPED["starter"].read_bytes()[:-1000])
    monkeypatch.setitem(model.SHIPPED, "starter", damaged)
    monkeypatch.setenv("FRAMER_JAX_WEIGHTS", str(tmp_path / "weights"))
    listed = found(doctor_checks.check_models)
    assert listed["FRAMER_JAX_WEIGHTS"].state == BROKEN
    starter = listed["model starter"]
    assert (starter.state, str(damaged) in starter.detail, "reinstall" in starter.remedy) == (BROKEN, True, True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "realesr-general-x4v3.safetensors").write_bytes(os.urandom(1000))
    damaged.unlink()
    listed = found(doctor_checks.check_models)
    assert "is missing: reinstall" in listed["model starter"].remedy
    general = listed["model realesr-general-x4v3"]
    assert (general.state, general.remedy.startswith("replace ")) == (BROKEN, True)


def test_extras(monkeypatch):
    there = {"skimage", "sklearn", "torch", "transformers", "huggingface_hub", "matplotlib"}
    monkeypatch.setattr(doctor_checks, "_is_there", lambda module: module in there)
    monkeypatch.setattr(doctor_checks, "_probe", failing("torch", reason="the process was ended by signal 11"))
    listed = found(doctor_checks.check_extras)
    assert listed["extra photos"].state == OK
    assert listed["extra torch"].state == BROKEN
    assert "signal 11" in listed["extra torch"].detail
    assert (listed["extra eval"].state, "no pyiqa" in listed["extra eval"].detail) == (MISSING, True)
    assert listed["extra eval"].remedy == "pip install 'framer_jax[eval]'"


def test_the_extras_are_those_of_the_package():
    text = (ROOT / "setup.py").read_text().split("extras_require={")[1]
    for_development = {"browser", "notebooks", "docs", "originals", "dev"}
    assert set(re.findall(r'^ {8}"(\w+)": ', text, re.MULTILINE)) == {*EXTRAS, *for_development}


def test_an_error_of_a_check_is_a_finding():
    def fails():
        yield Finding(OK, "a", "b")
        raise RuntimeError("unexpected\nend")

    first, second = doctor_checks.attempted("part", fails)
    assert first.state == OK
    assert (second.state, second.detail) == (BROKEN, "could not be looked at (RuntimeError: unexpected end)")


def test_lines_are_wrapped_between_words():
    finding = Finding(BROKEN, "name", "word " * 30 + "/a/very/long/path" * 8, "pip install x")
    lines = doctor.as_text(finding, 80).splitlines()
    assert all(len(line) <= 80 or "/a/very" in line for line in lines)
    assert len(doctor.as_text(finding, None).splitlines()) == 2


def test_processes_that_end_badly(monkeypatch):
    monkeypatch.undo()
    assert doctor_checks._probe("print(1)") == (0, "1")
    assert doctor_checks._probe("import os; os.kill(os.getpid(), 9)")[1] == "the process was ended by signal 9"
    assert doctor_checks._probe("raise ValueError('a\\nb')")[1] == "b"
    monkeypatch.setattr(doctor_checks, "TIMEOUT", 0.2)
    assert "no answer within 0.2 s" in doctor_checks._probe("import time; time.sleep(9)")[1]


def test_it_works_where_jax_cannot_be_imported(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('broken')")
    code = (
        "from framer_jax.commands import doctor_checks as c; from framer_jax.cli import main; "
        "c._probe = lambda code: (1, 'broken') if 'jax' in code else (0, ''); raise SystemExit(main(['doctor']))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "cannot be imported: broken" in done.stdout


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["framer_jax", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("framer_jax", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("framer_jax ")
    assert "doctor" in cli.COMMANDS
