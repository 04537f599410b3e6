"""The degradation's primitives, compared with the published ones; gradients; images smaller than their canvas."""

import json
from functools import partial
from io import BytesIO
from math import pi

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from framer_jax.degradations import kernels, resize
from framer_jax.degradations.blur import blur, blur_separably_if_possible, reflect_pad, separable_blur
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.presets import odd_sizes
from framer_jax.degradations.usm import sharpen
from tests.support.degradation_images import assert_blocks_close, embedded, planes_like, reference_weights


@pytest.fixture(scope="module")
def reference(fixtures):
    with np.load(fixtures / "realesrgan_primitives.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def meta(reference):
    return json.loads(str(reference["meta"]))


def tolerance(meta, name):
    return meta["float32_vs_float64"][name]["atol"]


def make_kernel(entry):
    if entry["kind"] == "sinc":
        return kernels.on_canvas(kernels.circular_low_pass(entry["size"], entry["cutoff"]))
    sigma, angle = (entry["sx"], entry["sy"]), entry["theta"]
    if entry["kind"] == "gaussian":
        return kernels.gaussian(entry["size"], sigma, angle)
    make_shape = {"generalized": kernels.generalized_gaussian, "plateau": kernels.plateau}[entry["kind"]]
    return make_shape(entry["size"], sigma, angle, entry["beta"])


def test_kernels_match_the_published_ones(reference, meta):
    for entry in meta["config"]["kernels"]:
        name = f"out/kernel/{entry['name']}"
        np.testing.assert_allclose(
            make_kernel(entry), reference[name], rtol=0, atol=tolerance(meta, name), err_msg=entry["name"]
        )


@settings(deadline=None, max_examples=40)
@given(
    size=st.sampled_from(odd_sizes(7, 21)),
    sigma=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    angle=st.floats(-pi, pi),
    beta=st.floats(0.5, 4),
    cutoff=st.floats(pi / 5, pi),
)
def test_kernels_sum_to_one_and_are_symmetric(size, sigma, angle, beta, cutoff):
    for kernel in (
        kernels.gaussian(size, sigma, angle),
        kernels.generalized_gaussian(size, sigma, angle, beta),
        kernels.plateau(size, sigma, angle, beta),
        kernels.circular_low_pass(size, cutoff),
    ):
        canvas = kernels.on_canvas(kernel)
        assert canvas.shape == (21, 21)
        assert canvas.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(canvas, canvas[::-1, ::-1], atol=1e-6)


def test_bad_kernels_are_errors():
    with pytest.raises(ValueError, match="odd size"):
        kernels.gaussian(8, (1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        kernels.on_canvas(kernels.gaussian(23, (1, 1)))


# Blur


def test_blur_matches_the_published_filter(reference, meta):
    images, kernel = reference["in/img"], reference["in/filter_kernels"]
    ours = jax.jit(jax.vmap(blur))(images, kernel)
    name = "out/filter2D_batch"
    np.testing.assert_allclose(ours, reference[name], rtol=0, atol=tolerance(meta, name))
    name = "out/filter2D_shared"
    ours = jax.jit(jax.vmap(blur))(images, np.repeat(kernel[:1], 2, axis=0))
    np.testing.assert_allclose(ours, reference[name], rtol=0, atol=tolerance(meta, name))


def test_blur_with_a_delta_is_the_identity_and_even_kernels_are_errors():
    planes = planes_like(0, 24, 33)
    np.testing.assert_allclose(jax.jit(blur)(planes, kernels.delta()), planes, atol=2e-6)
    with pytest.raises(ValueError, match="odd side"):
        blur(planes, np.zeros((4, 4), np.float32))


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 9), width=st.integers(1, 9), before=st.integers(0, 12))
def test_reflection_is_numpys_at_any_size(height, width, before):
    """Also for a border wider than the image, which PyTorch does not support."""
    planes = np.random.default_rng(0).random((2, height, width), np.float32)
    canvas = embedded(planes, 9, 9, np.nan)
    shape = (33, 33)
    ours = jax.jit(reflect_pad, static_argnums=(1, 2))(canvas, before, shape, (jnp.int32(height), jnp.int32(width)))
    after = [(before, shape[axis] - before - side) for axis, side in enumerate((height, width))]
    np.testing.assert_array_equal(ours, np.pad(planes, ((0, 0), *after), mode="reflect"))


@pytest.mark.parametrize("size", [(24, 40), (17, 33), (5, 3)])
def test_blur_reads_only_the_valid_part_of_the_canvas(size):
    kernel = kernels.on_canvas(kernels.gaussian(11, (1.5, 0.7), 0.5))
    planes = planes_like(1, *size)
    expected = jax.jit(blur)(planes, kernel)
    part = jax.jit(blur)(embedded(planes, 32, 48, 1e6), kernel, (jnp.int32(size[0]), jnp.int32(size[1])))
    np.testing.assert_allclose(part[:, : size[0], : size[1]], expected, atol=3e-6)


def test_the_separable_blur_equals_the_blur_with_the_outer_product():
    planes, row, column = planes_like(2, 30, 41), np.float32([0.1, 0.3, 0.2, 0.3, 0.1]), np.float32([0.25, 0.5, 0.25])
    column = np.pad(column, 1)
    ours = jax.jit(lambda planes: separable_blur(planes, row, column))(planes)
    np.testing.assert_allclose(ours, jax.jit(blur)(planes, np.outer(column, row)), atol=2e-6)


@pytest.mark.parametrize(
    ("kernel", "product"),
    [
        (kernels.gaussian(13, (2.0, 2.0)), True),
        (kernels.gaussian(7, (1.0, 3.0)), True),
        (kernels.gaussian(13, (2.0, 1.0), 0.4), False),
        (kernels.plateau(13, (2.0, 2.0), 0.0, 1.3), False),
        (kernels.circular_low_pass(9, 2.0), False),
    ],
)
def test_both_ways_of_blurring_agree(kernel, product):
    planes, kernel = planes_like(2, 30, 41), kernels.on_canvas(kernel)
    np.testing.assert_allclose(
        jax.jit(blur_separably_if_possible)(planes, kernel), jax.jit(blur)(planes, kernel), rtol=0, atol=3e-6
    )
    assert (np.abs(np.outer(kernel.sum(1), kernel.sum(0)) - kernel).max() < 1e-8) == product


def test_sharpening_matches_the_published_one(reference, meta):
    ours = jax.jit(jax.vmap(sharpen))(reference["in/usm_img"])
    np.testing.assert_allclose(ours, reference["out/usm"], rtol=0, atol=tolerance(meta, "out/usm"))


def test_sharpening_reads_only_the_valid_part_of_the_canvas():
    planes = planes_like(3, 40, 36)
    part = jax.jit(sharpen)(embedded(planes, 64, 64, 1e3), (jnp.int32(40), jnp.int32(36)))
    np.testing.assert_allclose(part[:, :40, :36], jax.jit(sharpen)(planes), atol=3e-6)


# Resize


def resized(planes, mode, size=None, scale=None, canvas=None):
    """Resize with PyTorch's two signatures, on a canvas that may be larger than the result."""
    old = planes.shape[1:]
    new = tuple(size) if scale is None else tuple(int(side * scale) for side in old)
    step = None if scale is None else jnp.float32(1 / scale)
    smallest = min(n / o for n, o in zip(new, old, strict=True))
    run = jax.jit(partial(resize.resize, shape=canvas or new, smallest_scale=smallest))
    return run(planes, jnp.int32(mode), size=old, new_size=new, step=step)[:, : new[0], : new[1]]


def test_resize_matches_the_published_sampling(reference, meta):
    (planes,) = reference["in/resize_img"]
    for entry in meta["config"]["resize"]:
        name = f"out/resize/{entry['name']}"
        ours = resized(planes, resize.MODES.index(entry["mode"]), entry.get("size"), entry.get("scale"))
        np.testing.assert_allclose(
            ours[None], reference[name], rtol=0, atol=tolerance(meta, name), err_msg=entry["name"]
        )


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 24), new_size=st.integers(1, 36), mode=st.integers(0, 2), by_scale=st.booleans())
def test_resize_to_sizes_known_only_at_run_time(size, new_size, mode, by_scale):
    """One program for all sizes, up and down, odd and tiny, with any values outside the valid part."""
    planes = np.random.default_rng(size).random((1, size, 24), np.float32)
    canvas = embedded(planes, 24, 24, 1e6)
    step = (size + 0.4) / new_size if by_scale else size / new_size
    run = jax.jit(partial(resize.resize, shape=(36, 24), smallest_scale=1 / 24))
    ours = run(
        canvas,
        jnp.int32(mode),
        size=(jnp.int32(size), jnp.int32(24)),
        new_size=(jnp.int32(new_size), jnp.int32(24)),
        step=(jnp.float32(step), jnp.float32(1)),
    )
    expected = reference_weights(resize.MODES[mode], size, new_size, np.float32(step)) @ planes[0].astype(np.float64)
    # A float32 center that should fall on a pixel may fall next to it; by continuity the error is negligible.
    np.testing.assert_allclose(ours[0, :new_size], expected, atol=2e-5)


