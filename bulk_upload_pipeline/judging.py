"""One file on its way through reading, parsing and judging, until it is staged."""

from __future__ import annotations

import ctypes
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from bulk_upload_pipeline import contract
from bulk_upload_pipeline import findings as catalogue
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.overlap import ahead
from bulk_upload_pipeline.pace import Pace
from bulk_upload_pipeline.reading.chunking import LONG_ROW, MOST_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from bulk_upload_pipeline.model import ChunkVerdict, Layout, Progress, TextChunk, TypedChunk, Verdict
    from bulk_upload_pipeline.profiles import DateOrder, Profile
    from bulk_upload_pipeline.staged import StagedBatch


_DECAY_MS = 100
"""How long freed memory is kept: at 0 each chunk asks the system anew, which costs a tenth of the time."""

_ARENAS_AT_MOST = -8
"""`M_ARENA_MAX` of glibc's `malloc.h`; another C library ignores it, or has no `mallopt`."""


@dataclass(frozen=True)
class Judging:
    """How a file is judged.

    Attributes:
        corrected: Rows that a correction has loaded, with its batch: whatever they are now, they do not load.
    """

    path: Path
    layout: Layout
    profile: Profile
    chunk_rows: int
    max_error_rate: float
    on_progress: Callable[[Progress], None]
    corrected: Mapping[int, str] = field(default_factory=dict)

    def chunks(self) -> Iterator[TextChunk]:
        """Read the file from its beginning."""
        from bulk_upload_pipeline.read import read_chunks

        return read_chunks(self.path, self.layout, self.chunk_rows)

    @cached_property
    def date_order(self) -> DateOrder | None:
        """The order on which the dates of the whole file agree: a second reading, only when one is in doubt."""
        from bulk_upload_pipeline.parse import date_order_of

        return date_order_of(self.chunks(), self.layout)

    def judge(self, chunk: TextChunk) -> tuple[ChunkVerdict, int]:
        """Return the verdict on a chunk, and the bytes of the file up to its end."""
        from bulk_upload_pipeline.validate import judge

        return judge(self.parse(chunk), self.layout, self.profile, datetime.now(UTC).date()), chunk.bytes_done

    def parse(self, chunk: TextChunk) -> TypedChunk:
        """Return the typed rows of a chunk, with what is wrong with them already."""
        typed = self.typed(chunk)
        numbers = chunk.row_numbers.to_pylist() if self.corrected else []
        standing = {number: self.corrected[number] for number in numbers if number in self.corrected}
        return with_findings(typed, chunk.findings, already_corrected(standing))

    def typed(self, chunk: TextChunk) -> TypedChunk:
        """Return the typed rows of a chunk, with what could not be read."""
        from bulk_upload_pipeline.parse import parse_chunk

        return parse_chunk(chunk, self.layout, self.profile, lambda: self.date_order)

    @property
    def circumstances(self) -> list[object]:
        """What else decides which rows load, of a file of which that is not known by itself; as JSON has it."""
        return []

    def repeated(self) -> pa.Table | None:
        """Return the line occurrences above 1, None when they are counted in the file."""
        return None


def with_findings(typed: TypedChunk, *more: pa.Table | None) -> TypedChunk:
    """Return typed rows with further findings."""
    added = [table for table in more if table is not None and len(table)]
    return replace(typed, findings=pa.concat_tables([typed.findings, *added])) if added else typed


def already_corrected(standing: Mapping[int, str]) -> pa.Table | None:
    """Return the findings on rows that stand in the target by a correction, which is named."""
    if not standing:
        return None
    numbers = pa.array(standing.keys(), pa.int64())
    return catalogue.row_findings("ALREADY_CORRECTED", None, numbers, values=pa.array(standing.values()))


def plan_of(judging: Judging, sha256: str | None) -> str:
    """Return a digest of all that decides which rows are staged in which chunk."""
    layout, profile = asdict(judging.layout), asdict(judging.profile)
    cut = (judging.chunk_rows, MOST_TEXT, LONG_ROW)
    decisive: list[object] = [sha256, layout, profile, contract.RULES_VERSION, cut]
    if judging.corrected:
        decisive.append(sorted(judging.corrected))
    decisive += judging.circumstances
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def give_memory_back_soon() -> None:
    """Choose allocators that hold on to freed memory least: a quarter off the peak of a load.

    Of Arrow's that is jemalloc, which a wheel for another system may lack. The C library keeps what each thread
    has freed for that thread: with one arena for all of them a load keeps 20 MB less, at no cost that shows.
    """
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(_DECAY_MS)
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_ARENAS_AT_MOST, 1)


def judged_chunks(judging: Judging) -> Iterator[tuple[ChunkVerdict, int]]:
    """Yield the verdict on each chunk in file order, and the bytes of the file up to its end."""
    return map(judging.judge, ahead(judging.chunks()))


def stage(judging: Judging, staged: StagedBatch, plan: str) -> Verdict:
    """Judge a whole file and stage what may load.

    Raises:
        UnreadableError: It turned out unreadable in the middle, or has no rows.
    """
    from bulk_upload_pipeline.stage import Stage
    from bulk_upload_pipeline.validate import prepare

    prepare()
    give_memory_back_soon()
    written = judging.layout.written_as or judging.layout
    size = None if written.compression else max(judging.path.stat().st_size, 1)
    pace = Pace("validating", judging.on_progress)
    with Stage(staged.folder) as staging:
        for judged, bytes_done in judged_chunks(judging):
            staging.add(judged)
            pace.advance(judged.rows_read, size and bytes_done / size)
        verdict = staging.seal(plan, judging.max_error_rate, judging.repeated())
    if verdict.rows_read == 0:
        raise UnreadableError(catalogue.file_finding("NO_DATA_ROWS"))
    return replace(verdict, rows_corrected=len(judging.corrected))
