"""Networks that framer_jax does not have and whose files are taken for those it has, by keys that only they use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FOREIGN: Mapping[str, str] = {
    r"\.overlap_attn\.": "HAT, which framer_jax does not have",
    r"\.attns\.\d+\.": "DAT, which framer_jax does not have",
    r"\.cpb_mlp\.": "Swin2SR, which framer_jax does not have",
    r"\.mlp\.dwconv\.": "SRFormer, which framer_jax does not have",
    r"\.conv_du\.": "RCAN, which framer_jax does not have",
    r"\.c[123]_r\.": "SPAN, which framer_jax does not have",
    r"channe_mixer\.": "PLKSR, which framer_jax does not have",
    r"(^|\.)body\.\d+\.conv[12]\.weight": "EDSR or SRResNet, which framer_jax does not have",
    r"(^|\.)stylegan_decoder\.": "GFPGAN, which framer_jax does not have",
    r"(^|\.)conv\d\.weight_orig$": "a discriminator with spectral norm (take the file of the generator, net_g)",
}
"""Regex of a key → the network, as the end of a sentence."""


def foreign_network(keys: Iterable[str]) -> str:
    """The network that keys of a checkpoint belong to, as the end of a sentence; '' if none of `FOREIGN`."""
    keys = tuple(keys)
    return next((name for pattern, name in FOREIGN.items() if any(re.search(pattern, key) for key in keys)), "")
