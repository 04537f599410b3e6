"""Every command line in the README and the docs: its options exist, and so do its configurations and knobs."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from framer_jax import cli
from framer_jax.config import load_config, shipped_folder, split_variant
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

LEFT_OUT = ("...", "…")
"""What stands for arguments that are given elsewhere on the page."""


def command_lines(text):
    """The command lines of the bash blocks of a page: continued lines joined, variables inserted, without comments.

    Loops run for their first value.
    """
    values = {}
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], "0"), line)
            if loop := re.match(r"\s*for (\w+) in (\S+)", line):
                values[loop[1]] = loop[2].rstrip(";")
                continue
            words = shlex.split(line, comments=True)
            while words and (assignment := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
                values[assignment[1]], words = assignment[2], words[1:]
            if words:
                yield words


def inner_commands(words):
    """The commands within a line: after srun, in --wrap or --command of a scheduler, and behind a pipe or &&."""
    for text in words:
        if text.startswith("framer-jax "):
            yield shlex.split(text)
    rest = words[1:] if words[0] == "srun" else words
    while rest:
        end = next((index for index, word in enumerate(rest) if word in ("|", "&&", ";", ">")), len(rest))
        yield rest[:end]
        rest = rest[end + 1 :]


def all_commands():
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for number, words in enumerate(command_lines(page.read_text(encoding="utf-8"))):
            for command in inner_commands(words):
                if command and command[0] in ("framer-jax", "python"):
                    yield pytest.param(command, id=f"{name}-{number}-{command[1][:30]}")


class Parser(argparse.ArgumentParser):
    """Raises in place of ending the process."""

    def error(self, message):
        raise ValueError(message)


def parse(words):
    kept = [
        word
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if word not in LEFT_OUT and not (word == "--set" and following in LEFT_OUT)
    ]
    name, *arguments = kept
    assert name in cli.COMMANDS, f"there is no command {name!r}"
    module = importlib.import_module(f"framer_jax.commands.{name.replace('-', '_')}")
    parser = Parser(prog=name, conflict_handler="resolve")
    module.add_arguments(parser)
    for action in parser._actions:  # required arguments may be left out where the line says so
        if any(word in words for word in LEFT_OUT):
            action.required = False
    if name in cli.READS_IMAGES:
        parser.add_argument("--max-pixels", type=int)
    return parser.parse_args(arguments)


def check_configuration(parsed):
    """A shipped configuration exists, and takes the overrides; values that are only names for a path may be any."""
    config = getattr(parsed, "config", None) or getattr(parsed, "base", None)
    if not config or config.isupper():
        return
    file, _ = split_variant(config)
    if file.suffix == ".py" or config.endswith(":VARIANT"):
        return
    assert (shipped_folder() / f"{file}.py").is_file(), f"there is no configuration {config!r}"
    load_config(config, getattr(parsed, "overrides", None) or ())


def check_tool(words):
    """The tool exists, and its options stand in its source or in that of a tool that it imports."""
    path = ROOT / words[1]
    assert path.is_file(), f"there is no {words[1]}"
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"from (tools\.[\w.]+|framer_jax\.evaluation\.perceptual) import", text):
        module = ROOT / name.replace(".", "/")
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        text += file.read_text(encoding="utf-8")
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert f'"{option}"' in text, f"{words[1]} has no option {option}"


@pytest.mark.parametrize("words", list(all_commands()))
def test_commands_of_the_documentation(words):
    if words[0] == "framer-jax":
        if words[1:] in (["--version"], ["--help"]):
            return
        check_configuration(parse(words[1:]))
    elif words[1].startswith("tools/"):
        check_tool(words)


def test_scripts_of_the_documentation_exist():
    for page in PAGES:
        for words in command_lines(page.read_text(encoding="utf-8")):
            script = words[0]
            if "/" in script and script.startswith(("tools/", ".ci/")):
                assert (ROOT / script).is_file(), f"{page}: there is no {script}"


def test_commands_are_read_as_a_shell_would():
    page = "```bash\nA=1 framer-jax train --config x \\\n    --set a=b  # why\nsrun framer-jax info\n```\n"
    assert list(command_lines(page)) == [
        ["framer-jax", "train", "--config", "x", "--set", "a=b"],
        ["srun", "framer-jax", "info"],
    ]
    assert list(inner_commands(["srun", "framer-jax", "info"])) == [["framer-jax", "info"]]
    with pytest.raises(ValueError, match="unrecognized arguments: --sett"):
        parse(["info", "starter", "--sett", "a=b"])
    assert Path(PAGES[0]).name == "README.md"
