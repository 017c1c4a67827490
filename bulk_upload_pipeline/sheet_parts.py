"""An XLSX file as small workbooks of some thousand rows each, so that memory does not grow with a sheet.

Calamine reads a sheet as a whole, with room for every cell between the first and the last. So the XML of a
sheet is cut between its rows, and each part is put into a workbook of its own, beside the texts and styles of
the original. Rows and cells without a value are left out on the way: formatted emptiness costs nothing.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.headers import MOST_COLUMNS
from bulk_upload_pipeline.unpack import damage_as_finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

ROWS_OF_PART = 32_000
BYTES_OF_PART = 32 << 20
LONGEST_ROW = 16 << 20
"""Bytes of XML of one row; beyond it a cell holds more than any cell of an invoice."""

MOST_CELLS = 16_000_000
"""Cells between the first and the last of a part, filled or not."""

WIDEST_GAP = 5_000
"""Blank rows for which a part that is spread over many rows is not cut."""

MOST_TEXTS_BYTES = 200 << 20
MOST_TEXTS = 6_000_000
"""Texts that a workbook's cells share, which have to be held in memory."""

LAST_ROW = 1 << 20
_BLOCK = 1 << 20
_SMALL_PART = 16 << 20
_SMALL_PARTS = frozenset(
    {"[content_types].xml", "_rels/.rels", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/styles.xml"}
)
_TEXTS = "xl/sharedstrings.xml"

_OPENING = re.compile(rb"<(\w+:)?sheetData\s*(/?)>")
_ROOT = re.compile(rb"<(?:\w+:)?worksheet\b[^>]*>")
_ROW_NUMBER = re.compile(rb"""<(?:\w+:)?row\b[^>]*?\sr=["']([0-9]{1,8})["']""")
_EMPTY_CELL = re.compile(rb"<(?:\w+:)?c\b[^>]*/>")
_EMPTY_ROW = re.compile(rb"<(\w+:)?row\b(?:[^>]*/>|[^>]*>(?:<(?:\w+:)?c\b[^>]*/>)*</(?:\w+:)?row>)")
_TOO_WIDE = re.compile(rb"""\sr=["'](?:[A-Z]{3}|[T-Z][A-Z]|S[G-Z])[0-9]""")
"""Cells beyond column SF, the 500th, which is as many as a header may have."""
_COLUMN = re.compile(rb"""\sr=["']([A-Z]{1,3})[0-9]""")
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\b[^>]*?\sref=["']([A-Z]+)([0-9]+):([A-Z]+)([0-9]+)["']""")


class Part(NamedTuple):
    """Some rows of a sheet.

    Attributes:
        first_row: Number of the first row among them, from 1; it counts where `numbered` is False.
        numbered: Whether the rows state their numbers themselves.
        starts: Where each begins in `document`.
        document: The XML of a sheet with these rows.
    """

    first_row: int
    numbered: bool
    starts: list[int]
    document: bytes

    def head(self, rows: int) -> Part:
        """Return the first rows of the part."""
        if len(self.starts) <= rows:
            return self
        behind = self.document[self.document.rindex(b"</", 0, self.document.rindex(b"</")) :]
        return self._replace(starts=self.starts[:rows], document=self.document[: self.starts[rows]] + behind)

    def tail(self, rows: int) -> Part:
        """Return the last rows of the part."""
        passed = max(0, len(self.starts) - rows)
        cut = self.starts[passed] - self.starts[0]
        document = self.document[: self.starts[0]] + self.document[self.starts[passed] :]
        starts = [start - cut for start in self.starts[passed:]]
        return self._replace(first_row=self.first_row + passed, starts=starts, document=document)


class SheetFile(NamedTuple):
    """A visible sheet, and the name of its XML in the archive."""

    name: str
    part: str


class Merged(NamedTuple):
    """A range of merged cells; rows and columns from 1."""

    top: int
    left: int
    bottom: int
    right: int


class XlsxParts:
    """The sheets of an XLSX file, in parts.

    Raises:
        UnreadableError: It is damaged, or its shared parts are larger than any workbook's.
    """

    def __init__(self, path: Path) -> None:
        self._folder = TemporaryDirectory(prefix="bulk-upload-sheets-")
        self._base = Path(self._folder.name) / "base.xlsx"
        self._work = Path(self._folder.name) / "part.xlsx"
        try:
            with damage_as_finding():
                self._zip = zipfile.ZipFile(path)
                self._names = {_plain(name): name for name in self._zip.namelist()}
                self._copy_shared()
                self.sheets = self._find_sheets()
                self.percent_styles = self._find_percent_styles()
        except BaseException:  # nobody can close what was never opened, whatever stopped it
            self._folder.cleanup()
            raise

    def __enter__(self) -> XlsxParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._folder.cleanup()

    def _copy_shared(self) -> None:
        """Lay the parts that all sheets share into a workbook without sheets."""
        with zipfile.ZipFile(self._base, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as base:
            for plain, name in self._names.items():
                if plain in _SMALL_PARTS:
                    base.writestr(name, self._small(plain))
                elif plain == _TEXTS:
                    with self._zip.open(name) as source, base.open(name, "w") as target:
                        _copy_texts(source, target)

    def _small(self, plain: str) -> bytes:
        name = self._names.get(plain)
        if name is None:
            raise _damaged(f"its part {plain} is missing")
        with self._zip.open(name) as file:
            content = file.read(_SMALL_PART + 1)
        if len(content) > _SMALL_PART:
            raise UnreadableError(file_finding("TOO_LARGE_INSIDE", f"its part {plain} is of absurd size"))
        _refuse_entities(content)
        return content

    def _tree(self, plain: str) -> ElementTree.Element:
        try:
            # Entities, by which XML can grow without bounds, are refused before it is parsed.
            return ElementTree.fromstring(self._small(plain))  # noqa: S314
        except ElementTree.ParseError:
            raise _damaged(f"its part {plain} is no XML") from None

    def _find_sheets(self) -> list[SheetFile]:
        targets = {
            link.get("Id"): link.get("Target", "")
            for link in self._tree("xl/_rels/workbook.xml.rels")
            if link.get("Type", "").endswith("/worksheet")
        }
        sheets = []
        for sheet in self._tree("xl/workbook.xml").iterfind("{*}sheets/{*}sheet"):
            link = next((value for key, value in sheet.attrib.items() if key.endswith("}id")), None)
            part = _plain(posixpath.join("xl", targets.get(link, "")))
            if part in self._names and sheet.get("state", "visible") == "visible":
                sheets.append(SheetFile(sheet.get("name", ""), self._names[part]))
        return sheets

    @property
    def starts_in_1904(self) -> bool:
        """Return whether the workbook counts its days from 1904."""
        stated = self._tree("xl/workbook.xml").find("{*}workbookPr")
        return stated is not None and stated.get("date1904", "0").lower() in {"1", "true"}

    def _find_percent_styles(self) -> frozenset[int]:
        """Return the numbers of the cell styles that show a share as a percentage."""
        if "xl/styles.xml" not in self._names:
            return frozenset()
        styles = self._tree("xl/styles.xml")
        formats = {"9", "10"} | {
            own.get("numFmtId", "")
            for own in styles.iterfind("{*}numFmts/{*}numFmt")
            if "%" in re.sub(r'"[^"]*"|\\.', "", own.get("formatCode", ""))
        }
        return frozenset(
            at
            for at, style in enumerate(styles.iterfind("{*}cellXfs/{*}xf"))
            if style.get("numFmtId") in formats
        )

    def parts(self, sheet: SheetFile) -> Iterator[Part]:
        """Yield the rows of a sheet in their order, without those that hold no value.

        Raises:
            UnreadableError: The sheet is damaged, or has a row too long or a column too many.
        """
        with damage_as_finding(), self._zip.open(sheet.part) as stream:
            yield from _Cutter(stream, sheet.name).parts()

    def merged(self, sheet: SheetFile, last_row: int) -> list[Merged]:
        """Return the merged cells that begin in the first rows of a sheet."""
        found: list[Merged] = []
        with damage_as_finding(), self._zip.open(sheet.part) as stream:
            behind = b""
            while block := stream.read(_BLOCK):
                behind = behind[-200:] + block
                if b"mergeCell" in behind:
                    for left, top, right, bottom in _MERGED.findall(behind):
                        if int(top) <= last_row:
                            found.append(
                                Merged(int(top), column_number(left), int(bottom), column_number(right))
                            )
        return list(dict.fromkeys(found))

    def workbook(self, sheet: SheetFile, part: Part) -> Path:
        """Return a workbook in which the sheet has the rows of a part only."""
        shutil.copyfile(self._base, self._work)
        with zipfile.ZipFile(self._work, "a") as archive:
            archive.writestr(sheet.part, part.document)
        return self._work


def _copy_texts(source: IO[bytes], target: IO[bytes]) -> None:
    size = texts = 0
    while block := source.read(_BLOCK):
        if size == 0:
            _refuse_entities(block)
        size += len(block)
        texts += block.count(b"<si")
        if size > MOST_TEXTS_BYTES or texts > MOST_TEXTS:
            raise UnreadableError(
                file_finding("TOO_LARGE_INSIDE", "the texts of the workbook are more than any invoices have")
            )
        target.write(block)


class _Cutter:
    """Cuts the XML of one sheet between its rows."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._prefix = b""
        self._numbered = True
        self._row = 1

    def parts(self) -> Iterator[Part]:
        """Yield the parts."""
        pending, ended = self._behind_opening()
        ready = bytearray()
        while True:
            end = pending.find(b"</" + self._prefix + b"sheetData")
            limit = end if end >= 0 else pending.rfind(b"<" + self._prefix + b"row")
            if limit > 0:
                ready += self._filled(pending[:limit])
                pending = pending[limit:]
            ended = ended or end >= 0
            if (
                ended
                or len(ready) > BYTES_OF_PART
                or ready.count(b"<" + self._prefix + b"row") > ROWS_OF_PART
            ):
                yield from self._cut(bytes(ready))
                ready.clear()
            if ended:
                return
            block = self._stream.read(_BLOCK)
            if not block:
                raise _damaged(f"the sheet {self._name!r} has no end")
            pending += block
            if len(pending) > LONGEST_ROW:
                raise UnreadableError(
                    file_finding(
                        "LINE_TOO_LONG", f"a row of the sheet {self._name!r} below row {self._row - 1:,}"
                    )
                )

    def _behind_opening(self) -> tuple[bytes, bool]:
        """Pass over what stands above the rows; return what follows, and whether there are none."""
        head = b""
        while block := self._stream.read(_BLOCK):
            head += block
            found = _OPENING.search(head)
            if found:
                _refuse_entities(head[: found.start()])
                self._prefix = found[1] or b""
                root = _ROOT.search(head)
                self._root = root[0] if root else b"<worksheet>"
                first = re.search(rb"<" + self._prefix + rb"row\b[^>]*>", head[found.end() :])
                self._numbered = first is None or _ROW_NUMBER.match(first[0]) is not None
                return head[found.end() :], bool(found[2])
            if len(head) > _SMALL_PART:
                break
        raise _damaged(f"the sheet {self._name!r} has no rows that can be found")

    def _filled(self, rows: bytes) -> bytes:
        """Return rows without those that hold no value, as far as the others say their numbers themselves."""
        return _EMPTY_ROW.sub(b"", rows) if self._numbered and b"/>" in rows else rows

    def _cut(self, rows: bytes) -> Iterator[Part]:
        if not rows.strip():
            return
        if _TOO_WIDE.search(rows):
            rows = _EMPTY_CELL.sub(b"", rows)
            if _TOO_WIDE.search(rows):
                raise UnreadableError(
                    file_finding(
                        "TOO_MANY_COLUMNS", f"more than {MOST_COLUMNS} columns in the sheet {self._name!r}"
                    )
                )
        starts = [m.start() for m in re.finditer(rb"<" + self._prefix + rb"row\b", rows)]
        numbers = [int(number) for number in _ROW_NUMBER.findall(rows)] if self._numbered else []
        if self._numbered:
            if len(numbers) != len(starts):
                raise _damaged(f"some rows of the sheet {self._name!r} have a number, others none")
            self._refuse_disorder(numbers)
            cuts = self._cuts(numbers, rows)
        else:
            numbers = list(range(self._row, self._row + len(starts)))
            cuts = list(range(0, len(starts), ROWS_OF_PART))
        for at, until in zip(cuts, [*cuts[1:], len(starts)], strict=True):
            end = starts[until] if until < len(starts) else len(rows)
            opening, document = self._document(rows[starts[at] : end])
            places = [start - starts[at] + opening for start in starts[at:until]]
            yield Part(numbers[at], self._numbered, places, document)
        self._row = numbers[-1] + 1

    def _refuse_disorder(self, numbers: list[int]) -> None:
        ascending = all(a < b for a, b in zip([self._row - 1, *numbers], numbers, strict=False))
        if not ascending or numbers[-1] > LAST_ROW:
            raise _damaged(f"the rows of the sheet {self._name!r} are not in their order")

    def _cuts(self, numbers: list[int], rows: bytes) -> list[int]:
        """Return where to cut so that no part has many rows, nor much room between its rows."""
        span = numbers[-1] - numbers[0] + 1
        if span <= ROWS_OF_PART:
            return [0]
        width = max(map(column_number, set(_COLUMN.findall(rows))), default=1)
        room = max(1, MOST_CELLS // width)
        cuts = [0]
        for at, number in enumerate(numbers):
            wide_gap = at > 0 and number - numbers[at - 1] > WIDEST_GAP
            if wide_gap or number - numbers[cuts[-1]] >= room or at - cuts[-1] >= ROWS_OF_PART:
                cuts.append(at)
        return cuts

    def _document(self, rows: bytes) -> tuple[int, bytes]:
        """Return where the rows begin in a sheet of their own, and that sheet."""
        prefix = self._prefix
        opening = b'<?xml version="1.0" encoding="UTF-8"?>' + self._root + b"<" + prefix + b"sheetData>"
        return len(opening), opening + rows + b"</" + prefix + b"sheetData></" + prefix + b"worksheet>"


def column_number(letters: bytes) -> int:
    """Return the number of a column that is named by letters: A is 1."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _plain(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/").lower()


def _refuse_entities(head: bytes) -> None:
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise UnreadableError(file_finding("UNSAFE_ARCHIVE", "its XML declares entities"))


def _damaged(what: str) -> UnreadableError:
    return UnreadableError(file_finding("DAMAGED_FILE", what))
