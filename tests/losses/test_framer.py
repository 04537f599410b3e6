"""The FRAMER term: the released fixture, the formulas written out in NumPy, gradients and switches."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from framer_jax.frequency.bands import disc_mask, full_layout, quantile_mask, spectrum
from framer_jax.losses.flow_matching import prediction_taps_to_clean
from framer_jax.losses.framer import FramerSettings, draw_negatives, framer_loss, paper, released
from framer_jax.losses.framer_bands import students_and_teacher
from framer_jax.losses.weight_schedule import WeightSchedule, weight_at


def draw_taps(count=4, shape=(3, 6, 5, 2), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(shape)  # taps are similar, so that FAM's alignments are above 0
    return tuple(jnp.asarray((shared + 0.7 * rng.standard_normal(shape)).astype(dtype)) for _ in range(count))


def cycle(count):
    return jnp.asarray((np.arange(count) + 1) % count, jnp.int32)


run = jax.jit(framer_loss, static_argnums=2)


@pytest.fixture(scope="module")
def case(fixtures):
    arrays = np.load(fixtures / "framer_loss_B3.npz", allow_pickle=False)
    return json.loads(str(arrays["meta"])), {key: arrays[key] for key in arrays.files if key != "meta"}


def channels_last(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def test_released_equals_the_fixture(case):
    meta, arrays = case
    layers = meta["config"]["layers"]
    variant = released(quantile=meta["config"]["cutoff"], temperature=meta["config"]["tau"])
    noisy, sigma = channels_last(arrays["in/noisy"]), jnp.asarray(arrays["in/sigmas"].reshape(-1))
    velocities = [channels_last(arrays[f"in/student_{i}"]) for i in range(layers)]
    teacher = channels_last(arrays["in/teacher"])
    negatives = jnp.asarray(arrays["in/neg_idx"], jnp.int32)

    @jax.jit
    def loss(velocities):
        taps = prediction_taps_to_clean((*velocities, teacher), noisy, sigma, "prediction")
        result = framer_loss(taps, negatives, variant)
        return result.values.mean(), result.diagnostics

    (value, diagnostics), gradients = jax.value_and_grad(loss, has_aux=True)(velocities)
    (clean,) = prediction_taps_to_clean((teacher,), noisy, sigma, "prediction")
    magnitude = jnp.abs(spectrum(clean))
    low = full_layout(quantile_mask(magnitude, teacher.shape[2], variant.quantile), teacher.shape[2])
    mine = {
        "out/loss": value,
        "out/avg_w_low": diagnostics["factor_low"].mean(),
        "out/avg_w_high": diagnostics["factor_high"].mean(),
        "out/teacher_magnitude": jnp.fft.fftshift(full_layout(magnitude, teacher.shape[2]), (1, 2)).transpose(
            0, 3, 1, 2
        ),
        **{f"grad/student_{i}": gradient.transpose(0, 3, 1, 2) for i, gradient in enumerate(gradients)},
    }
    for key, array in mine.items():
        error = np.abs(np.asarray(array) - arrays[key]).max()
        assert error <= meta["float32_vs_float64"][key]["atol"], (key, error)
    shifted = np.fft.fftshift(np.asarray(low), (1, 2)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(shifted, arrays["out/low_mask"])
    np.testing.assert_array_equal(~shifted, arrays["out/high_mask"])


def plain_formulas(taps, negatives, s):
    """The formulas of Eq. 1-9 written out with full FFTs in float64, one image and one layer at a time."""
    taps = [np.asarray(tap, np.float64) for tap in taps]
    middle = (len(taps) - 1) // 2 if s.teacher_layer is None else s.teacher_layer
    position = middle if s.teacher == "middle" else len(taps) - 1
    students = [tap for index, tap in enumerate(taps) if index != position]
    teachers = taps[1:] if s.teacher == "next" else [taps[position]] * len(students)
    batch, height, width, _ = taps[0].shape

    def spectra(x):
        full = np.fft.fft2(x, axes=(1, 2))
        return np.abs(full) if s.compare == "magnitudes" else full

    def cosine(a, b):
        return np.vdot(a, b).real / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300)

    values = np.zeros(batch)
    record = {f"{name}_{band}": np.zeros((len(students), batch)) for name in ("cosine", "factor") for band in BANDS}
    for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        magnitude = np.abs(np.fft.fft2(teacher, axes=(1, 2)))
        if s.bands == "quantile":
            ties = np.round(magnitude, 9)  # conjugate coefficients are equal; the full FFT's rounding parts them
            low = np.stack([one < np.quantile(one, s.quantile) for one in ties])
        else:
            disc = disc_mask((height, width), s.radius, "full")
            low = np.broadcast_to(disc[None, :, :, None], magnitude.shape)
        for band, mask, kind in (("low", low, s.low_loss), ("high", ~low, s.high_loss)):
            measured = np.ones_like(mask) if s.objective == "contrastive" else mask
            f, t = spectra(student) * measured, spectra(teacher) * measured
            n = spectra(students[negatives[i]]) * measured if negatives[i] >= 0 else None
            size = np.abs(np.fft.fft2(student, axes=(1, 2)))
            for b in range(batch):
                positive = cosine(f[b], t[b])
                terms = [positive] + ([cosine(f[b], n[b])] if n is not None else [])
                if kind == "inter":
                    terms += [cosine(f[b], t[other]) for other in range(batch) if other != b]
                    if s.negatives_of_all_images and n is not None:
                        terms += [cosine(f[b], n[other]) for other in range(batch) if other != b]
                terms = np.exp(np.array(terms) / s.temperature)
                loss = -np.log(terms[0] / terms.sum())

                def mean_magnitude(m, b=b, measured=measured):
                    if s.magnitude_per_channel:
                        sums, counts = (m[b] * measured[b]).sum((0, 1)), measured[b].sum((0, 1))
                        return (sums / (counts + s.epsilon)).mean()
                    return (m[b] * measured[b]).sum() / (measured[b].sum() + s.epsilon)

                own, target = mean_magnitude(size), mean_magnitude(magnitude)
                delta = abs(own - target) / {
                    "teacher": target + s.epsilon, "student": own + s.epsilon, "absolute": 1.0
                }[s.magnitude_relative_to]  # fmt: skip
                factor = (1 / (1 + delta) if s.faw else 1.0) * (max(positive, 0.0) if s.fam else 1.0)
                values[b] += factor * loss
                record[f"cosine_{band}"][i, b], record[f"factor_{band}"][i, b] = positive, factor
    return values / (len(students) if s.reduction == "mean" else 1), {k: v.mean(1) for k, v in record.items()}


BANDS = ("low", "high")
VARIANTS = {
    "paper": paper(),
    "released": released(quantile=0.3),
    "wide": paper(radius=0.6, temperature=0.3),
    "mean": paper(reduction="mean"),
    "no faw": paper(faw=False),
    "no fam": paper(fam=False),
    "neither": released(faw=False, fam=False),
    "relative to student": paper(magnitude_relative_to="student"),
    "absolute": paper(magnitude_relative_to="absolute", magnitude_per_channel=True),
    "intra intra": paper(high_loss="intra"),
    "inter inter": paper(low_loss="inter"),
    "inter intra": paper(low_loss="inter", high_loss="intra"),
    "middle": paper(teacher="middle"),
    "middle layer 2": released(teacher="middle", teacher_layer=2, quantile=0.3),
    "next": paper(teacher="next"),
    "next released": released(teacher="next", quantile=0.3),
    "previous": paper(negatives="previous"),
    "no negatives": released(negatives="none", quantile=0.3),
    "all images": paper(negatives_of_all_images=True),
    "disc of magnitudes": paper(compare="magnitudes"),
    "quantile of spectra": paper(bands="quantile", quantile=0.3),
    "without bands": paper(objective="contrastive"),
    "without bands, released": released(objective="contrastive"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_switch_equals_the_formulas(name):
    variant, taps = VARIANTS[name], draw_taps()
    negatives = draw_negatives(jax.random.key(3), len(taps) - 1, variant)
    result = framer_loss(taps, negatives, variant) if name == "next" else run(taps, negatives, variant)
    values, record = plain_formulas(taps, np.asarray(negatives), variant)
    np.testing.assert_allclose(result.values, values, rtol=2e-5, atol=1e-6)
    if variant.objective == "full":
        for key, expected in record.items():
            np.testing.assert_allclose(result.diagnostics[key], expected, rtol=2e-5, atol=1e-6)


@given(
    shape=st.sampled_from([(2, 2, 2, 1), (2, 7, 4, 3), (2, 5, 5, 2), (1, 3, 8, 1)]),
    radius=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
@hypothesis_settings(deadline=None, max_examples=5)
def test_the_paper_variant_on_any_shape(shape, radius, seed):
    variant, taps = paper(radius=radius), draw_taps(3, shape, seed)
    negatives = cycle(2)
    values, _ = plain_formulas(taps, np.asarray(negatives), variant)
    np.testing.assert_allclose(run(taps, negatives, variant).values, values, rtol=5e-5, atol=2e-6)


def test_l2_and_none():
    taps = draw_taps()
    negatives = cycle(3)
    expected = sum(np.square(np.asarray(tap - taps[-1])).mean((1, 2, 3)) for tap in taps[:-1])
    np.testing.assert_allclose(run(taps, negatives, paper(objective="l2")).values, expected, rtol=1e-5)
    steps = [np.square(np.asarray(a - b)).mean((1, 2, 3)) for a, b in itertools.pairwise(taps)]
    following = paper(objective="l2", teacher="next")
    np.testing.assert_allclose(run(taps, negatives, following).values, sum(steps), rtol=1e-5)
    nothing = run(taps, negatives, paper(objective="none"))
    assert not np.asarray(nothing.values).any()
    full = run(taps, negatives, paper())
    for key, value in nothing.diagnostics.items():  # measured alike whatever is trained
        np.testing.assert_allclose(value, full.diagnostics[key], rtol=1e-5)


PLAIN = {"faw": False, "fam": False}


@pytest.mark.parametrize("variant", [paper(radius=0.5, **PLAIN), released(**PLAIN), paper(objective="l2")])
def test_gradient_equals_finite_differences(variant):
    with jax.enable_x64(True):
        taps = tuple(jnp.asarray(np.asarray(tap), jnp.float64) for tap in draw_taps(3, (2, 4, 5, 2)))
        negatives = jnp.asarray([1, -1], jnp.int32)  # tap 0 is nobody's negative, so its gradient is a derivative
        direction = jnp.asarray(np.random.default_rng(5).standard_normal(taps[0].shape))

        @jax.jit
        def total(first):
            return framer_loss((first, *taps[1:]), negatives, variant).values.sum()

        step = 1e-5
        slope = (total(taps[0] + step * direction) - total(taps[0] - step * direction)) / (2 * step)
        gradient = jax.grad(total)(taps[0])
        assert gradient.dtype == jnp.float64
        assert float(jnp.vdot(gradient, direction)) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("variant", [paper(), released(), paper(objective="contrastive"), paper(objective="l2")])
def test_gradients_go_where_the_method_sends_them(variant):
    taps = draw_taps()
    gradient = jax.jit(jax.grad(lambda taps, i: run(taps, cycle(3), variant).values[i]))(taps, 0)
    assert not np.asarray(gradient[-1]).any()  # the teacher
    for tap, part in zip(taps[:-1], gradient[:-1], strict=True):
        part = np.asarray(part)
        assert part[0].any()
        assert not part[1:].any()  # teachers and negatives of other images are constants
        if variant.objective != "l2":  # cosines do not see a scale, and w, which does, is a constant
            assert abs(np.vdot(part, tap)) < 1e-5 * np.linalg.norm(part) * np.linalg.norm(tap)


@pytest.mark.parametrize("teacher", ["last", "middle", "next"])
def test_teachers_are_constants(teacher):
    slopes = jax.grad(lambda taps: students_and_teacher(taps, paper(teacher=teacher))[1].sum())(draw_taps(3))
    assert not any(np.any(slope) for slope in slopes)


def test_no_gradient_into_negatives():
    taps = draw_taps(3)
    variant = paper(reduction="sum")

    def gradient(negatives):
        return jax.jit(jax.grad(lambda taps, n: framer_loss(taps, n, variant).values.sum()))(taps, negatives)

    alone = gradient(jnp.asarray([1, -1], jnp.int32))[0]
    used = gradient(jnp.asarray([1, 0], jnp.int32))[0]  # tap 0 is now tap 1's negative
    np.testing.assert_allclose(used, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", [paper(), released()])
def test_permuting_the_batch_permutes_the_values(variant):
    taps, order = draw_taps(4, (4, 4, 4, 2)), np.array([2, 0, 3, 1])
    values = run(taps, cycle(3), variant)
    permuted = run(tuple(tap[order] for tap in taps), cycle(3), variant)
    np.testing.assert_allclose(permuted.values, values.values[order], rtol=1e-5)
    for key, value in values.diagnostics.items():
        np.testing.assert_allclose(permuted.diagnostics[key], value, rtol=1e-5)


def test_jit_sharding_and_dtype_do_not_change_the_term():
    taps, variant = draw_taps(3, (8, 4, 4, 2)), paper()
    expected = framer_loss(taps, cycle(2), variant).values
    np.testing.assert_allclose(run(taps, cycle(2), variant).values, expected, rtol=1e-5)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = tuple(jax.device_put(tap, sharding) for tap in taps)
    np.testing.assert_allclose(run(spread, cycle(2), variant).values, expected, rtol=1e-5)  # global negatives
    halves = tuple(tap.astype(jnp.bfloat16) for tap in taps)
    same = run(tuple(half.astype(jnp.float32) for half in halves), cycle(2), variant).values
    result = run(halves, cycle(2), variant)
    assert result.values.dtype == jnp.float32
    np.testing.assert_allclose(result.values, same, rtol=1e-6)


def test_reported_factors_are_the_applied_ones():
    seen = run(draw_taps(), cycle(3), paper()).diagnostics
    assert sorted(seen) == sorted(f"{n}_{b}" for n in ("cosine", "weight", "gate", "factor") for b in BANDS)
    assert all(value.shape == (3,) and value.dtype == jnp.float32 for value in seen.values())
    off = run(draw_taps(), cycle(3), paper(**PLAIN)).diagnostics
    for band in BANDS:
        assert (np.asarray(off[f"factor_{band}"]) == 1).all()
        np.testing.assert_allclose(off[f"cosine_{band}"], seen[f"cosine_{band}"], rtol=1e-6)


@pytest.mark.parametrize("variant", [paper(), released(), paper(teacher="next")])
def test_degenerate_maps_are_finite(variant):
    zero = jnp.zeros((2, 4, 4, 2), jnp.float32)
    flat = jnp.broadcast_to(jnp.float32(3.1), zero.shape)  # a head that is still a bias: no high band but rounding
    some = draw_taps(1, zero.shape)[0]
    for taps in ((zero, zero, zero), (some, some, some), (flat, some, some), (some, flat, flat), (zero, some, flat)):
        negatives = cycle(2)
        values, gradient = jax.value_and_grad(lambda t, n=negatives: run(t, n, variant).values.sum())(taps)
        assert np.isfinite(values)
        assert all(np.abs(np.asarray(part)).max() < 1e3 for part in gradient), taps


def test_single_image_and_single_student():
    taps = draw_taps(2, (1, 4, 4, 2))
    negatives = draw_negatives(jax.random.key(0), 1, paper())
    assert negatives.tolist() == [-1]
    np.testing.assert_allclose(run(taps, negatives, paper()).values, 0.0, atol=1e-6)  # nothing to contrast with


def test_negatives():
    variant = paper()
    draws = np.stack([draw_negatives(jax.random.key(i), 5, variant) for i in range(60)])
    assert draws.dtype == np.int32
    for student in range(5):
        assert set(draws[:, student]) == set(range(5)) - {student}
    np.testing.assert_array_equal(draw_negatives(jax.random.key(7), 5, variant), draws[7])
    following = np.stack([draw_negatives(jax.random.key(i), 4, paper(teacher="next")) for i in range(40)])
    for student in range(4):
        assert set(following[:, student]) == set(range(4)) - {student, student + 1}
    assert draw_negatives(jax.random.key(0), 4, paper(negatives="previous")).tolist() == [-1, 0, 1, 2]
    assert draw_negatives(jax.random.key(0), 4, paper(negatives="none")).tolist() == [-1] * 4


def test_lambda_follows_the_settings():
    schedule = paper(weight=2.0, start_step=4, ramp_steps=8).weight_schedule
    assert schedule == WeightSchedule(weight=2.0, shape="linear", start_step=4, ramp_steps=8)
    np.testing.assert_allclose([weight_at(schedule, step) for step in (3, 4, 8, 12, 99)], [0.0, 0.0, 1.0, 2.0, 2.0])


def test_presets_differ_where_the_table_says():
    assert paper() == FramerSettings()
    assert (paper().weight, paper().reduction, paper().bands, paper().compare) == (1.0, "sum", "disc", "spectra")
    assert (released().weight, released().reduction, released().bands) == (0.1, "mean", "quantile")
    assert released().last_is_student
    assert not paper().last_is_student
    assert released(weight=0.3).weight == 0.3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paper(objective="best"), "framer.objective"),
        (lambda: paper(radius=-0.1), "framer.radius"),
        (lambda: paper(quantile=1.5), "framer.quantile"),
        (lambda: paper(temperature=0.0), "framer.temperature"),
        (lambda: paper(weight=float("nan")), "framer.weight"),
        (lambda: paper(ramp_steps=-1), "framer.ramp_steps"),
        (lambda: paper(lamda=1.0), "framer.lamda"),
        (lambda: framer_loss(draw_taps(1), cycle(1), paper()), "two taps"),
        (lambda: framer_loss((*draw_taps(2), draw_taps(1, (3, 3, 5, 2))[0]), cycle(2), paper()), "one shape"),
        (lambda: framer_loss(draw_taps(3), cycle(3), paper()), r"negatives must be \[2\]"),
        (lambda: framer_loss(draw_taps(3), cycle(2), paper(teacher="middle", teacher_layer=3)), "teacher_layer"),
        (lambda: framer_loss(draw_taps(3, (2, 3, 3, 1)), cycle(2), paper(radius=1.2)), "no high band"),
        (lambda: draw_negatives(jax.random.key(0), 0, paper()), "at least one student"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