# JPEG


def test_jpeg_matches_the_published_arithmetic(reference, meta):
    images = reference["in/img"]
    compress = jax.jit(jax.vmap(jpeg))
    for quality in meta["config"]["jpeg_quality"]:
        name = f"out/jpeg/q{quality}"
        assert_blocks_close(compress(images, np.full(2, quality, np.float32)), reference[name], tolerance(meta, name))
    ours = compress(images, np.float32(meta["config"]["jpeg_per_sample"]))
    assert_blocks_close(ours, reference["out/jpeg/per_sample"], tolerance(meta, "out/jpeg/per_sample"))


def test_soft_jpeg_matches_and_has_the_published_gradient(reference, meta):
    quality = np.full(2, meta["config"]["jpeg_diff"], np.float32)

    @jax.jit
    def output_and_gradient(images):
        def loss(images):
            out = jax.vmap(partial(jpeg, rounding="soft"))(images, quality)
            return jnp.mean(out**2), out

        return jax.value_and_grad(loss, has_aux=True)(images)

    (_, ours), gradient = output_and_gradient(reference["in/img"])
    assert_blocks_close(ours, reference["out/jpeg/differentiable"], tolerance(meta, "out/jpeg/differentiable"))
    name = "grad/jpeg/differentiable_x"
    assert_blocks_close(gradient, reference[name], tolerance(meta, name))
    with pytest.raises(ValueError, match="rounding"):
        jpeg(reference["in/img"][0], quality[0], rounding="none")  # type: ignore[arg-type]


