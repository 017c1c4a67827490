"""What the README says is true of the code: commands, variables, exits, and what CI runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import settings
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.contract import TARGET
from bulk_upload_pipeline.model import FINAL_STATES, State
from bulk_upload_pipeline_tests.world import count, drop, good_row, line_at, through

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


def test_after_a_restore_the_lines_of_the_drill_name_what_no_database_knows_and_it_loads_again(
    tmp_path, database_url
):
    drill = (ROOT / "docker/README.md").read_text("utf-8")
    (query,) = re.findall(
        r'^    docker compose .* psql .* --command "(.*)" bulk_upload \| sort > known$', drill, re.M
    )
    (compare,) = re.findall(r"^    docker compose exec -T code (ls /data/archive .*)$", drill, re.M)
    with line_at(tmp_path / "home", database_url) as line:
        _, lost = (through(line, name, [good_row(at)]) for at, name in enumerate(("a.csv", "b.csv"), start=1))
        with line.engine.begin() as connection:  # as the dump has it, which is older
            for table in ("bulk_upload.load_chunks", "bulk_upload.upload_batches"):
                connection.execute(sa.text(f"DELETE FROM {table} WHERE batch_id = :lost"), {"lost": lost})
            connection.execute(sa.text(f"DELETE FROM {TARGET} WHERE upload_batch_id = :lost"), {"lost": lost})
            known = connection.scalars(sa.text(query)).all()
        (tmp_path / "known").write_text("".join(f"{batch_id}\n" for batch_id in sorted(known)))
        shell = compare.replace("/data/archive", shlex.quote(str(line.home.archive)))
        named = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert named.stdout.split() == [lost]
        (file,) = (line.home.archive / lost).iterdir()
        assert stages.take(line, drop(line, "b.csv", file.read_bytes())).rows_inserted == 1
        assert count(line, TARGET) == 2
