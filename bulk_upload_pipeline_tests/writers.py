"""The same table of text written in every format that is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zipfile
from datetime import date, datetime
from typing import NamedTuple
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import xlsxwriter


class Formatted(NamedTuple):
    """A number in a cell of a spreadsheet, and the format under which it is shown."""

    value: float
    code: str


def codes_in(table):
    """The formats in a table; the style of each has its place among them, and 0 is the one of all other cells."""
    return ["", *dict.fromkeys(cell.code for row in table for cell in row if isinstance(cell, Formatted))]


def as_csv(table, *, delimiter=",", encoding="utf-8", end="\r\n", quoting=csv.QUOTE_MINIMAL):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    return text.getvalue().encode(encoding)


def as_json(table, *, indent=None):
    header, *rows = table
    records = [dict(zip(header, row, strict=True)) for row in rows]
    return json.dumps(records, ensure_ascii=False, indent=indent).encode()


def as_json_lines(table, *, escaped=True):
    header, *rows = table
    records = (dict(zip(header, row, strict=True)) for row in rows)
    return "\n".join(json.dumps(record, ensure_ascii=escaped) for record in records).encode()


def as_parquet(table):
    header, *rows = table
    columns = [pa.array([cell or None for cell in column]) for column in zip(*rows, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, list(header)), sink)
    return sink.getvalue()


def typed(cell):
    """A cell as a spreadsheet's user would have it: numbers and days as such where nothing of them is lost."""
    if isinstance(cell, Formatted):
        return cell
    if len(cell) == 10 and cell[4:5] == cell[7:8] == "-" and cell.replace("-", "").isdigit():
        return date.fromisoformat(cell)
    plain = cell.removeprefix("-").replace(".", "", 1)
    if plain.isascii() and plain.isdigit() and len(plain) <= 15 and not cell.lstrip("-").startswith("0"):
        return float(cell)
    return cell


def as_xlsx(table, *, sheet="Sheet1"):
    return xlsx_of(
        {sheet: [[cell if at == 0 else typed(cell) for cell in row] for at, row in enumerate(table)]}
    )


def xlsx_of(sheets, **options):
    """A workbook of sheets, each a list of rows of values; `None` and empty text are left out."""
    sink = io.BytesIO()
    book = xlsxwriter.Workbook(sink, options)
    day = book.add_format({"num_format": "dd/mm/yyyy"})
    moment = book.add_format({"num_format": "dd/mm/yyyy hh:mm:ss"})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for at, row in enumerate(rows):
            for column, value in enumerate(row):
                if isinstance(value, Formatted):
                    sheet.write_number(at, column, value.value, book.add_format({"num_format": value.code}))
                elif isinstance(value, datetime):
                    sheet.write_datetime(at, column, value, moment)
                elif isinstance(value, date):
                    sheet.write_datetime(at, column, datetime.combine(value, datetime.min.time()), day)
                elif isinstance(value, bool):
                    sheet.write_boolean(at, column, value)
                elif isinstance(value, int | float):
                    sheet.write_number(at, column, value)
                elif value:
                    sheet.write_string(at, column, value)
    book.close()
    return sink.getvalue()


class Filled(NamedTuple):
    """A number in a cell of an ODS file, what stands before its figures there, and how many are always shown."""

    value: float
    before: str
    figures: int


def as_ods(table):
    rows = "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in table)
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text", "style")
    )
    spaces += ' xmlns:number="urn:oasis:names:tc:opendocument:xmlns:datastyle:1.0"'
    spaces += ' xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"'
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?><office:document-content {spaces}><office:automatic-styles>'
        f"{_ods_styles(table)}</office:automatic-styles><office:body>"
        f'<office:spreadsheet><table:table table:name="Sheet1">{rows}</table:table></office:spreadsheet>'
        "</office:body></office:document-content>"
    )
    kind = b"application/vnd.oasis.opendocument.spreadsheet"
    manifest = b'<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    return zip_of({"mimetype": kind, "content.xml": content.encode(), "META-INF/manifest.xml": manifest})


def _ods_styles(table):
    filled = {(cell.before, cell.figures) for row in table for cell in row if isinstance(cell, Filled)}
    return "".join(
        f'<number:number-style style:name="N{at}">{f"<number:text>{before}</number:text>" if before else ""}'
        f'<number:number number:decimal-places="0" number:min-integer-digits="{figures}"/></number:number-style>'
        for at, (before, figures) in enumerate(sorted(filled), start=100)
    )


