# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # FRAMER from scratch
#
# FRAMER (arXiv 2512.01390, CVPR 2026) adds one term to the training of a denoiser: the last feature map teaches the
# earlier ones, separately in the low and in the high frequencies. This notebook computes Eq. 1 to 10 step by step in
# `jax.numpy` on a few feature maps, and compares every step with the function of the library that does the same.
#
# It needs `framer_jax` and runs on a CPU in seconds.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import framer_jax
from framer_jax.frequency.bands import band_cosine
from framer_jax.losses import framer as library

jax.config.update("jax_default_matmul_precision", "highest")


def agree(mine: jax.Array, theirs: jax.Array, what: str) -> None:
    """Compare a step with the library's."""
    np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)
    print(f"{what}: the same as the library's, up to {float(np.abs(np.asarray(mine) - np.asarray(theirs)).max()):.0e}")


# %% [markdown]
# ## Feature maps
#
# A denoiser has N + 1 blocks, each of which leaves a feature map F⁽ⁱ⁾ of B images, [B, H, W, C]. The last one is the
# teacher, F⁽ⁿ⁾; the others are the students. Here they are made: each deeper map is nearer to the last one.

# %%
B, H, W, C, N = 3, 16, 16, 8, 4
keys = jax.random.split(jax.random.key(0), N + 1)
noise = [jax.random.normal(key, (B, H, W, C)) for key in keys]
target = jnp.cumsum(noise[-1], axis=1) / 4  # smooth along the rows: more low than high frequencies
taps = [target + (N - i) / N * noise[i] for i in range(N)] + [target]
students, teacher = jnp.stack(taps[:-1]), jax.lax.stop_gradient(taps[-1])
print(f"{N} students of shape {students.shape[1:]}, and their teacher")

# %% [markdown]
# ## Two bands
#
# The spectrum S of a map is its two-dimensional Fourier transform in each channel. A disc around the zero frequency,
# with a radius of 0.2 of the Nyquist frequency, is the low band M_LF; the rest is the high band M_HF.

# %%
fy, fx = np.fft.fftfreq(H) * 2, np.fft.fftfreq(W) * 2  # in units of the Nyquist frequency
low_mask = np.hypot(fy[:, None], fx[None, :]) <= 0.2
bands = {"low": jnp.asarray(low_mask)[:, :, None], "high": jnp.asarray(~low_mask)[:, :, None]}
assert (low_mask == framer_jax.band_masks(H, W, layout="full")[0]).all()
print(f"low band: {low_mask.sum()} of {low_mask.size} frequencies")


def spectrum(maps: jax.Array) -> jax.Array:
    """S = FFT(F) over rows and columns, [..., H, W, C] complex."""
    return jnp.fft.fft2(maps, axes=(-3, -2))


# %% [markdown]
# ## Cosines
#
# Maps are compared by the cosine of the parts of their spectra in a band, over all frequencies and channels:
#
# $$\cos_b(F, G) = \frac{\mathrm{Re}\,\langle S_F M_b,\; S_G M_b\rangle}{\|S_F M_b\|\,\|S_G M_b\|}$$


# %%
def cosine(first: jax.Array, second: jax.Array, band: jax.Array) -> jax.Array:
    """Cosine of two maps [..., H, W, C] in a band."""
    a, b = spectrum(first) * band, spectrum(second) * band
    axes = (-3, -2, -1)
    lengths = jnp.sqrt((jnp.abs(a) ** 2).sum(axes) * (jnp.abs(b) ** 2).sum(axes))
    return (a * b.conj()).real.sum(axes) / lengths


to_teacher = {name: cosine(students, teacher[None], band) for name, band in bands.items()}  # [N, B] each
half_low = framer_jax.band_masks(H, W)[0]
for index in range(N):
    theirs = band_cosine(students[index], teacher, half_low)
    for name, value in zip(("low", "high"), theirs, strict=True):
        np.testing.assert_allclose(to_teacher[name][index], value, atol=1e-5)
print("mean cosine to the teacher, by layer:", {name: np.round(value.mean(1), 2) for name, value in to_teacher.items()})

# %% [markdown]
# ## Eq. 1: IntraCL, the low band
#
# Low frequencies say what an image shows, and all layers of one image should agree on that. Another layer j ≠ i of the
# same image, drawn at random, is the negative:
#
# $$\mathcal L_\mathrm{IntraCL}^{(i)} = -\log \frac{e^{s_+}}{e^{s_+} + e^{s_-}},\qquad s_+ = \cos_\mathrm{LF}(F^{(i)},
# F^{(n)})/\tau,\quad s_- = \cos_\mathrm{LF}(F^{(i)}, F^{(j)})/\tau$$

# %%
tau = 1.0
negatives = library.draw_negatives(jax.random.key(1), N, library.paper())
print("negative of each student:", negatives)
negative_maps = jax.lax.stop_gradient(students[negatives])  # no gradient reaches the negative

