"""U-Net and ControlNet as one denoiser: what its taps are."""

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.controlled_unet import CONTROLNET, UNET, ControlledUNet
from framer_jax.models.controlnet import ControlNet
from framer_jax.models.sd_unet import SDUNet
from tests.support.drawn import drawn

SIZES = {"channels": (8, 16), "blocks": 1, "attention_levels": (0,), "heads": (2, 4), "groups": 4, "context_width": 16}


def test_taps_of_the_way_down_and_the_middle_hold_what_the_controlnet_adds():
    model = ControlledUNet(**SIZES, control="latent", image_widths=(4,))
    rng = np.random.default_rng(0)
    x, lr, text = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 4, 6, 4), (2, 4, 6, 4), (2, 3, 16))
    )
    t = jnp.asarray([3.0, 700.0], jnp.float32)
    params = drawn(lambda key: model.init(key, x, t, {"text": text, "lr_latent": lr})["params"], jax.random.key(0))
    _, taps = jax.jit(model.apply)({"params": params}, x, t, {"text": text, "lr_latent": lr})
    controlnet = ControlNet(**SIZES, in_channels=4, image_channels=4, image_widths=(4,))
    control = jax.jit(controlnet.apply)({"params": params[CONTROLNET]}, x, t, {"text": text, "image": lr})
    plain = jax.jit(SDUNet(**SIZES).apply)({"params": params[UNET]}, x, t, {"text": text}, control)[1]
    # skip connections: the first convolution, block and downsampling of level 0, block of level 1
    added = (control.down[2], control.down[3], control.middle)
    assert len(control.down) == 4 and len(taps) == len(plain) == 5
    for tap, other, change in zip(taps, plain, added, strict=False):
        np.testing.assert_allclose(tap, other + change, atol=1e-5)
        assert np.abs(change).max() > 1e-3
    for tap, other in zip(taps[3:], plain[3:], strict=True):
        np.testing.assert_allclose(tap, other, atol=1e-5)

    def energy(group):
        _, taps = model.apply({"params": {**params, CONTROLNET: group}}, x, t, {"text": text, "lr_latent": lr})
        return jnp.stack([jnp.square(tap).mean() for tap in taps])

    slopes = jax.jit(jax.jacrev(energy))(params[CONTROLNET])
    per_tap = sum(np.abs(leaf).reshape(5, -1).sum(axis=1) for leaf in jax.tree.leaves(slopes))
    assert (per_tap > 0).all(), "every tap trains the ControlNet"
