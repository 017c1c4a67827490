"""How a file is to be read: its format, encoding, delimiter, header and profile, found in its content.

Nothing is taken from the file's name, and whatever a person or a profile states wins over what is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulk_upload_pipeline import encodings
from bulk_upload_pipeline.dialects import delimiter_of, top_of, top_records
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.formats import SPREADSHEETS, identify
from bulk_upload_pipeline.headers import HeaderFinder
from bulk_upload_pipeline.model import Layout, Overrides
from bulk_upload_pipeline.unpack import opened

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_upload_pipeline.encodings import Encoding
    from bulk_upload_pipeline.formats import Identified
    from bulk_upload_pipeline.headers import Header
    from bulk_upload_pipeline.profiles import Profiles
    from bulk_upload_pipeline.spreadsheets import SheetTop


def recognise(
    path: Path,
    file_name: str,
    profiles: Profiles,
    *,
    folder: str | None = None,
    overrides: Overrides | None = None,
) -> Layout:
    """Return how a file is to be read.

    Args:
        path: The file.
        file_name: The name that its sender gave it, for messages.
        profiles: The senders' formats.
        folder: Profile named by the folder in which it was dropped.
        overrides: What a person states about it.

    Raises:
        UnreadableError: No row of it can be judged; the finding says why.
    """
    stated = overrides or Overrides()
    return recognise_by(HeaderFinder(profiles, stated.profile or folder), path, file_name, stated)


def recognise_by(finder: HeaderFinder, path: Path, file_name: str, stated: Overrides) -> Layout:
    """Return how a file is to be read when `finder` says which row is the header and whose it is.

    Raises:
        UnreadableError: No row of it can be judged; the finding says why.
    """
    identified = identify(path, file_name)
    if identified.file_format == "csv":
        return _delimited(path, identified, finder, stated)
    if identified.file_format in SPREADSHEETS:
        return _spreadsheet(path, identified, finder, stated)
    return _records_with_names(path, identified, finder)


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
    found = header.match.profile
    if profile is None and _states_otherwise(found.encoding, encoding.codec, found.delimiter, delimiter):
        wanted = Overrides(
            encoding=stated.encoding or found.encoding, delimiter=stated.delimiter or found.delimiter
        )
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
        skip_rows=records[header.at].line,
    )


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


def _spreadsheet(path: Path, identified: Identified, finder: HeaderFinder, stated: Overrides) -> Layout:
    from bulk_upload_pipeline.spreadsheets import sheet_tops

    sheet = stated.sheet or (finder.stated.sheet if finder.stated else None)
    tops = [top for top in sheet_tops(path, identified) if sheet in (None, top.name)]
    if not tops:
        raise UnreadableError(file_finding("NOT_A_TABLE", f"it has no sheet named {sheet!r}"))
    first, header = _best_header(tops, finder)
    return Layout(
        file_format=identified.file_format,
        header=header.names,
        mapping=header.match.mapping,
        profile=header.match.profile.name,
        compression=identified.compression,
        member=identified.member,
        skip_rows=header.at,
        sheets=tuple(top.name for top in tops if top is first or _same_header(top, header, finder)),
        excel_serials=True,
    )


def _best_header(tops: list[SheetTop], finder: HeaderFinder) -> tuple[SheetTop, Header]:
    """Return the sheet in which most names of columns are known, and its header."""
    best = max(tops, key=lambda top: max((finder.known(row) for row in top.rows), default=-1))
    return best, finder.find(best.rows)


def _same_header(top: SheetTop, header: Header, finder: HeaderFinder) -> bool:
    try:
        return finder.find(top.rows).names == header.names
    except UnreadableError:
        return False


def _records_with_names(path: Path, identified: Identified, finder: HeaderFinder) -> Layout:
    """Return the layout of a format whose records carry the names of their columns."""
    if identified.file_format == "parquet":
        from bulk_upload_pipeline.columnar import parquet_header as names_of
    else:
        from bulk_upload_pipeline.documents import document_header as names_of
    names = names_of(path, identified)
    match = finder.match(names)
    return Layout(
        file_format=identified.file_format,
        header=names,
        mapping=match.mapping,
        profile=match.profile.name,
        compression=identified.compression,
        member=identified.member,
        encoding=None if identified.file_format == "parquet" else "utf-8",
    )
