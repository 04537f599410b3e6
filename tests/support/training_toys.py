"""A tiny recipe, tiny settings and a tiny Grain loader for the tests of training."""

import grain
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.recipes.base import Loss, Recipe, Update
from framer_jax.training.settings import TrainingSettings

SIDE = 4


def settings(**changes) -> TrainingSettings:
    values = {
        "steps": 6,
        "global_batch": 8,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "schedule": "constant",
        "final_learning_rate": 0.0,
        "clip_norm": None,
        "ema_decay": 0.0,
        "best_metric": None,
        "log_every": 2,
        "checkpoint_every": 100,
        "validate_every": 100,
        "mesh": {"data": 1, "fsdp": 1},
        "fsdp_min_size": 8,
        "seed": 3,
    }
    return TrainingSettings(**{**values, **changes})


def init(key, batch):
    channels = batch["hr"].shape[-1]
    first, second, third = jax.random.split(key, 3)
    return {
        "denoiser": {
            "conv": {
                "kernel": 0.3 * jax.random.normal(first, (1, 1, channels, 8), jnp.float32),
                "bias": jnp.zeros((8,), jnp.float32),
            },
            "out": {"kernel": 0.3 * jax.random.normal(second, (8, channels), jnp.float32)},
        },
        "critic": {"kernel": 0.3 * jax.random.normal(third, (channels, 8), jnp.float32)},
    }


def denoise(params, images):  # [B, H, W, 3] → [B, H, W, 3]
    hidden = jnp.einsum("bhwc,cd->bhwd", images, params["conv"]["kernel"][0, 0])
    hidden = jax.nn.gelu(hidden + params["conv"]["bias"][None, None, None, :])
    return jnp.einsum("bhwd,dc->bhwc", hidden, params["out"]["kernel"])


def noisy_loss(params, frozen, state, batch, key, step):
    noise = jax.random.normal(key, batch["hr"].shape, jnp.float32)
    return clean_loss(params, frozen, state, {**batch, "lr": batch["lr"] + 0.1 * noise}, key, step)


def clean_loss(params, frozen, state, batch, key, step):
    out = denoise(params["denoiser"], batch["lr"]) * frozen.get("gain", jnp.float32(1))
    values = jnp.mean((out - batch["hr"]) ** 2, axis=(1, 2, 3))
    state = {name: value + 1 for name, value in state.items()}
    return Loss(values, {"error": jnp.mean(jnp.abs(out - batch["hr"]), axis=(1, 2, 3))}, (), state)


def critic_loss(params, frozen, state, batch, key, step):
    scores = jnp.einsum("bhwc,cd->bhwd", denoise(params["denoiser"], batch["lr"]), params["critic"]["kernel"])
    return Loss(jnp.mean((scores - 1.0) ** 2, axis=(1, 2, 3)), {}, (), state)


def recipe(loss=noisy_loss, updates=None, **changes) -> Recipe:
    updates = updates or (Update("main", ("denoiser",), loss),)
    return Recipe("toy", 1, init, updates, sample=lambda params, frozen, lr, noise: lr, **changes)


def prepare(batch):
    hr = batch["hr"].astype(jnp.float32) / 255
    noise = jax.vmap(lambda record: jax.random.normal(jax.random.key(record), hr.shape[1:], jnp.float32))
    return {"hr": hr, "lr": hr + 0.05 * noise(batch["record"])}


def images(count=64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def batch(size=8) -> dict:
    return {"hr": images(size), "record": np.arange(size, dtype=np.int32)}


def dataset(count=24, size=8, values=None):
    values = images(count) if values is None else values

    def load(index, rng):
        crop = values[index].copy()
        return {"hr": crop[::-1] if rng.random() < 0.5 else crop, "record": np.int32(index)}

    source = grain.MapDataset.source(list(range(len(values)))).seed(5).shuffle().repeat(None)
    return source.random_map(load).batch(size, drop_remainder=True)


def batches(**arguments):
    return iter(dataset(**arguments).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def names(count=24) -> list[str]:
    return [f"photo_{index:02d}.png" for index in range(count)]


def same(first, second) -> bool:
    def equal(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        return np.array_equal(np.asarray(a), np.asarray(b))

    return jax.tree.all(jax.tree.map(equal, first, second))