plus = to_teacher["low"] / tau
minus = cosine(students, negative_maps, bands["low"]) / tau
intra = -jnp.log(jnp.exp(plus) / (jnp.exp(plus) + jnp.exp(minus)))  # [N, B]
agree(intra, library.intra_cl(plus, minus), "Eq. 1")

# %% [markdown]
# ## Eq. 2: InterCL, the high band
#
# High frequencies tell one image from another. The negatives are the other layer again, and the teacher's maps of the
# other images b' of the batch:
#
# $$\mathcal L_\mathrm{InterCL}^{(i)} = -\log \frac{e^{s_+}}{e^{s_+} + e^{s_-} + \sum_{b' \ne b}
# e^{\cos_\mathrm{HF}(F^{(i)}_b, F^{(n)}_{b'})/\tau}}$$

# %%
plus = to_teacher["high"] / tau
minus = cosine(students, negative_maps, bands["high"]) / tau
between = cosine(students[:, :, None], teacher[None, None], bands["high"]) / tau  # [N, B, B]: image b and image b'
others = jnp.where(jnp.eye(B, dtype=bool), 0.0, jnp.exp(between)).sum(-1)
inter = -jnp.log(jnp.exp(plus) / (jnp.exp(plus) + jnp.exp(minus) + others))
masked = jnp.where(jnp.eye(B, dtype=bool), -jnp.inf, between)
agree(inter, library.inter_cl(plus, minus[..., None], masked), "Eq. 2")

# %% [markdown]
# ## Eq. 3 to 5: FAW, how much a layer differs in magnitude
#
# $$E_b = \frac{\sum |S|\,M_b}{\sum M_b + \epsilon},\qquad \Delta_b^{(i)} = \frac{|E_b^{(i)} - E_b^{(n)}|}{E_b^{(n)} +
# \epsilon},\qquad w_b^{(i)} = \frac{1}{1 + \Delta_b^{(i)}}$$


# %%
def mean_magnitude(maps: jax.Array, band: jax.Array) -> jax.Array:
    """E_b of Eq. 3, over frequencies and channels."""
    return (jnp.abs(spectrum(maps)) * band).sum((-3, -2, -1)) / (band.sum() * C + 1e-9)


weights = {}
for name, band in bands.items():
    of_teacher = mean_magnitude(teacher, band)[None]
    difference = jnp.abs(mean_magnitude(students, band) - of_teacher) / (of_teacher + 1e-9)
    weights[name] = jax.lax.stop_gradient(1 / (1 + difference))
print("FAW's weights, by layer:", {name: np.round(value.mean(1), 2) for name, value in weights.items()})

# %% [markdown]
# ## Eq. 6 to 8: FAM, whether a layer is aligned already
#
# $$a_b^{(i)} = \mathrm{sg}\left[\max(0, \cos_b(F^{(i)}, F^{(n)}))\right],\qquad \tilde w_b^{(i)} = w_b^{(i)}\,
# a_b^{(i)}$$
#
# Layers that look elsewhere altogether are left alone; sg stops the gradient.

# %%
alignment = {name: jax.lax.stop_gradient(jnp.maximum(0, value)) for name, value in to_teacher.items()}
factors = {name: weights[name] * alignment[name] for name in bands}
agree(factors["low"], library.fam(weights["low"], library.fam_alignment(to_teacher["low"])), "Eq. 6 to 8")

# %% [markdown]
# ## Eq. 9 and 10: the loss of each layer, and the sum
#
# $$\mathcal L^{(i)} = \tilde w_\mathrm{LF}^{(i)}\,\mathcal L_\mathrm{IntraCL}^{(i)} + \tilde w_\mathrm{HF}^{(i)}\,
# \mathcal L_\mathrm{InterCL}^{(i)},\qquad \mathcal L = \mathcal L_\mathrm{noise} + \lambda \sum_i \mathcal L^{(i)}$$

# %%
values = (factors["low"] * intra + factors["high"] * inter).sum(0)  # [B]
whole = library.framer_loss(tuple(taps), negatives, library.paper())
agree(values, whole.values, "Eq. 9, summed over the layers")
agree(weights["high"].mean(1), whole.diagnostics["weight_high"], "Eq. 3 to 5")

noise_loss = jnp.ones(B)  # of the method that is trained
agree(noise_loss + 0.1 * values, library.framer_total(noise_loss, whole.values, 0.1), "Eq. 10")

# %% [markdown]
# ## In your own training code
#
# One call on the feature maps of any network, in PyTorch terms "one line in the loss": the gradient reaches the
# students only.


# %%
def total(maps: list[jax.Array]) -> jax.Array:
    """A training loss, with FRAMER's term."""
    return 0.1 * framer_jax.framer_loss(maps, jax.random.key(1)).values.mean()


gradients = jax.grad(total)(taps)
sizes = [float(jnp.abs(gradient).max()) for gradient in gradients]
print("largest gradient, by layer:", [f"{size:.1e}" for size in sizes])
assert sizes[-1] == 0
assert min(sizes[:-1]) > 0
