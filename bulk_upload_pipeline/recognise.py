import csv

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.model import Layout, Overrides


def recognise(path, file_name, profiles, *, folder=None, overrides=Overrides()):
    with path.open(newline="", encoding="utf-8-sig") as f:
        header = next(csv.reader(f), None)
    if not header:
        raise UnreadableError(file_finding("EMPTY_FILE"))
    m = profiles.match(header)
    if m.twice:
        raise UnreadableError(file_finding("DUPLICATE_COLUMN", str(m.twice)))
    if m.missing:
        raise UnreadableError(file_finding("MISSING_COLUMN", str(m.missing)))
    return Layout("csv", tuple(header), m.mapping, m.profile.name, encoding="utf-8", delimiter=",")
