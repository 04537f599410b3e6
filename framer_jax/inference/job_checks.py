"""Whether an image can be upscaled and written as it was asked for, by the header of its file."""

from __future__ import annotations

import stat

from framer_jax.images.decode import CONVERTED, TO_SRGB, Header, read_header, read_image
from framer_jax.images.frames import frame_sizes, read_frames
from framer_jax.images.image_data import ImageData
from framer_jax.inference.estimate import check_host_memory
from framer_jax.inference.formats import check_frame_sizes, check_frames, check_quality, check_size, output_format
from framer_jax.inference.images import check_alpha, depth_note
from framer_jax.inference.jobs import Job
from framer_jax.inference.result_image import extended_size
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.streamed_files import is_streamed
from framer_jax.recipes.base import Recipe

PIXEL = 3 * 4
"""Bytes of a pixel in float32."""


def check_job(
    job: Job, recipe: Recipe, settings: UpscaleSettings, result: ResultSettings, files: FileSettings, flattened: bool
) -> None:
    """Refuse a job that cannot be done.

    Args:
      job: the image and its result.
      recipe: the recipe.
      settings: settings of the upscaling.
      result: size and edges of the result.
      files: settings of the file.
      flattened: whether transparency is removed from all images.

    Raises:
      OSError, ValueError: the image cannot be read, or the format of the result cannot hold it.
      MemoryError: there is not enough memory.
    """
    header = read_header(job.source)
    height, width = header.height, header.width
    size = result.size(height, width, recipe.scale)
    check_quality(job.target, files.quality)
    check_size(job.target, *size)
    frames = header.frames if files.frames else 1
    check_frames(job.target, frames)
    if frames > 1:
        sizes = {result.size(*each, recipe.scale) for each in frame_sizes(job.source)}
        check_frame_sizes(job.target, sizes)
    if frames > 1 and job.previews:
        raise ValueError(f"previews show one image, and this one has {frames} frames: omit them, or omit frames")
    if files.in_place:
        _check_replaceable(job, header, files.frames)
    alpha = header.transparent and not flattened
    keeps_alpha = alpha and (output_format(job.target).alpha or files.background is None)
    streamed = is_streamed(job.target, recipe, (height, width), settings, result, files, keeps_alpha, frames)
    more = further_bytes((height, width), size, recipe.scale, result, alpha, frames)
    check_host_memory(recipe, *extended_size(height, width, result), settings, keeps_alpha, more, streamed)
    if keeps_alpha and not output_format(job.target).alpha:
        check_alpha(job.target, read_image(job.source))


def further_bytes(
    image: tuple[int, int], size: tuple[int, int], scale: int, result: ResultSettings, alpha: bool, frames: int
) -> int:
    """Bytes of main memory that a result needs besides those of upscaling.

    Args:
      image: (height, width) of the LR image.
      size: (height, width) of the result.
      scale: upsampling factor.
      result: its settings.
      alpha: whether the image is transparent.
      frames: number of frames, whose results are held with 8 bits per channel, and again while they are encoded.
    """
    own, pixels = image[0] * image[1] * scale**2, size[0] * size[1]
    resized = 2 * pixels * PIXEL if pixels != own else 0
    second = own * PIXEL if alpha and result.alpha == "network" else 0
    smooth = 2 * own * PIXEL if result.strength < 1 else 0
    return resized + second + smooth + (2 * 4 * pixels * frames if frames > 1 else 0)


def _check_replaceable(job: Job, header: Header, all_frames: bool) -> None:
    """Refuse to replace an image by one that holds less of it."""
    if header.frames > 1 and not all_frames:
        raise ValueError(
            f"{job.source}: in place, {header.frames - 1} of its {header.frames} frames would be lost: add --frames, "
            "or name an output"
        )
    if header.further:
        raise ValueError(
            f"{job.source}: in place, the file's further images ({header.further}: a second view, gain map, depth map "
            "or the still image of an animation) would be lost: name an output"
        )
    if converted := next((kind for kind in CONVERTED.values() if f"{kind} converted" in header.loss), None):
        raise ValueError(f"{job.source}: in place, its {converted} colors would become RGB: name an output")
    if not job.source.stat().st_mode & stat.S_IWUSR:
        raise ValueError(f"{job.source}: in place, and it is write-protected: allow writing to it, or name an output")
    is_pages = header.frames > 1 and output_format(job.target).name == "TIFF"  # of any depth each
    if "16-bit" in header.loss or is_pages:
        for image in read_frames(job.source) if header.frames > 1 else [read_image(job.source)]:
            _check_page(job, image, header.frames)


def _check_page(job: Job, image: ImageData, frames: int) -> None:
    """Refuse to replace an image, or one of several, whose bits or colors the result would not hold."""
    if converted := next((note for note in image.notes if note.endswith(TO_SRGB)), None):
        raise ValueError(f"{job.source}: in place, of one of its pages {converted}: name an output")
    if depth_note(job.target, image, frames):
        remedy = "name an output" if frames > 1 else "name a .png output"
        kind = output_format(job.target).name
        raise ValueError(f"{job.source}: in place, 8 of its 16 bits per channel would be lost ({kind}): {remedy}")
