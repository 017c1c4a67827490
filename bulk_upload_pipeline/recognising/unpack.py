"""Packed files as streams of their content: gzip, and one member of a zip, with limits against bombs."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from bulk_upload_pipeline import scratch
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

MOST_UNPACKED = 32 << 30
"""Bytes that come out of a packed file at most: some hundred million invoice lines."""

HIGHEST_RATIO = 250
"""How many times larger than the file its content may be. Invoices pack 5 to 30 times smaller."""

RATIO_MATTERS = 64 << 20
"""Bytes of content up to which no ratio is too high: a short file of blanks is no bomb."""


def damaged(what: str) -> UnreadableError:
    """Return the error of a file that is not as its kind is."""
    return UnreadableError(file_finding("DAMAGED_FILE", what))


def opened(path: Path, compression: str | None, member: str | None) -> BinaryIO:
    """Open the content of a file for reading once, from its beginning.

    Args:
        path: The file as it came.
        compression: `gzip`, `zip` or None.
        member: Name of the file inside a zip.

    Returns:
        A stream whose `read` raises `UnreadableError` where the packed file is damaged (`DAMAGED_FILE`) or its
        content too large (`TOO_LARGE_INSIDE`).

    Raises:
        UnreadableError: The zip cannot be opened, or its member is protected by a password.
    """
    if compression is None:
        return path.open("rb")
    packed = path.stat().st_size
    if compression == "gzip":
        return io.BufferedReader(_Unpacked(gzip.open(path), packed), 1 << 20)
    assert member is not None
    with damage_as_finding():
        archive = zipfile.ZipFile(path)
        return io.BufferedReader(_Unpacked(archive.open(member), packed, archive), 1 << 20)


@contextmanager
def unpacked(path: Path, compression: str | None, member: str | None) -> Iterator[Path]:
    """Yield a path of the content, for formats that are read from several places at once.

    Raises:
        UnreadableError: As `opened`.
    """
    if compression is None:
        yield path
        return
    with scratch.folder("unpacked") as folder:
        target = folder / "content"
        with opened(path, compression, member) as source, target.open("wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
        yield target


@contextmanager
def damage_as_finding() -> Iterator[None]:
    """Turn what the unpackers of the standard library say into findings."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError):
        raise damaged("it cannot be unpacked to its end") from None
    except OSError as error:
        # A place before the beginning of the file, or a stream of bzip2 that is none: no fault of the disk.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise damaged("it cannot be unpacked to its end") from None
    except (zipfile.BadZipFile, UnicodeDecodeError):
        raise damaged("it is no whole .zip file") from None
    except NotImplementedError:
        raise UnreadableError(
            file_finding("UNSUPPORTED_FORMAT", "a .zip that was packed by an uncommon method")
        ) from None
    except RuntimeError as error:
        if "password" not in str(error) and "encrypted" not in str(error):
            raise
        raise UnreadableError(file_finding("PASSWORD_PROTECTED")) from None


def refuse_bomb(unpacked_bytes: int, packed_bytes: int) -> None:
    """Stop where content is larger than any file of invoices, or than its packed size can explain.

    Raises:
        UnreadableError: `TOO_LARGE_INSIDE`.
    """
    if unpacked_bytes > MOST_UNPACKED:
        raise UnreadableError(
            file_finding("TOO_LARGE_INSIDE", f"it holds more than {MOST_UNPACKED >> 30} GB of content")
        )
    if unpacked_bytes > RATIO_MATTERS and unpacked_bytes > HIGHEST_RATIO * packed_bytes:
        raise UnreadableError(
            file_finding(
                "TOO_LARGE_INSIDE",
                f"its content is more than {HIGHEST_RATIO} times as large as the file itself",
            )
        )


class _Unpacked(io.RawIOBase):
    """The content of a packed file, counted while it comes."""

    def __init__(
        self, source: IO[bytes] | gzip.GzipFile, packed: int, archive: zipfile.ZipFile | None = None
    ) -> None:
        self._source, self._packed, self._archive = source, packed, archive
        self._done = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer with what comes next; 0 at the end."""
        view = memoryview(buffer).cast("B")
        with damage_as_finding():
            block = self._source.read(len(view))
        view[: len(block)] = block
        self._done += len(block)
        refuse_bomb(self._done, self._packed)
        return len(block)

    def close(self) -> None:
        """Close the packed file as well."""
        if not self.closed:
            self._source.close()
            if self._archive is not None:
                self._archive.close()
        super().close()
