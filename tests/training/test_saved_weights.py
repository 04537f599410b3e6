import jax
import numpy as np
import pytest

from framer_jax.training.digests import DamagedCheckpointError
from framer_jax.training.saved_weights import read_exported
from framer_jax.training.state import inference_params
from tests.support import training_toys as toys
from tests.training.test_checkpoint import RECIPE, saved


@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
def test_they_are_what_the_run_exports(tmp_path, ema_decay):
    state, _ = saved(tmp_path, toys.settings(ema_decay=ema_decay))
    expected = inference_params(state, RECIPE.exported)
    params = read_exported(tmp_path / "1", RECIPE.exported)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_what_cannot_be_read_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="lacks the group 'generator': it is of another recipe"):
        read_exported(tmp_path / "1", ("generator",))
    with pytest.raises(DamagedCheckpointError, match=r"2 is damaged or incomplete"):
        read_exported(tmp_path / "2", RECIPE.exported)
    (tmp_path / "1" / "digests.json").write_text("{}")
    with pytest.raises(DamagedCheckpointError, match=r"1 is damaged or incomplete \(digests.json cannot be read\)"):
        read_exported(tmp_path / "1", RECIPE.exported)
