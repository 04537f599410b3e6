"""Text encoders and captioners of transformers: parity fixtures, and the commands on tiny random models."""

import json

import numpy as np
import pytest

from framer_jax.cli import main
from framer_jax.commands.precompute.captioner import CaptionSettings, load_captioner
from framer_jax.commands.precompute.embeddings import embed_texts
from framer_jax.commands.precompute.local_models import local_folder
from framer_jax.commands.precompute.text_encoders import (
    clip_features,
    encoder_folders,
    last_features,
    load_text_encoder,
)
from framer_jax.data.captions import read_captions
from framer_jax.data.records import RecordFiles
from framer_jax.data.text import TextSettings
from framer_jax.recipes.components.text import read_text
from tests.support.originals import close, diffusers, torch, transformers
from tests.support.tiny import photos
from tools.parity.cases import load_case

WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "a", "bird", "is", "red", "USER:", "ASSISTANT:", "describe")
SIZES = TextSettings(clip_length=8, t5_length=6, clip_widths=(16, 24), width=48)
WIDTHS = ("--clip-length", "8", "--t5-length", "6", "--widths", "16", "24", "48")


def tokenizer(bos=True):
    """A tokenizer of words, with beginning and end tokens like CLIP's or only an end token like T5's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(word, WORDS.index(word)) for word in ("<bos>", "<eos>")]
    words.post_processor = processors.TemplateProcessing("<bos> $A <eos>" if bos else "$A <eos>", special_tokens=ends)
    names = {name: f"<{name.split('_')[0]}>" for name in ("pad_token", "bos_token", "eos_token", "unk_token")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, **names, extra_special_tokens={"image_token": "<image>"}
    )


def clip(width, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.CLIPTextConfig(
        **sizes, vocab_size=16, max_position_embeddings=8, projection_dim=width, eos_token_id=2, pad_token_id=0
    )
    return transformers.CLIPTextModelWithProjection(config).eval()


def t5(width, seed=0):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 16, "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return transformers.T5EncoderModel(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")).eval()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline folder with tiny random text encoders."""
    place = tmp_path_factory.mktemp("pipeline")
    models = (clip(16, 0), clip(24, 1), t5(48))
    for model, number in zip(models, ("", "_2", "_3"), strict=True):
        model.save_pretrained(place / f"text_encoder{number}")
        tokenizer(bos=number != "_3").save_pretrained(place / f"tokenizer{number}")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip_text_proj_sd3_tiny", "t5_encoder_tiny", "clip_text_sd2_tiny"])
