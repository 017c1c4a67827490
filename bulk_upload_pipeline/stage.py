"""Verdicts of chunks -> rows that load and findings in `staging/<batch_id>/`, and the verdict on the whole file.

Memory does not grow with the file: rows and findings go to disk chunk by chunk, and of each row only the
8 bytes of its identity's hash wait, on disk too, for the end of the file.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.found import FoundWriter
from bulk_upload_pipeline.model import Severity, Totals, Verdict
from bulk_upload_pipeline.staged import (
    OCCURRENCES_SCHEMA,
    StagedBatch,
    StagedPart,
    valid_writer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from bulk_upload_pipeline.model import ChunkVerdict

IDENTITIES, IDENTITY_ROWS = "identities.u64", "identity_rows.i64"

IDENTITIES_AT_ONCE = 500_000
"""Identities that are sorted in memory at once: 16 bytes each."""

IDENTITIES_READ_AT_ONCE = 500_000


class Stage:
    """Writes one batch to its staging folder, which it empties first. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.staged = StagedBatch(folder)
        self._valid_file = pa.OSFile(str(self.staged.valid_path), "wb")
        self._valid = valid_writer(self._valid_file)
        self._found = FoundWriter(folder)
        self._identities_path = folder / IDENTITIES
        self._identity_rows_path = folder / IDENTITY_ROWS
        self._identities = self._identities_path.open("wb")
        self._identity_rows = self._identity_rows_path.open("wb")
        self._rows_read = self._rows_rejected = self._rows_valid = self._warnings = self._chunks = 0
        self._codes: Counter[str] = Counter()
        self._totals_read = self._totals_valid = Totals()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, verdict: ChunkVerdict) -> None:
        """Stage one chunk. Chunks come in file order."""
        for batch in verdict.valid.combine_chunks().to_batches():
            self._valid.write_batch(batch)
            self._chunks += 1
        if len(verdict.findings):
            self._found.add(verdict)
            self._count(verdict.findings)
        verdict.identities.tofile(self._identities)
        verdict.identity_rows.tofile(self._identity_rows)
        self._rows_read += verdict.rows_read
        self._rows_rejected += verdict.rows_rejected
        self._rows_valid += len(verdict.valid)
        self._totals_read += verdict.totals_read
        self._totals_valid += verdict.totals_valid

    def seal(self, plan: str, max_error_rate: float, occurrences: pa.Table | None = None) -> Verdict:
        """Finish staging and return the verdict on the whole file.

        Args:
            plan: Digest of what decided the staged rows.
            max_error_rate: The breaker's limit.
            occurrences: Line occurrences above 1, where they are not counted in this file.
        """
        self._close()
        repeated = occurrences
        if repeated is None:
            repeated = repeated_lines([(self._identities_path, self._identity_rows_path, 0)])
        self._identities_path.unlink()
        self._identity_rows_path.unlink()
        self.staged.seal(repeated, plan)
        return self._verdict(plan, max_error_rate)

    def seal_part(self, plan: str, max_error_rate: float) -> Verdict:
        """Finish one part of a file and return the verdict on it; `compose` counts its line occurrences."""
        self._close()
        return self._verdict(plan, max_error_rate)

    def _verdict(self, plan: str, max_error_rate: float) -> Verdict:
        return Verdict(
            plan=plan,
            rows_read=self._rows_read,
            rows_valid=self._rows_valid,
            rows_rejected=self._rows_rejected,
            warnings=self._warnings,
            chunks=self._chunks,
            rules_version=contract.RULES_VERSION,
            max_error_rate=max_error_rate,
            findings_by_code=dict(self._codes.most_common()),
            totals_read=self._totals_read,
            totals_valid=self._totals_valid,
        )

    def _count(self, findings: pa.Table) -> None:
        for entry in findings["error_code"].value_counts().to_pylist():
            self._codes[entry["values"]] += entry["counts"]
        self._warnings += pc.sum(pc.equal(findings["severity"], str(Severity.WARNING))).as_py()

    def _close(self) -> None:
        if self._valid_file.closed:
            return
        files = (self._valid, self._valid_file, self._found, self._identities, self._identity_rows)
        # A full disk fails the first, and the others have to be closed nevertheless.
        with ExitStack() as stack:
            for file in reversed(files):
                stack.callback(file.close)