def _ods_cell(cell):
    if isinstance(cell, Filled):
        shown = cell.before + f"{cell.value:g}".zfill(cell.figures)
        kind = f'office:value-type="float" office:value="{cell.value:g}" calcext:value-type="float"'
        return f"<table:table-cell {kind}><text:p>{shown}</text:p></table:table-cell>"
    value = typed(cell)
    if cell == "":
        return "<table:table-cell/>"
    if isinstance(cell, Formatted):
        kind = f'office:value-type="percentage" office:value="{cell.value}" calcext:value-type="percentage"'
        return f"<table:table-cell {kind}><text:p>{cell.value:.1%}</text:p></table:table-cell>"
    if cell in ERRORS:
        kind = 'office:value-type="string" office:string-value="" calcext:value-type="error"'
    elif isinstance(value, date):
        kind = f'office:value-type="date" office:date-value="{cell}"'
    elif isinstance(value, float):
        kind = f'office:value-type="float" office:value="{cell}"'
    else:
        kind = 'office:value-type="string"'
    lines = "".join(f"<text:p>{escape(line)}</text:p>" for line in cell.split("\n"))
    return f"<table:table-cell {kind}>{lines}</table:table-cell>"


def as_xlsb(table, *, starts_in_1904=False):
    """An XLSB of texts and numbers (days as their serials)."""
    codes = codes_in(table)
    rows = b"".join(
        _record(0, struct.pack("<II", at, 0) + bytes(17))
        + b"".join(_xlsb_cell(column, cell, codes) for column, cell in enumerate(row))
        for at, row in enumerate(table)
    )
    area = struct.pack("<IIII", 0, len(table) - 1, 0, len(table[0]) - 1)
    sheet = _record(129) + _record(148, area) + _record(145) + rows + _record(146) + _record(130)
    bundle = struct.pack("<II", 0, 1) + _wide("rId1") + _wide("Sheet1")
    days = _record(153, struct.pack("<II", starts_in_1904, 0) + _wide(""))
    book = _record(131) + days + _record(143) + _record(156, bundle) + _record(144) + _record(132)
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    links = (
        f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{office}/worksheet" Target="worksheets/sheet1.bin"/></Relationships>'
    )
    return zip_of(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>'.encode(),
            "xl/workbook.bin": book,
            "xl/_rels/workbook.bin.rels": links.encode(),
            "xl/worksheets/sheet1.bin": sheet,
            "xl/styles.bin": _xlsb_styles(codes),
        }
    )


ERRORS = {"#N/A": 0x2A, "#REF!": 0x17}


def _xlsb_styles(codes):
    own = b"".join(_record(44, struct.pack("<H", 164 + at) + _wide(code)) for at, code in enumerate(codes))
    styles = b"".join(_record(47, struct.pack("<HH", 0, 164 + at) + bytes(12)) for at in range(len(codes)))
    count = struct.pack("<I", len(codes))
    of_no_cell = _record(626) + _record(47, struct.pack("<HH", 0xFFFF, 9) + bytes(12)) + _record(627)
    formats = _record(615, count) + own + _record(616)
    return _record(278) + formats + of_no_cell + _record(617, count) + styles + _record(618) + _record(279)


def _xlsb_cell(column, cell, codes):
    if isinstance(cell, Formatted):
        return _record(5, struct.pack("<IId", column, codes.index(cell.code), cell.value))
    place = struct.pack("<II", column, 0)
    if cell in ERRORS:
        # As a value, and as what a formula came to.
        error = place + bytes([ERRORS[cell]])
        return _record(3, error) if cell == "#N/A" else _record(11, error + bytes(10))
    value = serial(typed(cell))
    if isinstance(value, float):
        return _record(5, place + struct.pack("<d", value))
    return _record(6, place + _wide(cell)) if cell else b""


