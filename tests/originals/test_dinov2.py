"""DINOv2's folders in transformers' own classes, and its interpolation of positions in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes, read_network
from framer_jax.models.dinov2 import resize_positions
from framer_jax.porting.weights import save_weights
from framer_jax.trees import flatten_names
from tests.commands.test_port import port
from tests.support.originals import torch, transformers
from tests.support.tiny import TINY, random_weights

VARIANTS = {
    "registers": ("Dinov2WithRegistersModel", {}),
    "plain": ("Dinov2Model", {"registers": 0, "mlp": "gelu", "hidden": 96, "position_antialias": False}),
    "swiglu": ("Dinov2Model", {"registers": 0, "position_antialias": False}),
}
"""Name → (class in transformers, changes to a tiny network); positions without the offset, which transformers lacks."""


@pytest.mark.parametrize("name", VARIANTS)
def test_a_written_folder_opens_strictly_and_computes_the_same(name, tmp_path):
    kind, changes = VARIANTS[name]
    arguments = {**TINY["dinov2"], **changes}
    module = build_network("dinov2", arguments)
    params = random_weights(network_shapes("dinov2", module))
    metadata = {"model": "dinov2", "arguments": arguments, "source": {"files": []}}
    save_weights(tmp_path / "ours.safetensors", params, metadata)
    folder = tmp_path / "folder"
    assert port(tmp_path / "ours.safetensors", folder, "--model", "dinov2", "--to", "diffusers") == 0
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    image = np.random.default_rng(1).standard_normal((2, 42, 126, 3)).astype(np.float32)  # 3 by 9 of 6 by 6 patches
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda x: module.apply({"params": params}, x, method="from_normalised"))(image)
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    ours = np.concatenate([np.asarray(ours.cls)[:, None], ours.registers, ours.patches], axis=1)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    model.save_pretrained(tmp_path / "theirs")
    back = read_network("dinov2", tmp_path / "theirs")
    assert {**back.arguments, "position_offset": 0.0} == arguments
    expected = flatten_names(params)[0]
    for leaf, value in flatten_names(back.params)[0].items():
        np.testing.assert_array_equal(value, expected[leaf])


@pytest.mark.parametrize(("offset", "antialias"), [(0.1, False), (0.0, False), (0.0, True)])
@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (8, 10), (37, 50), (60, 5)])
def test_positions_are_interpolated_as_in_pytorch(offset, antialias, rows, columns):
    """As the authors' code does: by a factor with an offset, or to a size without one."""
    table = np.random.default_rng(0).standard_normal((1, 37 * 37, 4)).astype(np.float32)
    grid = torch.from_numpy(table.reshape(1, 37, 37, 4).transpose(0, 3, 1, 2).copy())
    to = {"scale_factor": ((rows + offset) / 37, (columns + offset) / 37)} if offset else {"size": (rows, columns)}
    theirs = torch.nn.functional.interpolate(grid, mode="bicubic", antialias=antialias, **to).numpy()
    ours = resize_positions(jnp.asarray(table), rows, columns, offset, antialias)
    np.testing.assert_allclose(ours[0].reshape(rows, columns, 4), theirs[0].transpose(1, 2, 0), atol=2e-5)
