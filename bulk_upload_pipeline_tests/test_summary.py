"""The clerk's page: what it says, and that nothing in a file can make it do anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import report, terminal
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import CodeCount, Receipt, State
from bulk_upload_pipeline.reporting import summary
from bulk_upload_pipeline.revert import RevertResult
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt

THEN = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
ACCOUNT = Receipt(
    batch_id="20261123T093000-nov-1a2b3c4d",
    file_name="november.csv",
    file_size=1_234_567,
    state=State.PARTIALLY_LOADED,
    reason="1,900 of 2,000 rows are loaded, 100 are rejected.",
    received_at=THEN,
    started_at=THEN,
    finished_at=THEN,
    rows_read=2_000,
    rows_inserted=1_500,
    rows_updated=300,
    rows_unchanged=100,
    rows_rejected=100,
    findings_by_code={"INVALID_NUMBER": 100},
    control_totals={
        "read": {"quantity": "8000.0000", "item_total": "1234567.5000"},
        "loaded": {"quantity": "7600.0000", "item_total": "1200000.2500"},
    },
    layout={"header": ["Invoice No", "<b>Batch</b>"], "mapping": {"invoice_number": 0}},
)
NOT_A_NUMBER = CodeCount("INVALID_NUMBER", "error", 100, "Quantity", 7, "'12abc' is not a number.")


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join("".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    def handle_endtag(self, tag):
        self.texts.append(" " if tag in ("dt", "dd", "td", "th", "h1", "h2", "h3", "p", "b", "li") else "")

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


def page(account=ACCOUNT, codes=(NOT_A_NUMBER,)):
    return summary.page(account, codes, report.files(account))


def test_the_page_says_what_came_in_what_loaded_what_did_not_and_how_to_go_on():
    found = Page(page())
    entry = CATALOGUE["INVALID_NUMBER"]
    for words in (
        "Loaded in part november.csv 1,900 of 2,000 rows are loaded, 100 are rejected.",
        "Rows read 2,000 Loaded 1,900 Rejected 100 Warnings 0",
        "1,500 new 300 changed 100 unchanged 100 rejected",
        f"{entry.title} 100",
        "Row 7 '12abc' is not a number.",
        entry.fix,
        "Item total 1,234,567.50 1,200,000.25 34,567.25",
        "Quantity 8,000.00 7,600.00 400.00",
        "Invoice No invoice_number",
        "<b>Batch</b> extra",
        "Unknown columns <b>Batch</b>: kept in extra",
        "Received 23 Nov 2026, 09:30:00 UTC",
    ):
        assert words in found.text
    assert set(found.values("href")) == {"rejected_rows.csv", "findings.csv"}


def test_the_page_says_how_sure_it_is_of_an_encoding_that_only_letters_tell():
    known = {**ACCOUNT.layout, "encoding_confidence": 0.6}
    guessed = replace(ACCOUNT, file_format="csv", encoding="cp1252", layout=known)
    assert (
        "csv, cp1252 (recognised by its letters, 60% sure; if some are wrong, state"
        in Page(page(guessed)).text
    )
    stated = replace(guessed, layout=ACCOUNT.layout)
    assert "csv, cp1252 Columns" in re.sub(r" SHA-256 \S+", "", Page(page(stated)).text)
    assert "by its letters" not in page(stated)


def test_the_chart_shows_each_share_of_the_rows_at_its_width():
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" width="([\d.]+)" height="4">', page())
    assert [(kind, float(x), float(width)) for kind, x, width in bars] == [
        ("new", 0, 75),
        ("changed", 75, 15),
        ("same", 90, 5),
        ("rejected", 95, 5),
    ]


@pytest.mark.parametrize("state", sorted(summary.TITLES))
def test_every_exit_has_a_page_of_its_own(state):
    assert summary.TITLES[state] in Page(page(replace(ACCOUNT, state=state))).text


def test_the_page_needs_nothing_and_may_do_nothing():
    text = page()
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "form", "base", "object"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name in ("src", "style")]
    (policy,) = [value for value in found.values("content") if "default-src" in value]
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style
    assert "@import" not in style


HOSTILE = st.text(st.sampled_from("<>\"'&/= abc;\u202e\0\n{}%#-"), min_size=1, max_size=40)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_nothing_that_a_file_says_becomes_part_of_the_page(name, reason, example, column):
    tame, wild = (
        Page(
            page(
                replace(
                    ACCOUNT,
                    file_name=n,
                    reason=r,
                    profile=n,
                    encoding=r,
                    layout={"header": [c], "mapping": {}},
                ),
                [replace(NOT_A_NUMBER, example=e)],
            )
        )
        for n, r, e, c in (("a", "b", "c", "d"), (name, reason, example, column))
    )
    assert wild.tags == tame.tags
    assert wild.attributes == tame.attributes
    shown = "".join(wild.texts)
    assert "\u202e" not in shown
    for said in (name, reason, example, column):
        assert summary._shown(said) in shown


def test_a_report_folder_holds_the_page_the_same_for_programs_and_the_rows_to_correct(line):
    hostile = good_row(3, Quantity="<script>alert(1)</script>")
    batch_id = drop(line, "<img src=x>.csv", csv_of([good_row(1), good_row(2), hostile]))
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.load(line, batch_id)
    account = stages.close(line, batch_id)
    folder = line.reports(batch_id)
    assert sorted(path.name for path in folder.iterdir()) == [
        "findings.csv",
        "rejected_rows.csv",
        "summary.html",
        "summary.json",
    ]
    found = Page((folder / "summary.html").read_text("utf-8"))
    assert "<img src=x>.csv" in found.text
    assert "<script>alert(1)</script>" in found.text
    assert {"script", "img"}.isdisjoint(found.tags)
    stated = json.loads((folder / "summary.json").read_text("utf-8"))
    assert account == receipt(line, batch_id)
    assert (stated["state"], stated["rows_rejected"], stated["sha256"]) == (
        "partially_loaded",
        1,
        account.sha256,
    )
    (finding,) = stated["findings"]
    assert (finding["code"], finding["count"], finding["example_row"]) == ("INVALID_NUMBER", 1, 3)
    assert finding["fix"] == CATALOGUE["INVALID_NUMBER"].fix


def sentences(line, good, bad=0, corrected=0):
    """The reason of a file of so many rows, when some of the bad ones came back corrected."""
    wrong = [good_row(n, Quantity="x") for n in range(bad)]
    text = csv_of([*(good_row(n) for n in range(100, 100 + good)), *wrong])
    batch_id = drop(line, "a.csv", text)
    stages.take(line, batch_id)
    if corrected:
        path = line.reports(batch_id) / "rejected_rows.csv"
        lines = path.read_text("utf-8-sig").splitlines(keepends=True)[: corrected + 1]
        stages.take(line, drop(line, "b.csv", "".join(lines).replace(",x,", ",4,")))
    return receipt(line, batch_id).reason


MORE = 'most often for "Not a number"'
COUNTED = {
    (1, 0, 0): "Its row is loaded.",
    (2, 0, 0): "All 2 rows are loaded.",
    (3, 1, 1): "All 4 rows are loaded, 1 of them as corrected.",
    (2, 1, 0): '2 of 3 rows are loaded, 1 is rejected, for "Not a number". Correct it in rejected_rows.csv',
    (3, 2, 0): f"3 of 5 rows are loaded, 2 are rejected, {MORE} (2). Correct them in rejected_rows.csv",
    (0, 1, 0): '1 of 1 row (100%) has errors, for "Not a number", and at 50% nothing of a file is loaded.',
    (0, 1, 1): "Its row is loaded, as corrected.",
    (1, 2, 0): f"2 of 3 rows (67%) have errors, {MORE} (2), and",
}


@pytest.mark.parametrize("rows", COUNTED, ids=str)
def test_what_is_counted_is_said_as_a_person_would(line, rows):
    assert sentences(line, *rows).startswith(COUNTED[rows])


def test_no_fault_is_called_the_most_frequent_that_is_not():
    assert 'rejected, among others for "Not a number" (1).' in report.why_loaded(
        4, 2, 0, {"INVALID_NUMBER": 1, "ZERO_QUANTITY": 1}
    )
    assert f"rejected, {MORE} (2)." in report.why_loaded(4, 3, 0, {"INVALID_NUMBER": 2, "ZERO_QUANTITY": 1})


def test_an_undone_load_counts_as_a_person_would():
    one = RevertResult(1, 1, 1, ("later",)).in_words
    assert "1 row is gone, and 1 has its former values again. 1 stays: it stands in a later file" in one
    none = RevertResult(0, 2, 2, ("a", "b")).in_words
    assert "0 rows are gone, and 2 have their former values again. 2 stay: they stand in later files" in none


@pytest.mark.parametrize(
    ("rows", "said"),
    [(1, "It holds the rejected row as it stood"), (100, "It holds the 100 rejected rows as they stood")],
)
def test_the_page_counts_the_rows_to_correct(rows, said):
    receipt = replace(ACCOUNT, rows_rejected=rows)
    page = Page(summary.page(receipt, [NOT_A_NUMBER], report.files(receipt)))
    assert said in page.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"file_format": "csv"}, "Row 1 is the first below the header."),
        ({"file_format": "csv", "parent_batch_id": "a"}, "Row numbers are those of the column _row_number."),
    ],
)
def test_the_page_says_how_its_rows_are_counted(changed, said):
    assert said in Page(page(replace(ACCOUNT, **changed))).text
    assert "Row 1 is" not in Page(page(replace(ACCOUNT, file_format="xlsx"))).text
    of_sheet = CodeCount("ZERO_QUANTITY", "error", 1, None, 4, "Quantity is zero.", "March", 6)
    stray = CodeCount("NO_ORIGIN", "error", 1, None, 24, "Its `_batch_id` is empty.", own_row=2)
    correction = replace(ACCOUNT, file_format="csv", parent_batch_id="a")
    assert "those of the column" not in Page(page(correction, [of_sheet, stray])).text
    missing = CodeCount("MISSING_COLUMN", "error", 1, None, None, "Required column missing: `Quantity`.")
    assert said not in Page(page(replace(ACCOUNT, **changed), [missing])).text


def test_the_page_names_some_of_many_unknown_columns():
    layout = {"header": [f"c{at}" for at in range(500)], "mapping": {}}
    assert "c8, c9 and 490 more: kept in extra" in Page(page(replace(ACCOUNT, layout=layout))).text


@pytest.mark.parametrize(
    ("rows", "said"), [(1, "the good row of the file is"), (3, "the 3 good rows of the file are")]
)
def test_the_page_of_a_rejected_file_says_when_its_good_rows_load(rows, said):
    account = replace(ACCOUNT, state=State.REJECTED, rows_unprocessed=rows)
    assert f"With enough of them right, {said} loaded, too." in Page(page(account)).text


def test_the_page_does_not_forbid_what_a_row_of_unknown_origin_needs():
    assert "begin with an underscore as they are." in Page(page()).text
    stray = CodeCount("NO_ORIGIN", "error", 1, None, 24, "The row cannot be laid over a rejected row.")
    assert "underscore as they are, but in rows of unknown origin." in Page(page(codes=[stray])).text


def test_the_listing_calls_no_row_rejected_that_is_corrected(capsys):
    terminal.print_receipts([replace(ACCOUNT, state=State.LOADED, rows_corrected=100)])
    header, row = capsys.readouterr().out.splitlines()
    assert "read   loaded  corrected  rejected" in header
    assert row.split()[2:7] == ["loaded", "2,000", "1,900", "100", "0"]