def test_parity_of_the_features(shared, name):
    case = load_case(shared / "parity" / f"{name}.npz")
    config = dict(case.config["config"])
    of_t5, of_sd2 = name.startswith("t5"), "sd2" in name
    made = transformers.T5Config(**config) if of_t5 else transformers.CLIPTextConfig(**config)
    of_clip = transformers.CLIPTextModel if of_sd2 else transformers.CLIPTextModelWithProjection
    model = (transformers.T5EncoderModel if of_t5 else of_clip)(made).eval()
    state = {key: torch.tensor(value) for key, value in case.weights["model"].items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [key for key in missing if "embed_tokens" not in key and "position_ids" not in key]
    last = of_t5 or of_sd2
    encoded = (last_features if last else clip_features)(model, torch.tensor(case.arrays["in/ids"]))
    outputs = {"out/last_hidden_state": encoded.tokens} if last else {"out/penultimate": encoded.tokens}
    outputs |= {} if last else {"out/pooled": encoded.pooled}
    for entry, value in outputs.items():
        atol = case.tolerances[entry]
        np.testing.assert_allclose(value, case.arrays[entry], rtol=0, atol=atol, err_msg=entry)


def test_embeddings_are_those_of_the_pipeline(pipeline):
    """`encode_prompt` of StableDiffusion3Pipeline, for a batch of texts of different lengths."""
    encoders = {
        name: load_text_encoder(name, path, SIZES) for name, path in encoder_folders(str(pipeline), {}, []).items()
    }
    texts = ["a bird is red", ""]
    ours = embed_texts(texts, encoders, SIZES)
    parts = {}
    for model, number in zip((clip(16, 0), clip(24, 1), t5(48)), ("", "_2", "_3"), strict=True):
        parts[f"text_encoder{number}"] = model
        parts[f"tokenizer{number}"] = tokenizer(bos=number != "_3")
        parts[f"tokenizer{number}"].model_max_length = 8
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    whole = diffusers.StableDiffusion3Pipeline(transformer=None, scheduler=scheduler, vae=None, **parts)
    with torch.no_grad():
        tokens, _, pooled, _ = whole.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False, max_sequence_length=SIZES.t5_length
        )
    close(ours.tokens, tokens)
    close(ours.pooled, pooled)


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(pipeline):
    folders = encoder_folders(str(pipeline), {}, [])
    encoders = {name: load_text_encoder(name, folder, SIZES) for name, folder in folders.items()}
    both, one = embed_texts(["a bird is red", "a"], encoders, SIZES), embed_texts(["a"], encoders, SIZES)
    assert both.tokens.shape == (2, 14, 48) and both.pooled.shape == (2, 40)
    for value, other in zip(both, one, strict=True):
        np.testing.assert_allclose(value[1:], other, rtol=1e-4, atol=1e-5)
        assert np.abs(value[0] - value[1]).max() > 1e-3
    # The outputs of the models, at their positions.
    ids = torch.tensor([[1, 5, 2, 0, 0, 0, 0, 0]])
    left = clip(16, 0)(ids, output_hidden_states=True)
    np.testing.assert_allclose(one.tokens[:, :8, :16], left.hidden_states[-2].detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.pooled[:, :16], left.text_embeds.detach(), rtol=1e-4, atol=1e-5)
    right = t5(48)(torch.tensor([[5, 2, 0, 0, 0, 0]])).last_hidden_state
    np.testing.assert_allclose(one.tokens[:, 8:], right.detach(), rtol=1e-4, atol=1e-5)
    long = embed_texts(["a " * 50], encoders, SIZES)
    assert long.tokens.shape == (1, 14, 48)


def test_the_commands_end_to_end(pipeline, tmp_path, capsys):
    captions = tmp_path / "captions.jsonl"
    lines = [{"image": f"{word}.png", "raw": word, "caption": word} for word in WORDS]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("precompute", "embeddings", "--model", str(pipeline), *WIDTHS)
    assert main([*command, "--captions", str(captions), "--output", str(tmp_path / "rows"), "--per-file", "5"]) == 0
    assert "3 files of embeddings written" in capsys.readouterr().out
    null = tmp_path / "null.safetensors"
    assert main([*command, "--null", "--output", str(null)]) == 0
    records, (text, digests) = RecordFiles(tmp_path / "rows"), read_text(null)
    assert records.manifest["text"]["encoders"] == digests
    assert records[0]["prompt"].shape == text.tokens.shape == (14, 48)
    assert main([*command, "--zeros", "t5", "--null", "--output", str(tmp_path / "zeros.safetensors")]) == 0
    assert "zeros for t5" in capsys.readouterr().out
    assert not read_text(tmp_path / "zeros.safetensors")[0].tokens[8:].any()
    for words, message in (
        (("--clip-l", str(pipeline / "text_encoder_2")), "clip_l gives 8 tokens of 24 features, not 8 of 16"),
        (("--t5", "nobody/nothing"), "no model of that name in the local cache"),
        (("--t5", str(tmp_path)), "has no tokenizer in it"),
        (("--clip-length", "9"), "takes at most 8 tokens, not 9: set --clip-length 8"),
    ):
        assert main([*command, "--null", "--output", str(tmp_path / "never.safetensors"), *words]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]  # after progress bars of transformers
    transformers.CLIPTextModel(clip(16, 0).config).save_pretrained(pipeline / "bare")
    tokenizer().save_pretrained(pipeline / "bare")
    bare = ("--clip-l", str(pipeline / "bare"), "--output", str(tmp_path / "never.safetensors"))
    assert main([*command, "--null", *bare]) == 2
    assert "lacks 1 weights of a CLIP text encoder, such as text_projection.weight" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert main([*command, "--null", "--output", str(tmp_path / "never.safetensors"), "--t5", str(tmp_path)]) == 2
    assert "no tokenizer that transformers can read" in capsys.readouterr().err


