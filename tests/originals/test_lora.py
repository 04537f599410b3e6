"""LoRA files: written by peft and diffusers and read here, and the other way."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.checkpoints.reader import NetworkReader
from framer_jax.models.lora import init_lora, make_lora, merge
from framer_jax.porting.lora import LoraLayers, write_layers
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.trees import flatten_names, nest_names
from tests.commands.test_port import port
from tests.originals.test_autoencoders import TINY as TINY_AUTOENCODER
from tests.originals.test_transformers import inputs, ours, theirs, transformer
from tests.support.originals import array, close, diffusers, normal, original, peft, tensor, torch

RANK = 2
MODULES = ["to_q", "to_v", "to_out.0", "add_k_proj", "to_add_out", "ff.net.0.proj", "norm1.linear", "proj", "proj_out"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(diffusers' transformer, ours): weights that no test changes."""
    folder = tmp_path_factory.mktemp("transformer")
    transformer(qk_norm="rms_norm").save_pretrained(folder)
    return folder, read_network("mmdit", folder)


def opened(folder):
    return diffusers.SD3Transformer2DModel.from_pretrained(folder).eval()


def pipeline_of(model):
    absent = dict.fromkeys(f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.StableDiffusion3Pipeline(transformer=model, scheduler=scheduler, vae=None, **absent)


def adapted(model, alpha, targets=MODULES, **settings):
    """The model with a trained adapter of peft."""
    model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=targets, **settings))
    return trained(model)


def trained(model):
    """The model with none of its adapter's factors at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def merged(path, model, params):
    """Our parameters with a LoRA merged, as a recipe reads it."""
    return merge_factors(params, NetworkReader().lora("knob", str(path), model, params), 1.0)


def same_as(model, ported, params):
    """Whether our network with these parameters computes what diffusers' computes with its adapter."""
    arguments = inputs(model.config)
    close(ours(ported._replace(params=params), *arguments), theirs(model, *arguments), 1e-4)


@pytest.mark.parametrize("alpha", [2.0, 6.0])
def test_a_lora_saved_by_diffusers(base, tmp_path, alpha):
    """The file states alpha in its header, where it is not the rank."""
    folder, ported = base
    model = adapted(opened(folder), alpha)
    layers = peft.get_peft_model_state_dict(model)
    metadata = model.peft_config["default"].to_dict()
    diffusers.StableDiffusion3Pipeline.save_lora_weights(
        tmp_path, layers, weight_name="lora.safetensors", transformer_lora_adapter_metadata=metadata
    )
    arguments = inputs(model.config)
    expected = theirs(model, *arguments)
    assert (expected - theirs(opened(folder), *arguments)).abs().max() > 0.05 * expected.abs().max()
    same_as(model, ported, merged(tmp_path / "lora.safetensors", "mmdit", ported.params))


SETTINGS = {
    "alpha": {"lora_alpha": 6.0},
    "rank-stabilized": {"lora_alpha": 3.0, "use_rslora": True},
    "patterns": {"lora_alpha": 4.0, "alpha_pattern": {"to_q": 3.0}, "rank_pattern": {"to_v": 3, "proj_out": 1}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_of_peft(base, tmp_path, name):
    """adapter_config.json states alpha and rank, of all modules or of some, and how they make the scale."""
    folder, ported = base
    settings = peft.LoraConfig(r=RANK, target_modules=MODULES, **SETTINGS[name])
    model = trained(peft.get_peft_model(opened(folder), settings))
    model.save_pretrained(tmp_path)
    same_as(model.base_model.model, ported, merged(tmp_path, "mmdit", ported.params))


def test_a_lora_is_added_to_its_base_by_port(base, tmp_path):
    """`framer-jax port BASE LORA OUT --to diffusers`: the weights that peft itself merges."""
    folder, _ = base
    settings = peft.LoraConfig(r=RANK, lora_alpha=6.0, target_modules=MODULES)
    model = trained(peft.get_peft_model(opened(folder), settings))
    model.save_pretrained(tmp_path / "lora")
    whole = {key: value.numpy() for key, value in model.merge_and_unload().state_dict().items()}
    words = (folder, tmp_path / "lora", tmp_path / "ours.safetensors", "--model", "mmdit")
    assert port(*words) == 0
    assert port(tmp_path / "ours.safetensors", tmp_path / "whole", "--model", "mmdit", "--to", "diffusers") == 0
    stored = opened(tmp_path / "whole").state_dict()
    assert stored.keys() == whole.keys()
    for key, value in whole.items():
        np.testing.assert_allclose(stored[key], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=key)


def test_a_lora_of_an_autoencoders_encoder(tmp_path):
    """Convolutions too, as TSD-SR's file has them."""
    model = original(diffusers.AutoencoderKL, **TINY_AUTOENCODER)
    model.save_pretrained(tmp_path)
    ported = read_network("kl_autoencoder", tmp_path)
    adapted(model, float(RANK), r"encoder\..*(conv1|conv_in|to_k|conv_shortcut|0\.conv)|quant_conv")
    state = peft.get_peft_model_state_dict(model)
    write_state(tmp_path / "lora.safetensors", {key: value.numpy() for key, value in state.items()})
    params = merged(tmp_path / "lora.safetensors", "kl_autoencoder", ported.params)
    module = build_network("kl_autoencoder", ported.arguments)
    image = np.tanh(normal(0, 1, 16, 16, 3))
    with jax.default_matmul_precision("highest"):
        mean = jax.jit(lambda x: module.apply({"params": params}, x, method="encode").mean)(image)
    with torch.no_grad():
        close(mean, model.encode(tensor(image)).latent_dist.mean)


@pytest.mark.parametrize("alpha", [2.0, 5.0])
def test_a_pipeline_loads_our_lora(base, tmp_path, alpha):
    """`load_lora_weights` on a file as `framer-jax port --to lora` writes it."""
    folder, ported = base
    pattern = r"attention/(query|out|key_text)|mlp/dense_1|modulation|tokens/embed|head/projection"
    lora = init_lora(jax.random.key(1), ported.params, pattern, RANK, alpha)
    leaves = flatten_names(lora.factors)[0]
    leaves = {name: 0.5 * normal(number, *leaf.shape) for number, (name, leaf) in enumerate(leaves.items())}
    layers = LoraLayers(nest_names(leaves), dict(lora.alphas))
    state = write_layers(MAPS["mmdit"], ported.params, {"": layers}, prefix=MAPS["mmdit"].folder, alphas=False)
    write_state(tmp_path / "lora.safetensors", state)
    pipeline = pipeline_of(opened(folder))
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    assert len(peft.get_peft_model_state_dict(pipeline.transformer, adapter_name="default_0")) == len(state)
    arguments = inputs(pipeline.transformer.config)
    whole = merge(ported.params, {"": make_lora(*layers)})
    expected = ours(ported._replace(params=whole), *arguments)
    assert np.abs(expected - ours(ported, *arguments)).max() > 0.05 * np.abs(expected).max()
    close(array(theirs(pipeline.transformer, *arguments)), expected, 1e-4)
