"""The same invoice lines in every format, encoding and packing fill the table with the same content, bit for bit.

A few lines go through some of each by default; `pytest -n0 -m soak bulk_upload_pipeline_tests/test_same_lines.py` takes
5,000 through the whole product of formats, encodings and packings.
"""

from __future__ import annotations

import csv
import gzip
import io
from functools import partial
from itertools import cycle, pairwise, product, zip_longest

import pytest

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.tables import mangalam_invoices
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.scripts import FOUND, SCRIPTS, STATED, encoded, writable
from bulk_upload_pipeline_tests.test_formats import judged
from bulk_upload_pipeline_tests.world import count, drop

LINES = 5_000
TABLES = "public.mangalam_invoices, bulk_upload.upload_batches, bulk_upload.processing_errors, bulk_upload.load_chunks"
OF_THE_LOAD = {"id", "upload_batch_id", "row_number", "created_at", "updated_at"}
CONTENT = ", ".join(column.name for column in mangalam_invoices.columns if column.name not in OF_THE_LOAD)

TEXTS = {
    "commas": writers.as_csv,
    "semicolons": lambda table: writers.as_csv(table, delimiter=";", end="\n"),
    "tabs": lambda table: writers.as_csv(table, delimiter="\t", end="\r", quoting=csv.QUOTE_ALL),
    "pipes": lambda table: writers.as_csv(table, delimiter="|", quoting=csv.QUOTE_ALL),
    "tildes": lambda table: writers.as_csv(table, delimiter="~"),
    "json": writers.as_json,
    "indented json": lambda table: writers.as_json(table, indent=2),
    "json lines": lambda table: writers.as_json_lines(table, escaped=False),
}
DOCUMENTS = {
    "xlsx": writers.as_xlsx,
    "xlsb": writers.as_xlsb,
    "xls": writers.as_xls,
    "ods": writers.as_ods,
    "parquet": writers.as_parquet,
}
PACKINGS = {
    "plain": lambda write, table: write(table),
    "gzip": lambda write, table: gzip.compress(write(table), 1),
    "zip": lambda write, table: writers.zip_of({"lines": write(table)}),
    "zip of several": lambda write, table: writers.zip_of(
        {f"part {at}": write(part) for at, part in enumerate(parts_of(table))}
    ),
}


def lines_in(script, folder, rows):
    """A header and lines of an export; in their texts stands what the script has, and what has to be quoted."""
    write_sample(folder / "sample.csv", rows=rows, seed=7)
    with (folder / "sample.csv").open(encoding="utf-8-sig", newline="") as file:
        header, *lines = csv.reader(file)
    texts = [*script, 'say "hi"; ok', "two\nlines", "semi;colon|pipe\ttab~tilde, comma", '"']
    for number, row in enumerate(lines):
        row[header.index("Item Desc")] = texts[number % len(texts)]
        row[header.index("Customer Name")] += f" {script[number % len(script)]}"
        row.append(texts[(number + 3) % len(texts)])
    return [[*header, "Remarks"], *lines]


