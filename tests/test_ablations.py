"""The ablations that ship: every arm is a legal configuration of its base, and no two are the same."""

import json

import pytest

from framer_jax.commands.ablate.settings import ablation_file, arm_configs, load_ablation
from framer_jax.commands.train import train_from_config
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.evaluation.ablation import Overlay, merged
from framer_jax.evaluation.metrics import METRICS
from framer_jax.recipes.framer import framer_settings
from tests.support.paths import CONFIGS
from tests.support.tiny import overrides, photos

FRAMER = tuple(f"framer:{table}" for table in ("table2", "table3", "table4", "table5", "fig10", "lambda"))
DTKD = tuple(f"dtkd:table{number}" for number in range(4, 8))
VARIANTS = "framer:variants"
SHIPPED = (*FRAMER, VARIANTS, *DTKD, "hf_diff")

SMALL = {
    **dict.fromkeys(FRAMER, "framer_u_taesd_small"),
    VARIANTS: "framer_d_taesd3_small",
    **dict.fromkeys(DTKD, "dtkd_narrow"),
    "hf_diff": "hf_diff_narrow",
}
"""Ablation → a base at laptop size."""


def configs(name, base):
    return arm_configs(base, load_ablation(name).arms, (), 0)


def changes(config, other, prefix=""):
    """Names of the knobs in which two plain configurations differ."""
    names = set()
    for key in config.keys() | other.keys():
        one, two = config.get(key), other.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            names |= changes(one, two, f"{prefix}{key}.")
        elif one != two:
            names.add(prefix + key)
    return names


@pytest.mark.parametrize("name", SHIPPED)
def test_arms_are_legal_and_differ_on_the_published_and_on_a_small_base(name):
    ablation = load_ablation(name)
    assert set(ablation.metrics) <= METRICS.keys()
    assert ablation.published
    for base in (ablation.base, SMALL[name]):
        arms = configs(name, base)
        assert len({json.dumps(config, sort_keys=True) for config in arms.values()}) == len(ablation.arms)


def test_variants_differ_in_what_the_released_code_compares():
    arms = configs(VARIANTS, "framer_d_taesd3_small")
    taps = "recipe.denoiser.dit4sr_transformer.taps"
    assert changes(arms["full"], arms["released"]) == {"framer.variant", taps}
    assert changes(arms["released"], arms["released_0.01"]) == {"framer.weight"}


@pytest.mark.parametrize("name", [*FRAMER, *DTKD])
def test_an_arm_changes_what_its_overlay_names_and_nothing_else(name):
    ablation = load_ablation(name)
    unchanged = to_dict(load_config(ablation.base, ["training.seed=0"]))
    for arm, config in configs(name, ablation.base).items():
        named = {override.partition("=")[0] for override in ablation.arms[arm].overrides}
        assert changes(unchanged, config) == named, arm


def test_the_tables_of_framer_switch_what_the_paper_switches():
    """Table 3 is a grid, Table 4 has all pairs of losses, Table 5 all pairs of switches; each once."""

    def settings(name, *knobs):
        arms = [framer_settings(config["framer"]) for config in configs(name, "framer_d_sd35").values()]
        return sorted(tuple(getattr(arm, knob) for knob in knobs) for arm in arms)

    assert settings("framer:table2", "objective") == [("contrastive",), ("full",), ("l2",), ("none",)]
    teachers, negatives = ("last", "middle", "next"), ("none", "previous", "random")
    assert settings("framer:table3", "teacher", "negatives") == [(t, n) for t in teachers for n in negatives]
    bands = [(low, high) for low in ("inter", "intra") for high in ("inter", "intra")]
    assert settings("framer:table4", "low_loss", "high_loss") == bands
    switches = [(faw, fam) for faw in (False, True) for fam in (False, True)]
    assert settings("framer:table5", "faw", "fam") == switches == settings("framer:fig10", "faw", "fam")


