import numpy as np
import pytest

from tools import benchmark_swinir as tool


def program(output):
    return tool.Program(lambda: None, lambda: output, 1.5)


def test_a_program_with_another_output_is_not_timed():
    reference = np.random.default_rng(0).random((1, 8, 8, 3))
    assert tool.relative_error("peer", program(reference), reference, 1e-4) == 0
    for other in (reference[:, ::-1], np.full_like(reference, np.nan)):
        with pytest.raises(ValueError, match=r"peer: relative error .* nothing was timed"):
            tool.relative_error("peer", program(other), reference, 1e-4)


def test_ratios_compare_calls_of_the_same_round():
    seconds = {"framer_jax": [1.0, 2.0, 4.0], "peer": [2.0, 4.0, 8.0]}
    report = {
        "size": 16,
        "batch": 1,
        "dtype": "float32",
        "device": "cpu",
        "rounds": 3,
        "others_load": None,
        "versions": {"jax": "1", "torch": "2"},
        "programs": {
            name: {"seconds": values, "first_seconds": 1.5, "relative_error": 1e-6} for name, values in seconds.items()
        },
    }
    *_, first, second = tool.markdown(report).splitlines()
    assert first.startswith("| framer_jax | 2000.0 (1500.0 to 3000.0) | 1.00 x (1.00 to 1.00) | 1.5 s |")
    assert second.startswith("| peer | 4000.0 (3000.0 to 6000.0) | 2.00 x (2.00 to 2.00) |")
