"""Eight files with the same invoices, loaded at the same time by four processes."""

from __future__ import annotations

import itertools
import subprocess
import sys

from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, line_at, receipt, rows

FILES, PROCESSES, INVOICES = 8, 4, 120

WORKERS = """
import os, sys
from pathlib import Path
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.validate import prepare
from bulk_upload_pipeline_tests.world import line_at

root, url, processes, *batches = sys.argv[1:]

def work(batches):
    with line_at(Path(root), url, chunk_rows=25) as line:
        os.read(begin, 1)  # until nobody can write any more
        for batch_id in batches:
            stages.take(line, batch_id)

prepare()  # what is imported before the fork is imported once
begin, beginning = os.pipe()
for at in range(int(processes)):
    if os.fork() == 0:
        os.close(beginning)
        work(batches[at :: int(processes)])
        sys.exit()
os.close(beginning)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(processes))])
"""


def a_file(number):
    """Invoices of which some lines differ by file, in an order of their own, some of them in some files only."""
    found = [
        good_row(n, **{"Customer Name": f"Shop {number if n % 3 else 0}"})
        for n in range(INVOICES)
        if n % FILES != number
    ]
    return csv_of(found if number % 2 else reversed(found))


def connections(line):
    of_clients = "datname = current_database() AND backend_type = 'client backend'"
    return rows(line, f"SELECT count(*) FROM pg_stat_activity WHERE {of_clients}")[0][0]


def test_eight_files_with_the_same_invoices_at_once_equal_a_serial_order(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        batches = [drop(line, f"{number}.csv", a_file(number)) for number in range(FILES)]
        line.engine.dispose()
        before = connections(line)
        arguments = [str(line.home.root), database_url, str(PROCESSES), *batches]
        ended = subprocess.run(
            [sys.executable, "-c", WORKERS, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ended.stdout, ended.stderr) == (f"{[0] * PROCESSES}\n", "")
        accounts = [receipt(line, batch_id) for batch_id in batches]
        assert {account.state for account in accounts} == {State.LOADED}
        assert sum(account.rows_inserted for account in accounts) == INVOICES
        for account in accounts:
            loaded = account.rows_inserted + account.rows_updated + account.rows_unchanged
            assert (loaded, account.rows_read) == (INVOICES - INVOICES // FILES,) * 2
        # The order in which they came: whichever is loaded last, the later file wins.
        order = sorted(range(FILES), key=lambda n: (accounts[n].received_at, accounts[n].batch_id))
        expected = {}
        for number, n in itertools.product(order, range(INVOICES)):
            if n % FILES != number:
                expected[f"INV-{n:06}"] = f"Shop {number if n % 3 else 0}"
        found = rows(line, "SELECT invoice_number, customer_name FROM mangalam_invoices")
        assert len(found) == INVOICES
        assert dict(found) == expected
        assert not any(line.home.staging.iterdir())
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        idle = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        # The server ends the session of a process that is gone in a moment of its own.
        wait_until(lambda: rows(line, locks) == rows(line, idle) == [(0,)], 30)
        wait_until(lambda: connections(line) <= before, 30)
