"""The knobs of the data section: defaults and legal values."""

from dataclasses import replace

import pytest

from framer_jax.data.settings import DataSettings, degradation_preset, describe_degradation
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.degradations.presets import PRESETS, odd_sizes
from framer_jax.knobs import knobs_of, settings_from


def test_defaults_are_legal_and_every_knob_is_documented():
    settings = DataSettings()
    assert (settings.train, settings.crop, settings.crop_mode, settings.degradation) == (
        *("builtin", 128, "crop"),
        "light_one_stage",
    )
    assert all(knob.meaning for knob in knobs_of(DataSettings))
    assert {knob.name for knob in knobs_of(DataSettings) if knob.execution} == {"threads", "workers", "small_share"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"caption_dropout": 1.5}, r"^data\.caption_dropout is 1\.5: .* from 0 to 1"),
        ({"crop": 0}, r"^data\.crop is 0: .* from 1 to"),
        ({"crop_mode": "whole"}, r"^data\.crop_mode is 'whole': .* one of crop, square"),
        ({"flip_and_rotate": 1}, r"^data\.flip_and_rotate is 1: .* True or False"),
        ({"degradation": "fog"}, r"^data\.degradation is 'fog': .*bicubic"),
        (
            {"degradation": "camera:1,fog:1"},
            r"^data\.degradation is 'camera:1,fog:1': unknown .* 'fog'",
        ),
        (
            {"degradation": "camera:1,real_esrgan:1"},
            r"^data\.degradation .* leave it out, or set sharpen_target for all",
        ),
        (
            {"degradation": "camera:1,resshift:1", "second_kernel_sizes": (7, 21)},
            r"^data\.second_kernel_sizes .* is a mixture",
        ),
        ({"turns": True}, r"^unknown knob data\.turns"),
        ({"second_kernel_sizes": (7, 22)}, r"^data\.second_kernel_sizes is \(7, 22\): .* 2 whole numbers from 3 to 21"),
        ({"second_kernel_sizes": (7, 20)}, r"^data\.second_kernel_sizes is \(7, 20\): kernel sizes must be two odd"),
        ({"second_kernel_sizes": (9, 7)}, r"^data\.second_kernel_sizes is \(9, 7\): kernel sizes must be two odd"),
        ({"second_kernel_sizes": (7, 21)}, r"^data\.second_kernel_sizes .*light_one_stage has no second blur"),
    ],
)
def test_illegal_values_name_the_knob(values, message):
    with pytest.raises(ValueError, match=message):
        settings_from(DataSettings, values, "data")


def test_every_preset_is_a_choice():
    for name in PRESETS:
        assert settings_from(DataSettings, {"degradation": name}, "data").degradation == name


def test_a_mixture_takes_the_options():
    data = {"degradation": "camera:1,real_esrgan:3", "degradation_geometry": "aligned", "sharpen_target": True}
    settings_from(DataSettings, data, "data")
    preset = degradation_preset(data, 2)
    assert (preset.scale, preset.geometry, preset.sharpen_target) == (2, "aligned", True)
    assert [share for _, share in preset.parts] == [0.25, 0.75]


def test_options_change_a_preset_and_nothing_else():
    data = {"degradation": "framer_paper"}
    assert degradation_preset(data, 4) == preset_by_name("framer_paper")
    assert degradation_preset({**data, "sharpen_target": None, "second_kernel_sizes": None}, 2).scale == 2
    sharpened = degradation_preset({**data, "sharpen_target": True}, 4)
    assert sharpened == replace(preset_by_name("framer_paper"), sharpen_target=True)
    plain = degradation_preset({"degradation": "real_esrgan", "sharpen_target": False}, 4)
    assert plain == replace(preset_by_name("real_esrgan"), sharpen_target=False)
    wide = degradation_preset({**data, "second_kernel_sizes": [7, 21]}, 4)  # a list in stored configurations
    assert wide.second.blur.sizes == odd_sizes(7, 21) and wide.low_pass == preset_by_name("framer_paper").low_pass
    blur = replace(wide.second.blur, sizes=odd_sizes(7, 11))
    assert replace(wide, second=replace(wide.second, blur=blur)) == preset_by_name("framer_paper")


def test_options_are_named_in_words():
    assert describe_degradation({"degradation": "bicubic"}) == "`bicubic` (released geometry)"
    data = {"degradation": "resshift", "sharpen_target": True, "second_kernel_sizes": [7, 21]}
    words = "released geometry, sharpened HR images, second kernels of 7 to 21 pixels"
    assert describe_degradation(data) == f"`resshift` ({words})"
