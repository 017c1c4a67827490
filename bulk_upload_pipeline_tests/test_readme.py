"""What the README says is true of the code: commands, variables, exits, and what CI runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from bulk_upload_pipeline import settings
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.model import FINAL_STATES, State

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CODE = sorted(set(re.findall(r"`([^`\n]+)`", README)))
COMMANDS = sorted(
    {code for code in CODE if code.startswith("bulk-upload ")}
    | {f"bulk-upload {rest}" for rest in re.findall(r"bulk-upload ((?:[a-z-]+ ?)+(?:--\S+)?)", README)}
)
EXITS = FINAL_STATES - {State.REVERTED}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_with_its_options(line):
    words = [word.removesuffix("...") for word in shlex.split(line)[1:]]
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name!r} in {line!r}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known, line


def test_every_variable_is_explained_and_none_that_does_not_exist():
    told = set(re.findall(r"`(BULK_UPLOAD_[A-Z_]+)`", README))
    known = {
        value
        for value in vars(settings).values()
        if isinstance(value, str) and value.startswith("BULK_UPLOAD_")
    }
    assert told == {name for name in known if "{" not in name}


def test_the_table_of_exits_names_every_exit():
    table = README.partition("| the file | what loads |")[2].partition("\n\n")[0]
    assert {state for state in State if f"| `{state}` |" in table} == EXITS


def test_ci_runs_the_test_command_word_by_word():
    commands = [line.removeprefix("$ ") for line in README.splitlines() if line.startswith("$ ")]
    (tests,) = [line for line in commands if line.endswith("pytest")]
    assert f"\n{tests}\n" in (ROOT / ".ci" / "run").read_text()


def test_every_file_that_it_shows_or_names_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
