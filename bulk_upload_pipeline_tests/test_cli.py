"""The commands, as people at a terminal and their scripts meet them: words, JSON, exit codes, and what stays."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster_postgres.utils import DagsterPostgresException, retry_pg_connection_fn

from bulk_upload_pipeline import holding, overlooked, pace, whereabouts
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import settings as variables
from bulk_upload_pipeline.commands import frame
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.defs import exits, session
from bulk_upload_pipeline.exceptions import StorageUnavailableError
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, line_at

GOOD = [good_row(n) for n in range(20)]
BAD = [good_row(n, Quantity="12abc") for n in range(100, 103)]


def a_file(folder, rows, name="file.csv"):
    path = folder / name
    path.write_text(csv_of(rows))
    return path


def count(database_url, table="mangalam_invoices"):
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
    engine.dispose()
    return rows


EXITS = {
    "every row good": (csv_of(GOOD), 0, "loaded", 20),
    "some rows bad": (csv_of(GOOD + BAD), 1, "partially_loaded", 20),
    "half of the rows bad": (csv_of(GOOD[:3] + BAD), 2, "rejected", 0),
    "no table": ("just words\n", 2, "unreadable", 0),
}


@pytest.mark.parametrize("kind", EXITS)
def test_load_tells_by_its_exit_code_what_became_of_a_file(at_terminal, tmp_path, database_url, kind):
    content, exit_code, state, loaded = EXITS[kind]
    path = tmp_path / "file.csv"
    path.write_text(content)
    result = at_terminal("load", path)
    assert result.exit_code == exit_code, result.output
    assert result.stdout.startswith(f"file.csv  {state}  ")
    assert count(database_url) == loaded
    assert path.read_text() == content


@pytest.mark.parametrize("kind", EXITS)
def test_check_tells_the_same_and_leaves_no_trace(at_terminal, home, tmp_path, database_url, kind):
    content, exit_code, state, _ = EXITS[kind]
    path = tmp_path / "file.csv"
    path.write_text(content)
    result = at_terminal("check", path)
    assert result.exit_code == exit_code, result.output
    assert state in result.stdout
    assert count(database_url, "bulk_upload.upload_batches") == 0
    assert not home.exists()
    (facts,) = json.loads(at_terminal("check", "--json", path).stdout)
    assert facts["state"] == state


def test_check_says_what_to_do_with_a_file_that_it_cannot_read_and_how_many_findings_it_does_not_show(
    at_terminal, tmp_path
):
    empty = tmp_path / "empty.csv"
    empty.touch()
    told = at_terminal("check", empty).stdout
    assert told == "empty.csv  unreadable  The file is empty. Export it again, and drop the new file.\n"
    many = a_file(tmp_path, [good_row(n, Quantity="x") for n in range(23)])
    assert at_terminal("check", many).stdout.splitlines()[-1] == (
        "  and 3 findings more, which a load lists in its report."
    )
    assert "more" not in at_terminal("check", a_file(tmp_path, BAD)).stdout


def test_check_names_the_sheets_and_rows_that_a_load_would_not_read(at_terminal, tmp_path):
    book = tmp_path / "book.xlsx"
    book.write_bytes(
        writers.xlsx_of({"Apr": [list(HEADER), list(good_row(1).values())], "May": [["No", "Day"], [1, 2]]})
    )
    told = "Not read, because laid out otherwise or hidden: sheet May (2 rows)."
    assert told in at_terminal("check", book).stdout
    (facts,) = json.loads(at_terminal("check", "--json", book).stdout)
    assert (facts["rows_read"], facts["beside"]) == (1, told)


def test_check_calls_no_correction_unreadable_but_says_that_it_cannot_judge_it(at_terminal, tmp_path):
    (receipt,) = json.loads(at_terminal("load", "--json", a_file(tmp_path, GOOD + BAD)).stdout)
    correction = tmp_path / "corrected.csv"
    at_terminal("errors", receipt["batch_id"], "--csv", correction)
    result = at_terminal("check", correction)
    assert result.exit_code == 2
    assert result.stdout.startswith("corrected.csv  not judged  It is a correction")
    (facts,) = json.loads(at_terminal("check", "--json", correction).stdout)
    assert (facts["state"], "bulk-upload load" in facts["reason"]) == ("not judged", True)


DAMAGED = {
    "one cell.csv": (csv_of(GOOD) + "one cell\n", "Line 22 of the file has 1 cell, but the header has 8."),
    "broken.jsonl": (
        "".join(f"{json.dumps(row)}\n" for row in GOOD) + "{broken\n",
        "Line 21 of the file is no valid JSON: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_told_of_in_one_sentence_with_one_full_stop(at_terminal, tmp_path, name):
    content, told = DAMAGED[name]
    (tmp_path / name).write_text(content)
    (facts,) = json.loads(at_terminal("check", "--json", tmp_path / name).stdout)
    (finding,) = facts["findings"]
    assert finding["error_message"].startswith(told)
    assert finding["error_message"].endswith(".")
    assert ".." not in finding["error_message"]


FORGED = "04:40:00 other.csv  loaded  All 9 rows are loaded."


def test_no_file_writes_a_line_of_its_own_into_what_is_told(at_terminal, tmp_path):
    hostile = f"x\n{FORGED}\n"
    rows = [row | {hostile: "1"} for row in (*GOOD, good_row(30, Quantity=hostile, **{"Item Name": hostile}))]
    path = tmp_path / f"a.csv\n{FORGED}\nb.csv"
    path.write_text(csv_of(rows, list(rows[0])))
    (receipt,) = json.loads(at_terminal("load", "--json", path).stdout)
    assert receipt["file_name"] == path.name
    batch, invoice = receipt["batch_id"], rows[-1]["Invoice Number"]
    for words in (
        ["load", path],
        ["check", path],
        ["status"],
        ["status", batch],
        ["errors", batch],
        ["trace", invoice],
    ):
        output = at_terminal(*words).output
        assert rf"\n{FORGED}" in output or words[0] == "status", words
        assert FORGED not in [line.strip() for line in output.splitlines()], words


def test_the_same_file_again_is_a_duplicate_and_no_error(at_terminal, tmp_path, database_url, monkeypatch):
    path = a_file(tmp_path, GOOD)
    at_terminal("load", path)
    monkeypatch.setattr(logging.root, "handlers", [])  # as at a terminal: what nobody handles is printed
    result = at_terminal("load", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "duplicate" in result.stdout
    assert count(database_url) == 20


def test_of_several_files_the_worst_exit_code_counts_and_the_others_load(at_terminal, tmp_path, database_url):
    good, bad = a_file(tmp_path, GOOD, "good.csv"), a_file(tmp_path, BAD, "bad.csv")
    result = at_terminal("load", "--json", bad, good)
    assert result.exit_code == 2
    receipts = json.loads(result.stdout)
    assert [(r["file_name"], r["state"]) for r in receipts] == [
        ("bad.csv", "rejected"),
        ("good.csv", "loaded"),
    ]
    assert count(database_url) == 20


def test_the_run_of_a_load_is_in_dagsters_storage_for_the_ui_to_show(at_terminal, tmp_path):
    (receipt,) = json.loads(at_terminal("load", "--json", a_file(tmp_path, GOOD)).stdout)
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(receipt["run_id"])
        assert (run.job_name, run.status) == ("load_batch", dg.DagsterRunStatus.SUCCESS)
        assert run.tags["dagster/partition"] == receipt["batch_id"]
        assert receipt["batch_id"] in instance.get_materialized_partitions(dg.AssetKey("upload_receipts"))


def test_a_run_keeps_no_files_of_its_output(at_terminal, home, tmp_path):
    """To catch it, Dagster starts four processes a run; what a run has to say is in its log."""
    assert at_terminal("load", a_file(tmp_path, GOOD)).exit_code == 0
    assert (home / "dagster" / "dagster.yaml").exists()
    assert not list((home / "dagster").rglob("compute_logs"))


def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(at_terminal, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "SECONDS_APART", 0.0)
    result = at_terminal("load", a_file(tmp_path, GOOD))
    assert "file.csv: " in result.stderr
    assert "rows/s" in result.stderr
    assert "\x1b[" not in result.output


def test_a_batch_without_a_header_has_no_rows_to_correct(at_terminal, tmp_path):
    path = a_file(tmp_path, GOOD)
    at_terminal("load", path)
    (copy,) = json.loads(at_terminal("load", "--json", path).stdout)
    (tmp_path / "words.csv").write_text("just words\n")
    (unreadable,) = json.loads(at_terminal("load", "--json", tmp_path / "words.csv").stdout)
    for batch_id, state in ((copy["batch_id"], "duplicate"), (unreadable["batch_id"], "unreadable")):
        for option in ("--csv", "--xlsx"):
            result = at_terminal("errors", batch_id, option, tmp_path / "out")
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"is {state} and none of its rows was judged" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_is_one_sentence_and_leaves_nothing(at_terminal, tmp_path):
    (receipt,) = json.loads(at_terminal("load", "--json", a_file(tmp_path, GOOD + BAD)).stdout)
    folder = tmp_path / "folder"
    folder.mkdir()
    before = sorted(tmp_path.iterdir())
    for path, why in (
        (folder, "it is a folder"),
        (tmp_path / "none" / "o.csv", "there is no folder"),
        ("/proc/o.csv", "/proc/o.csv cannot be written"),
    ):
        errors = ("errors", receipt["batch_id"])
        for command in ((*errors, "--csv", path), (*errors, "--xlsx", path), ("sample", path)):
            result = at_terminal(*command)
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), command
            assert why in result.stderr
    assert (sorted(tmp_path.iterdir()), list(folder.iterdir())) == (before, [])


def test_a_home_that_can_be_no_folder_is_one_sentence(at_terminal, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    for home in (str(tmp_path / "taken"), "/proc/home"):
        monkeypatch.setenv(variables.HOME, home)
        result = at_terminal("status")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"BULK_UPLOAD_HOME is '{home}'" in result.stderr


@pytest.mark.parametrize("command", ["trace", "status", "errors", "retry", "revert"])
def test_bytes_that_are_no_text_name_nothing_in_the_database(at_terminal, command):
    result = at_terminal(command, os.fsdecode(b"\xff\xfe"))
    assert result.exit_code == 2
    assert "is no text in UTF-8" in result.stderr


def test_a_file_that_does_not_exist_is_one_sentence(at_terminal, tmp_path):
    for command in ("load", "check"):
        result = at_terminal(command, tmp_path / "nothing.csv")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "nothing.csv" in result.stderr


@pytest.mark.parametrize("command", ["load", "check"])
def test_a_file_that_does_not_exist_hides_nothing_of_the_others(at_terminal, tmp_path, command):
    files = (a_file(tmp_path, GOOD, "a.csv"), tmp_path / "nothing.csv", a_file(tmp_path, BAD, "b.csv"))
    result = at_terminal(command, "--json", *files)
    told = json.loads(result.stdout)
    assert [(facts.get("file", facts.get("file_name")), facts["state"]) for facts in told] == [
        ("a.csv", "loaded"),
        ("b.csv", "rejected"),
    ]
    assert (result.exit_code, result.stderr.count("\n"), "nothing.csv" in result.stderr) == (2, 1, True)


def test_what_is_loaded_is_told_also_when_an_error_stops_the_next_file(at_terminal, tmp_path, monkeypatch):
    load = session.Session.load

    def once(self, path, *stated):
        if path.name == "b.csv":
            raise StorageUnavailableError("s3://bucket", "no answer")
        return load(self, path, *stated)

    monkeypatch.setattr(session.Session, "load", once)
    files = [a_file(tmp_path, [good_row(n)], f"{name}.csv") for n, name in enumerate("abc")]
    result = at_terminal("load", *files)
    assert (result.exit_code, result.stdout.partition("  ")[0]) == (3, "a.csv")
    result = at_terminal("load", "--json", *files)
    assert [(result.exit_code, facts["state"]) for facts in json.loads(result.stdout)] == [(3, "duplicate")]


@pytest.mark.parametrize("command", [("load",), ("reload", "--since", "2020-01-01")])
def test_ctrl_c_stops_the_files_behind_as_well_and_says_how_to_go_on(
    at_terminal, tmp_path, database_url, monkeypatch, command
):
    files = [a_file(tmp_path, [*GOOD, good_row(100 + n)], f"{name}.csv") for n, name in enumerate("ab")]
    if command != ("load",):
        assert at_terminal("load", *files).exit_code == 0
    monkeypatch.setattr(stages, "validate", lambda *_: signal.raise_signal(signal.SIGINT) or time.sleep(60))
    result = at_terminal(*command, "--json", *(files if command == ("load",) else ()))
    told = [(facts["file_name"], facts["state"]) for facts in json.loads(result.stdout)]
    assert (result.exit_code, told) == (3, [("a.csv", "failed")])
    assert (result.stderr.count("\n"), "bulk-upload retry BATCH" in result.stderr) == (1, True)
    assert count(database_url) == (0 if command == ("load",) else 22)


def test_ctrl_c_before_a_run_is_one_sentence_too(at_terminal, tmp_path, monkeypatch):
    monkeypatch.setattr(session.Session, "load", lambda *_: signal.raise_signal(signal.SIGINT))
    result = at_terminal("load", a_file(tmp_path, GOOD))
    assert (result.exit_code, result.stderr.partition(". ")[0]) == (3, "Stopped")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_encoding_of_a_terminal_lacks_is_spelled_out(tmp_path, encoding):
    name = tmp_path / os.fsdecode("\u20b9 caf\u00e9".encode() + b"\xff.csv")
    name.write_text("just words\n")
    environment = os.environ | {variables.HOME: str(tmp_path / "home"), "PYTHONIOENCODING": encoding}
    for arguments in (["explain", "DOUBLE_ENCODED_TEXT"], ["check", name], ["check", "--json", name]):
        result = subprocess.run(
            [sys.executable, "-m", "bulk_upload_pipeline.cli", *arguments],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (2 if name in arguments else 0, b""), arguments
    (facts,) = json.loads(result.stdout.decode(encoding))
    assert facts["file"] == name.name


@pytest.mark.parametrize("limit", [0, -1, 10**20])
def test_a_number_of_batches_that_cannot_be_listed_is_refused(at_terminal, tmp_path, limit):
    assert at_terminal("load", a_file(tmp_path, GOOD)).exit_code == 0
    result = at_terminal("status", "--limit", limit)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--limit" in result.stderr


@pytest.mark.parametrize("command", [("load",), ("check",), ("profiles", "suggest")])
def test_a_delimiter_is_one_character_and_a_tab_may_be_spelled_out(at_terminal, tmp_path, command):
    path = tmp_path / "tabs.csv"
    path.write_text(csv_of(GOOD).replace(", ", " ").replace('"', "").replace(",", "\t"))
    for wrong in ("ab", "", '"', "\n"):
        result = at_terminal(*command, "--delimiter", wrong, path)
        assert (result.exit_code, result.stdout) == (2, ""), wrong
        assert "is not a single character" in result.stderr
    assert at_terminal(*command, "--delimiter", "\\t", path).exit_code == 0


def test_a_database_that_does_not_answer_is_one_sentence_without_its_password(at_terminal, tmp_path):
    os.environ[variables.DATABASE_URL] = "postgresql://loader:secret@127.0.0.1:1/bulk_upload"
    result = at_terminal("load", a_file(tmp_path, GOOD))
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert "does not answer" in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize("command", ["load", "revert", "retry"])
def test_a_database_that_takes_no_changes_is_one_sentence_and_no_rejected_rows(
    at_terminal, tmp_path, administer, database_url, monkeypatch, command
):
    monkeypatch.setattr(exits, "SECONDS_BEFORE_FIRST", 0.01)  # a standby may become the server meanwhile
    path = a_file(tmp_path, GOOD)
    batch_id = json.loads(at_terminal("load", path, "--json").stdout)[0]["batch_id"]
    name = database_url.rpartition("/")[2].partition("?")[0]
    administer(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    result = at_terminal(command, path if command == "load" else batch_id)
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "in a read-only transaction" in result.stderr


def test_status_lists_batches_with_ids_that_can_be_copied(at_terminal, tmp_path):
    (receipt,) = json.loads(at_terminal("load", "--json", a_file(tmp_path, GOOD)).stdout)
    listed = at_terminal("status")
    assert receipt["batch_id"] in listed.stdout
    assert "loaded" in listed.stdout
    assert json.loads(at_terminal("status", "--json").stdout) == [receipt]
    assert json.loads(at_terminal("status", "--json", receipt["batch_id"]).stdout) == receipt
    assert "All 20 rows are loaded." in at_terminal("status", receipt["batch_id"]).stdout


def test_status_says_which_files_nobody_comes_for(at_terminal, home, monkeypatch):
    (home / "inbox").mkdir(parents=True)
    (home / "inbox" / "a\nb.csv").write_text(csv_of(GOOD))
    assert at_terminal("status").stderr == ""
    monkeypatch.setattr(overlooked, "AFTER", timedelta(0))
    told = at_terminal("status").stderr
    assert told.startswith("1 file lies in the inbox, and nobody comes for it: a b.csv: since ")
    assert told.count("\n") == 1
    assert at_terminal("status", "--json").stderr == ""


def test_a_batch_that_has_not_ended_has_a_status_in_words(at_terminal, tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        batch_id = drop(line, "a.csv", csv_of(GOOD))
    told = at_terminal("status", batch_id).stdout
    assert told.startswith("a.csv\n\nIt has not ended yet.\n\nState      waiting\n")


@pytest.mark.parametrize("command", ["status", "errors"])
def test_an_unknown_batch_is_one_sentence_that_says_where_to_look(at_terminal, command):
    result = at_terminal(command, "20260101T000000-none-00000000")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "bulk-upload status" in result.stderr


def test_errors_shows_findings_by_code_and_writes_the_file_to_correct(at_terminal, tmp_path):
    (receipt,) = json.loads(at_terminal("load", "--json", a_file(tmp_path, GOOD + BAD)).stdout)
    (code,) = json.loads(at_terminal("errors", "--json", receipt["batch_id"]).stdout)
    assert (code["code"], code["count"], code["example_row"]) == ("INVALID_NUMBER", 3, 21)
    assert "INVALID_NUMBER" in at_terminal("errors", receipt["batch_id"]).stdout
    at_terminal("errors", receipt["batch_id"], "--csv", tmp_path / "correct.csv")
    with (tmp_path / "correct.csv").open(encoding="utf-8-sig", newline="") as file:
        found = [{name: row[name] for name in HEADER} for row in csv.DictReader(file)]
    assert found == BAD


def test_explain_says_of_every_code_what_it_means_and_what_to_do(at_terminal):
    listed = at_terminal("explain").stdout
    assert (
        len(
            {
                line.index(entry.title)
                for line, entry in zip(listed.splitlines(), CATALOGUE.values(), strict=True)
            }
        )
        == 1
    )
    for code, entry in CATALOGUE.items():
        assert code in listed
        told = at_terminal("explain", code).stdout
        for text in (entry.title, entry.explanation, entry.example, entry.fix):
            assert text in told


def test_explain_takes_a_slip_of_the_pen_for_what_it_is(at_terminal):
    result = at_terminal("explain", "INVALID_NUMBR")
    assert result.exit_code == 2
    assert "Did you mean INVALID_NUMBER?" in result.stderr


def test_a_sample_is_written_as_it_is_told(at_terminal, tmp_path):
    told = json.loads(
        at_terminal("sample", "--json", "--rows", 200, "--dirty", "0.1", tmp_path / "s.csv").stdout
    )
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 201
    assert (told["rows"], sum(told["faults"].values())) == (200, 20)


def test_db_upgrade_can_be_said_twice_and_url_is_one_for_psql(at_terminal, database_url):
    for _ in range(2):
        assert at_terminal("db", "upgrade").exit_code == 0
    assert at_terminal("db", "url").stdout.strip() == database_url.replace("+psycopg2", "")


def test_a_setting_that_cannot_be_used_is_named(at_terminal):
    os.environ[variables.MAX_ERROR_RATE] = "half"
    result = at_terminal("status")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "BULK_UPLOAD_MAX_ERROR_RATE" in result.stderr


def test_reload_takes_the_batches_of_a_time_again_by_todays_rules(at_terminal, home, tmp_path, database_url):
    from importlib.resources import files

    mismatched = [good_row(n, **{"Item Total": "51.00"}) for n in range(100, 103)]
    assert at_terminal("load", a_file(tmp_path, GOOD + mismatched)).exit_code == 1
    shipped = (files("bulk_upload_pipeline") / "profiles" / "zoho.toml").read_text("utf-8")
    (home / "profiles" / "zoho.toml").write_text(f'total_mismatch = "warning"\n{shipped}')

    nothing = at_terminal("reload", "--since", "2999-01-01", "--profile", "zoho")
    assert nothing.stdout == (
        "No batch of profile zoho that could be taken again was received since 2999-01-01.\n"
    )
    result = at_terminal("reload", "--since", "2020-01-01", "--json")
    assert result.exit_code == 0, result.output
    (account,) = json.loads(result.stdout)
    assert (account["state"], account["rows_read"], account["rows_rejected"]) == ("loaded", 23, 0)
    assert count(database_url) == 23


@pytest.mark.parametrize("command", [("reload", "--since", "2020-01-01"), ("retry", "--all-failed")])
def test_a_batch_that_another_worker_holds_is_one_sentence_and_the_rest_goes_on(
    at_terminal, tmp_path, database_url, command
):
    for n in (0, 100):
        assert at_terminal("load", a_file(tmp_path, [good_row(n)], f"{n}.csv")).exit_code == 0
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE bulk_upload.upload_batches SET state = 'failed'"))
    held, free = (receipt.batch_id for receipt in reversed(whereabouts.receipts(engine)))
    with holding.holding(engine, held):
        result = at_terminal(*command, "--json")
    assert result.exit_code == 3
    assert result.stderr == f"Another run is working on batch {held}. Wait for it, or cancel it.\n"
    assert [account["batch_id"] for account in json.loads(result.stdout)] == [free]
    assert whereabouts.states(engine, [held, free]) == {held: "failed", free: "loaded"}
    engine.dispose()


def test_reload_says_what_a_day_looks_like_and_which_profiles_there_are(at_terminal):
    unknown = at_terminal("reload", "--since", "2020-01-01", "--profile", "zohho")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("There is no profile named 'zohho'. Known are ")
    result = at_terminal("reload", "--since", "last week")
    assert result.exit_code == 2
    assert "does not match the format '%Y-%m-%d'" in result.stderr


def test_a_server_that_stays_away_from_dagster_is_said_in_a_sentence_as_well():
    away = make_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    with pytest.raises(DagsterPostgresException) as raised:
        retry_pg_connection_fn(away.connect, retry_limit=0)
    known = frame._known(raised.value)
    assert known.exit_code == 3
    assert "127.0.0.1" in str(known)
    assert frame._known(ValueError("a fault of ours")) is None
