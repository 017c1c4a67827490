"""An XLSX file as small workbooks of some thousand rows each, so that memory does not grow with a sheet.

Calamine reads a sheet as a whole, with room for every cell between the first and the last. So the XML of a
sheet is cut between its rows, and each part is put into a workbook of its own, beside the texts and styles of
the original. Rows and cells without a value are left out on the way: formatted emptiness costs nothing.
"""

from __future__ import annotations

import posixpath
import shutil
import zipfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from bulk_upload_pipeline import scratch
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.number_formats import styles_shown
from bulk_upload_pipeline.reading.shared_texts import SharedTexts
from bulk_upload_pipeline.reading.sheet_cutter import Cutter, refuse_entities
from bulk_upload_pipeline.recognising.unpack import damage_as_finding, damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from bulk_upload_pipeline.reading.number_formats import Shown
    from bulk_upload_pipeline.reading.sheet_cutter import Ends, Part

MOST_TEXTS_BYTES = 200 << 20
MOST_TEXTS = 6_000_000
"""Texts that a workbook's cells share, which have to be held in memory."""

_BLOCK = 1 << 20
_SMALL_PART = 16 << 20
_STYLES = "xl/styles.xml"
_TEXTS = "xl/sharedstrings.xml"

PARTS_AT_ONCE = 8
"""Parts that are laid into one workbook, since the texts of the original are read anew for each workbook."""

_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


class SheetFile(NamedTuple):
    """A sheet, the name of its XML in the archive, and whether a person sees it."""

    name: str
    part: str
    is_visible: bool


