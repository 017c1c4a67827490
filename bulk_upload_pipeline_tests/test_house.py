"""The rules of the house, read from the code itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bulk_upload_pipeline

ROOT = Path(bulk_upload_pipeline.__file__).parent
ROOMS = sorted(path for path in ROOT.rglob("*.py") if "migrations" not in path.parts)
VERBS = {
    "inbox",
    "taking",
    "recognise",
    "read",
    "parse",
    "validate",
    "stage",
    "load",
    "ledger",
    "rejects",
    "report",
}
VERBS |= {"corrections", "revert"}
OF_THE_LEDGER = {"counting", "whereabouts"}
"""Rooms beside `ledger`, which know as little of verbs as it does."""
COMPOSERS = {"line", "intake", "alerts", "inspection", "again", "drafting", "mending", "judging", "splitting"}
COMPOSERS |= {"part_judging", "part_loading", "helping", "parentage"}
COMPOSERS |= {"closing", "checking", "archiving", "terms", "sharing", "settling", "sweeping", "workplace"}
FOLDERS = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} - {"defs", "commands"}
"""Each holds the details of one room: `reading` those of `read`."""
KNOW_DAGSTER = {"definitions.py", "cli.py"}


def room(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    """Return the rooms that a room imports; those of a folder as `folder.room`."""
    names = (
        name.removeprefix("bulk_upload_pipeline.").split(".")
        for name in imports(path)
        if name.startswith("bulk_upload_pipeline.")
    )
    return {
        ".".join(parts[:2]) if parts[0] in FOLDERS and len(parts) > 1 else parts[0] for parts in names
    } - FOLDERS


def is_dagster(name):
    return name.split(".")[0].startswith("dagster")


@pytest.mark.parametrize("path", ROOMS, ids=room)
def test_dagster_is_known_only_where_it_must_be(path):
    if room(path).startswith("defs/") or room(path) in KNOW_DAGSTER:
        return
    assert not [name for name in imports(path) if is_dagster(name)]


@pytest.mark.parametrize("path", ROOMS, ids=room)
def test_nothing_leans_on_the_private_parts_of_dagster(path):
    assert not [name for name in imports(path) if is_dagster(name) and "._" in name]


@pytest.mark.parametrize("verb", sorted(VERBS | OF_THE_LEDGER))
def test_a_verb_imports_no_other_verb_and_nothing_that_strings_verbs_together(verb):
    path = ROOT / f"{verb}.py"
    assert not (rooms_imported(path) - {verb}) & (VERBS | COMPOSERS | {"defs", "cli", "watch"})


def test_nouns_import_nouns_only():
    nouns = {
        "model",
        "contract",
        "rules",
        "profiles",
        "profile_files",
        "findings",
        "tables",
        "exceptions",
        "settings",
        "staged",
        "found",
        "kept",
        "verbatim",
        "parsing.cells",
        "places",
    }
    for noun in nouns:
        assert rooms_imported(ROOT.joinpath(*noun.split(".")).with_suffix(".py")) <= nouns, noun


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_the_details_of_a_room_know_nothing_of_the_line(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert not rooms_imported(path) & (VERBS | COMPOSERS | {"defs", "cli", "commands"}), path.name


@pytest.mark.parametrize("path", ROOMS, ids=room)
def test_the_environment_is_read_in_one_place(path):
    if path.name == "settings.py":
        return
    reads = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in {"getenv", "environb"})
        or (isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.get")
    ]
    assert not reads


def test_no_dagster_context_is_taken_outside_of_the_definitions():
    for path in ROOMS:
        if room(path).startswith("defs/"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert "context" not in {argument.arg for argument in node.args.args}, (
                    f"{path.name}:{node.name}"
                )


def test_no_room_is_called_after_nothing():
    assert not {"utils.py", "helpers.py", "common.py", "misc.py"} & {path.name for path in ROOMS}


def test_asset_bodies_are_short():
    tree = ast.parse((ROOT / "defs" / "assets.py").read_text("utf-8"))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        body = [
            node
            for node in function.body
            if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant)
        ]
        lines = body[-1].end_lineno - body[0].lineno + 1
        assert lines <= 16, f"{function.name} has {lines} lines"


def test_the_top_level_is_as_the_design_draws_it():
    top = ROOT.parent
    if not (top / ".git").exists():
        return
    named = {"pyproject.toml", "bulk_upload_pipeline", "bulk_upload_pipeline_tests", "workspace.yaml"}
    named |= {"dagster.yaml", "docker", "README.md", "LICENSE", "data"}
    found = {path.name for path in top.iterdir() if not path.name.startswith(".")}
    assert {name for name in found - named if not name.endswith(".egg-info")} == set()


def test_the_tour_passes_every_room_and_none_that_is_not_there():
    told = set(re.findall(r"`([a-z_]+)/?`", bulk_upload_pipeline.__doc__))
    rooms = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "definitions"}
    assert told == rooms | FOLDERS | {"defs", "commands"}


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_the_tour_of_a_folder_passes_every_room_of_it(folder):
    words = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))
    rooms = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    assert rooms <= set(re.findall(r"`([a-z_]+)`", words))
