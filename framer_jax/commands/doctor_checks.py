"""What `framer-jax doctor` looks at. Nothing here needs anything else to work: each check stands by itself.

What could end or block the process (the import of a binary, a device that is taken) is tried in another process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from framer_jax.commands.extras import EXTRAS
from framer_jax.compile_cache import cache_base
from framer_jax.version import __version__

OK, NOTE, MISSING, BROKEN = "ok", "note", "missing", "broken"
"""States of a finding: what is missing is optional, what is broken does not work and should."""

TIMEOUT = 180
"""Seconds after which an import or a device is taken for blocked."""

LITTLE_DISK = 2**30
"""Free bytes below which a disk is named."""

AT_A_TIME = 2
"""Number of processes that try something."""

GIB = 2**30


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      state: one of `OK`, `NOTE`, `MISSING` and `BROKEN`.
      name: what it is.
      detail: what was seen, in one line.
      remedy: the command or the change that mends it, or ''.
    """

    state: str
    name: str
    detail: str
    remedy: str = ""


REQUIRED = ("numpy", "scipy", "PIL", "rich", "safetensors", "jax", "flax", "optax", "orbax.checkpoint", "grain")
"""Modules without which most commands do not work."""

VARIABLES = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "XDG_CACHE_HOME",
)

DEVICES = """
import json, jax
print(json.dumps([[device.platform, device.device_kind, str(device)] for device in jax.devices()]))
"""

Check = Callable[[], Iterator[Finding]]


def findings() -> Iterator[Finding]:
    """All findings, one after the other as they come."""
    yield from attempted("system", check_system)
    required = list(attempted("packages", check_required))
    yield from required
    devices = list(attempted("devices", check_devices))
    yield from devices
    usable = not any(finding.state == BROKEN for finding in (*required, *devices))
    for name, check in (("compilation cache", check_cache), ("disk", check_disk), ("memory", check_memory)):
        yield from attempted(name, check)
    if usable:
        yield from attempted("models", check_models)
    else:
        yield Finding(NOTE, "models", "not looked at: a package or a device that they need is broken, see above")
    yield from attempted("extras", check_extras)


def attempted(name: str, check: Check) -> Iterator[Finding]:
    """The findings of a check; an error within it is a finding too."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(BROKEN, name, f"could not be looked at ({type(error).__name__}: {_one_line(error)})")


def check_system() -> Iterator[Finding]:
    """Versions, and the variables that change what JAX does."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    yield Finding(OK, "framer_jax", f"{__version__}, Python {platform.python_version()} ({sys.executable}), {system}")
    for name in VARIABLES:
        if name in os.environ:
            yield Finding(NOTE, name, f"is set to {os.environ[name]!r}", f"unset {name} (if that is not intended)")


def check_required() -> Iterator[Finding]:
    """The packages that framer_jax needs: installed in a version that it declares, and importable."""
    try:
        declared = [text for text in importlib.metadata.requires("framer_jax") or () if "extra ==" not in text]
    except importlib.metadata.PackageNotFoundError:
        declared = []
        yield Finding(
            NOTE, "packages", "framer_jax itself is not installed, it runs from its folder", "pip install -e . (there)"
        )
    for text in declared:
        requirement, _, marker = text.partition(";")
        if "win32" in marker and sys.platform == "win32":
            continue
        name = re.split(r"[\s\[<>=!~(]", requirement.strip())[0]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(BROKEN, name, "is not installed", f"pip install '{requirement.strip()}'")
            continue
        if not _fits(version, requirement):
            detail = f"{version} is installed, and {requirement.strip()} is needed"
            yield Finding(BROKEN, name, detail, f"pip install '{requirement.strip()}'")
    broken: dict[str, list[str]] = {}
    for module, reason in _importable(REQUIRED):
        if reason:
            broken.setdefault(reason, []).append(module)
    for reason, (module, *others) in broken.items():  # others usually import the first one
        also = f" (nor can {', '.join(others)})" if others else ""
        yield Finding(BROKEN, module, f"cannot be imported: {reason}{also}", _reinstall(module))
    if not broken:
        versions = [
            f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "numpy", "Pillow")
        ]
        yield Finding(OK, "packages", ", ".join(versions))


def check_devices() -> Iterator[Finding]:
    """The devices that JAX computes on, and those that it does not see."""
    status, output = _probe(DEVICES)
    gpu = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    if status:
        asked = os.environ.get("JAX_PLATFORMS", "")
        named = f"unset JAX_PLATFORMS, which asks for {asked!r}; " if asked not in ("", "cpu") else ""
        yield Finding(
            BROKEN, "devices", f"JAX finds none: {output}", f"{named}JAX_PLATFORMS=cpu framer-jax ... uses the CPU"
        )
        return
    devices = json.loads(output.splitlines()[-1])
    platforms = sorted({device[0] for device in devices})
    kinds = sorted({device[1] for device in devices})
    yield Finding(OK, "devices", f"{len(devices)} ({', '.join(platforms)}): {', '.join(kinds)}")
    if gpu and platforms == ["cpu"]:
        detail = "there is an NVIDIA GPU, and JAX does not use it"
        yield Finding(MISSING, "GPU", detail, "pip install 'framer_jax[cuda12]'")


