"""The knobs of the data section: defaults and legal values."""

import pytest

from framer_jax.data.settings import DataSettings
from framer_jax.degradations.presets import PRESETS
from framer_jax.knobs import knobs_of, settings_from


def test_defaults_are_legal_and_every_knob_is_documented():
    settings = DataSettings()
    assert (settings.train, settings.crop, settings.crop_mode, settings.degradation) == (
        *("builtin", 128, "crop"),
        "light_one_stage",
    )
    assert all(knob.meaning for knob in knobs_of(DataSettings))
    assert {knob.name for knob in knobs_of(DataSettings) if knob.execution} == {"threads", "workers"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"caption_dropout": 1.5}, r"^data\.caption_dropout is 1\.5: .* from 0 to 1"),
        ({"crop": 0}, r"^data\.crop is 0: .* from 1 to"),
        ({"crop_mode": "whole"}, r"^data\.crop_mode is 'whole': .* one of crop, square"),
        ({"flip_and_rotate": 1}, r"^data\.flip_and_rotate is 1: .* True or False"),
        ({"degradation": "fog"}, r"^data\.degradation is 'fog': .*bicubic"),
        ({"turns": True}, r"^unknown knob data\.turns"),
    ],
)
def test_illegal_values_name_the_knob(values, message):
    with pytest.raises(ValueError, match=message):
        settings_from(DataSettings, values, "data")


def test_every_preset_is_a_choice():
    for name in PRESETS:
        assert settings_from(DataSettings, {"degradation": name}, "data").degradation == name
