"""`framer-jax precompute latents`, and batches of latents joined with texts."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.autoencoder import read_autoencoder, read_kl_autoencoder
from framer_jax.cli import main
from framer_jax.commands.precompute.captioned_images import crops_of_latents
from framer_jax.commands.precompute.captioner import CaptionSettings
from framer_jax.commands.precompute.captions import caption_images, captions_file
from framer_jax.commands.precompute.embeddings import embed_captions, write_text
from framer_jax.commands.precompute.latents import precompute_latents
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.text_condition import TextCondition, captioned, open_latents
from framer_jax.commands.training_data import stored_embeddings
from framer_jax.config import ConfigError
from framer_jax.data.captions import Caption, caption_line, captioned_latents, read_captions
from framer_jax.data.embeddings import STORED_EMBEDDINGS
from framer_jax.data.latents import LatentFiles
from framer_jax.data.pipeline import make_batches, make_prepare, prepare_for, record_dataset
from framer_jax.data.records import MANIFEST, RecordFiles, read_names
from framer_jax.data.sources import folder_source
from framer_jax.data.text import zero_text
from framer_jax.degradations.presets import LIGHT_ONE_STAGE
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.components.latent_space import upsample_bicubic
from framer_jax.recipes.components.text import describe_text
from tests.support.autoencoders import write_autoencoder
from tests.support.drawn import drawn
from tests.support.engines import in_reverse, use_engine
from tests.support.texts import SETTINGS as SIZES
from tests.support.texts import encoders
from tests.support.tiny import RUN, config, photos, ported

ARGUMENTS = {
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "groups": 4,
    "latent_channels": 4,
    "quantisation_convs": False,
    "scaling": 1.5,
    "shift": 0.1,
}
VAE = KLAutoencoder(**ARGUMENTS)
SAMPLES = 10


def autoencoder(folder, gain=1.0):
    params = drawn(VAE.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    write_autoencoder(folder, jax.tree.map(lambda leaf: leaf * np.float32(gain), params), ARGUMENTS)


def latents(place, output, *words, changes=(), vae="vae"):
    knobs = (*RUN, f"data.train={place}/photos", *changes)
    options = ("--output", str(place / output), "--vae", str(place / vae), "--samples", str(SAMPLES), "--per-file", "4")
    settings = [word for knob in knobs for word in ("--set", knob)]
    return main(["precompute", "latents", "--config", "configs/default.py", *settings, *options, *words])


def make_texts(place):
    names = folder_source(place / "photos").names
    captions = {name: Caption(name, "", f"This is {name}.") for name in names}
    (place / "captions.jsonl").write_text("".join(map(caption_line, captions.values())))
    embed_captions(captions, encoders(), place / "embeddings", Work(len(captions), 2), SIZES)
    write_text(place / "null.safetensors", "", encoders(), SIZES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs, an autoencoder, latents (one draw each), captions and embeddings."""
    place = tmp_path_factory.mktemp("latents")
    photos(place / "photos", count=5)
    photos(place / "photos" / "more", count=1)
    autoencoder(place / "vae")
    make_texts(place)
    checked = ("--captions", str(place / "captions.jsonl"), "--embeddings", str(place / "embeddings"))
    assert latents(place, "records", *checked) == 0
    return place


def condition(place, **changes):
    named = {"embeddings": str(place / "embeddings"), "null": str(place / "null.safetensors"), "sizes": SIZES}
    return TextCondition(**{**named, **changes})


def settings(place, *changes):
    return config(f"data.train={place}/photos", *changes)


def opened(place, text=None, folder="records"):
    digest = read_kl_autoencoder(place / "vae").digest
    return open_latents(place / folder, settings(place), digest, text or condition(place))