def check_cache() -> Iterator[Finding]:
    """The folder of compiled programs: where it is, what it holds, whether it can be written."""
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("false", "0"):
        yield Finding(NOTE, "compilation cache", "switched off: each run compiles its programs")
        return
    remedy = "export JAX_COMPILATION_CACHE_DIR=FOLDER (one that you can write)"
    base = cache_base()
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named and "://" in named:
        yield Finding(OK, "compilation cache", named)
        return
    if not named and base is None:
        yield Finding(BROKEN, "compilation cache", "there is no home folder, so each run compiles its programs", remedy)
        return
    folder = Path(named) if named else Path(base or "") / "framer_jax" / "compiled"
    if reason := _unwritable(folder):
        detail = f"{folder} cannot be written ({reason}), so each run compiles its programs"
        yield Finding(BROKEN, "compilation cache", detail, remedy)
        return
    files = [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    yield Finding(OK, "compilation cache", f"{folder}: {len(files)} files, {size / 2**20:,.0f} MiB (may be deleted)")


def check_disk() -> Iterator[Finding]:
    """Free space where results, caches and temporary files are written."""
    places = {"current folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if (base := cache_base()) is not None:
        places["cache"] = next(folder for folder in (base, *base.parents) if folder.exists())
    for name, folder in places.items():
        free = shutil.disk_usage(folder).free
        state, remedy = (OK, "") if free >= LITTLE_DISK else (BROKEN, "free some space, or work in another folder")
        yield Finding(state, f"disk, {name}", f"{folder}: {free / GIB:,.1f} GiB free", remedy)


def check_memory() -> Iterator[Finding]:
    """Main memory that this process can take."""
    from framer_jax.inference.memory import available_memory

    available = available_memory()
    detail = "unknown" if available is None else f"{available / GIB:,.1f} GiB available"
    yield Finding(OK, "main memory", detail)


def check_models() -> Iterator[Finding]:
    """The models that can be used by name: whether their files are there and whole."""
    from framer_jax.inference import named_models

    if (named := os.environ.get(named_models.FOLDER_VARIABLE)) and not Path(named).is_dir():
        detail = f"{named} is no folder"
        yield Finding(
            BROKEN, named_models.FOLDER_VARIABLE, detail, f"unset {named_models.FOLDER_VARIABLE}, or correct it"
        )
    for name in named_models.MODELS:
        yield from attempted(f"model {name}", lambda name=name: _check_model(name))  # type: ignore[misc]


def _check_model(name: str) -> Iterator[Finding]:
    from framer_jax.commands.published import open_named_model
    from framer_jax.inference import named_models
    from framer_jax.inference.model import SHIPPED

    location = named_models.locate(name)
    if location.path is None or location.missing:
        state = BROKEN if name in SHIPPED else MISSING
        yield Finding(state, f"model {name}", named_models.MODELS[name].summary, location.missing)
        return
    try:
        path, note = named_models.model_file(name)
        open_named_model(name)
    except Exception as error:  # a damaged file raises whatever its reader stumbles on
        remedy = (
            named_models.INSTALL
            if named_models.MODELS[name].package_files
            else "pip install --force-reinstall --no-deps framer_jax"
            if name in SHIPPED
            else f"replace {location.path}"
        )
        detail = f"{location.path} cannot be used: {_one_line(error)}"
        yield Finding(BROKEN, f"model {name}", detail, remedy)
        return
    yield Finding(OK, f"model {name}", f"{path}{f' ({note})' if note else ''}")


def check_extras() -> Iterator[Finding]:
    """The extras: installed, and importable."""
    present = {name: [_is_there(module) for module in extra.modules] for name, extra in EXTRAS.items()}
    installed = [name for name, there in present.items() if all(there)]
    tried = dict(_importable(sorted({m for name in installed for m in EXTRAS[name].modules if EXTRAS[name].imported})))
    for name, extra in EXTRAS.items():
        install = f"pip install 'framer_jax[{name}]'"
        failed = [f"{module} cannot be imported: {tried[module]}" for module in extra.modules if tried.get(module)]
        if failed and name in installed:
            yield Finding(BROKEN, f"extra {name}", "; ".join(failed), f"{install} --force-reinstall")
        elif name in installed:
            yield Finding(OK, f"extra {name}", extra.purpose)
        else:
            absent = [module for module, there in zip(extra.modules, present[name], strict=True) if not there]
            yield Finding(MISSING, f"extra {name}", f"{extra.purpose} (no {', '.join(absent)})", install)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _importable(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(module, why it cannot be imported or '') of each, in their order; each is imported in a process of its own."""

    def reason(module: str) -> str:
        status, output = _probe(f"import {module}")
        return output if status else ""

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from zip(modules, pool.map(reason, modules), strict=True)


def _probe(code: str) -> tuple[int, str]:
    """(exit status, output or the last line of the error) of some Python code in another process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {TIMEOUT} s"
    if not done.returncode:
        return 0, done.stdout.strip()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return done.returncode, f"the process was ended by signal {-done.returncode}"
    return done.returncode, lines[-1] if lines else f"exit status {done.returncode}"


def _reinstall(module: str) -> str:
    top = module.split(".")[0]
    names = {"PIL": "Pillow", "orbax": "orbax-checkpoint"}
    return f"pip install --force-reinstall {names.get(top, top)}"


def _fits(version: str, requirement: str) -> bool:
    """Whether a version is one of those that a requirement names, as far as it has lower and upper bounds."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    for comparison, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        at_least = numbers(version) >= numbers(bound)
        if at_least != (comparison == ">="):
            return False
    return True


def _unwritable(folder: Path) -> str:
    """Why a folder, or the one in which it would be created, cannot be written; '' if it can."""
    place = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), folder)
    if not place.is_dir():
        return f"{place} is a file"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)