def parts_of(table, parts=3):
    """The table as several, each of whole invoices under a header of its own."""
    header, *rows = table
    at = header.index("Invoice Number")
    begins = [n for n, row in enumerate(rows) if n == 0 or rows[n - 1][at] != row[at]]
    cuts = [*(begins[len(begins) * part // parts] for part in range(parts)), len(rows)]
    return [[header, *rows[start:end]] for start, end in pairwise(cuts)]


def loaded(line, content, stated=None):
    """What a file leaves in the empty table: its rows as COPY writes them, in the order of the file."""
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES} CASCADE")
    batch_id = drop(line, "lines of a day.txt", content, stated)
    account = stages.take(line, batch_id)
    members = account.layout["members"] if account.state is State.UNPACKED else []
    accounts = [stages.take(line, member) for member in members] or [account]
    assert {(one.state, *one.findings_by_code) for one in accounts} == {(State.LOADED,)}
    copied: list[str] = []
    for one in members or [batch_id]:
        copied += rows_of(line, one, above=len(copied))
    assert count(line, "mangalam_invoices") == len(copied)
    return copied


def rows_of(line, batch_id, above):
    """The rows of a batch, numbered on behind those of the batches before it."""
    sink = io.StringIO()
    raw = line.engine.raw_connection()
    with raw.cursor() as cursor:
        cursor.copy_expert(
            f"COPY (SELECT row_number + {above}, {CONTENT} FROM mangalam_invoices "
            f"WHERE upload_batch_id = '{batch_id}' ORDER BY row_number) TO STDOUT",
            sink,
        )
    raw.close()
    return sink.getvalue().split("\n")[:-1]


def in_text(kind, encoding, packing, table):
    """A file of a format of text, in an encoding, packed."""
    return PACKINGS[packing](lambda some: encoded(TEXTS[kind](some), encoding), table)


def disagreements(line, table, ways, stated=None):
    """The ways that leave other rows than a CSV in UTF-8 does, each with the first of them or what became of it."""
    expected = loaded(line, writers.as_csv(table))
    assert len(expected) == len(table) - 1
    found = {}
    for name, write in ways.items():
        try:
            rows = loaded(line, write(table), stated)
        except AssertionError as error:
            found[name] = str(error)
        else:
            found[name] = next((pair for pair in zip_longest(rows, expected) if pair[0] != pair[1]), None)
    return {name: difference for name, difference in found.items() if difference}


@pytest.fixture
def invoice_lines(tmp_path):
    """Return a function that gives so many lines in a script, as far as an encoding can write them."""

    def invoice_lines(script, encoding="utf-8", rows=LINES):
        table = lines_in(SCRIPTS[script], tmp_path, rows)
        return [[writable(cell, encoding) for cell in row] for row in table]

    return invoice_lines


SOME = list(zip(FOUND, cycle(TEXTS), cycle(["plain", "gzip", "zip"]), strict=False))
"""Each encoding that is found, in one of the formats and packings."""


@pytest.mark.parametrize(("encoding", "kind", "packing"), SOME)
def test_some_lines_come_out_the_same_in_each_encoding_that_is_found(
    invoice_lines, tmp_path, encoding, kind, packing
):
    table = invoice_lines(FOUND[encoding], encoding, rows=60)
    (tmp_path / "plain").write_bytes(writers.as_csv(table))
    expected, _, _ = judged(tmp_path / "plain")
    (tmp_path / "packed").write_bytes(in_text(kind, encoding, packing, table))
    valid, findings, layout = judged(tmp_path / "packed")
    assert findings == []
    assert len(expected) == 60
    assert valid.equals(expected)
    told = encoding.startswith("utf-8") or encoding.endswith("mark")
    assert (layout.encoding_confidence == 1) is told


@pytest.mark.soak
@pytest.mark.parametrize("encoding", FOUND)
def test_an_encoding_that_is_found_gives_the_same_rows_in_every_format_and_packing(
    line, invoice_lines, encoding
):
    table = invoice_lines(FOUND[encoding], encoding)
    ways = {at: partial(in_text, at[0], encoding, at[1]) for at in product(TEXTS, PACKINGS)}
    assert disagreements(line, table, ways) == {}


@pytest.mark.soak
@pytest.mark.parametrize("encoding", STATED)
def test_an_encoding_that_is_stated_gives_the_same_rows_in_every_format_and_packing(
    line, invoice_lines, encoding
):
    table = invoice_lines(STATED[encoding], encoding)
    ways = {at: partial(in_text, at[0], encoding, at[1]) for at in product(TEXTS, PACKINGS)}
    assert disagreements(line, table, ways, Overrides(encoding=encoding)) == {}


@pytest.mark.soak
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_gives_the_same_rows_in_every_packing(line, invoice_lines, kind):
    ways = {packing: partial(PACKINGS[packing], DOCUMENTS[kind]) for packing in PACKINGS}
    assert disagreements(line, invoice_lines("all"), ways) == {}
