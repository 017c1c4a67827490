"""What every run needs, imported once: `code_server` forks runs from a process that has this module.

Nothing here may start a thread or open a connection: a fork would have half of it.
"""

import gc

import dagster_postgres
import pandera.pandas
import pyarrow.csv
import pyarrow.parquet

from bulk_upload_pipeline import (
    definitions,
    load,
    parse,
    profile_files,
    read,
    recognise,
    stage,
    validate,
    verbatim,
)
from bulk_upload_pipeline.reporting import summary

__all__ = [
    "dagster_postgres",
    "definitions",
    "load",
    "pandera",
    "parse",
    "profile_files",
    "pyarrow",
    "read",
    "recognise",
    "stage",
    "summary",
    "validate",
    "verbatim",
]

# pandera fills its registries at the first schema: a tenth of a second.
validate.prepare()
# What is imported lives as long as the process: a run shall not look for garbage in it, nor write to its pages, which
# would no longer be shared then.
gc.freeze()
