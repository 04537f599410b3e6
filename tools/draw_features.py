"""What HF-Diff's feature extractor sees of a photograph: its feature maps before and after the invertible modules.

    python tools/draw_features.py EXTRACTOR PHOTO --output FILE.png [--maps 4] [--crop 256] [--overwrite]

As Fig. 5 of the paper (arXiv 2411.13548, 2024). EXTRACTOR is the weights of `framer-jax pretrain`, or a ported file.
One row for z_0 and one for z_K: the photograph, the mean magnitude over all channels (0 is black), and the channels
that vary most over the photograph (0 is gray).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from framer_jax.checkpoints.networks import load_network
from framer_jax.images.decode import read_rgb
from framer_jax.recipes.components.latent_space import to_model_range


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the feature maps of an extractor.")
    parser.add_argument("extractor", type=Path, help="weights of `framer-jax pretrain`, or a ported file")
    parser.add_argument("photo", type=Path, help="a photograph")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--maps", type=int, default=4, help="number of single channels that are drawn")
    parser.add_argument("--crop", type=int, default=256, help="side of the square from the middle that is drawn")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments = parser.parse_args()
    if arguments.output.exists() and not arguments.overwrite:
        parser.error(f"{arguments.output} exists: choose another file or add --overwrite")
    try:
        network = load_network("hf_extractor", arguments.extractor)
        photo = read_rgb(arguments.photo)
        if network.module.image_channels != 3:
            raise ValueError(f"{arguments.extractor} takes {network.module.image_channels} channels, not a photograph")
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    photo = middle(photo, arguments.crop)
    image = to_model_range(jnp.asarray(photo, jnp.float32)[None] / 255)
    stages = cast(tuple[jax.Array, jax.Array], jax.jit(network.module.apply)({"params": network.params}, image))
    rows = [feature_row(photo, np.asarray(stage[0]), arguments.maps) for stage in stages]  # z_0, z_K: [H, W, C]
    Image.fromarray(np.concatenate(rows)).save(arguments.output)
    print(f"wrote {arguments.output}")
    return 0


def middle(photo: np.ndarray, side: int) -> np.ndarray:
    """The square of at most `side` pixels in the middle of a photograph [H, W, 3]."""
    side = min(side, *photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def feature_row(photo: np.ndarray, features: np.ndarray, maps: int) -> np.ndarray:
    """The photograph and its maps side by side.

    Args:
      photo: uint8 [S, S, 3].
      features: float32 [S, S, C].
      maps: number of channels that are drawn, at most C.

    Returns:
      uint8 [S, (2 + maps) S, 3].
    """
    order = np.argsort(-features.var(axis=(0, 1)))[:maps]
    magnitude = np.abs(features).mean(axis=-1)
    pictures = [magnitude / max(magnitude.max(), 1e-12), *(centered(features[..., channel]) for channel in order)]
    gray = [np.repeat(np.round(255 * picture).astype(np.uint8)[..., None], 3, axis=-1) for picture in pictures]
    return np.concatenate([photo, *gray], axis=1)


def centered(feature: np.ndarray) -> np.ndarray:
    """A map in [0, 1] with 0 at one half."""
    return 0.5 + 0.5 * feature / max(float(np.abs(feature).max()), 1e-12)


if __name__ == "__main__":
    sys.exit(main())
