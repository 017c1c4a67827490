"""Files that are meant to harm, or might as well be: the worker survives, and each ends in a finding."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.test_spreadsheets import SMALL, rewritten
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, line_at

MOST_MB = 300
GOOD = csv_of([good_row(1), good_row(2)]).encode()
TABLE = [list(HEADER), list(good_row(1).values())]


def piped(blocks, open_):
    """What a packer makes of blocks that are never in memory together."""
    sink = io.BytesIO()
    with open_(sink) as file:
        for block in blocks:
            file.write(block)
    return sink.getvalue()


def zipped(name, blocks, more=()):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in more:
            archive.writestr(part, content)
        with archive.open(name, "w", force_zip64=True) as file:
            for block in blocks:
                file.write(block)
    return sink.getvalue()


def swollen(part, blocks, workbook=SMALL):
    """A workbook, the small one or another, with a part of its own size."""
    with zipfile.ZipFile(io.BytesIO(workbook)) as source:
        others = [(name, source.read(name)) for name in source.namelist() if name != part]
    return zipped(part, blocks, others)


MB = b"x" * (1 << 20)
SWOLLEN = ",".join(good_row(1, **{"Item Name": "x" * (4 << 20)}).values()).encode() + b"\n"
ROW = b'<row r="%d"><c r="A%d" t="str"><v>x</v></c></row>'
LAUGHS = b'<!DOCTYPE x [<!ENTITY a "%s">%s]>' % (
    b"ha" * 50,
    b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12)),
)


def far_xlsb():
    """Two cells in the corners of a sheet that has room for 17 billion."""

    def cell(row, column):
        place = struct.pack("<II", column, 0)
        return writers._record(0, struct.pack("<II", row, 0) + bytes(17)) + writers._record(
            5, place + struct.pack("<d", 1.0)
        )

    corners = cell(1_000, 0) + cell(1_048_575, 16_383)
    return changed(
        writers.as_xlsb(TABLE),
        "xl/worksheets/sheet1.bin",
        lambda sheet: sheet.replace(writers._record(146), corners + writers._record(146)),
    )


def far_ods():
    cell = b'<table:table-cell office:value-type="string"%s><text:p>x</text:p></table:table-cell>'
    wide = b"<table:table-row>" + cell % b' table:number-columns-repeated="16384"' + b"</table:table-row>"
    tall = b'<table:table-row table:number-rows-repeated="1000000">' + cell % b"" + b"</table:table-row>"
    return changed(
        writers.as_ods(TABLE),
        "content.xml",
        lambda x: x.replace(b"</table:table>", wide + tall + b"</table:table>"),
    )


def changed(content, part, change):
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(sink, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, change(source.read(name)) if name == part else source.read(name))
    return sink.getvalue()


def far_xls():
    """Sixty sheets, each with cells in two corners; calamine would keep room for a billion."""
    sheets = 60
    bof = struct.pack("<HHHHII", 0x0600, 0x0005, 0x0DBB, 0x07CC, 0, 6)
    corners = b"".join(
        writers._biff(0x0203, struct.pack("<HHHd", row, column, 0, 1.0))
        for row, column in ((0, 0), (65_535, 255))
    )
    sheet = writers._biff(0x0809, bof[:2] + b"\x10\0" + bof[4:]) + corners + writers._biff(0x000A)
    names = [b"S%02d" % n for n in range(sheets)]
    above = 4 + 16 + sum(4 + 8 + len(name) for name in names) + 4
    bounds = b"".join(
        writers._biff(0x0085, struct.pack("<IBBBB", above + at * len(sheet), 0, 0, len(name), 0) + name)
        for at, name in enumerate(names)
    )
    book = writers._biff(0x0809, bof) + bounds + writers._biff(0x000A) + sheet * sheets
    return writers._compound("Workbook", book)


def torn_xls():
    """As a copy in the text mode of FTP leaves it: its parts refer to places that have moved."""
    content = writers.as_xls([TABLE[0], *[TABLE[1]] * 28])
    return content[:2_300] + content[2_240:]


def linkless_xlsb():
    first, other = ("rId1".encode("utf-16-le"), "rId9".encode("utf-16-le"))
    return changed(writers.as_xlsb(TABLE), "xl/workbook.bin", lambda book: book.replace(first, other))


def parquet_of(rows, text, **named):
    """Rows that share one text, of which the file holds a single copy (or so it is packed)."""
    same = {name: pa.array([value]).take(pa.array([0] * rows)) for name, value in good_row(1).items()}
    sink = io.BytesIO()
    table = pa.table(same | {"Item Name": pa.repeat(pa.scalar(text), rows)})
    pq.write_table(table, sink, compression="zstd", dictionary_pagesize_limit=8 << 20, **named)
    return sink.getvalue()


def naming(rows, size):
    """A workbook of which each row names one text of that size, besides what makes it an invoice line."""
    texts = list(dict.fromkeys([*HEADER, *good_row(1).values()]))
    long = len(texts)
    shared = b"".join(b"<si><t>%s</t></si>" % text.encode() for text in [*texts, "x" * size])
    cells = [texts.index(value) for value in good_row(1).values()]
    cells[list(HEADER).index("Item Name")] = long

    def row(number, named):
        inside = b"".join(
            b'<c r="%c%d" t="s"><v>%d</v></c>' % (65 + at, number, text) for at, text in enumerate(named)
        )
        return b'<row r="%d">%s</row>' % (number, inside)

    sheet = b"".join(row(number, cells) for number in range(2, rows + 2))
    header = row(1, [texts.index(name) for name in HEADER])
    with_texts = swollen("xl/sharedStrings.xml", [b"<sst>", shared, b"</sst>"])
    return swollen(
        "xl/worksheets/sheet1.xml",
        [b"<worksheet><sheetData>", header, sheet, b"</sheetData></worksheet>"],
        with_texts,
    )


def with_moved_list(content):
    """A .zip that says it begins before the file does."""
    at = content.rindex(b"PK\5\6") + 16
    return (
        content[:at] + struct.pack("<I", struct.unpack_from("<I", content, at)[0] + 999) + content[at + 4 :]
    )


def listing(entries):
    """A .zip of one small file, which its list names again and again."""
    content = writers.zip_of({"a.csv": GOOD})
    at = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    listed = content[at:end] * entries
    sizes = struct.pack("<QQQQ", entries, entries, len(listed), at)
    large = b"PK\6\6" + struct.pack("<QHHII", 44, 45, 45, 0, 0) + sizes
    where = b"PK\6\7" + struct.pack("<IQI", 0, at + len(listed), 1)
    last = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(listed), at, 0)
    return content[:at] + listed + large + where + last


HOSTILE = {
    "a cell of 100 MB.csv": (lambda: GOOD + b"INV-9," + MB * 100 + b"\n", "LINE_TOO_LONG"),
    "a quoted cell of 100 MB.csv": (
        lambda: GOOD + b'INV-9,"' + (MB + b"\n") * 100 + b'"\n',
        "UNCLOSED_QUOTE WRONG_FIELD_COUNT",
    ),
    "100,000 columns.csv": (
        lambda: b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b"1," * 99_999 + b"1\n",
        "TOO_MANY_COLUMNS",
    ),
    "100,000 columns.json": (
        lambda: json.dumps([{f"c{n}": 1 for n in range(100_000)}]).encode(),
        "TOO_MANY_COLUMNS",
    ),
    "a cell of 40 MB.json": (lambda: b'[{"Invoice Number": "' + MB * 40 + b'"}]', "LINE_TOO_LONG"),
    "a gzip bomb.csv.gz": (
        lambda: piped([GOOD, *[SWOLLEN] * 80], lambda sink: gzip.GzipFile(fileobj=sink, mode="wb")),
        "TOO_LARGE_INSIDE",
    ),
    "a zip bomb.zip": (lambda: zipped("a.csv", [GOOD, *[SWOLLEN] * 80]), "TOO_LARGE_INSIDE"),
    "a list of a million files.zip.gz": (
        lambda: gzip.compress(listing(1_000_000), 1),
        "TOO_LARGE_INSIDE",
    ),
    "a path that leads out.zip": (lambda: writers.zip_of({"../../x.csv": GOOD}), "UNSAFE_ARCHIVE"),
    "huge shared strings.xlsx": (
        lambda: swollen("xl/sharedStrings.xml", [b"<sst><si><t>", *[MB] * 300, b"</t></si></sst>"]),
        "TOO_LARGE_INSIDE",
    ),
    "many shared strings.xlsx": (
        lambda: swollen(
            "xl/sharedStrings.xml", [b"<sst>", *[b"<si><t>x</t></si>" * 100_000] * 70, b"</sst>"]
        ),
        "TOO_LARGE_INSIDE",
    ),
    "laughs.xlsx": (
        lambda: rewritten(SMALL, sharedStrings=lambda x: x.replace(b"?>", b"?>" + LAUGHS, 1)),
        "UNSAFE_ARCHIVE",
    ),
    "a cell of 20 MB.xlsx": (
        lambda: swollen(
            "xl/worksheets/sheet1.xml",
            [
                b"<worksheet><sheetData>" + ROW[:33] % (1, 1),
                *[MB] * 20,
                b"</v></c></row></sheetData></worksheet>",
            ],
        ),
        "LINE_TOO_LONG",
    ),
    "a million rows of nothing.xlsx": (
        lambda: swollen(
            "xl/worksheets/sheet1.xml",
            [
                b"<worksheet><sheetData>",
                *(b'<row r="%d" ht="15"/>' % n for n in range(1, 1_048_577)),
                b"</sheetData></worksheet>",
            ],
        ),
        "EMPTY_FILE",
    ),
    "two million rows of one character.csv": (lambda: GOOD + b"x\n" * 2_000_000, "MOSTLY_FRAGMENTS"),
    "a running number and nothing else.csv": (
        lambda: GOOD + b"".join(b"%d,,,,,,,\n" % n for n in range(200_000)),
        "MOSTLY_FRAGMENTS",
    ),
    "objects of nothing.json": (
        lambda: b"[%s%s]" % (json.dumps(good_row(1)).encode(), b",{}" * 200_000),
        "MOSTLY_FRAGMENTS",
    ),
    "a text that 30,000 rows name.xlsx": (lambda: naming(30_000, 30_000), "TOO_LARGE_INSIDE"),
    "a text of 100 KB that 300 rows name.xlsx": (lambda: naming(300, 100_000), "TEXT_TOO_LONG"),
    "a text that 100,000 rows share.parquet": (lambda: parquet_of(100_000, "x" * 9_000), "TOO_LARGE_INSIDE"),
    "a text of a megabyte, 300 times.parquet": (
        lambda: parquet_of(300, "x" * (1 << 20), use_dictionary=False),
        "TOO_LARGE_INSIDE",
    ),
    "copied as text.xls": (torn_xls, "DAMAGED_FILE"),
    "no link to its sheet.xlsb": (linkless_xlsb, "DAMAGED_FILE"),
    "begins before its beginning.zip": (
        lambda: with_moved_list(writers.zip_of({"a.csv": GOOD})),
        "DAMAGED_FILE",
    ),
    "a file without a name.zip": (
        lambda: writers.zip_of({"a.csv": GOOD}).replace(b"a.csv", b"\0.csv"),
        "UNSAFE_ARCHIVE",
    ),
    "something behind its end.csv.gz": (lambda: gzip.compress(GOOD) + b"more", "DAMAGED_FILE"),
    "far corners.xlsb": (far_xlsb, "TOO_LARGE_INSIDE"),
    "far corners.ods": (far_ods, "TOO_LARGE_INSIDE"),
    "far corners.xls": (far_xls, "TOO_LARGE_INSIDE"),
}


def worked(tmp_path, database_url, files):
    """What a worker says of each file that it takes down the line, the last of them a good one."""
    command = [sys.executable, "-m", "bulk_upload_pipeline_tests.hostile_worker", str(tmp_path / "home")]
    (tmp_path / "good.csv").write_bytes(csv_of([good_row(8), good_row(9)]).encode())
    files = [*files, tmp_path / "good.csv"]
    done = subprocess.run(
        [*command, database_url, *map(str, files)], capture_output=True, text=True, check=False
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["file"] for one in told] == [file.name for file in files], done.stderr[-2_000:]
    assert told.pop()["state"] == State.LOADED
    assert [one for one in told if one["peak_mb"] > MOST_MB] == []
    return told


def test_a_worker_survives_hostile_files_within_its_memory_and_each_ends_in_a_finding(tmp_path, database_url):
    folder = tmp_path / "sent"
    folder.mkdir()
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content())
    for one in worked(tmp_path, database_url, [folder / name for name in HOSTILE]):
        assert set(one["codes"]) == set(HOSTILE[one["file"]][1].split()), one
        assert one["state"] in (State.UNREADABLE, State.REJECTED), one


def test_members_of_a_gzip_that_were_put_one_behind_the_other_are_one_file(tmp_path, database_url):
    head, body = GOOD.split(b"\n", 1)
    with line_at(tmp_path / "home", database_url) as line:
        batch_id = drop(line, "a.csv.gz", gzip.compress(head + b"\n") + gzip.compress(body) + b"\0" * 512)
        assert stages.take(line, batch_id).rows_inserted == 2


BIG_MB = 300
MOST_SECONDS = 120
LONG = ",".join(good_row(3, **{"Item Name": "x" * (1 << 20)}).values()).encode() + b"\n"
CELL = (GOOD + b'INV-9,2024-12-31,"', b'",KK-1,Kaju,4,12.50,50.00\n' + GOOD.partition(b"\n")[2])
BIG = {
    "line ends.csv": (GOOD, b"\n", b"", ""),
    "delimiters.csv": (GOOD, b",\n", b"", ""),
    "whole rows of nothing.csv": (GOOD, b",,,,,,,\n", b"", ""),
    "quoted rows of nothing.csv": (GOOD, b'"","","","","","","",""\n', b"", ""),
    "rows of one character.csv": (GOOD, b"x\n", b"", "MOSTLY_FRAGMENTS"),
    "quotation marks.csv": (GOOD, b'"\n', b"", "MOSTLY_FRAGMENTS"),
    "a quoted cell of line ends.csv": (CELL[0], b"\n", CELL[1], "UNCLOSED_QUOTE"),
    "a quoted cell without line ends.csv": (CELL[0], MB, CELL[1], "LINE_TOO_LONG"),
    "a quoted cell of long lines.csv": (CELL[0], MB + b"\n", CELL[1], "UNCLOSED_QUOTE WRONG_FIELD_COUNT"),
    "never closed.csv": (CELL[0], b"\n", b"", "UNCLOSED_QUOTE"),
    "cells of a megabyte.csv": (GOOD, LONG, b"", "TEXT_TOO_LONG"),
    "line ends.jsonl": (json.dumps(good_row(1)).encode(), b"\n", json.dumps(good_row(2)).encode(), ""),
    "objects of nothing.jsonl": (json.dumps(good_row(1)).encode(), b"\n{}", b"", "MOSTLY_FRAGMENTS"),
    "no objects.jsonl": (json.dumps(good_row(1)).encode(), b"\n{x", b"", "MOSTLY_FRAGMENTS"),
}


@pytest.mark.scale
@pytest.mark.parametrize("name", BIG)
def test_hundreds_of_megabytes_of_next_to_nothing_end_in_a_receipt_within_two_minutes(
    tmp_path, database_url, name
):
    before, repeated, behind, codes = BIG[name]
    with (tmp_path / name).open("wb") as file:
        file.write(before)
        for _ in range(BIG_MB):
            file.write(repeated * ((1 << 20) // len(repeated) or 1))
        file.write(behind)
    (told,) = worked(tmp_path, database_url, [tmp_path / name])
    assert set(told["codes"]) == set(codes.split()), told
    assert told["seconds"] < MOST_SECONDS


LONGEST = "é" * 123 + "x" * 5 + ".csv"
NAMES = [
    "'\"`; quotes.csv",
    "line\r\nbreaks\t\x7f.csv",
    "\U0001f36c\u202efdp.csv",
    "'); DROP TABLE mangalam_invoices; --.csv",
    "$(touch owned) `touch owned` ; touch owned | && > owned %s {0} %(x)s.csv",
    "<script>alert(1)</script>&amp;.csv".replace("/", ""),
    "-rf --help.csv",
    "con.csv",
    LONGEST,
]


def test_a_file_may_be_called_anything_and_its_name_is_only_ever_text(tmp_path, database_url):
    assert len(LONGEST.encode()) == 255
    with line_at(tmp_path / "home", database_url) as line:
        for at, name in enumerate(NAMES):
            bad = good_row(10 * at + 9, Quantity="x")
            batch_id = drop(line, name, csv_of([*(good_row(10 * at + n) for n in range(5)), bad]))
            account = stages.take(line, batch_id)
            assert (account.state, account.file_name) == (State.PARTIALLY_LOADED, name)
            folder = line.reports(batch_id)
            assert json.loads((folder / "summary.json").read_text("utf-8"))["file_name"] == name
            assert "<script>" not in (folder / "summary.html").read_text("utf-8")
            assert (line.home.archive / batch_id / name).exists()
        assert count(line, "mangalam_invoices") == 5 * len(NAMES)
        assert list(line.home.inbox.iterdir()) == []
    assert [path.name for path in tmp_path.rglob("owned*")] == []


@pytest.mark.parametrize("kind", ["csv", "xlsx", "ods", "xlsb", "xls"])
def test_any_half_of_a_file_ends_in_a_receipt(tmp_path, database_url, kind):
    table = [list(HEADER), *(list(good_row(n).values()) for n in range(1, 200))]
    content = getattr(writers, f"as_{kind}")(table)
    with line_at(tmp_path / "home", database_url) as line:
        for share in (0.02, 0.3, 0.6, 0.97):
            batch_id = drop(line, f"{share}.{kind}", content[: int(len(content) * share)])
            assert stages.take(line, batch_id).state in (
                *(State.UNREADABLE, State.LOADED, State.PARTIALLY_LOADED, State.REJECTED),
            )