class XlsxParts:
    """The sheets of an XLSX file, in parts.

    Raises:
        UnreadableError: It is damaged, or its shared parts are larger than any workbook's.
    """

    def __init__(self, path: Path) -> None:
        self._made = ExitStack()
        folder = self._made.enter_context(scratch.folder("sheets"))
        self._base = folder / "base.xlsx"
        self.workbook = folder / "part.xlsx"
        self._texts = SharedTexts()
        self._packed = path.stat().st_size
        try:
            with damage_as_finding():
                self._zip = zipfile.ZipFile(path)
                self._names = {_plain(name): name for name in self._zip.namelist()}
                self._copy_shared()
                self.sheets = self._find_sheets()
                self.styles_shown = self._find_styles_shown()
        except BaseException:  # nobody can close what was never opened, whatever stopped it
            self._made.close()
            raise

    def __enter__(self) -> XlsxParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._made.close()

    def _copy_shared(self) -> None:
        """Lay what all sheets share into a workbook whose sheets are still missing."""
        names = range(1, PARTS_AT_ONCE + 1)
        sheets = "".join(f'<sheet name="{n}" sheetId="{n}" r:id="s{n}"/>' for n in names)
        links = "".join(
            f'<Relationship Id="s{n}" Type="{_OFFICE}/worksheet" Target="worksheets/{n}.xml"/>' for n in names
        )
        first = "<workbookPr date1904='1'/>" if self.starts_in_1904 else ""
        workbook = (
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">{first}<sheets>{sheets}</sheets></workbook>'
        )
        with zipfile.ZipFile(self._base, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as base:
            base.writestr("xl/workbook.xml", workbook)
            base.writestr(
                "_rels/.rels",
                f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="b" Type="{_OFFICE}/officeDocument" '
                'Target="xl/workbook.xml"/></Relationships>',
            )
            base.writestr(
                "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{_PACKAGE}">{links}</Relationships>'
            )
            if (styles := self._linked("styles", _STYLES)) in self._names:
                base.writestr(_STYLES, self._small(styles))
            if (texts_part := self._linked("sharedStrings", _TEXTS)) in self._names:
                texts = self._zip.open(self._names[texts_part])
                with texts as source, base.open("xl/sharedStrings.xml", "w") as target:
                    _copy_texts(source, target, self._texts)

    def _linked(self, kind: str, usual: str) -> str:
        """Return the name of a part that all sheets share, which may be called otherwise than it usually is."""
        links = self._tree("xl/_rels/workbook.xml.rels") if usual not in self._names else ()
        targets = (link.get("Target", "") for link in links if link.get("Type", "").endswith(f"/{kind}"))
        return next((_plain(posixpath.join("xl", target)) for target in targets), usual)

    def _small(self, plain: str) -> bytes:
        name = self._names.get(plain)
        if name is None:
            raise damaged(f"its part {plain} is missing")
        with self._zip.open(name) as file:
            content = file.read(_SMALL_PART + 1)
        if len(content) > _SMALL_PART:
            raise UnreadableError(file_finding("TOO_LARGE_INSIDE", f"its part {plain} is of absurd size"))
        refuse_entities(content)
        return content

    def _tree(self, plain: str) -> ElementTree.Element:
        try:
            # Entities, by which XML can grow without bounds, are refused before it is parsed.
            return ElementTree.fromstring(self._small(plain))  # noqa: S314
        except ElementTree.ParseError:
            raise damaged(f"its part {plain} is no XML") from None

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
            if part in self._names:
                is_visible = sheet.get("state", "visible") == "visible"
                sheets.append(SheetFile(sheet.get("name", ""), self._names[part], is_visible))
        return sheets

    @property
    def starts_in_1904(self) -> bool:
        """Return whether the workbook counts its days from 1904."""
        stated = self._tree("xl/workbook.xml").find("{*}workbookPr")
        return stated is not None and stated.get("date1904", "0").lower() in {"1", "true"}

    def _find_styles_shown(self) -> dict[int, Shown]:
        """Return what the cell styles show that is not their number."""
        part = self._linked("styles", _STYLES)
        if part not in self._names:
            return {}
        styles = self._tree(part)
        own = styles.iterfind("{*}numFmts/{*}numFmt")
        codes = {_number(one, "numFmtId"): one.get("formatCode", "") for one in own}
        formats = [_number(style, "numFmtId") for style in styles.iterfind("{*}cellXfs/{*}xf")]
        return styles_shown(formats, codes)

    def parts(self, sheet: SheetFile) -> Iterator[Part]:
        """Yield the rows of a sheet in their order, without those that hold no value.

        Raises:
            UnreadableError: The sheet is damaged, or has a row too long or a column too many.
        """
        with damage_as_finding(), self._zip.open(sheet.part) as stream:
            yield from Cutter(stream, sheet.name, self._texts, self._packed).parts()

    def ends(self, sheet: SheetFile, rows: int) -> Ends:
        """Return up to `rows` rows from the top and from the bottom of a sheet, and the cells merged at the top.

        Raises:
            UnreadableError: The sheet is damaged, as far as it is looked at.
        """
        with damage_as_finding(), self._zip.open(sheet.part) as stream:
            return Cutter(stream, sheet.name, self._texts, self._packed).ends(rows)

    def laid(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Lay up to `PARTS_AT_ONCE` parts into `workbook`, as sheets named `1`, `2` ..., and yield each."""
        shutil.copyfile(self._base, self.workbook)
        with zipfile.ZipFile(self.workbook, "a") as archive:
            for number, part in enumerate(parts, start=1):
                with archive.open(f"xl/worksheets/{number}.xml", "w") as file:
                    for some in (part.opening, part.rows, part.closing):
                        file.write(some)
                yield part


def _copy_texts(source: IO[bytes], target: IO[bytes], known: SharedTexts) -> None:
    size = texts = 0
    while block := source.read(_BLOCK):
        if size == 0:
            refuse_entities(block)
        size += len(block)
        texts += block.count(b"<si")
        if size > MOST_TEXTS_BYTES or texts > MOST_TEXTS:
            raise UnreadableError(
                file_finding("TOO_LARGE_INSIDE", "the texts of the workbook are more than any invoices have")
            )
        known.learn(block)
        target.write(block)
    known.close()


def _number(element: ElementTree.Element, name: str) -> int:
    stated = element.get(name, "")
    return int(stated) if stated.isascii() and stated.isdigit() else 0


def _plain(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/").lower()