def test_records_are_latents_of_crops_and_their_upsampled_degradations(place):
    assert latents(place, "modes", "--draw", "mode", "--storage", "float32") == 0
    records = RecordFiles(place / "modes")
    source = folder_source(place / "photos", crop=32)
    assert read_names(place / "modes") == source.names
    dataset = record_dataset(source, 32, LIGHT_ONE_STAGE, 0)
    params = read_kl_autoencoder(place / "vae").params
    for number in (0, 7):
        raw = jax.tree.map(lambda leaf: np.asarray(leaf)[None], dataset[number])
        ready = make_prepare(LIGHT_ONE_STAGE)(raw)
        big = jnp.round(jnp.clip(upsample_bicubic(ready["lr"], 4), 0, 1) * 255) / 255
        for name, image in (("hr_latent", ready["hr"]), ("lr_latent", big)):
            mean = VAE.apply({"params": params}, image * 2 - 1, method="encode").mean
            assert records[number][name].dtype == np.float32 and records[number][name].shape == (16, 16, 4)
            # A level of 255 may round either way: allow a few positions around it to differ.
            close = np.isclose(records[number][name], (mean[0] - 0.1) * 1.5, rtol=1e-4, atol=1e-4)
            assert close.mean() > 0.9, name
        assert records[number]["image"] == raw["record"][0]


def test_latents_of_a_tiny_autoencoder(place, capsys):
    """No draw, whatever the default; the configuration's latent space says which autoencoder it is."""
    for name, channels in (("taesd", 4), ("taesd3", 16)):
        ported(place / f"{name}.safetensors", "taesd", latent_channels=channels)
    options = {"changes": ("recipe.space.name=taesd3",), "vae": "taesd3.safetensors"}
    assert latents(place, "tiny", "--storage", "float32", **options) == 0
    records = RecordFiles(place / "tiny")
    assert records.manifest["draw"] == "mode"
    vae = read_autoencoder("taesd3", place / "taesd3.safetensors")
    assert records.manifest["vae"] == vae.digest
    raw = jax.tree.map(
        lambda leaf: np.asarray(leaf)[None],
        record_dataset(folder_source(place / "photos", crop=32), 32, LIGHT_ONE_STAGE, 0)[3],
    )
    hr = make_prepare(LIGHT_ONE_STAGE)(raw)["hr"]
    expected = vae.module.apply({"params": vae.params}, hr * 2 - 1, method="encode")
    assert records[3]["hr_latent"].shape == (4, 4, 16)
    np.testing.assert_allclose(records[3]["hr_latent"], expected[0], atol=1e-4 * np.abs(expected).max())
    capsys.readouterr()
    for words, change, text in (
        (("--draw", "sample"), {}, "--draw sample: the autoencoder of recipe.space.name taesd3 has no Gaussian"),
        ((), {"vae": "taesd.safetensors"}, "TAESD (4 latent channels, 8 wide)"),
        ((), {"vae": "vae"}, "this is a kl_autoencoder checkpoint, not taesd"),
    ):
        assert latents(place, "never", *words, **{**options, **change}) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
    assert not (place / "never").exists()


def test_a_draw_depends_on_the_records_number_only(place):
    for shard in ("0/2", "1/2"):
        assert latents(place, "sharded", "--shard", shard, "--batch", "16") == 0
    one, other, modes = (RecordFiles(place / name) for name in ("records", "sharded", "modes"))
    assert len(one) == SAMPLES
    for number in range(SAMPLES):
        assert one[number]["hr_latent"].dtype == np.float16
        for name, value in one[number].items():
            np.testing.assert_allclose(other[number][name], value, rtol=2e-3, atol=2e-3, err_msg=name)
    noise = [one[number]["hr_latent"] - modes[number]["hr_latent"] for number in range(SAMPLES)]
    assert len({value.tobytes() for value in noise}) == SAMPLES and np.std(noise) > 0.1


def test_it_goes_on_where_it_stopped(place, capsys):
    assert latents(place, "records") == 0
    assert "0 files of latents written, 3 were there" in capsys.readouterr().out