def test_a_pipeline_of_stable_diffusion_2_gives_the_tokens_of_its_one_encoder(tmp_path, capsys):
    """`encode_prompt` of StableDiffusionPipeline: the last hidden state after the final norm."""
    model = transformers.CLIPTextModel(clip(32, 3).config).eval()
    model.save_pretrained(tmp_path / "text_encoder")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "prompt.safetensors"
    command = ("precompute", "embeddings", "--text", "a bird is red", "--storage", "float32", "--output", str(output))
    sizes = ("--clip-length", "8", "--width", "32")
    assert main([*command, "--model", str(tmp_path), *sizes]) == 0
    text, digests = read_text(output)
    assert set(digests) == {"clip_h"} and text.pooled is None
    words = tokenizer()
    words.model_max_length = 8
    parts = {"vae": None, "unet": None, "safety_checker": None, "feature_extractor": None}
    whole = diffusers.StableDiffusionPipeline(
        text_encoder=model, tokenizer=words, scheduler=diffusers.DDIMScheduler(), **parts, requires_safety_checker=False
    )
    with torch.no_grad():
        tokens, _ = whole.encode_prompt("a bird is red", "cpu", 1, do_classifier_free_guidance=False)
    close(text.tokens[None], tokens)
    assert main([*command, "--clip-h", str(tmp_path / "text_encoder"), *sizes, "--overwrite"]) == 0
    np.testing.assert_array_equal(read_text(output)[0].tokens, text.tokens)
    capsys.readouterr()
    assert main([*command, "--model", str(tmp_path), "--clip-length", "8", "--overwrite"]) == 2
    assert "clip_h gives 8 tokens of 32 features, not 8 of 1024" in capsys.readouterr().err.splitlines()[-1]


def llava(folder):
    """A LLaVA model with a few thousand random parameters."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=16, patch_size=8)
    text = transformers.LlamaConfig(**sizes, vocab_size=len(WORDS), num_key_value_heads=2, pad_token_id=0)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"))
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        images, tokenizer(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def test_a_captioner_end_to_end(tmp_path, capsys):
    model, output = llava(tmp_path / "llava"), tmp_path / "captions.jsonl"
    command = [
        "precompute",
        "captions",
        "--of",
        "photos",
        "--photos",
        str(photos(tmp_path / "photos")),
        "--captioner",
        str(model),
    ]
    options = ("--max-tokens", "5", "--prompt", "describe", "--temperature", "5", "--top-p", "1")
    assert main([*command, *options, "--output", str(output)]) == 0
    captions = read_captions([output])
    assert len(captions) == 3 and len({caption.raw for caption in captions.values()}) > 1
    assert all(
        len(caption.raw.split()) <= 5 and "describe ASSISTANT:" not in caption.raw for caption in captions.values()
    )
    for shard in ("0/2", "1/2"):
        assert main([*command, *options, "--output", str(tmp_path / "parts.jsonl"), "--shard", shard]) == 0
    assert read_captions(tmp_path.glob("parts-*.jsonl")) == captions
    before = torch.random.get_rng_state()
    captioner = load_captioner(model, CaptionSettings(max_tokens=3, temperature=0.0))
    image = np.zeros((20, 30, 3), np.uint8)
    assert captioner(image, 0) == captioner(image, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert main([*command, *options, "--output", str(output), "--seed", "1"]) == 2
    assert "made otherwise (seed)" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="run `hf download nobody/nothing` first, or give a folder"):
        local_folder("nobody/nothing")
