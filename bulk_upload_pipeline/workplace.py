"""What every stage of the line works with: the folders, the database, the profiles, and who may be at it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from bulk_upload_pipeline import holding, storage
from bulk_upload_pipeline.places import Key
from bulk_upload_pipeline.staged import StagedBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from bulk_upload_pipeline.model import Progress
    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.profiles import Profiles
    from bulk_upload_pipeline.settings import Home, Settings

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def silent(_: Progress) -> None:
    """Nobody listens."""


def profiles(settings: Settings) -> Profiles:
    """Return the profiles as they are now: a new one needs no restart."""
    from bulk_upload_pipeline.profile_files import load_profiles

    return load_profiles(storage.profiles_at_hand(settings.home))


@dataclass(frozen=True)
class Line:
    """What every stage needs: where the files are, where the rows go, and who wants to hear of progress.

    Attributes:
        is_helped: Whether other workers may come to help with a huge file.
        held: The batch that nobody else works on meanwhile, None outside of its stages.
    """

    settings: Settings
    engine: sa.Engine
    on_progress: Callable[[Progress], None] = field(default=silent, compare=False)
    is_helped: bool = True
    held: str | None = field(default=None, compare=False)

    @property
    def home(self) -> Home:
        """The folders of this installation."""
        return self.settings.home

    def profiles(self) -> Profiles:
        """Return the profiles as they are now: a new one needs no restart."""
        return profiles(self.settings)

    def listening(self, listener: Callable[[Progress], None]) -> Line:
        """Return the same line with one more to hear of its progress."""

        def tell_both(progress: Progress) -> None:
            self.on_progress(progress)
            listener(progress)

        return replace(self, on_progress=tell_both)

    def staging(self, batch_id: str, plan: str) -> Place:
        """Return where the rows of a batch wait for the loader.

        In a store each plan has a place of its own: else a machine might hold rows of one plan and load them under
        the verdict of another.
        """
        folder = self.home.staging / batch_id
        return folder / plan[:16] if isinstance(folder, Key) else folder

    def staged(self, batch_id: str, plan: str) -> StagedBatch:
        """Return the rows of a batch that were staged by a plan, or shall be, as files of this machine."""
        return StagedBatch(storage.mirrored(self.home, self.staging(batch_id, plan)), plan)

    def reports(self, batch_id: str) -> Place:
        """Return the report folder of a batch."""
        return self.home.reports / batch_id


def alone(
    stage: Callable[Concatenate[Line, str, Arguments], Result],
) -> Callable[Concatenate[Line, str, Arguments], Result]:
    """Let one worker at a time do a stage of a batch: a run that is taken for dead may be alive."""

    @wraps(stage)
    def by_one(line: Line, batch_id: str, /, *args: Arguments.args, **named: Arguments.kwargs) -> Result:
        if line.held == batch_id:
            return stage(line, batch_id, *args, **named)
        with holding.alone(line.engine, batch_id), storage.naming_a_full_disk(line.home, batch_id):
            return stage(replace(line, held=batch_id), batch_id, *args, **named)

    return by_one
