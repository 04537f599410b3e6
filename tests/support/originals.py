"""Models of the originals with random weights, and numbers that go to PyTorch and back."""

import warnings

import jax
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages themselves, when they are imported
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401


def drawn(module, seed=0, spread=0.3):
    """The module with every parameter drawn, none left at zero or one; for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            wide = parameter.ndim > 1
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if wide else parameter + spread * noise)
    return module.eval()


def original(kind, seed=0, **config):
    """A model of diffusers with random weights."""
    return drawn(kind(**config), seed)


def tensor(x):
    """Channels first, if it is an image."""
    x = np.asarray(x)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x))


def array(x):
    """Channels last, if it is an image."""
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def normal(seed, *shape):
    """Standard normal float32."""
    return np.asarray(jax.random.normal(jax.random.key(seed), shape, "float32"))


def close(ours, theirs, relative=2e-5):
    """Equal but for the rounding of float32, relative to the largest value."""
    theirs = array(theirs) if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def stated(model, setting):
    """A setting of a model's config.json, with which a missing one and an empty one mean the same."""
    value = model.config[setting]
    return (list(value) if isinstance(value, tuple) else value) or None
