"""Standard output and standard error of a command: what becomes of it when they take nothing, on a full disk say."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from bulk_upload_pipeline.exceptions import OutputLostError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def guarded() -> Generator[None]:
    """For the length of the block, a result that is not taken ends the command in a sentence; an aside does not."""
    before = sys.stdout, sys.stderr
    results, asides = (
        stream and made(stream) for stream, made in zip(before, (_Results, _Asides), strict=True)
    )
    sys.stdout, sys.stderr = cast("TextIO", results), cast("TextIO", asides)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in (results, asides):
            if stream and stream.is_lost:
                stream.forget()


class _Stream:
    """Stands before a stream, for whoever writes to it: rich, click or Python itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._noticing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noticing():
            self._stream.flush()

    @contextmanager
    def _noticing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            self.is_lost = True
            self.not_taken(error)

    def not_taken(self, error: OSError) -> None:
        """Do what follows when something was not taken: nothing."""

    def forget(self) -> None:
        """Let go what was not taken: Python would try it again at its end, and make up an exit code for that."""
        with suppress(OSError):  # a test's stream has no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class _Results(_Stream):
    """Results: who asked for them has to know that they are not there."""

    def not_taken(self, error: OSError) -> None:
        """Raise what ends the command. Who reads no further, as `head` does, has asked for no sentence."""
        if isinstance(error, BrokenPipeError):
            raise error
        raise OutputLostError(error.strerror or str(error)) from error


class _Asides(_Stream):
    """Progress and complaints: no load fails for a line that tells how far it is."""
