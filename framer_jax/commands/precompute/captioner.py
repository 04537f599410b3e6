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
"""(uint8 [H, W, 3], seed) → what it says."""

PROMPT = "Describe this image and its style in a very detailed manner."
"""Ours: the authors' own words are not published."""


@dataclass(frozen=True)
class CaptionSettings:
    """How a captioner is asked.

    The defaults of temperature and top_p are those of FRAMER's captions.

    Attributes:
      prompt: the question; '' for models that take none.
      temperature: of sampling; 0 takes the likeliest word each time.
      top_p: probability of the words that are sampled from.
      max_tokens: longest answer.
      seed: of the sampling, with each photograph's name.

    Raises:
      ValueError: a number outside its range.
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


def transformers_captioner(path: str | os.PathLike[str], settings: CaptionSettings, dtype: str = "auto") -> Captioner:
    """Load a captioner.

    Args:
      path: folder or cached name of any image-to-text model of transformers, such as LLaVA 1.5 or BLIP.
      settings: how it is asked.
      dtype: of local_models.DTYPES.

    Raises:
      ImportError, FileNotFoundError, ValueError: it cannot be loaded, in one line.
    """
    folder, package = local_models.local_folder(path), local_models.transformers()
    processor = local_models.loaded(package.AutoProcessor.from_pretrained, folder, "processor of a captioner")
    device, kind = local_models.device_and_dtype(dtype)
    load = package.AutoModelForImageTextToText.from_pretrained
    model = local_models.loaded_model(load, folder, "image-to-text model", dtype=kind).to(device)
    text = question(processor, settings.prompt)

    def caption(image: np.ndarray, seed: int) -> str:
        given = {"images": Image.fromarray(image), "return_tensors": "pt", **({"text": text} if text else {})}
        inputs = processor(**given).to(device, kind)
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        with _seeded(seed):
            ids = model.generate(
                **inputs,
                max_new_tokens=settings.max_tokens,
                **(sampling if settings.temperature else {"do_sample": False}),
            )
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        same = asked and bool((ids[:, :asked] == inputs["input_ids"]).all())
        answer = processor.batch_decode(ids[:, asked:] if same else ids, skip_special_tokens=True)[0]
        return " ".join(answer.split())

    return caption


def question(processor: Any, prompt: str) -> str:
    """The prompt in the form that a model was trained on, with the place of its image.

    Args:
      processor: of the model; a chat template decides, else LLaVA's words if it has a token for images.
      prompt: the question.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    if token := getattr(processor, "image_token", None):
        return f"USER: {token}\n{prompt} ASSISTANT:"
    return prompt


@contextmanager
def _seeded(seed: int) -> Any:
    """PyTorch's own generators, which `generate` draws from, seeded within and as before without."""
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        yield
