"""A sheet as large as Excel lets it be: memory does not grow with it, and reading it is fast."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile

import pytest

from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests import writers

ROWS = 1_000_000
MOST_MB = 1_000
ROWS_PER_SECOND = 15_000

WORKER = """
import json, resource, sys, time
from datetime import date
from pathlib import Path
import pyarrow
from bulk_upload_pipeline.parse import parse_chunk
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.validate import judge

pyarrow.set_cpu_count(1)
profiles, path = load_profiles(), Path(sys.argv[1])
layout = recognise(path, profiles)
rows = valid = 0
for chunk in read_chunks(path, layout, 25_000):
    typed = parse_chunk(chunk, layout, profiles[layout.profile], lambda: None)
    verdict = judge(typed, layout, profiles[layout.profile], date(2026, 11, 25))
    rows, valid = rows + verdict.rows_read, valid + len(verdict.valid)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": rows, "valid": valid, "mb": peak, "seconds": time.process_time()}))
"""


@pytest.mark.scale
def test_a_sheet_of_a_million_rows_is_judged_on_one_core_in_less_than_a_gigabyte(tmp_path):
    path = tmp_path / "million.xlsx"
    write_million(path, tmp_path / "sample.csv")
    command = [sys.executable, "-c", WORKER, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(found.stdout)
    assert (told["rows"], told["valid"]) == (ROWS, ROWS)
    assert told["mb"] < MOST_MB, told
    assert ROWS / told["seconds"] > ROWS_PER_SECOND, told


def write_million(path, sample):
    """The rows of a small sheet over and over, each under its own number: no library writes so many in time."""
    write_sample(sample, rows=2_000)

    with sample.open(encoding="utf-8-sig", newline="") as file:
        small = writers.as_xlsx(list(csv.reader(file)))
    (path.with_suffix(".small")).write_bytes(small)
    with (
        zipfile.ZipFile(path.with_suffix(".small")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        sheet = "xl/worksheets/sheet1.xml"
        for name in source.namelist():
            if name != sheet:
                target.writestr(name, source.read(name))
        top, *lines = re.split(rb"(?=<row )", source.read(sheet))
        lines[-1], end = lines[-1].split(b"</sheetData>")
        header, *lines = lines
        patterns = [
            re.sub(rb'(\br="[A-Z]*)%d"' % number, rb'\1@"', line)
            for number, line in enumerate(lines, start=2)
        ]
        with target.open(sheet, "w", force_zip64=True) as file:
            file.write(top + header)
            for number in range(ROWS):
                file.write(patterns[number % len(patterns)].replace(b"@", b"%d" % (number + 2)))
            file.write(b"</sheetData>" + end)