def compose(staged: StagedBatch, parts: Sequence[tuple[str, Verdict]], plan: str) -> Verdict:
    """Make one staged batch of the parts of a file, and return the verdict on the whole.

    Args:
        staged: The batch, in whose folder the parts are.
        parts: The folder of each part and the verdict on it, in file order.
        plan: Digest of what decided the staged rows, parts included.
    """
    placed: list[StagedPart] = []
    rows = chunks = 0
    for folder, verdict in parts:
        placed.append(StagedPart(folder, rows, chunks, verdict.chunks, verdict.rows_valid))
        rows, chunks = rows + verdict.rows_read, chunks + verdict.chunks
    staged.parts_path.write_text(json.dumps(placed), "utf-8")
    folders = [(staged.folder / part.folder, part.rows_before) for part in placed]
    sources = [(folder / IDENTITIES, folder / IDENTITY_ROWS, before) for folder, before in folders]
    staged.seal(repeated_lines(sources), plan)
    return _sum([verdict for _, verdict in parts], plan)


def _sum(verdicts: Sequence[Verdict], plan: str) -> Verdict:
    codes: Counter[str] = Counter()
    for verdict in verdicts:
        codes.update(verdict.findings_by_code)
    return Verdict(
        plan=plan,
        rows_read=sum(verdict.rows_read for verdict in verdicts),
        rows_valid=sum(verdict.rows_valid for verdict in verdicts),
        rows_rejected=sum(verdict.rows_rejected for verdict in verdicts),
        warnings=sum(verdict.warnings for verdict in verdicts),
        chunks=sum(verdict.chunks for verdict in verdicts),
        rules_version=contract.RULES_VERSION,
        max_error_rate=verdicts[0].max_error_rate,
        findings_by_code=dict(codes.most_common()),
        totals_read=sum((verdict.totals_read for verdict in verdicts), Totals()),
        totals_valid=sum((verdict.totals_valid for verdict in verdicts), Totals()),
    )


Source = tuple[Path, Path, int]
"""Where the identities of some rows lie, where their numbers, and how many rows come before them."""


def repeated_lines(sources: Sequence[Source]) -> pa.Table:
    """Return row number and occurrence of the lines that repeat an identity of an earlier line.

    The identities are taken in slices by their value, so that memory stays flat however long the file is.

    Args:
        sources: The identities in file order.
    """
    count = sum(identities.stat().st_size for identities, _, _ in sources) // 8
    if count <= IDENTITIES_AT_ONCE:
        found = [_repeated(*_joined(list(_blocks(sources))))]
    else:
        with TemporaryDirectory(dir=sources[0][0].parent) as folder:
            found = [
                _repeated(*one) for one in _slices(sources, -(-count // IDENTITIES_AT_ONCE), Path(folder))
            ]
    rows = np.concatenate([rows for rows, _ in found])
    occurrences = np.concatenate([occurrences for _, occurrences in found])
    order = np.argsort(rows)
    return pa.table([rows[order], occurrences[order].astype(np.int32)], schema=OCCURRENCES_SCHEMA)


Block = tuple[np.ndarray, np.ndarray]
"""Identities, and the row number of each."""


def _blocks(sources: Sequence[Source]) -> Iterator[Block]:
    """Yield all identities in file order, some at a time, with their row numbers in the file."""
    for identities, rows, before in sources:
        with identities.open("rb") as identity_file, rows.open("rb") as row_file:
            while len(block := np.fromfile(identity_file, np.uint64, IDENTITIES_READ_AT_ONCE)):
                yield block, np.fromfile(row_file, np.int64, len(block)) + before


def _joined(blocks: Sequence[Block]) -> Block:
    if not blocks:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate([k for k, _ in blocks]), np.concatenate([r for _, r in blocks])


def _slices(sources: Sequence[Source], slices: int, folder: Path) -> Iterator[Block]:
    """Yield the identities in slices by their value, each in file order; one pass writes them to files."""
    kept = [folder / str(part) for part in range(slices)]
    for identities, rows in _blocks(sources):
        slice_of = (identities % np.uint64(slices)).astype(np.int64)
        order = np.argsort(slice_of, kind="stable")
        pairs = np.stack((identities.view(np.int64), rows), axis=1)[order]
        ends = np.searchsorted(slice_of[order], np.arange(slices), side="right")
        for path, pair in zip(kept, np.split(pairs, ends[:-1]), strict=True):
            with path.open("ab") as file:
                pair.tofile(file)
    for path in kept:
        pairs = np.fromfile(path, np.int64).reshape(-1, 2)
        path.unlink()
        yield np.ascontiguousarray(pairs[:, 0]).view(np.uint64), pairs[:, 1]


def _repeated(identities: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(identities) == 0:
        return rows, rows
    order = np.argsort(identities, kind="stable")
    ordered = identities[order]
    positions = np.arange(len(ordered))
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    occurrences = positions - np.maximum.accumulate(np.where(starts, positions, 0)) + 1
    repeats = occurrences > 1
    return rows[order[repeats]], occurrences[repeats]
