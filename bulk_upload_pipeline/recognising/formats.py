"""Which format a file is in, told by its content: a wrong ending of its name is no error."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline.recognising.archives import Archive
from bulk_upload_pipeline.recognising.unpack import opened, unpacked

if TYPE_CHECKING:
    from pathlib import Path

SPREADSHEETS = frozenset({"xlsx", "xls", "xlsb", "ods"})

_HEAD = 64 << 10
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_GZIP = b"\x1f\x8b"
_OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PARQUET = b"PAR1"

_NOT_TABLES = (
    (b"%PDF", "it is a PDF document"),
    (b"\x89PNG", "it is a picture (PNG)"),
    (b"\xff\xd8\xff", "it is a picture (JPEG)"),
    (b"GIF8", "it is a picture (GIF)"),
    (b"\x7fELF", "it is a program"),
    (b"MZ", "it is a program"),
    (b"{\\rtf", "it is a text document (RTF)"),
)
_UNSUPPORTED = (
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ\x00", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"ARROW1", "an Arrow file"),
)

_JSON_ARRAY = re.compile(r"\s*\[\s*(?:[\[{\]]|$)")
_JSON_OBJECT = re.compile(r'\s*\{\s*(?:["}]|$)')
_HTML = re.compile(r"\s*<(?:!doctype html|html|head|body|table|meta)\b", re.IGNORECASE)
_XML = re.compile(r"\s*<\?xml\b|\s*<[a-z]+:?Workbook\b", re.IGNORECASE)

_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\x1a\x1b\x1f"))
_MOST_CONTROLS = 0.05
_KINDS_OF_CONTROLS = 5
"""Different control characters of which a text, even one that is parted by some of them, has fewer."""


@dataclass(frozen=True, slots=True)
class Identified:
    """A format of `Layout.file_format`, and how the content is packed."""

    file_format: str
    compression: str | None = None
    member: str | None = None


def identify(path: Path) -> Identified:
    """Return the format of a file.

    Raises:
        UnreadableError: It is none that can be read here, or is packed in a way that is refused.
        SeveralFilesError: It is a .zip of several files.
    """
    head = _head(path)
    if head.startswith(_GZIP):
        return _inside(path, Identified("", "gzip"))
    if head.startswith(_ZIP):
        with Archive(path) as archive:
            document = archive.document()
            member = None if document else archive.only_member()
        return Identified(document) if document else _inside(path, Identified("", "zip", member))
    return Identified(_format_of(path, head))


def is_archive(path: Path) -> bool:
    """Return whether a file is packed, but for a spreadsheet, which is packed by its nature."""
    head = _head(path)
    if not head.startswith(_ZIP):
        return head.startswith(_GZIP)
    try:
        with Archive(path) as archive:
            return archive.document() is None
    except UnreadableError:
        return False  # damaged, or a document of another kind: that is said of the file itself


def _head(path: Path, packed: Identified | None = None) -> bytes:
    compression, member = (packed.compression, packed.member) if packed else (None, None)
    with opened(path, compression, member) as stream:
        return stream.read(_HEAD)


def _inside(path: Path, packed: Identified) -> Identified:
    """Return the format of packed content, which may be a spreadsheet but no further archive."""
    head = _head(path, packed)
    if head.startswith(_GZIP):
        raise _nested()
    if not head.startswith((*_ZIP, _OLE2)):
        return replace(packed, file_format=_format_of(path, head))
    with unpacked(path, packed.compression, packed.member) as content:
        if head.startswith(_OLE2):
            return replace(packed, file_format=_format_of(content, head))
        with Archive(content) as archive:
            document = archive.document()
    if document is None:
        raise _nested()
    return replace(packed, file_format=document)


def _nested() -> UnreadableError:
    return UnreadableError(file_finding("UNSAFE_ARCHIVE", "it is a packed file inside a packed file"))


def _format_of(path: Path, head: bytes) -> str:
    """Return the format of content that is not packed."""
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(_OLE2):
        return _old_office(path)
    for start, what in _NOT_TABLES:
        if head.startswith(start) and not _is_text(head):
            raise UnreadableError(file_finding("NOT_A_TABLE", what))
    for start, what in _UNSUPPORTED:
        if head.startswith(start) and not _is_text(head):
            raise UnreadableError(file_finding("UNSUPPORTED_FORMAT", what))
    return _format_of_text(head)


def _old_office(path: Path) -> str:
    """Return `xls` for the container in which Office kept its files before 2007, if it holds a workbook."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:

        def holds(name: str) -> bool:
            return content.find(name.encode("utf-16-le")) >= 0

        protected, workbook = holds("EncryptedPackage"), holds("Workbook\0") or holds("Book\0")
    if protected:
        raise UnreadableError(file_finding("PASSWORD_PROTECTED"))
    if not workbook:
        raise UnreadableError(file_finding("UNSUPPORTED_FORMAT", "an Office document that is no spreadsheet"))
    return "xls"


def _format_of_text(head: bytes) -> str:
    if not _is_text(head):
        raise UnreadableError(file_finding("NOT_A_TABLE", "it is no text, and no kind of file that is known"))
    text = encodings.decoded_head(head)
    if _JSON_ARRAY.match(text):
        return "json"
    if _JSON_OBJECT.match(text):
        return "jsonl"
    if _HTML.match(text):
        raise UnreadableError(file_finding("UNSUPPORTED_FORMAT", "a web page (HTML)"))
    if _XML.match(text):
        raise UnreadableError(file_finding("UNSUPPORTED_FORMAT", "an XML document"))
    return "csv"


def _is_text(head: bytes) -> bool:
    """Return whether bytes can be text of some encoding: hardly any control characters, or UTF-16 or 32."""
    if encodings.wide(head) is not None:
        return True
    visible = head.rstrip(b"\0")
    if not visible:
        return not head
    controls = len(visible) - len(visible.translate(None, _CONTROLS))
    kinds = sum(bytes([byte]) in visible for byte in _CONTROLS)
    return controls <= _MOST_CONTROLS * len(visible) or kinds < _KINDS_OF_CONTROLS
