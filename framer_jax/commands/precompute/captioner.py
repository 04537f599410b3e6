"""An image-to-text model of transformers as a function: photograph, seed → caption."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from framer_jax.commands.precompute import local_models

Captioner = Callable[[np.ndarray, int], str]
"""(image uint8 [H, W, 3], seed) → caption."""

PROMPT = "Describe this image and its style in a very detailed manner."
"""The prompt of this library; the authors have not published theirs."""


@dataclass(frozen=True)
class CaptionSettings:
    """Prompt and sampling settings of a captioner.

    The default temperature and top_p are those of FRAMER's captions.

    Attributes:
      prompt: the prompt; '' for models without one.
      temperature: sampling temperature; 0 for greedy decoding.
      top_p: probability mass of the tokens that are sampled from.
      max_tokens: largest number of generated tokens.
      seed: seed of the sampling, combined with each photograph's name.

    Raises:
      ValueError: a value outside its range.
    """

    prompt: str = PROMPT
    temperature: float = 0.2
    top_p: float = 0.7
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"--temperature must not be negative; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p must be above 0 and at most 1; got {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens must be at least 1; got {self.max_tokens}")


def load_captioner(path: str | os.PathLike[str], settings: CaptionSettings, dtype: str = "auto") -> Captioner:
    """Load a captioner.

    Args:
      path: folder or cached name of any image-to-text model of transformers, such as LLaVA 1.5 or BLIP.
      settings: prompt and sampling settings.
      dtype: one of `local_models.DTYPES`.

    Raises:
      ImportError, FileNotFoundError, ValueError: the model cannot be loaded; a message of one line.
    """
    folder, package = local_models.local_folder(path), local_models.import_transformers()
    processor = local_models.load_pretrained(package.AutoProcessor.from_pretrained, folder, "processor of a captioner")
    device, torch_dtype = local_models.device_and_dtype(dtype)
    load = package.AutoModelForImageTextToText.from_pretrained
    model = local_models.load_pretrained_model(load, folder, "image-to-text model", dtype=torch_dtype).to(device)
    prompt = format_prompt(processor, settings.prompt)

    def caption(image: np.ndarray, seed: int) -> str:
        text = {"text": prompt} if prompt else {}
        inputs = processor(images=Image.fromarray(image), return_tensors="pt", **text).to(device, torch_dtype)
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        with _seeded(seed):
            ids = model.generate(
                **inputs,
                max_new_tokens=settings.max_tokens,
                **(sampling if settings.temperature else {"do_sample": False}),
            )
        prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        repeats_prompt = prompt_length and bool((ids[:, :prompt_length] == inputs["input_ids"]).all())
        answer = processor.batch_decode(ids[:, prompt_length:] if repeats_prompt else ids, skip_special_tokens=True)[0]
        return " ".join(answer.split())

    return caption


def format_prompt(processor: Any, prompt: str) -> str:
    """The prompt in the format that a model was trained with, including its image token.

    Args:
      processor: processor of the model; its chat template is used if it has one, and LLaVA 1.5's format if it only has
        an image token.
      prompt: the prompt.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    if token := getattr(processor, "image_token", None):
        return f"USER: {token}\n{prompt} ASSISTANT:"
    return prompt


@contextmanager
def _seeded(seed: int) -> Any:
    """Seed PyTorch's global random generators, which `generate` draws from, and restore them afterwards."""
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        yield
