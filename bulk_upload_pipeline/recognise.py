"""How a file is to be read: its format, encoding, delimiter, header and profile, found in its content.

Nothing is taken from the file's name, and whatever a person or a profile states wins over what is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.model import Layout, Overrides
from bulk_upload_pipeline.origin import CORRECTION, ROW_NUMBER
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline.recognising.dialects import (
    TOP_BYTES,
    TOP_RECORDS,
    delimiter_of,
    top_of,
    top_records,
)
from bulk_upload_pipeline.recognising.formats import SPREADSHEETS, identify
from bulk_upload_pipeline.recognising.headers import HeaderFinder
from bulk_upload_pipeline.recognising.unpack import opened

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_upload_pipeline.profiles import Profile, Profiles
    from bulk_upload_pipeline.recognising.dialects import TopRecord
    from bulk_upload_pipeline.recognising.encodings import Encoding
    from bulk_upload_pipeline.recognising.formats import Identified


def recognise(
    path: Path,
    profiles: Profiles,
    *,
    folder: str | None = None,
    overrides: Overrides | None = None,
) -> Layout:
    """Return how a file is to be read.

    Args:
        path: The file.
        profiles: The senders' formats.
        folder: Profile named by the folder in which it was dropped.
        overrides: What a person states about it.

    Raises:
        UnreadableError: No row of it can be judged; the finding says why.
    """
    stated = overrides or Overrides()
    if folder is None or stated.profile is not None:
        return recognise_by(HeaderFinder(profiles, stated.profile), path, stated)
    return _correction_in_a_folder(path, profiles, stated) or _of_folder(path, profiles, folder, stated)


def _correction_in_a_folder(path: Path, profiles: Profiles, stated: Overrides) -> Layout | None:
    """Return how a correction is to be read, None for any other text.

    It is written by us, or by the clerk's spreadsheet, and not as the folder's sender writes.
    """
    return _as_correction(path, profiles, stated) if _names_own_columns(path) else None


def _names_own_columns(path: Path) -> bool:
    identified = identify(path)
    with opened(path, identified.compression, identified.member) as stream:
        top = stream.read(TOP_BYTES)
    return any(ROW_NUMBER.encode(codec) in top for codec in ("utf-8", "utf-16-le", "utf-16-be"))


def _as_correction(path: Path, profiles: Profiles, stated: Overrides) -> Layout | None:
    """Return how a file is to be read that is a correction by its header; the name may stand in any text."""
    try:
        layout = recognise_by(HeaderFinder(profiles, None), path, stated)
    except UnreadableError:
        return None
    return layout if layout.profile == CORRECTION else None


def _of_folder(path: Path, profiles: Profiles, folder: str, stated: Overrides) -> Layout:
    """Return how a file is to be read in the way of its folder's sender.

    What is inside a spreadsheet only shows when it is read, and a correction that was saved as one need not have the
    sheet that the sender's files have.
    """
    finder = HeaderFinder(profiles, folder)
    try:
        return recognise_by(finder, path, stated)
    except UnreadableError:
        correction = _as_correction(path, profiles, stated)
        if correction is None:
            raise
        return correction


def recognise_by(finder: HeaderFinder, path: Path, stated: Overrides) -> Layout:
    """Return how a file is to be read when `finder` says which row is the header and whose it is.

    Raises:
        UnreadableError: No row of it can be judged; the finding says why.
    """
    identified = identify(path)
    if identified.file_format == "csv":
        return _delimited(path, identified, finder, stated)
    if identified.file_format in SPREADSHEETS:
        return _spreadsheet(path, identified, finder, stated)
    if identified.file_format == "parquet":
        return _parquet(path, identified, finder)
    return _documents(path, identified, finder, stated)


def _delimited(path: Path, identified: Identified, finder: HeaderFinder, stated: Overrides) -> Layout:
    profile = finder.stated
    encoding = _encoding(path, identified, stated.encoding or (profile.encoding if profile else None))
    with opened(path, identified.compression, identified.member) as stream:
        top = top_of(encodings.utf8_blocks(stream, encoding.codec))
    delimiter = (
        stated.delimiter or (profile.delimiter if profile else None) or delimiter_of(top, finder.known)
    )
    records = top_records(top, delimiter)
    header = finder.find([record.cells for record in records])
    if _is_whole(top, records) and not any(any(record.cells) for record in records[header.at + 1 :]):
        raise UnreadableError(file_finding("NO_DATA_ROWS"))
    found = header.match.profile
    if profile is None and _states_otherwise(found.encoding, encoding.codec, found.delimiter, delimiter):
        wanted = _with_what_it_states(found, stated)
        if wanted != stated:
            return _delimited(path, identified, finder, wanted)
    return Layout(
        file_format="csv",
        header=header.names,
        mapping=header.match.mapping,
        profile=found.name,
        compression=identified.compression,
        member=identified.member,
        encoding=encoding.codec,
        encoding_confidence=encoding.confidence,
        delimiter=delimiter,
        quote='"',
        skip_rows=records[header.at].line,
    )


def _is_whole(top: bytes, records: list[TopRecord]) -> bool:
    """Return whether the first records of a text are all that there are."""
    return len(top) < TOP_BYTES and len(records) < TOP_RECORDS


def _encoding(path: Path, identified: Identified, stated: str | None) -> Encoding:
    if stated:
        return encodings.stated_encoding(stated)
    with opened(path, identified.compression, identified.member) as stream:
        return encodings.detect(stream)


def _states_otherwise(encoding: str | None, codec: str, wanted: str | None, delimiter: str) -> bool:
    """Return whether a profile that was found by its header states another encoding or delimiter."""
    return (encoding is not None and encodings.stated_encoding(encoding).codec != codec) or (
        wanted is not None and wanted != delimiter
    )


def _with_what_it_states(found: Profile, stated: Overrides) -> Overrides:
    """Return what a person states and, where that says nothing, what the profile does."""
    return Overrides(
        encoding=stated.encoding or found.encoding, delimiter=stated.delimiter or found.delimiter
    )


def _spreadsheet(path: Path, identified: Identified, finder: HeaderFinder, stated: Overrides) -> Layout:
    from bulk_upload_pipeline.reading.spreadsheets import recognise_sheets

    sheet = stated.sheet or (finder.stated.sheet if finder.stated else None)
    found = recognise_sheets(path, identified, finder, sheet)
    match = found.header.match
    if sheet is None and match.profile.sheet is not None:
        found = recognise_sheets(path, identified, finder, match.profile.sheet)
        match = found.header.match
    return Layout(
        file_format=identified.file_format,
        header=found.header.names,
        mapping=match.mapping,
        profile=match.profile.name,
        compression=identified.compression,
        member=identified.member,
        sheets=found.sheets,
        left_out=found.left_out,
        unread_sheets=found.unread_sheets,
        excel_serials=found.excel_serials,
    )


def _parquet(path: Path, identified: Identified, finder: HeaderFinder) -> Layout:
    from bulk_upload_pipeline.reading.columnar import parquet_header

    return _named(identified, parquet_header(path, identified), finder, None)


def _documents(path: Path, identified: Identified, finder: HeaderFinder, stated: Overrides) -> Layout:
    from bulk_upload_pipeline.reading.documents import document_header

    profile = finder.stated
    encoding = _encoding(path, identified, stated.encoding or (profile.encoding if profile else None))
    return _named(identified, document_header(path, identified, encoding.codec), finder, encoding)


def _named(
    identified: Identified, names: tuple[str, ...], finder: HeaderFinder, encoding: Encoding | None
) -> Layout:
    """Return the layout of a format whose records carry the names of their columns."""
    match = finder.match(names)
    return Layout(
        file_format=identified.file_format,
        header=names,
        mapping=match.mapping,
        profile=match.profile.name,
        compression=identified.compression,
        member=identified.member,
        encoding=encoding.codec if encoding else None,
        encoding_confidence=encoding.confidence if encoding else 1.0,
    )
