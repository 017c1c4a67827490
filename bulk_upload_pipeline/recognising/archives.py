"""What lies in a .zip: a spreadsheet, which is a zip itself, or the files that somebody packed together.

Nothing is ever written under the name of a member: names of members are hostile input.
"""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bulk_upload_pipeline.exceptions import SeveralFilesError, UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.recognising.unpack import damage_as_finding, refuse_bomb

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

MOST_MEMBERS = 1_000
"""Files that are taken out of one archive."""

_MOST_ENTRIES = 20_000
"""Entries that an archive may list, folders and the parts of a spreadsheet included."""

_LONGEST_LIST = 8 << 20
"""Bytes of that list: an entry takes ten times as much in memory, and packed once more next to nothing in the file."""

_DOCUMENTS = (
    ("xl/workbook.xml", "xlsx"),
    ("xl/workbook.bin", "xlsb"),
)
_UNSUPPORTED = (
    ("word/document.xml", "a Word document"),
    ("ppt/presentation.xml", "a PowerPoint presentation"),
)
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument."
_COMPANIONS = frozenset({"thumbs.db", "desktop.ini"})
"""Files that the desktop of Windows puts beside others."""


class Archive:
    """A .zip, looked at without unpacking it.

    Raises:
        UnreadableError: It is damaged, or its list alone is a bomb.
    """

    def __init__(self, path: Path) -> None:
        self._packed = path.stat().st_size
        with ExitStack() as until_opened:
            file = until_opened.enter_context(_Sparing(io.FileIO(path)))
            with damage_as_finding():
                self._zip = until_opened.enter_context(zipfile.ZipFile(file))
            self._entries = self._zip.infolist()
            if len(self._entries) > _MOST_ENTRIES:
                listed = f"it lists {len(self._entries):,} files"
                raise UnreadableError(file_finding("TOO_LARGE_INSIDE", listed))
            self._opened = until_opened.pop_all()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def document(self) -> str | None:
        """Return the format of the spreadsheet that the archive is, None where it is none.

        Raises:
            UnreadableError: It is another Office document, or unpacks to more than any spreadsheet.
        """
        names = {entry.filename.lower() for entry in self._entries}
        for name, what in _UNSUPPORTED:
            if name in names:
                raise UnreadableError(file_finding("UNSUPPORTED_FORMAT", what))
        found = next((form for name, form in _DOCUMENTS if name in names), None) or self._open_document()
        if found is not None:
            refuse_bomb(sum(entry.file_size for entry in self._entries), self._packed)
        return found

    def _open_document(self) -> str | None:
        entry = next((entry for entry in self._entries if entry.filename == "mimetype"), None)
        if entry is None or entry.file_size > len(_OPEN_DOCUMENT) + 100:
            return None
        with damage_as_finding():
            kind = self._zip.read(entry).decode("ascii", "replace").strip()
        if not kind.startswith(_OPEN_DOCUMENT):
            return None
        if not kind.startswith(f"{_OPEN_DOCUMENT}spreadsheet"):
            raise UnreadableError(
                file_finding("UNSUPPORTED_FORMAT", "an OpenDocument that is no spreadsheet")
            )
        return "ods"

    def members(self) -> list[zipfile.ZipInfo]:
        """Return the files in it that a person put there.

        Raises:
            UnreadableError: `UNSAFE_ARCHIVE` for a name that leads out of the archive or a link,
                `TOO_LARGE_INSIDE`, `PASSWORD_PROTECTED`, `EMPTY_FILE`.
        """
        files = (entry for entry in self._entries if not entry.filename.endswith("/"))
        members = [entry for entry in files if not _is_companion(entry)]
        for entry in members:
            _refuse_unsafe(entry)
        if len(members) > MOST_MEMBERS:
            raise UnreadableError(
                file_finding(
                    "TOO_LARGE_INSIDE", f"it holds {len(members):,} files; {MOST_MEMBERS:,} are the most"
                )
            )
        if not members:
            raise UnreadableError(file_finding("EMPTY_FILE"))
        refuse_bomb(sum(entry.file_size for entry in members), self._packed)
        return members

    def only_member(self) -> str:
        """Return the name of the one file in it.

        Raises:
            UnreadableError: As `members`.
            SeveralFilesError: There are several.
        """
        members = self.members()
        if len(members) > 1:
            raise SeveralFilesError([member.filename for member in members])
        return members[0].filename

    def extract(self, entry: zipfile.ZipInfo, target: Path) -> None:
        """Write the content of a member to `target`, whatever the member is called.

        Raises:
            UnreadableError: It is damaged, or larger than it says.
        """
        with damage_as_finding(), self._zip.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


class _Sparing(io.BufferedReader):
    """A .zip of which `zipfile` reads nothing large at once: that could only be its list, which it keeps whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does.

        Raises:
            UnreadableError: `TOO_LARGE_INSIDE`.
        """
        if size is not None and size > _LONGEST_LIST:
            listed = f"its list of files takes more than {_LONGEST_LIST >> 20} MB"
            raise UnreadableError(file_finding("TOO_LARGE_INSIDE", listed))
        return super().read(size)


def _is_companion(entry: zipfile.ZipInfo) -> bool:
    """Return whether an operating system put the file there, not a person."""
    name = PurePosixPath(entry.filename).name
    return entry.filename.startswith("__MACOSX/") or name.startswith(".") or name.lower() in _COMPANIONS


def _refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    parts = entry.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise UnreadableError(
            file_finding("UNSAFE_ARCHIVE", f"the path {entry.filename!r} in it leads out of its folder")
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnreadableError(file_finding("UNSAFE_ARCHIVE", f"{entry.filename!r} in it is a link"))
    if entry.flag_bits & 1:
        raise UnreadableError(file_finding("PASSWORD_PROTECTED"))
