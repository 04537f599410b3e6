"""Text encoders in plain Python with few tokens and features."""

import zlib

import numpy as np

from framer_jax.commands.precompute.text_encoders import TextEncoder
from framer_jax.data.text import Encoded, TextSettings

SETTINGS = TextSettings(clip_length=3, t5_length=2, clip_widths=(4, 5), width=12)


def encoder(name, settings=SETTINGS, width=None):
    """An encoder whose features are random numbers that depend on the text only."""
    widths = {"clip_l": settings.clip_widths[0], "clip_g": settings.clip_widths[1], "t5": settings.width}
    length = settings.t5_length if name == "t5" else settings.clip_length
    width = width or widths[name]

    def encode(texts):
        generators = [np.random.default_rng(zlib.crc32(f"{name} {text}".encode())) for text in texts]
        features = np.stack([rng.standard_normal((length + 1, width)).astype(np.float32) for rng in generators])
        return Encoded(features[:, :-1], None if name == "t5" else features[:, -1])

    return TextEncoder(encode, f"digest of {name}")


def encoders(*names):
    return {name: encoder(name) for name in names or ("clip_l", "clip_g", "t5")}
