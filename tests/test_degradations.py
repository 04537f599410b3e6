"""The degradation's primitives against the published ones, and its promises: keyed, per record, batch-independent."""

import json
from dataclasses import replace
from io import BytesIO
from math import pi

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from framer_jax.degradations import kernels, noise, pipeline, presets, resize
from framer_jax.degradations.blur import blur
from framer_jax.degradations.jpeg import jpeg

interpolation_matrix = jax.jit(resize.interpolation_matrix, static_argnums=(4, 5))
LIGHT = presets.LIGHT_ONE_STAGE


@pytest.fixture(scope="module")
def reference(fixtures):
    with np.load(fixtures / "realesrgan_primitives.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def meta(reference):
    return json.loads(str(reference["meta"]))


def nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def tolerance(meta, name):
    return meta["float32_vs_float64"][name]["atol"]


def photo_like(seed, height, width, batch=1):
    """Smooth content with an edge, [B, H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    phase = rng.uniform(0, 6, (batch, 1, 1, 3))
    image = 0.5 + 0.3 * np.sin(7 * x[None, ..., None] + phase) * np.cos(5 * y[None, ..., None] + 2 * phase)
    image[:, height // 3 :, width // 2 :] *= 0.6
    return np.clip(image, 0, 1).astype(np.float32)


def make_kernel(entry):
    if entry["kind"] == "sinc":
        return kernels.on_canvas(kernels.circular_low_pass(entry["size"], entry["cutoff"]))
    sigma, angle = (entry["sx"], entry["sy"]), entry["theta"]
    if entry["kind"] == "gaussian":
        return kernels.gaussian(entry["size"], sigma, angle)
    make = {"generalized": kernels.generalized_gaussian, "plateau": kernels.plateau}[entry["kind"]]
    return make(entry["size"], sigma, angle, entry["beta"])


def test_kernels_match_the_published_ones(reference, meta):
    for entry in meta["config"]["kernels"]:
        name = f"out/kernel/{entry['name']}"
        np.testing.assert_allclose(
            make_kernel(entry), reference[name], rtol=0, atol=tolerance(meta, name), err_msg=entry["name"]
        )


@settings(deadline=None, max_examples=40)
@given(
    size=st.sampled_from(presets.REAL_ESRGAN_SIZES),
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


def test_bad_kernels_are_refused():
    with pytest.raises(ValueError, match="odd size"):
        kernels.gaussian(8, (1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        kernels.on_canvas(kernels.gaussian(23, (1, 1)))


def test_blur_matches_the_published_filter(reference, meta):
    image, kernel = nhwc(reference["in/img"]), reference["in/filter_kernels"]
    ours = jax.jit(blur)(image, kernel)
    name = "out/filter2D_batch"
    np.testing.assert_allclose(ours, nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))
    name = "out/filter2D_shared"
    ours = jax.jit(blur)(image, np.repeat(kernel[:1], 2, axis=0))
    np.testing.assert_allclose(ours, nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))


def test_blur_by_a_delta_is_the_identity_and_small_images_are_refused():
    image = photo_like(0, 24, 33)
    np.testing.assert_allclose(blur(image, kernels.delta()[None]), image, atol=2e-6)
    with pytest.raises(ValueError, match="larger than 10 pixels"):
        blur(image[:, :8], kernels.delta()[None])


def test_resize_matches_the_published_sampling(reference, meta):
    image = nhwc(reference["in/resize_img"])
    entries = meta["config"]["resize"]
    cases = {(entry.get("scale"), tuple(entry.get("size", ()))) for entry in entries}
    results = {}
    for scale, size in cases:  # the three modes are one batch of one program
        modes = jnp.arange(3, dtype=jnp.int32)
        run = jax.jit(resize.resize, static_argnums=(2, 3))
        results[scale, size] = run(np.repeat(image, 3, axis=0), modes, size or None, scale)
    for entry in entries:
        name = f"out/resize/{entry['name']}"
        ours = results[entry.get("scale"), tuple(entry.get("size", ()))][resize.MODES.index(entry["mode"])]
        np.testing.assert_allclose(
            ours, nhwc(reference[name])[0], rtol=0, atol=tolerance(meta, name), err_msg=entry["name"]
        )


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 24), new_size=st.integers(1, 24), mode=st.sampled_from(range(3)))
def test_interpolation_knows_sizes_only_at_run_time(size, new_size, mode):
    tight, wide = (
        np.asarray(interpolation_matrix(mode, size, new_size, size / new_size, *canvases))
        for canvases in ((24, 24), (32, 40))
    )
    np.testing.assert_array_equal(wide[:new_size, :size], tight[:new_size, :size])
    assert not wide[new_size:].any()
    assert not wide[:, size:].any()
    np.testing.assert_allclose(wide[:new_size].sum(axis=1), 1, atol=1e-5)


def test_resize_refuses_what_makes_no_image():
    image, mode = photo_like(0, 8, 8), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="cannot be resized"):
        resize.resize(image, mode, scale=0.1)
    with pytest.raises(ValueError, match="either a size or a scale"):
        resize.resize(image, mode)


def assert_blocks_close(ours, theirs, atol):
    """Equal but for a few blocks (16 x 16 with subsampled chroma) whose coefficient lay half-way between levels."""
    different = np.abs(np.asarray(ours) - theirs) > atol
    rows, columns = np.arange(theirs.shape[1]) // 16, np.arange(theirs.shape[2]) // 16
    blocks = {(b, rows[h], columns[w]) for b, h, w, _ in np.argwhere(different)}
    assert len(blocks) <= 2, f"{len(blocks)} blocks differ"


def test_jpeg_matches_the_published_arithmetic(reference, meta):
    image = nhwc(reference["in/img"])
    compress = jax.jit(jpeg, static_argnums=2)
    for quality in meta["config"]["jpeg_quality"]:
        name = f"out/jpeg/q{quality}"
        ours = compress(image, np.full(2, quality, np.float32), "hard")
        assert_blocks_close(ours, nhwc(reference[name]), tolerance(meta, name))
    ours = compress(image, np.float32(meta["config"]["jpeg_per_sample"]), "hard")
    assert_blocks_close(ours, nhwc(reference["out/jpeg/per_sample"]), tolerance(meta, "out/jpeg/per_sample"))


def test_soft_jpeg_matches_and_has_the_published_gradient(reference, meta):
    image = nhwc(reference["in/img"])
    quality = np.full(2, meta["config"]["jpeg_diff"], np.float32)

    @jax.jit
    def both(image):
        def loss(image):
            out = jpeg(image, quality, "soft")
            return jnp.mean(out**2), out

        return jax.value_and_grad(loss, has_aux=True)(image)

    (_, ours), gradient = both(image)
    assert_blocks_close(ours, nhwc(reference["out/jpeg/differentiable"]), tolerance(meta, "out/jpeg/differentiable"))
    expected = nhwc(reference["grad/jpeg/differentiable_x"])
    assert_blocks_close(gradient, expected, tolerance(meta, "grad/jpeg/differentiable_x"))
    with pytest.raises(ValueError, match="rounding"):
        jpeg(image, quality, "none")  # type: ignore[arg-type]


def test_jpeg_of_a_smooth_image_at_quality_95_is_nearly_the_identity():
    image = photo_like(1, 32, 48)
    image[:] = image.mean(axis=(1, 2), keepdims=True) + 0.05 * image
    assert np.abs(np.asarray(jax.jit(jpeg)(image, np.float32([95]))) - image).max() < 0.02


def psnr(a, b):
    return -10 * np.log10(np.mean((np.asarray(a, np.float64) - b) ** 2))


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_is_as_bad_as_a_real_encoder(quality):
    from framer_jax.data.photos import photo_path

    pytest.importorskip("skimage")
    with Image.open(photo_path("chelsea")) as photo:
        pixels = np.asarray(photo.convert("RGB"))[64:192, 96:288]
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    image = pixels.astype(np.float32) / 255
    real = np.asarray(Image.open(file), np.float32) / 255
    ours = jax.jit(jpeg)(image[None], np.float32([quality]))[0]
    assert psnr(ours, image) == pytest.approx(psnr(real, image), abs=0.5)


def test_gaussian_noise_is_standard_normal():
    uniform = jax.random.uniform(jax.random.key(0), (200_000,))
    normal = np.asarray(noise.standard_normal(uniform))
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert np.isfinite(np.asarray(noise.standard_normal(jnp.float32([0.0, 0.5, 1 - 2**-24])))).all()


def test_gaussian_noise_matches_given_the_same_draws(reference, meta):
    sigma, gray = reference["in/gauss_sigma"] / 255, reference["in/gray_flag"] > 0.5
    color = nhwc(reference["in/gauss_color_noise"])
    one = reference["in/gauss_gray_noise"][None, :, :, None].repeat(2, axis=0)
    for name, flags in (("out/gauss/noise", gray), ("out/gauss/noise_color_only", np.zeros(2, bool))):
        ours = noise.gaussian_noise(jnp.where(flags[:, None, None, None], one, color), sigma)
        np.testing.assert_allclose(ours, nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))


def test_poisson_noise_matches_given_the_same_counts(reference, meta):
    image, scale = nhwc(reference["in/img"]), reference["in/poisson_scale"]
    gray = (reference["in/gray_flag"] > 0.5)[:, None, None, None]
    color_rate, gray_rate = noise.poisson_rate(image), noise.poisson_rate(noise.grayscale(image))
    for name, rate in (("out/poisson/rate_color", color_rate), ("out/poisson/rate_gray", gray_rate)):
        np.testing.assert_allclose(rate.rate, nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))
    color = noise.poisson_noise(color_rate, nhwc(reference["in/poisson_color_counts"]), scale)
    name = "out/poisson/noise_color_only"
    np.testing.assert_allclose(color, nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))
    luma = noise.poisson_noise(gray_rate, nhwc(reference["in/poisson_gray_counts"]), scale)
    name = "out/poisson/noise"
    np.testing.assert_allclose(np.where(gray, luma, color), nhwc(reference[name]), rtol=0, atol=tolerance(meta, name))


@pytest.mark.parametrize(("level", "exponent"), [(1, 0), (255, 0), (40, 4), (200, 6), (3, 8), (130, 8), (255, 8)])
def test_poisson_counts_are_distributed_as_they_should_be(level, exponent):
    draws = 40_000
    uniform = jax.random.uniform(jax.random.key(level), (1, 200, 200, 1))
    rate = noise.PoissonRate(jnp.full((1, 200, 200, 1), level, jnp.int32), jnp.full(1, exponent, jnp.int32))
    counts = np.asarray(jax.jit(noise.poisson_counts)(rate, uniform)).reshape(-1).astype(int)
    # Exact inversion: each count is the quantile of its uniform, up to float32 at the steps.
    quantile = stats.poisson.ppf(np.asarray(uniform, np.float64).reshape(-1), level / 255 * 2**exponent)
    assert np.mean(counts != quantile) < 1e-4
    assert np.abs(counts - quantile).max() <= 1
    assert abs(counts.mean() - level / 255 * 2**exponent) < 5 * np.sqrt(level / 255 * 2**exponent / draws)


def test_poisson_gain_counts_the_distinct_levels_of_valid_pixels():
    image = np.zeros((4, 8, 8, 1), np.float32)
    image[1, 0, 0] = 1
    image[2, 0, :5, 0] = np.arange(5) / 255
    image[3] = np.arange(64).reshape(8, 8, 1) / 255
    np.testing.assert_array_equal(noise.poisson_rate(image).exponent, [0, 1, 3, 6])
    valid = np.ones((4, 8, 8), bool)
    valid[:, 0] = False
    np.testing.assert_array_equal(noise.poisson_rate(image, valid).exponent, [0, 0, 0, 6])


# The pipeline


@pytest.fixture(scope="module")
def degrade():
    return jax.jit(pipeline.apply, static_argnames="scale")


def records(number, preset=LIGHT, seed=0):
    return pipeline.stack([pipeline.draw(np.random.default_rng([seed, i]), preset) for i in range(number)])


def test_a_record_gives_the_same_image_at_any_place_of_any_batch(degrade):
    hr, parameters = photo_like(0, 32, 32, 16), records(16)
    together = np.asarray(degrade(parameters, hr))
    assert together.shape == (16, 8, 8, 3)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.round(together * 255) / 255, rtol=0, atol=1e-7)
    assert together.min() >= 0
    assert together.max() <= 1
    backwards = np.asarray(degrade(jax.tree.map(lambda x: x[::-1], parameters), hr[::-1]))[::-1]
    np.testing.assert_array_equal(backwards, together)
    for i in range(0, 16, 5):
        alone = degrade(jax.tree.map(lambda x, i=i: x[i : i + 1], parameters), hr[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


def test_devices_degrade_their_own_images(degrade):
    hr, parameters = photo_like(0, 32, 32, 16), records(16)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(pipeline.apply, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    np.testing.assert_array_equal(sharded(parameters, hr), degrade(parameters, hr))
    assert "all-gather" not in sharded.lower(parameters, hr).compile().as_text()


def test_a_key_changes_the_noise_and_nothing_else(degrade):
    hr = photo_like(0, 32, 32, 2)
    parameters = records(2)._replace(noise_kind=np.int32([1, 0]), jpeg_quality=np.zeros(2, np.float32))
    own, other = (np.asarray(degrade(parameters, hr, key)) for key in (None, jax.random.key(1)))
    assert (own[0] != other[0]).any()
    np.testing.assert_array_equal(own[1], other[1])


def test_gray_noise_is_gray(degrade):
    hr = np.full((2, 32, 32, 3), 0.5, np.float32)
    parameters = records(2)._replace(
        noise_kind=np.int32([1, 2]), noise_gray=np.ones(2, bool), jpeg_quality=np.zeros(2, np.float32)
    )
    lr = np.asarray(degrade(parameters, hr))
    np.testing.assert_array_equal(lr, lr[..., :1].repeat(3, axis=-1))
    assert (lr.std(axis=(1, 2)) > 0).all()


def test_the_bicubic_preset_is_matlabs_reduction(degrade):
    from framer_jax.degradations.matlab_bicubic import matlab_bicubic

    hr = photo_like(3, 32, 40)
    lr = degrade(records(1, presets.BICUBIC), hr)
    expected = np.clip(np.asarray(matlab_bicubic(hr, 0.25)), 0, 1)
    assert np.abs(np.asarray(lr) - expected).max() <= 0.5 / 255 + 1e-5


def test_gradients_flow_to_the_hr_image():
    """Through blur and resize: noise is given, and hard rounding (JPEG, 8 bits) has none."""
    hr = jnp.asarray(photo_like(4, 24, 24))
    kernel = kernels.on_canvas(kernels.gaussian(7, (1.2, 0.6), 0.4))[None]
    target = jnp.asarray(photo_like(5, 24, 24))

    @jax.jit
    def loss(image):
        lr = resize.resize(blur(image, kernel), jnp.full(1, 2, jnp.int32), size=(6, 6))
        return jnp.sum(jpeg(lr, jnp.float32([80]), "soft") ** 2)

    direction = target / jnp.linalg.norm(target)
    slope = jnp.vdot(jax.grad(loss)(hr), direction)
    step = 1e-3
    difference = (loss(hr + step * direction) - loss(hr - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(difference), rel=0.05)


def test_the_degradation_refuses_odd_sizes():
    with pytest.raises(ValueError, match="multiples"):
        pipeline.apply(records(1), photo_like(0, 30, 32))


def test_drawing_is_keyed():
    one, same, other = (pipeline.draw(np.random.default_rng(seed), LIGHT) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one.noise_seed != other.noise_seed).any()
    types = {name: (np.shape(value), np.asarray(value).dtype.name) for name, value in one._asdict().items()}
    assert types == {
        "kernel": ((21, 21), "float32"),
        "resize_mode": ((), "int32"),
        "noise_kind": ((), "int32"),
        "noise_level": ((), "float32"),
        "noise_gray": ((), "bool"),
        "jpeg_quality": ((), "float32"),
        "noise_seed": ((2,), "uint32"),
    }


def within(successes, draws, probability):
    return abs(successes / draws - probability) < 4.5 * np.sqrt(probability * (1 - probability) / draws)


def test_ten_thousand_draws_follow_the_preset():
    draws = 10_000
    rng = np.random.default_rng(5)
    drawn = [pipeline.draw(rng, LIGHT) for _ in range(draws)]
    parameters = pipeline.stack(drawn)
    for mode in range(3):
        assert within((parameters.resize_mode == mode).sum(), draws, 1 / 3)
    gaussian = parameters.noise_kind == 1
    assert within(gaussian.sum(), draws, 0.5)
    assert (gaussian | (parameters.noise_kind == 2)).all()
    assert within(parameters.noise_gray.sum(), draws, 0.4)
    for values, low, high in (
        (parameters.noise_level[gaussian] * 255, 1, 10),
        (parameters.noise_level[~gaussian], 0.05, 1),
        (parameters.jpeg_quality, 60, 95),
        (parameters.noise_seed[:, 0], 0, 2**32),
    ):
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-3
    # An isotropic kernel equals its quarter turn.
    isotropic = [np.allclose(record.kernel, np.rot90(record.kernel), atol=1e-7) for record in drawn]
    assert within(sum(isotropic), draws, 9 / 14)


def test_every_kind_of_the_mixture_is_drawn():
    shapes = ("gaussian", "generalized_gaussian", "plateau")
    kinds = tuple((f"{form}_{shape}", 1 / 6) for form in ("isotropic", "anisotropic") for shape in shapes)
    preset = replace(LIGHT.blur, kinds=kinds, low_pass=0.1)
    rng = np.random.default_rng(0)
    drawn = [pipeline.draw_kernel(rng, preset) for _ in range(2000)]
    assert within(sum(bool((kernel < 0).any()) for kernel in drawn), 2000, 0.1)  # only the low-pass rings
    assert all(kernel.shape == (21, 21) and abs(kernel.sum() - 1) < 1e-5 for kernel in drawn)


def test_presets_hold_their_sources_numbers():
    assert LIGHT.blur.sizes == tuple(range(7, 22, 2))
    assert LIGHT.blur.sigma == (0.2, 2.0)
    assert sum(p for _, p in LIGHT.blur.kinds) == pytest.approx(1)
    assert LIGHT.noise == presets.NoisePreset(gaussian=0.5, sigma=(1, 10), poisson_scale=(0.05, 1), gray=0.4)
    assert LIGHT.jpeg_quality == (60, 95)
    assert LIGHT.resize_modes == ("area", "bilinear", "bicubic")
    assert presets.preset_by_name("bicubic") is presets.BICUBIC
    assert all(preset.name == name and preset.source for name, preset in presets.PRESETS.items())
    with pytest.raises(ValueError, match="bicubic, light_one_stage"):
        presets.preset_by_name("heavy")