def _wide(text):
    return struct.pack("<I", len(text.encode("utf-16-le")) // 2) + text.encode("utf-16-le")


def _record(kind, content=b""):
    number = bytes([kind]) if kind < 128 else bytes([kind & 0x7F | 0x80, kind >> 7])
    size = len(content)
    length = bytearray()
    while True:
        length.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
        if not size:
            return number + bytes(length) + content


def serial(value):
    """A day as Excel counts it, any other value as it is."""
    return float((value - date(1899, 12, 30)).days) if isinstance(value, date) else value


def as_xls(table, *, starts_in_1904=False, runs=b""):
    """A workbook of Excel 97 with texts and numbers (days as their serials), and `runs` of cells as they are."""
    codes = codes_in(table)
    cells = b"".join(
        _xls_cell(at, column, cell, codes) for at, row in enumerate(table) for column, cell in enumerate(row)
    )
    bof = struct.pack("<HHHHII", 0x0600, 0x0005, 0x0DBB, 0x07CC, 0, 6)
    sheet = _biff(0x0809, bof[:2] + b"\x10\0" + bof[4:]) + cells + runs + _biff(0x000A)
    name = b"Sheet1"
    above = _biff(0x0022, struct.pack("<H", starts_in_1904)) + b"".join(
        _biff(0x041E, struct.pack("<HHB", 164 + at, len(code), 0) + code.encode("latin-1"))
        for at, code in enumerate(codes)
    )
    above += b"".join(_biff(0x00E0, struct.pack("<HH", 0, 164 + at) + bytes(16)) for at in range(len(codes)))
    bound = 4 + 16 + len(above) + 4 + 8 + len(name) + 4
    globals_ = (
        _biff(0x0809, bof) + above + _biff(0x0085, struct.pack("<IBBBB", bound, 0, 0, len(name), 0) + name)
    )
    return _compound("Workbook", globals_ + _biff(0x000A) + sheet)


def xls_run(row, column, *cells):
    """A run of whole numbers in one record, each with the number of its style."""
    values = b"".join(struct.pack("<HI", style, value << 2 & 0xFFFFFFFF | 2) for value, style in cells)
    return _biff(
        0x00BD, struct.pack("<HH", row, column) + values + struct.pack("<H", column + len(cells) - 1)
    )


def _xls_cell(row, column, cell, codes):
    if isinstance(cell, Formatted):
        return _biff(0x0203, struct.pack("<HHHd", row, column, codes.index(cell.code), cell.value))
    place = struct.pack("<HHH", row, column, 0)
    if cell == "#N/A":
        return _biff(0x0205, place + bytes([ERRORS[cell], 1]))
    if cell == "#REF!":
        return _biff(0x0006, place + bytes([2, 0, ERRORS[cell], 0, 0, 0, 0xFF, 0xFF]) + bytes(8))
    value = serial(typed(cell))
    if isinstance(value, float):
        return _biff(0x0203, struct.pack("<HHHd", row, column, 0, value))
    text = cell.encode("utf-16-le")
    return _biff(0x0204, struct.pack("<HHHHB", row, column, 0, len(text) // 2, 1) + text) if cell else b""


def _biff(kind, content=b""):
    return struct.pack("<HH", kind, len(content)) + content


def _compound(name, content):
    """The container of the old Office: one stream, its table of sectors, its directory."""
    content = content.ljust(4096, b"\0")
    sectors = -(-len(content) // 512)
    # Sectors of the table itself: each holds 128 entries.
    tables = 1
    while tables * 128 < sectors + 1 + tables:
        tables += 1
    entries = [*range(1, sectors), 0xFFFFFFFE, 0xFFFFFFFE, *[0xFFFFFFFD] * tables]
    entries += [0xFFFFFFFF] * (tables * 128 - len(entries))
    directory = _entry("Root Entry", 5, 1, 0xFFFFFFFE, 0) + _entry(name, 2, 0xFFFFFFFF, 0, len(content))
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6)
    header += bytes(10) + struct.pack("<IIIIIIII", tables, sectors, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
    places = [sectors + 1 + at for at in range(tables)] + [0xFFFFFFFF] * (109 - tables)
    table = struct.pack(f"<{len(entries)}I", *entries)
    return (
        header
        + struct.pack("<109I", *places)
        + content.ljust(sectors * 512, b"\0")
        + directory.ljust(512, b"\0")
        + table
    )


def _entry(name, kind, child, start, size):
    text = name.encode("utf-16-le") + b"\0\0"
    links = struct.pack("<BBIII", kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child)
    return (
        text.ljust(64, b"\0")
        + struct.pack("<H", len(text))
        + links
        + bytes(36)
        + struct.pack("<IQ", start, size)
    )


def zip_of(members):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def packed(content):
    """The content as it is, gzipped, and zipped."""
    return {"": content, ".gz": gzip.compress(content), ".zip": zip_of({"any name.bin": content})}
