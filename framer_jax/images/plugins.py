"""Plug-ins of Pillow for the photographs that it does not read by itself; each is imported when a file needs it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

from PIL import features

INSTALL = "pip install 'framer_jax[formats]'"


class PlugIn(NamedTuple):
    """A plug-in of Pillow.

    Attributes:
      kind: what it reads, for messages.
      suffixes: suffixes of these files.
      module: the module.
      distribution: the distribution that installs it.
      register: its function that registers it with Pillow; '' if importing the module does.
    """

    kind: str
    suffixes: tuple[str, ...]
    module: str
    distribution: str
    register: str = ""


HEIF = PlugIn("HEIC", (".heic", ".heif", ".hif"), "pillow_heif", "pillow-heif", "register_heif_opener")
JXL = PlugIn("JPEG XL", (".jxl",), "pillow_jxl", "pillow-jxl-plugin")
AVIF = PlugIn("AVIF", (".avif",), "pillow_avif", "pillow-avif-plugin")

PLUG_INS = (HEIF, JXL, AVIF)

SUFFIXES = tuple(suffix for plug_in in PLUG_INS for suffix in plug_in.suffixes)

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
JXL_SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


class PlugInError(ValueError):
    """A file that needs a plug-in which is not there; the message says how to install it."""


def plug_in_of(head: bytes) -> PlugIn | None:
    """The plug-in that reads a file which begins with these bytes (12 or more); None for other files."""
    if head.startswith(JXL_SIGNATURES):
        return JXL
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    return HEIF if brand in HEIF_BRANDS else AVIF if brand in AVIF_BRANDS else None


def missing(suffix: str) -> str:
    """Why files with this suffix of `SUFFIXES` cannot be read, and the remedy; '' if they can be."""
    plug_in = next(plug_in for plug_in in PLUG_INS if suffix in plug_in.suffixes)
    if (plug_in is AVIF and features.check("avif")) or importlib.util.find_spec(plug_in.module) is not None:
        return ""
    return f"{plug_in.kind} files need the plug-in {plug_in.distribution}: {_install(plug_in)}, or convert it to .png"


def register(plug_in: PlugIn) -> None:
    """Let Pillow read what a plug-in reads.

    Raises:
      PlugInError: it is not installed, or cannot be imported.
    """
    if importlib.util.find_spec(plug_in.module) is None:
        raise PlugInError(missing(plug_in.suffixes[0]))
    try:
        module = importlib.import_module(plug_in.module)
        if plug_in.register:
            getattr(module, plug_in.register)()
    except Exception as error:  # a binary that does not fit the system, or another version of Pillow
        text = " ".join(str(error).split()) or type(error).__name__
        raise PlugInError(
            f"the plug-in {plug_in.distribution} cannot be imported ({text}): reinstall it ({_install(plug_in)}), or "
            "convert the image to .png"
        ) from error


def _install(plug_in: PlugIn) -> str:
    return "pip install 'Pillow>=11.3'" if plug_in is AVIF else INSTALL
