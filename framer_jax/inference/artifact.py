"""The folder that an exported model is: the program with its weights, a manifest, and a page on how it is used."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framer_jax.inference.export import Sizes
from framer_jax.porting.files import check_writable

FILES = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
"""Format → name of the file with the program."""

MANIFEST, PAGE = "manifest.json", "README.md"

ARTIFACT = "framer_jax artifact 1"
"""Value of the manifest's entry 'artifact'."""

SIDE = 24
"""Least sides of the image on which an artifact is compared, LR pixels."""

LOWEST_PSNR = 50.0
"""PSNR in dB to the original model below which an artifact is refused; rounding alone leaves far more."""

LOAD = {
    "stablehlo": """\
from jax import export

with open("{file}", "rb") as file:
    program = export.deserialize(file.read())


def upscale(image):
    return np.asarray(program.call({arguments}))""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")


def upscale(image):
    return session.run(None, {{"image": image}})[0]""",
}
"""Format → Python code that reads it and defines `upscale`."""

USE = """\
import numpy as np
from PIL import Image
{load}


image = np.asarray(Image.open("photo.png").convert("RGB"), np.float32)[None] / 255  # [1, H, W, 3]
{call}
Image.fromarray(np.rint(result[0] * 255).astype(np.uint8)).save("photo_x{scale}.png")
"""

ANY_SIZE = """\
height, width = image.shape[1:3]
padded = np.pad(image, ((0, 0), (0, -height % {multiple}), (0, -width % {multiple}), (0, 0)), "reflect")
result = upscale(padded)[:, : {scale} * height, : {scale} * width]"""


class Check(NamedTuple):
    """How an artifact compares to the original model on one random image.

    Attributes:
      size: (height, width) of the image, LR pixels.
      largest_difference: largest absolute difference of a value in [0, 1].
      psnr: PSNR between the two results, dB; infinite if they are equal.
    """

    size: tuple[int, int]
    largest_difference: float
    psnr: float

    def __str__(self) -> str:
        equal = "equal" if self.psnr == math.inf else f"PSNR {self.psnr:.1f} dB, "
        largest = "" if self.psnr == math.inf else f"largest difference {self.largest_difference:.1e}"
        return f"compared with the original on {self.size[1]}x{self.size[0]} LR pixels: {equal}{largest}"


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot become an artifact, before anything is computed.

    Raises:
      FileExistsError: it holds something, and `overwrite` is not set.
      ValueError: it is a file, holds anything but an artifact, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the exported model")
    check_writable(folder / PAGE, "output")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and not overwrite:
        raise FileExistsError(f"{folder} is not empty: name another folder or allow overwriting (--overwrite)")
    if names and not (_is_artifact(folder) and names <= {*FILES.values(), MANIFEST, PAGE}):
        raise ValueError(f"{folder} holds other files than an exported model: name another folder")


def _is_artifact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("artifact") == ARTIFACT


def compare(
    original: Callable[[np.ndarray], np.ndarray], loaded: Callable[[np.ndarray], np.ndarray], sizes: Sizes
) -> Check:
    """Run both on a random image of the smallest allowed sides of at least `SIDE`.

    Raises:
      ValueError: the two differ by more than rounding.
    """
    least = -(-SIDE // sizes.multiple) * sizes.multiple
    size = sizes.fixed or (least, least + sizes.multiple)
    image = np.random.default_rng(0).random((1, *size, 3), np.float32)
    difference = loaded(image).astype(np.float64) - original(image)
    error = float(np.mean(difference**2))
    check = Check(size, float(np.abs(difference).max()), math.inf if error == 0 else -10 * math.log10(error))
    if not check.psnr >= LOWEST_PSNR:
        raise ValueError(f"the exported program differs from the model ({check}): it is not written")
    return check


def signature(kind: str, sizes: Sizes, scale: int, seeded: bool) -> dict[str, Any]:
    """Manifest entries that describe what a program takes and returns."""

    def shape(factor: int) -> list[int | str]:
        batch: int | str = "batch" if kind == "stablehlo" else 1
        if sizes.fixed is not None:
            return [batch, *(side * factor for side in sizes.fixed), 3]
        return [batch, *(f"{sizes.multiple * factor} * {side}".removeprefix("1 * ") for side in ("h", "w")), 3]

    pixels = {"dtype": "float32", "layout": "NHWC", "channels": "RGB", "range": [0, 1]}
    seed = {"dtype": "uint32", "shape": [], "meaning": "seed of the noise"}
    return {
        "input": {**pixels, "shape": shape(1), "multiple": 1 if sizes.fixed else sizes.multiple},
        "seed": seed if seeded else None,
        "output": {**pixels, "shape": shape(scale)},
        "scale": scale,
    }


def page(kind: str, manifest: Mapping[str, Any], sizes: Sizes) -> str:
    """The page on how an artifact is used."""
    scale, seeded = manifest["scale"], manifest["seed"] is not None
    load = LOAD[kind].format(file=FILES[kind], arguments="image, np.uint32(0)" if seeded else "image")
    free = sizes.fixed is None and sizes.multiple > 1
    call = ANY_SIZE.format(multiple=sizes.multiple, scale=scale) if free else "result = upscale(image)"
    taken, given = ("[" + ", ".join(map(str, manifest[side]["shape"])) + "]" for side in ("input", "output"))
    needs = "JAX (and flatbuffers) alone" if kind == "stablehlo" else "onnxruntime, OpenVINO or another reader of ONNX"
    size = "any size" if sizes.fixed is None else f"{sizes.fixed[1]}x{sizes.fixed[0]} pixels only"
    size += f"; sides are multiples of {sizes.multiple} pixels" if free else ""
    rows = {
        "input": f"{taken} float32, RGB, values in [0, 1]; {size}",
        "output": f"{given} float32, RGB, clipped to [0, 1]",
        "seed": "second argument, uint32: seed of the noise" if seeded else "none: the model draws no noise",
        "weights": "inside the file",
        "needs": needs,
        "platforms": ", ".join(manifest["platforms"]),
        "check": manifest["check"]["summary"],
    }
    lines = [f"# {manifest['recipe']}, x{scale}: {FILES[kind]}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in rows.items()]
    lines += ["", "```python", USE.format(load=load, call=call, scale=scale).rstrip(), "```", ""]
    lines += ["The whole image is computed at once; cut a large one into overlapping parts.", ""]
    if kind == "stablehlo":
        lines += [
            f"Written by JAX {manifest['jax']}, which reads files for at least six months of later releases.",
            "`program.mlir_module_serialized` is the portable bytecode of StableHLO, for other compilers.",
            "",
        ]
    return "\n".join([*lines, f"`{MANIFEST}` holds the origin of the weights and the whole configuration.", ""])


def write_artifact(folder: Path, kind: str, program: bytes, manifest: Mapping[str, Any], sizes: Sizes) -> None:
    """Write an artifact; the folder appears, or is replaced, when it is complete.

    Raises:
      OSError: it cannot be written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.{kind}") for kind in ("part", "old"))
    new.mkdir()
    try:
        (new / FILES[kind]).write_bytes(program)
        digest = {"file": FILES[kind], "bytes": len(program), "sha256": hashlib.sha256(program).hexdigest()}
        text = json.dumps({"artifact": ARTIFACT, "format": kind, **digest, **manifest}, indent=1) + "\n"
        (new / MANIFEST).write_text(text, encoding="utf-8")
        (new / PAGE).write_text(page(kind, manifest, sizes), encoding="utf-8", errors="backslashreplace")
        if folder.is_dir():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        if old.is_dir() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