def test_the_shards_of_an_engine(place, capsys, monkeypatch):
    use_engine(monkeypatch, in_reverse)
    assert latents(place, "by_engine", "--engine", "ray") == 0
    assert "3 files of latents written, 0 were there" in capsys.readouterr().out
    first, second = RecordFiles(place / "records"), RecordFiles(place / "by_engine")
    for number in range(SAMPLES):
        for name, value in first[number].items():
            np.testing.assert_allclose(second[number][name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_digest_is_that_of_weights_scaling_and_shift(place, tmp_path):
    autoencoder_read = read_kl_autoencoder(place / "vae")
    assert autoencoder_read.module == VAE
    save_weights(
        tmp_path / "vae.safetensors", autoencoder_read.params, {"model": "kl_autoencoder", "arguments": ARGUMENTS}
    )
    (tmp_path / "pipeline").mkdir()
    write_autoencoder(tmp_path / "pipeline" / "vae", autoencoder_read.params, ARGUMENTS)
    for path in ("vae.safetensors", "pipeline"):
        assert read_kl_autoencoder(tmp_path / path).digest == autoencoder_read.digest
    write_autoencoder(tmp_path / "scaled", autoencoder_read.params, ARGUMENTS | {"scaling": 1.0})
    autoencoder(tmp_path / "other", gain=1.1)
    assert (
        len({autoencoder_read.digest, *(read_kl_autoencoder(tmp_path / name).digest for name in ("scaled", "other"))})
        == 3
    )


def test_batches_join_latents_and_texts(place):
    source = opened(place)
    embeddings, captions = RecordFiles(place / "embeddings"), read_captions([place / "captions.jsonl"])
    null = condition(place).null
    assert null and len(source) == SAMPLES
    rows = read_names(place / "embeddings")
    names = read_names(place / "records")
    batches = make_batches(source, 32, LIGHT_ONE_STAGE, 5, 0, epochs=8)
    seen = list(batches)
    assert {name: (value.shape, value.dtype.name) for name, value in seen[0].items()} == {
        "hr_latent": ((5, 16, 16, 4), "float16"),
        "lr_latent": ((5, 16, 16, 4), "float16"),
        "text": ((5, 5, 12), "float16"),
        "pooled_text": ((5, 9), "float16"),
        "image": ((5,), "int32"),
        "record": ((5,), "int32"),
    }
    nulls = 0
    for batch in seen:
        for image, prompt, pooled in zip(batch["image"], batch["text"], batch["pooled_text"], strict=True):
            assert names[image] in captions
            expected = embeddings[rows.index(names[image])]
            if np.array_equal(prompt, expected["prompt"]) and np.array_equal(pooled, expected["pooled"]):
                continue
            assert np.array_equal(prompt, source.with_text({"image": 0}, FirstDraw(0.0))["text"])
            nulls += 1
    assert 0.05 < nulls / 80 < 0.4
    ready = prepare_for(source, LIGHT_ONE_STAGE)(seen[0])
    assert {value.dtype for name, value in ready.items() if name != "image"} == {jnp.dtype("float32")}
    assert "record" not in ready


class FirstDraw:
    """A generator of one number."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def crop_captions(place, kind="crops", captioner=lambda image, seed: f"{image.shape} {image.mean():.2f}"):
    """Caption the crops of the latents 'records' in plain Python, as the command does with a model."""
    images = crops_of_latents(place / "records", str(place / "photos"), kind)
    path = captions_file(kind, str(place / "records"), str(place / "lr.jsonl") if kind == "lr" else None)
    caption_images(images, captioner, path, CaptionSettings())
    return path, images


def test_captions_of_crops_are_those_of_the_records(place):
    path, images = crop_captions(place)
    assert path == place / "records" / "captions.jsonl"
    captions = read_captions([path])
    assert len(captions) == SAMPLES and all(image.startswith("crop-") for image in captions)
    dataset = record_dataset(folder_source(place / "photos", crop=32), 32, LIGHT_ONE_STAGE, 0)
    names, records = read_names(place / "records"), RecordFiles(place / "records")
    for number in (0, 7):
        hr = dataset[number]["hr"]
        caption = captions[f"crop-{number:09d}"]
        assert caption.raw == f"{hr.shape} {hr.mean():.2f}"
        assert caption.photo == names[records[number]["image"]]
        ready = make_prepare(LIGHT_ONE_STAGE)(jax.tree.map(lambda leaf: np.asarray(leaf)[None], dataset[number]))
        lr = crops_of_latents(place / "records", str(place / "photos"), "lr").load(number)
        np.testing.assert_array_equal(lr.pixels, np.round(np.asarray(ready["lr"][0]) * 255))
    origin = captioned_latents([path])
    assert origin["of"] == "crops" and images.origin == origin
    assert captioned_latents([crop_captions(place, "lr")[0]]) == {**origin, "of": "lr"}
    with pytest.raises(ValueError, match="are of different images"):
        captioned_latents([path, place / "lr.jsonl"])


def test_embeddings_of_crops_are_read_back_with_their_latents(place, tmp_path):
    path, _ = crop_captions(place)
    captions, folder = read_captions([path]), place / "records" / STORED_EMBEDDINGS
    embed_captions(captions, encoders(), folder, Work(SAMPLES, 4), SIZES, origin=captioned_latents([path]))
    try:
        assert stored_embeddings(str(place / "records")) == str(folder)
        assert stored_embeddings(str(place / "photos")) == stored_embeddings("builtin") == ""
        source = opened(place, condition(place, embeddings=str(folder)))
        assert source.names != opened(place).names
        embeddings = RecordFiles(folder)
        for number in (0, 7):
            record = RecordFiles(place / "records")[number]
            expected = embeddings[read_names(folder).index(f"crop-{number:09d}")]
            np.testing.assert_array_equal(source.with_text(record, FirstDraw(1.0))["text"], expected["prompt"])
        embedded = {embeddings[number]["prompt"].tobytes() for number in range(SAMPLES)}
        assert len(embedded) > len(set(read_names(place / "records")))  # several crops of a photograph differ
        with pytest.raises(ValueError, match=r"are of crops of precomputed latents: set data\.train to these latents"):
            captioned(folder_source(place / "photos", crop=32), condition(place, embeddings=str(folder)))
        embed_captions(captions, encoders(), tmp_path / "other", Work(SAMPLES), SIZES, origin={"latents": "f00"})
        with pytest.raises(ValueError, match="are of crops of other latents: caption the crops of these"):
            opened(place, condition(place, embeddings=str(tmp_path / "other")))
    finally:
        shutil.rmtree(folder)  # other tests name their embeddings


def test_crops_of_other_photographs_are_not_captioned(place, tmp_path):
    shutil.copy(place / "photos/photo_1.png", shutil.copytree(place / "photos", tmp_path / "same") / "photo_0.png")
    for folder in (photos(tmp_path / "photos", count=2), tmp_path / "same"):
        with pytest.raises(ValueError, match="are not the photographs of the latents"):
            crops_of_latents(place / "records", str(folder), "crops")
    with pytest.raises(ValueError, match="holds records of 'embeddings', not 'latents'"):
        crops_of_latents(place / "embeddings", str(place / "photos"), "crops")


def test_the_null_text_is_by_the_records_own_generator(place):
    def texts(threads):
        batches = make_batches(opened(place), 32, LIGHT_ONE_STAGE, 5, 3, epochs=2, num_threads=threads)
        return [batch["pooled_text"] for batch in batches]

    np.testing.assert_array_equal(texts(0), texts(3))
    record = RecordFiles(place / "records")[0]
    source = opened(place)
    assert np.any(
        source.with_text(record, FirstDraw(0.21))["pooled_text"]
        != source.with_text(record, FirstDraw(0.19))["pooled_text"]
    )


def test_conditions_without_captions(place):
    record = RecordFiles(place / "records")[0]
    generator = np.random.default_rng(0)
    zero = opened(place, TextCondition("zero", sizes=SIZES)).with_text(record, generator)
    assert not zero["text"].any() and zero["text"].shape == (5, 12)
    null = opened(place, TextCondition("null", null=str(place / "null.safetensors"), sizes=SIZES))
    assert null.with_text(record, generator)["text"].any()
    assert null.names != opened(place).names  # a resumed run notices another text
    assert "no text encoder was used" in describe_text("zero", 0.2)
    assert "20%" in describe_text("captions", condition(place).caption_dropout)


def test_texts_that_do_not_go_together(place, tmp_path):
    for changes, message in (
        ({"embeddings": ""}, r"needs data\.embeddings: .* --captions`; without any text encoder, set"),
        ({"null": ""}, r"needs recipe\.text\.null_embedding: .* --null`"),
        ({"condition": "null"}, r"takes no data\.embeddings: leave it empty"),
        ({"condition": "none"}, "'none' must be one of captions, null, zero"),
        ({"condition": "zero"}, r"takes no data\.embeddings"),
    ):
        with pytest.raises(ConfigError, match=message):
            condition(place, **changes)
    longer = SIZES.__class__(3, 4, (4, 5), 12)
    with pytest.raises(ValueError, match=r"null\.safetensors has text .* \(5, 12\), this run has \(7, 12\)"):
        opened(place, condition(place, sizes=longer))
    captions = read_captions([place / "captions.jsonl"])
    embed_captions(captions, encoders("clip_l", "t5"), tmp_path / "other", Work(len(captions)), SIZES)
    with pytest.raises(ConfigError, match=r"its encoder clip_g is 'digest of cl', that of .* is 'zeros': make both"):
        opened(place, condition(place, embeddings=str(tmp_path / "other")))
    some = dict(list(captions.items())[1:])
    embed_captions(some, encoders(), tmp_path / "some", Work(len(some)), SIZES)
    with pytest.raises(ValueError, match=r"some lacks 1 of 6 photographs, such as more/photo_0\.png: caption the same"):
        opened(place, condition(place, embeddings=str(tmp_path / "some")))
    with pytest.raises(ValueError, match="holds records of 'latents', not 'embeddings'"):
        opened(place, condition(place, embeddings=str(place / "records")))
    with pytest.raises(FileNotFoundError, match="holds no records: write them with `framer-jax precompute embeddings`"):
        opened(place, condition(place, embeddings=str(tmp_path)))
    save_weights(tmp_path / "other.safetensors", {"x": np.zeros(1, np.float32)}, {"kind": "model"})
    with pytest.raises(ValueError, match="not the embedding of a text: make one with"):
        opened(place, condition(place, null=str(tmp_path / "other.safetensors")))
    for ratio, null in ((1.5, zero_text(SIZES)), (0.2, zero_text(longer))):
        with pytest.raises(ValueError, match=r"must lie in 0 to 1|make both with the same text lengths"):
            LatentFiles(place / "records", null, place / "embeddings", ratio)


def test_latents_of_another_run_are_refused(place):
    text, digest = condition(place), read_kl_autoencoder(place / "vae").digest
    for changes, vae, message in (
        ((), "f00", r"latents are of the autoencoder '\w+', this run has 'f00': make them again"),
        (("data.crop=64",), digest, r"made with data\.crop 32, this run has 64"),
        (("data.degradation=bicubic",), digest, r"data\.degradation 'light_one_stage', this run has 'bicubic'"),
        (("recipe.scale=2",), digest, r"recipe\.scale 4, this run has 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_latents(place / "records", settings(place, *changes), vae, text)
    with pytest.raises(ValueError, match="holds records of 'embeddings', not 'latents'"):
        open_latents(place / "embeddings", settings(place), digest, text)
    with pytest.raises(FileNotFoundError, match="holds no records"):
        open_latents(place / "photos", settings(place), digest, text)


def test_what_cannot_be_precomputed(place, capsys):
    before = (place / "records" / MANIFEST).read_bytes()
    autoencoder(place / "other", gain=1.1)
    (place / "few.jsonl").write_text(caption_line(Caption("photo_0.png", "", "")))
    for words, changes, message in (
        ((), ("training.seed=1",), r"made otherwise \(seed\)"),
        (("--draw", "mode"), (), r"made otherwise \(draw\)"),
        (("--vae", str(place / "other")), (), r"made otherwise \(vae\): name another folder, or use --overwrite"),
        (("--vae", str(place / "none")), (), "none: no such"),
        (("--vae", str(place / "photos")), (), r"photos: lacks config\.json.* \(recipe\.space\.name of .* is wavelet"),
        (("--vae", str(place / "null.safetensors")), (), "holds a trained recipe, not kl_autoencoder"),
        (("--batch", "3"), (), "--batch 3 must be a multiple of the 8 devices"),
        (
            ("--captions", str(place / "few.jsonl")),
            (),
            r"--captions lacks 5 of 6 photographs, such as more/photo_0\.png",
        ),
        (("--embeddings", str(place / "records" / "x")), (), r"names\.json is missing"),
        ((), (f"data.train={place}/records",), "holds records already"),
    ):
        assert latents(place, "records", *words, changes=changes) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and error.count("\n") == 1, error
    assert (place / "records" / MANIFEST).read_bytes() == before
    wide = read_kl_autoencoder(place / "vae")._replace(module=KLAutoencoder())
    with pytest.raises(ConfigError, match=r"data\.crop 36 must be a multiple of the 8 pixels"):
        precompute_latents(settings(place, "data.crop=36"), wide, place / "never", Work(1))