def test_the_tables_of_framer_share_the_whole_method():
    ablations, arms = merged([load_ablation(name) for name in FRAMER])
    assert len(arms) == 4 + 8 + 3 + 3 + 1  # `full` and `none` once; Fig. 10 has the arms of Table 5; one more lambda
    assert all("full" in ablation.arms for ablation in ablations)
    assert arms["full"] == Overlay()


def test_table_4_of_dtkd_weights_all_groups_alike_at_every_number_of_levels():
    knobs = {arm: config["recipe"]["dtkd"] for arm, config in configs("dtkd:table4", "dtkd_swinir_small").items()}
    assert {arm: of_arm["levels"] for arm, of_arm in knobs.items()} == {
        "levels_1": 1,
        "uniform": 2,
        "levels_3": 3,
        "levels_4": 4,
    }
    assert all(of_arm["weights"] == [1.0, 1.0, 1.0] for of_arm in knobs.values())


def test_numbers_of_fig_10():
    rows = load_ablation("framer:fig10").published_rows
    assert rows["NIQE, image 1"] == {"neither": 5.54, "faw": 4.19, "fam": 3.29, "full": 4.03}
    assert rows["MUSIQ, image 2"]["full"] == 69.62


def test_arms_of_hf_diff_are_variants_of_any_base():
    arms = configs("hf_diff", "hf_diff_narrow")
    assert arms["lpips"]["recipe"] == to_dict(load_config("hf_diff_narrow:lpips"))["recipe"]
    with pytest.raises(ConfigError, match="the arms take variants of the base themselves: omit ':base'"):
        configs("hf_diff", "hf_diff_narrow:base")


def test_arms_that_are_the_same_training_are_refused():
    with pytest.raises(ConfigError, match="the arms 'none' and 'l2' are the same training on multistep_taesd_small"):
        configs("framer:table2", "multistep_taesd_small")
    with pytest.raises(ConfigError, match=r"--set training\.seed: the seeds are those of --seeds"):
        arm_configs("starter", {"a": Overlay()}, ("training.seed=1",), 0)
    with pytest.raises(ConfigError, match="the arm 'levels_1' on framer_u_taesd_small: unknown knob"):
        configs("dtkd:table4", "framer_u_taesd_small")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("framr:table2", "no ablation named 'framr': did you mean 'framer'"),
        ("framer", "name one of its tables, such as framer:table2: table2, table3"),
        ("framer:table9", "name one of its tables"),
        ("hf_diff:table4", "has no variants: omit ':table4'"),
        ("nothing.py", r"no configuration file 'nothing\.py'"),
    ],
)
def test_names_that_are_no_ablation(name, message):
    with pytest.raises(ConfigError, match=message):
        load_ablation(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "ablations").glob("*.py")))
def test_every_file_says_how_to_run_it(name):
    head = (CONFIGS / "ablations" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    if name != "__init__":
        assert f"framer-jax ablate {name}" in head
        assert all(word in head for word in ("Command:", "Hardware:", "Expected time:", "Expected:"))
        assert ablation_file(f"{name}:x") == (CONFIGS / "ablations" / f"{name}.py", ("x",))


@pytest.mark.slow
@pytest.mark.parametrize("arm", merged([load_ablation(name) for name in FRAMER])[1])
def test_one_step_of_every_arm_of_framer(arm, tmp_path):
    """On a transformer, whose taps have equal shapes, as the teacher `next` needs it."""
    base = CONFIGS / "framer_d_small.py"
    overlay = merged([load_ablation(name) for name in FRAMER])[1][arm]
    folder = photos(tmp_path / "photos")
    changed = (f"data.train={folder}", "data.validation_count=0", "training.stop_after=1", *overlay.overrides)
    result = train_from_config(to_dict(load_config(base, overrides(*changed, base=base))), tmp_path / "run")
    assert any(name.endswith("framer_ratio") for name in result.scalars) == (arm != "none")
