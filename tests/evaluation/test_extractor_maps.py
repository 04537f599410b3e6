import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import load_network
from framer_jax.evaluation.extractor_maps import centered, extractor_maps, in_unit_range
from tests.support.tiny import photo, ported


def test_the_channels_that_vary_most_come_first(tmp_path):
    network = load_network("hf_extractor", ported(tmp_path / "extractor.safetensors", "hf_extractor"))
    photographs = [photo(20, 24, seed).astype(np.float32) / 255 for seed in range(2)]
    results = extractor_maps(network.module, network.params, photographs, maps=3)
    for maps in results:
        assert maps.magnitudes.shape == (2, 20, 24)
        assert maps.channels.shape == (2, 3, 20, 24)
        variances = maps.channels.var(axis=(2, 3))
        assert (np.diff(variances, axis=1) <= 0).all()
        assert (maps.magnitudes >= 0).all()
        assert [len(set(indices)) for indices in maps.indices] == [3, 3]
    assert (results[0].magnitudes != results[1].magnitudes).any()


def test_an_extractor_of_latents_is_refused(tmp_path):
    path = ported(tmp_path / "extractor.safetensors", "hf_extractor", image_channels=4)
    network = load_network("hf_extractor", path)
    with pytest.raises(ValueError, match="the extractor takes 4 channels, not a photograph"):
        extractor_maps(network.module, network.params, [np.zeros((8, 8, 3), np.float32)], maps=1)


def test_features_that_are_not_finite_are_refused(tmp_path):
    network = load_network("hf_extractor", ported(tmp_path / "extractor.safetensors", "hf_extractor"))
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.inf), network.params)
    with pytest.raises(ValueError, match="features are not finite"):
        extractor_maps(network.module, params, [np.zeros((8, 8, 3), np.float32)], maps=1)


def test_a_map_is_drawn_around_gray():
    np.testing.assert_allclose(centered(np.asarray([[-2.0, 0.0, 1.0]])), [[0.0, 0.5, 0.75]])
    np.testing.assert_allclose(centered(np.zeros((1, 2))), 0.5)
    np.testing.assert_allclose(in_unit_range(np.asarray([[0.0, 2.0]])), [[0.0, 1.0]])
    np.testing.assert_allclose(in_unit_range(np.zeros((1, 2))), 0.0)
