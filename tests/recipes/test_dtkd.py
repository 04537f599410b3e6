"""Students of a trained teacher: DTKD's settings and loss, records, and the teacher itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.identity import records_identity
from framer_jax.checkpoints.open import build_recipe, open_recipe
from framer_jax.cli import main
from framer_jax.commands.train import paths_that_may_change, train_from_config
from framer_jax.config import default, to_dict
from framer_jax.data.records import RecordFiles
from framer_jax.diffusion.noise import noise_field
from framer_jax.losses.wavelet_kd import WaveletKdSettings, wavelet_kd
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.augkd.recipe import CORNER
from framer_jax.recipes.components.teacher import TEACHER, Teacher, teacher_outputs
from framer_jax.recipes.table import METHODS
from tests.support.drawn import drawn
from tests.support.paths import CONFIGS
from tests.support.students import AUGKD, DTKD, STEP, STILL, batch, recipe_of, run, teachers
from tests.support.tiny import config, overrides, photos, ported, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return teachers(tmp_path_factory.mktemp("students"))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_lambda_rises_over_all_of_training_unless_configured_otherwise():
    assert config(DTKD, "training.steps=7")["recipe"]["dtkd"]["ramp_steps"] == 7
    changed = config(DTKD, "recipe.dtkd.ramp_steps=5", "training.steps=7")
    assert (changed["recipe"]["dtkd"]["ramp_steps"], changed["training"]["steps"]) == (5, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.dtkd.schedule=square", "recipe.dtkd.schedule is 'square': it must be one of linear, cosine, constant"),
        ("recipe.dtkd.weight=-1.0", "recipe.dtkd.weight is -1.0"),
        ("recipe.dtkd.ramp_steps=0", "recipe.dtkd.ramp_steps is 0"),
        ("recipe.dtkd.wavelet=haarr", "haarr"),
        ("recipe.dtkd.levels=5", "recipe.dtkd.levels is 5: it must be a whole number from 1 to 4"),
        ("recipe.teacher.output=picture", "recipe.teacher.output is 'picture': it must be one of sample, mean"),
        ("recipe.teacher.compare=some", "recipe.teacher.compare is 'some': it must be one of all, one"),
        ("recipe.teacher.samples=0", "recipe.teacher.samples is 0"),
        ("recipe.teacher.checkpoint=", "recipe.teacher.checkpoint is empty: set it to the path of the trained teacher"),
        ("recipe.scale=2", "upsamples by 4, the student by 2"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(folder, DTKD, change)


# --- the teacher ------------------------------------------------------------------------------------------------------


def test_a_teachers_outputs_have_any_size_and_their_own_noise(folder):
    opened = open_recipe(folder / "resshift.safetensors")
    teacher = Teacher(opened.recipe, opened.params)
    lr, noise = batch(side=8)["lr"][:, :7, :5], noise_field(jax.random.key(1), 2)
    outputs = jax.jit(lambda frozen: teacher_outputs(teacher, frozen, lr, noise, 3))(teacher.frozen)
    assert outputs.shape == (2, 3, 28, 20, 3) and outputs.dtype == jnp.float32
    levels = np.asarray(outputs) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert outputs.min() >= 0 and outputs.max() <= 1
    assert len({np.asarray(outputs[i, k]).tobytes() for i in range(2) for k in range(3)}) == 6
    one = jax.jit(lambda frozen: teacher_outputs(teacher, frozen, lr, noise, 1))(teacher.frozen)
    np.testing.assert_allclose(one[:, 0], outputs[:, 0], atol=1.01 / 255)


def test_several_outputs_without_noise_are_refused(folder, tmp_path):
    message = r"teacher\.samples is 2, but the {} of a teacher of recipe '{}' does not depend on noise.*samples=1"
    for teacher, name, output in (("resshift", "resshift", "mean"), ("swinir", "supervised_l1", "sample")):
        with pytest.raises(ValueError, match=message.format(output, name)):
            recipe_of(folder, DTKD, "recipe.teacher.samples=2", f"recipe.teacher.output={output}", teacher=teacher)
    weights(tmp_path / "drawn.safetensors", "recipe.resshift.centred_mean=False")
    recipe_of(tmp_path, DTKD, "recipe.teacher.samples=2", "recipe.teacher.output=mean", teacher="drawn")


def test_any_recipe_teaches(folder, tmp_path):
    assert recipe_of(folder, DTKD, teacher="swinir").frozen.keys() == {TEACHER}
    weights(tmp_path / "sinsr.safetensors", "recipe.name=sinsr")
    assert recipe_of(tmp_path, DTKD, teacher="sinsr").frozen.keys() == {TEACHER}
    with pytest.raises(ValueError, match=r"'sinsr' has no mean: set recipe\.teacher\.output=sample"):
        recipe_of(tmp_path, DTKD, "recipe.teacher.output=mean", teacher="sinsr")


def test_published_weights_teach_with_the_recipe_that_they_belong_to(tmp_path):
    settings = config("recipe.name=dtkd")["recipe"]
    settings["teacher"]["checkpoint"] = str(ported(tmp_path / "published.safetensors", "swinir"))
    with pytest.raises(ValueError, match=r"published weights carry no configuration: give recipe\.teacher\.published"):
        build_recipe(settings)
    settings["teacher"]["published"] = config("recipe.name=supervised_l1")["recipe"]
    recipe = build_recipe(settings)
    assert recipe.frozen[TEACHER]["params"].keys() == {"student"}
    wider = ("recipe.name=supervised_l1", "recipe.student.swinir.channels=16")
    settings["teacher"]["published"] = config(*wider)["recipe"]
    with pytest.raises(ValueError, match=r"published\.safetensors.*channels 8, not 16"):
        build_recipe(settings)


def test_no_teacher_is_needed_for_inference_and_for_weight_0(folder):
    for recipe in (recipe_of(folder, DTKD, purpose="inference"), recipe_of(folder, DTKD, "recipe.dtkd.weight=0.0")):
        assert recipe.frozen == {} and recipe.precompute is None
    params = drawn(recipe.init, jax.random.key(1), batch())
    with pytest.raises(ValueError, match=r"this recipe was built without.*recipe\.teacher\.checkpoint"):
        run(recipe_of(folder, DTKD, purpose="inference"), params, batch())


# --- DTKD's loss ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_l1_distance_and_lambda_times_the_teachers(folder):
    knobs = (DTKD, STILL, "recipe.dtkd.weight=2.0", "recipe.dtkd.ramp_steps=4")
    recipe, data = recipe_of(folder, *knobs, data="teacher"), batch()
    params = drawn(recipe.init, jax.random.key(1), data)
    outputs = recipe.precompute(recipe.frozen, data, noise_field(jax.random.key(5), 2))
    assert outputs.keys() == {TEACHER} and outputs[TEACHER].shape == (2, 1, 32, 32, 3)
    loss = run(recipe, params, {**data, **outputs}, frozen={})  # the records need no teacher
    sr = recipe.sample(params, {}, data["lr"], noise_field(jax.random.key(0), 2))
    distance = wavelet_kd(sr, outputs[TEACHER][:, 0], WaveletKdSettings())
    expected = np.abs(sr - data["hr"]).mean(axis=(1, 2, 3)) + 0.5 * distance.values
    np.testing.assert_allclose(loss.values, expected, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["teacher_middle"], distance.groups["middle"], rtol=1e-5)
    assert loss.metrics["teacher_weight"] == 0.5
    from_photos = run(recipe_of(folder, *knobs), params, data)
    assert np.all(from_photos.values > from_photos.metrics["pixel_l1"])


def test_at_step_0_and_with_weight_0_it_is_supervised_training(folder):
    data = batch()
    plain = build_recipe(config("recipe.name=supervised_l1")["recipe"])  # with its stochastic depth
    params = drawn(plain.init, jax.random.key(1), data)
    for recipe, step in (
        (recipe_of(folder, DTKD), jnp.int32(0)),
        (recipe_of(folder, DTKD, "recipe.dtkd.weight=0.0"), STEP),
    ):
        values = run(recipe, params, data, step).values
        np.testing.assert_allclose(values, run(plain, params, data, step).values, rtol=1e-6)


def test_several_samples_are_averaged_or_drawn(folder):
    knobs = (DTKD, STILL, "recipe.dtkd.schedule=constant", "recipe.teacher.samples=3")
    data = batch()
    with_all = recipe_of(folder, *knobs, data="teacher")
    params = drawn(with_all.init, jax.random.key(1), data)
    outputs = with_all.precompute(with_all.frozen, data, noise_field(jax.random.key(5), 2))[TEACHER]
    assert outputs.shape == (2, 3, 32, 32, 3)

    def term(recipe, outputs, key=3):
        return np.asarray(run(recipe, params, {**data, TEACHER: outputs}, key=key).metrics["teacher_term"])

    single = np.stack([term(with_all, outputs[:, k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(term(with_all, outputs), single.mean(axis=0), rtol=1e-5)
    with_one = recipe_of(folder, *knobs, "recipe.teacher.compare=one", data="teacher")
    seen = {float(term(with_one, outputs, key)[0]) for key in range(16)}
    assert len(seen) == 3, "each of the outputs is drawn"
    assert all(np.isclose(value, single[:, 0], rtol=1e-5).any() for value in seen)


def test_no_gradient_reaches_the_teacher(folder):
    recipe, data = recipe_of(folder, DTKD, STILL), batch()
    params = drawn(recipe.init, jax.random.key(1), data)

    @jax.jit
    def gradients(params, frozen):
        def total(params, frozen):
            return recipe.updates[0].loss(params, frozen, {}, data, jax.random.key(3), STEP).values.mean()

        return jax.grad(total, argnums=(0, 1))(params, frozen)

    of_student, of_teacher = gradients(params, recipe.frozen)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(of_student))
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_teacher))


@pytest.mark.parametrize("name", ["dtkd", pytest.param("augkd", marks=pytest.mark.slow)])
def test_training_leaves_the_teacher_alone(folder, tmp_path, name):
    knobs = (f"data.{part}={folder}/photos" for part in ("train", "validation"))
    settings = config(f"recipe.name={name}", f"recipe.teacher.checkpoint={folder}/resshift.safetensors", *knobs)
    before = (folder / "resshift.safetensors").read_bytes()
    recipe = build_recipe(settings["recipe"])
    frozen = jax.tree.map(np.array, recipe.frozen)
    result = train_from_config(settings, tmp_path / "run")
    assert result.step == 2 and result.state.params.keys() == {"student"}
    jax.tree.map(np.testing.assert_array_equal, build_recipe(settings["recipe"]).frozen, frozen)
    assert (folder / "resshift.safetensors").read_bytes() == before
    params, metadata = load_weights(tmp_path / "run" / "weights.safetensors")
    assert params.keys() == {"student"}
    assert metadata["weights"].keys() == {"recipe.teacher.checkpoint"}
    assert metadata["config"]["recipe"]["teacher"]["checkpoint"] == "resshift.safetensors"  # the run may travel
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("teacher_plain" in line or "teacher_weight" in line for line in logged)


def test_records_hold_the_teachers_outputs_and_training_reads_them(folder, tmp_path, capsys):
    """AugKD's: DTKD's are a part of them."""
    run_knobs = ("data.crop=64", f"data.validation={folder}/photos")
    teacher = ("recipe.teacher.samples=2", "recipe.teacher.compare=one")
    teacher = (*teacher, f"recipe.teacher.checkpoint={folder}/resshift.safetensors")
    photos(tmp_path / "photos", size=(72, 80))
    weights(tmp_path / "other.safetensors", fill=0.01)

    def command(*words, name=AUGKD, knobs=teacher, more=()):
        changes = [word for knob in overrides(name, *run_knobs, *knobs, *more) for word in ("--set", knob)]
        return main([*words, "--config", str(CONFIGS / "default.py"), *changes])

    records = str(tmp_path / "records")
    words = ("precompute", "teacher", "--output", records, "--samples", "9", "--per-file", "8")
    assert command(*words, more=(f"data.train={tmp_path}/photos",)) == 0
    record = RecordFiles(records)[8]
    assert {name: (value.dtype.name, value.shape) for name, value in record.items()} == {
        "hr": ("uint8", (64, 64, 3)),
        "lr": ("uint8", (16, 16, 3)),
        "teacher": ("uint8", (2, 64, 64, 3)),
        "teacher_zoom_in": ("uint8", (2, 64, 64, 3)),
        "teacher_zoom_out": ("uint8", (2, 16, 16, 3)),
        CORNER: ("int32", (2,)),
        "record": ("int32", ()),
    }
    assert (record["teacher"][0] != record["teacher"][1]).any()
    run = ("train", "--workdir", str(tmp_path / "run"))
    assert command(*run, more=(f"data.train={records}", "recipe.student.swinir.channels=16")) == 0  # any student
    for change, message in (
        ("recipe.teacher.samples=1", "made with recipe.teacher.samples 2, this run has 1"),
        ("recipe.augkd.zoom_in=False", "made with recipe.augkd.zoom_in True, this run has False"),
        (f"recipe.teacher.checkpoint={tmp_path}/other.safetensors", "made with the file of recipe.teacher.checkpoint"),
    ):
        assert command("train", "--workdir", str(tmp_path / "never"), more=(f"data.train={records}", change)) == 2
        assert message in capsys.readouterr().err
    assert command("train", "--workdir", str(tmp_path / "never"), name=DTKD, more=(f"data.train={records}",)) == 2
    assert "made with recipe.name 'augkd', this run has 'dtkd'" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()
    # a student without a teacher takes the pairs, so that both can learn from the same
    alone = ("train", "--workdir", str(tmp_path / "alone"))
    assert command(*alone, name="recipe.name=supervised_l1", knobs=(), more=(f"data.train={records}",)) == 0
    # knobs of the student do not make other records
    assert command(*words, more=(f"data.train={tmp_path}/photos", "training.steps=9", "recipe.augkd.weight=2.0")) == 0
    assert "0 files of records written, 2 were there" in capsys.readouterr().out


def test_what_published_teachers_outputs_depend_on():
    def outputs(*changes, name="dtkd"):
        settings = config(f"recipe.name={name}")["recipe"]
        settings["teacher"]["published"] = config("recipe.denoiser.name=resshift_unet", *changes)["recipe"]
        return records_identity(settings)

    for change in (
        "recipe.resshift.sampling_steps=2",
        "recipe.resshift.centred_mean=False",
        "recipe.dtype=bfloat16",
        "recipe.resshift.kappa=2.0",
    ):
        assert outputs() != outputs(change), change
    assert outputs() == outputs("recipe.lpips.net=vgg")


@pytest.mark.slow  # two trainings
def test_a_trained_teacher_may_move(folder, tmp_path):
    knobs = [f"data.{part}={folder}/photos" for part in ("train", "validation")]
    run = config(DTKD, *knobs)
    published = config("recipe.space.name=vq_f4", "recipe.space.checkpoint=gone.safetensors")["recipe"]
    run["recipe"]["teacher"]["published"] = published  # of no effect
    for steps, place in ((2, folder), (3, tmp_path)):
        if place != folder:
            (place / "resshift.safetensors").write_bytes((folder / "resshift.safetensors").read_bytes())
        run["recipe"]["teacher"]["checkpoint"] = str(place / "resshift.safetensors")
        run["recipe"]["dtkd"]["ramp_steps"] = run["training"]["steps"] = steps  # longer, and lambda with it
        assert train_from_config(run, tmp_path / "run").step == steps


def test_every_path_may_change_on_resume():
    for method in METHODS:
        assert {file.knob for file in method.weight_files} <= set(paths_that_may_change(to_dict(default(method.name))))
