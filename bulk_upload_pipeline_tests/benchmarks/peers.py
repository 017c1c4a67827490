r"""What else could load the file: other tools on the same rows, the same table and the same server.

python -m bulk_upload_pipeline_tests.benchmarks.peers [--rows 300000] [--only polars,dlt] [--json FILE]

Ours gets the file as it came. The others get its rows already clean, since none of them would read its amounts;
what they do not do (judge a row, keep a rejected one, go on after a kill) is not held against their time.
They come with `pip install -e .[bench]`; a tool that is not there is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bulk_upload_pipeline import contract
from bulk_upload_pipeline_tests.benchmarks.loads import load, warm_up
from bulk_upload_pipeline_tests.benchmarks.measuring import Measured, machine, measured, median
from bulk_upload_pipeline_tests.benchmarks.reference import COLUMNS, bare_copy, merge
from bulk_upload_pipeline_tests.benchmarks.world import World, world

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DLT_DATASET = "by_dlt"


def with_pandas(clean: Path, url: sa.URL) -> None:
    """`read_csv` and `to_sql`, as every tutorial has it."""
    import pandas as pd

    rows = pd.read_csv(clean, names=list(COLUMNS), dtype=str, keep_default_na=False, na_values=[""])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        rows.astype(object).where(rows.notna(), None).to_sql(
            contract.TARGET, connection, if_exists="append", index=False, chunksize=10_000
        )
    engine.dispose()


def with_polars(clean: Path, url: sa.URL) -> None:
    """Polars, typed, written through ADBC: COPY in binary."""
    import polars as pl

    types = {
        contract.Kind.AMOUNT: pl.Decimal(contract.AMOUNT_DIGITS, contract.AMOUNT_DECIMALS),
        contract.Kind.DATE: pl.Date,
    }
    schema = {name: pl.String() for name in COLUMNS}
    rows = pl.read_csv(clean, has_header=False, new_columns=list(COLUMNS), schema=schema)
    rows = rows.with_columns(
        *(
            pl.col(column.name).cast(types[column.kind])
            for column in contract.COLUMNS
            if column.kind in types
        ),
        pl.col("line_occurrence", "row_number").cast(pl.Int32),
    )
    rows.write_database(contract.TARGET, _for_libpq(url), engine="adbc", if_table_exists="append")


def with_dlt(clean: Path, url: sa.URL) -> None:
    """dlt: Arrow tables from the file into a table of its own, which has no key and no index."""
    import dlt
    import pyarrow as pa
    import pyarrow.csv

    def rows() -> Any:
        reading = pyarrow.csv.ReadOptions(column_names=list(COLUMNS), block_size=16 << 20)
        text = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=True
        )
        yield from pyarrow.csv.open_csv(clean, reading, convert_options=text)

    with tempfile.TemporaryDirectory(prefix="bulk-upload-dlt-") as folder:
        pipeline = dlt.pipeline(
            "bench",
            pipelines_dir=folder,
            destination=dlt.destinations.postgres(credentials=_for_libpq(url, password="none")),
            dataset_name=DLT_DATASET,
        )
        pipeline.run(rows(), table_name=contract.TARGET, write_disposition="append")


def with_pgloader(clean: Path, url: sa.URL) -> None:
    """pgloader, where it is installed."""
    columns = ", ".join(f"{name} [null if blanks]" for name in COLUMNS)
    server = f"pgsql://{url.username}@unix:{url.query['host']}:{url.query['port']}/{url.database}"
    script = clean.with_suffix(".load")
    script.write_text(
        f"LOAD CSV FROM '{clean}' ({columns}) INTO {server} TARGET TABLE public.{contract.TARGET} "
        f"({', '.join(COLUMNS)}) WITH fields optionally enclosed by '\"', fields escaped by double-quote, "
        f"fields terminated by ',';\n"
    )
    subprocess.run(["pgloader", "--on-error-stop", str(script)], check=True, stdout=subprocess.DEVNULL)


def _for_libpq(url: sa.URL, password: str | None = None) -> str:
    """Return a URL whose host is the folder of the socket, as libpq takes it and others can parse it."""
    plain = sa.URL.create(
        "postgresql",
        url.username,
        password,
        host=None,
        database=url.database,
    ).render_as_string(hide_password=False)
    folder = str(url.query["host"]).replace("/", "%2F")
    return plain.replace("@", f"@{folder}:{url.query['port']}", 1)


PEERS: dict[str, Callable[[Path, sa.URL], None]] = {
    "pandas": with_pandas,
    "polars": with_polars,
    "dlt": with_dlt,
    "pgloader": with_pgloader,
}
NEEDS = {"polars": ("polars", "adbc_driver_postgresql"), "dlt": ("dlt",)}


def is_there(name: str) -> bool:
    """Return whether a tool is installed."""
    if name == "pgloader":
        return shutil.which("pgloader") is not None
    return all(importlib.util.find_spec(module) is not None for module in NEEDS.get(name, ()))


def _in_a_process(name: str, clean: Path, url: sa.URL) -> Measured:
    """Run a peer by itself, so that its imports and its memory are its own."""
    command = [sys.executable, "-m", __spec__.name, "--peer", name, str(clean)]
    address = {"PEER_DATABASE_URL": url.render_as_string(hide_password=False)}
    quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
    return measured(command, os.environ | address | quiet)


def compare(rows: int, repeat: int, only: tuple[str, ...], folder: Path | None) -> list[dict[str, Any]]:
    """Return a row a tool: its median seconds, speed and peak memory, or that it failed."""
    with world(folder) as here:
        warm_up(here)
        sample = here.sample(rows)
        clean = here.clean(sample)
        loaders: dict[str, Callable[[sa.URL], Measured]] = {
            "bulk-upload load": lambda url: load(sample, here, url),
            r"psql \copy": lambda url: bare_copy(clean, url),
            "psql COPY + INSERT ON CONFLICT": lambda url: merge(clean, url),
        }
        for name in PEERS:
            if is_there(name) and (not only or name in only):
                loaders[name] = lambda url, name=name: _in_a_process(name, clean, url)  # type: ignore[misc]
        taken: dict[str, list[Measured]] = {name: [] for name in loaders}
        for _ in range(repeat):
            for name, run in loaders.items():
                with here.database() as url:
                    taken[name].append(run(url))
                    _refuse_missing_rows(here, url, rows, name, taken[name][-1])
        return [_figures(name, results, rows) for name, results in taken.items()]


def _refuse_missing_rows(here: World, url: sa.URL, rows: int, name: str, result: Measured) -> None:
    if result.exit_code:
        return
    table = f"{DLT_DATASET}.{contract.TARGET}" if name == "dlt" else contract.TARGET
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
    if found != rows:
        raise SystemExit(f"{name} loaded {found:,} of {rows:,} rows.")


def _figures(name: str, results: list[Measured], rows: int) -> dict[str, Any]:
    if any(result.exit_code > 1 or (name in PEERS and result.exit_code) for result in results):
        return {"tool": name, "failed": True}
    seconds = median(result.seconds for result in results)
    return {
        "tool": name,
        "seconds": seconds,
        "all_seconds": [result.seconds for result in results],
        "rows_per_second": rows / seconds,
        "peak_mb": max(result.peak_mb for result in results),
    }


def _print(figures: list[dict[str, Any]], rows: int) -> None:
    table = Table()
    for name in ("tool", "s", "rows/s", "peak MB", "x ours"):
        table.add_column(name, justify="left" if name == "tool" else "right")
    ours = figures[0].get("seconds")
    for row in figures:
        if row.get("failed"):
            table.add_row(row["tool"], "failed")
            continue
        relative = f"{row['seconds'] / ours:.2f}" if ours else ""
        speed = f"{row['rows_per_second']:,.0f}"
        table.add_row(row["tool"], f"{row['seconds']:.2f}", speed, f"{row['peak_mb']:,.0f}", relative)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{rows:,} rows; {', '.join(f'{name} {value}' for name, value in machine().items())}")
    console.print(table)


def _run_peer(environment: Mapping[str, str], name: str, clean: Path) -> None:
    PEERS[name](clean, sa.make_url(environment["PEER_DATABASE_URL"]))


@click.command()
@click.option("--rows", default=300_000, show_default=True, type=click.IntRange(1))
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1))
@click.option("--only", default="", help="Peers to run, such as polars,dlt.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where to work."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures."
)
@click.option("--peer", hidden=True, type=click.Choice(list(PEERS)))
@click.argument("clean", required=False, type=click.Path(path_type=Path))
def main(
    rows: int,
    repeat: int,
    only: str,
    folder: Path | None,
    json_file: Path | None,
    peer: str | None,
    clean: Path | None,
) -> None:
    """Compare with other tools on the same rows, table and server."""
    if peer is not None and clean is not None:
        _run_peer(os.environ, peer, clean)
        return
    figures = compare(rows, repeat, tuple(name for name in only.split(",") if name), folder)
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": machine(), "rows": rows, "tools": figures}, indent=2))
    _print(figures, rows)


if __name__ == "__main__":
    main()
