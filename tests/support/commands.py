"""What a command prints where it refuses its input."""

import re


def fails(capsys, status, *patterns, alone=True):
    """Exit status 2 and one line on standard error with all the patterns; alone: with nothing before it."""
    *before, line = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line.startswith("framer-jax ")
    for pattern in patterns:
        assert re.search(pattern, line), line
    if alone:
        assert before == []
    return line
