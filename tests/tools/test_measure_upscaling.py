"""The tool that measures upscaling, on a small folder."""

import json

import pytest

from tools.measure_upscaling import main


@pytest.mark.slow
def test_a_folder_of_many_sizes_needs_few_programs(capsys):
    assert main(["folder", "--count", "40", "--", "--tile-batch", "2"]) == 0
    line, outputs = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert outputs == "outputs: 40"
    assert figures["status"] == 0
    assert figures["compilations"] <= 16  # nine shapes of tiles, and what prepares keys of noise
    assert len(figures["largest MiB in each fifth"]) == 5
