"""Collected only where the command line names this folder, so that the ordinary suite needs no PyTorch."""

import pytest


def pytest_ignore_collect(collection_path, config):
    return None if any("originals" in argument for argument in config.args) else True


def pytest_collection_modifyitems(items):
    for item in items:
        if "originals" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # raised by the originals about themselves