def test_jpeg_treats_the_rest_of_the_canvas_as_black():
    planes = planes_like(5, 37, 21)
    part = jax.jit(jpeg)(embedded(planes, 48, 64, 7.0), np.float32(40), (jnp.int32(37), jnp.int32(21)))
    assert_blocks_close(part[:, :37, :21], jax.jit(jpeg)(planes, np.float32(40)), 1e-5, allowed=0)


def test_jpeg_of_a_smooth_image_at_quality_95_is_nearly_the_identity():
    planes = planes_like(1, 32, 48)
    planes[:] = planes.mean(axis=(1, 2), keepdims=True) + 0.05 * planes
    assert np.abs(np.asarray(jax.jit(jpeg)(planes, np.float32(95))) - planes).max() < 0.02


def psnr(a, b):
    return -10 * np.log10(np.mean((np.asarray(a, np.float64) - b) ** 2))


def luma(planes):
    return np.tensordot(np.float64([0.299, 0.587, 0.114]), np.asarray(planes, np.float64), 1)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "china"])
def test_jpeg_is_as_bad_as_a_real_encoder(name):
    """Within 0.5 dB; for color up to quality 75, because libjpeg's decoder smooths the chroma, which the published
    arithmetic repeats. At higher qualities the difference is up to 1.0 dB (coffee at 95)."""
    from framer_jax.data.photos import photo_path

    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    with Image.open(photo_path(name)) as photo:
        pixels = np.asarray(photo.convert("RGB"))[64:320, 96:352]
    planes = np.moveaxis(pixels, 2, 0).astype(np.float32) / 255
    compress = jax.jit(jpeg)
    for quality in range(30, 96, 5):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        real = np.moveaxis(np.asarray(Image.open(file), np.float32), 2, 0) / 255
        ours = compress(planes, np.float32(quality))
        assert psnr(luma(ours), luma(planes)) == pytest.approx(psnr(luma(real), luma(planes)), abs=0.5), quality
        if quality <= 75:
            assert psnr(ours, planes) == pytest.approx(psnr(real, planes), abs=0.5), quality


# Gradients


@pytest.mark.parametrize("mode", range(3))
def test_gradients_flow_through_blur_resize_and_soft_jpeg(mode):
    """Compared with finite differences, also on a canvas larger than the image."""
    hr, target = (jnp.asarray(planes_like(seed, 24, 24)) for seed in (4, 5))
    kernel = kernels.on_canvas(kernels.gaussian(7, (1.2, 0.6), 0.4))

    @jax.jit
    def loss(planes):
        size = (jnp.int32(22), jnp.int32(20))
        lr = resize.resize(
            blur(planes, kernel, size), jnp.int32(mode), (8, 8), size, (jnp.int32(6), jnp.int32(7)), None, 0.25
        )
        small = (jnp.int32(6), jnp.int32(7))
        return jnp.sum(jpeg(lr, jnp.float32(80), small, "soft")[:, :6, :7] ** 2)

    gradient = jax.grad(loss)(hr)
    assert not np.asarray(gradient)[:, 22:].any()
    assert not np.asarray(gradient)[:, :, 20:].any()
    direction = target / jnp.linalg.norm(target)
    slope = jnp.vdot(gradient, direction)
    step = 1e-3
    difference = (loss(hr + step * direction) - loss(hr - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(difference), rel=0.05)
