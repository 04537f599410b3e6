"""Images for tests of the degradation."""

import numpy as np


def photo_like(seed, height, width, batch=1):
    """Smooth images with an edge, [B, H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    phase = rng.uniform(0, 6, (batch, 1, 1, 3))
    image = 0.5 + 0.3 * np.sin(7 * x[None, ..., None] + phase) * np.cos(5 * y[None, ..., None] + 2 * phase)
    image[:, height // 3 :, width // 2 :] *= 0.6
    return np.clip(image, 0, 1).astype(np.float32)


def planes_like(seed, height, width):
    """One image of `photo_like` as planes [3, H, W]."""
    return np.ascontiguousarray(photo_like(seed, height, width)[0].transpose(2, 0, 1))


def embedded(planes, height, width, fill):
    """The planes in the upper left corner of a canvas [3, height, width] filled with `fill`."""
    canvas = np.full((planes.shape[0], height, width), fill, np.float32)
    canvas[:, : planes.shape[1], : planes.shape[2]] = planes
    return canvas


def assert_blocks_close(ours, theirs, atol, allowed=2, side=16):
    """Arrays [..., H, W] are equal except in a few blocks, where a coefficient may be half-way between two levels.

    The blocks are 16 x 16 pixels, because of the subsampled chroma.
    """
    different = np.abs(np.asarray(ours, np.float64) - theirs) > atol
    blocks = {(*index[:-3], index[-2] // side, index[-1] // side) for index in map(tuple, np.argwhere(different))}
    assert len(blocks) <= allowed, f"{len(blocks)} blocks differ"


def within(successes, draws, probability):
    """Whether a number of successes lies within 4.5 standard deviations of its expectation."""
    return abs(successes / draws - probability) < 4.5 * np.sqrt(probability * (1 - probability) / draws) + 1e-12


def reference_weights(mode, size, new_size, step):
    """The weights [new_size, size] of PyTorch's resizing along one axis, in float64 and pixel by pixel."""
    matrix = np.zeros((new_size, size))
    for i in range(new_size):
        if mode == "area":
            start, stop = i * size // new_size, -(-(i + 1) * size // new_size)
            matrix[i, start:stop] = 1 / (stop - start)
            continue
        center = (i + 0.5) * step - 0.5
        if mode == "bilinear":
            center = max(center, 0.0)
            taps = {0: 1 - center % 1, 1: center % 1}
        else:

            def cubic(x, a=-0.75):
                x = abs(x)
                near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
                return near if x <= 1 else far if x < 2 else 0.0

            taps = {k: cubic(center % 1 - k) for k in (-1, 0, 1, 2)}
        for k, weight in taps.items():
            matrix[i, min(max(int(np.floor(center)) + k, 0), size - 1)] += weight
    return matrix
