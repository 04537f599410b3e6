"""Folders that `framer-jax port --to diffusers` writes, in diffusers' own classes."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import KINDS, build_network
from framer_jax.commands.port_originals import ORIGINALS
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import load_weights
from tests.commands.test_port import port
from tests.support.originals import diffusers, torch
from tests.support.tiny import ported

CLASSES = {"mmdit": "SD3Transformer2DModel", "kl_autoencoder": "AutoencoderKL"}


def opened(folder, name):
    """The folder's model, of which nothing is initialized randomly."""
    kind = getattr(diffusers, CLASSES[name])
    model, report = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(report.values()), report
    return model.eval()


def outputs(name, folder, params, arguments):
    """Outputs of our module and of diffusers' class, channels first."""
    module = build_network(name, arguments)
    rng = np.random.default_rng(1)
    shapes, structure = jax.tree.flatten(KINDS[name].inputs(module))
    arrays = [rng.standard_normal(shape.shape).astype(np.float32) for shape in shapes]
    inputs = jax.tree.unflatten(structure, arrays)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(module.apply)({"params": params}, *inputs)

    def tensor(x):
        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x)

    with torch.no_grad():
        if name == "mmdit":
            latent, time, condition = inputs
            ours, text = ours[0], (tensor(condition["text"]), tensor(condition["pooled_text"]))
            theirs = opened(folder, name)(tensor(latent), *text, tensor(time)).sample
        else:
            theirs = opened(folder, name)(*map(tensor, inputs), sample_posterior=False).sample
    return np.moveaxis(np.asarray(ours), -1, 1), theirs.numpy()


@pytest.mark.parametrize(("name", "layers"), [("mmdit", 47), ("kl_autoencoder", 86)])
def test_a_written_folder_opens_strictly_and_computes_the_same(tmp_path, name, layers, capsys):
    first = ported(tmp_path / "first.safetensors", name)
    words = (first, tmp_path / "out", "--model", name, "--to", "diffusers", "--check", "installed")
    assert port(*words) == 0
    assert f"checked      {layers} layers" in capsys.readouterr().out
    params, metadata = load_weights(first)
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in metadata["arguments"].items()}
    ours, theirs = outputs(name, tmp_path / "out", params, arguments)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_weights_that_diffusers_would_initialize_randomly_are_refused(tmp_path):
    """A layer that is missing, one too many, and one of another shape."""
    params, metadata = load_weights(ported(tmp_path / "first.safetensors", "mmdit"))
    arguments, key = metadata["arguments"], "context_embedder.bias"
    state = to_torch(MAPS["mmdit"], params, "", arguments)
    lacking = {name: value for name, value in state.items() if name != key}
    for changed, fault in (
        (lacking, f"missing_keys: {key}"),
        (state | {"extra.weight": np.zeros(3, np.float32)}, r"unexpected_keys: extra\.weight"),
        (state | {key: np.zeros(3, np.float32)}, key),
    ):
        with pytest.raises(RuntimeError, match=fault):
            ORIGINALS["mmdit"].make(arguments, changed)
    assert not ORIGINALS["mmdit"].make(arguments, state).training
