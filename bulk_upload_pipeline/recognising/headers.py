"""Which row of a file is its header, and whose format it is.

Names are compared without case, accents, spaces and punctuation, and nothing near is taken for the name:
it is suggested in the finding instead.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.origin import CORRECTION, OWN_COLUMNS, names_own_columns
from bulk_upload_pipeline.parsing.cells import BLANKS
from bulk_upload_pipeline.profiles import HeaderMatch, Profile, all_normalised, lay_over, normalised

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bulk_upload_pipeline.model import Finding
    from bulk_upload_pipeline.profiles import Profiles

MOST_COLUMNS = 500
"""No export of invoices is wider; a wider header is a table of something else."""

_LONGEST_NAME = 200
_NEAR = 0.8
"""Share of a name that must agree for it to be suggested."""
_MOST_NAMED, _LONGEST_SHOWN = 5, 40
"""Columns that nothing is known of, and characters of each, in a finding."""


class Header(NamedTuple):
    """The header of a file: its row among those looked at, its names as written, and what they mean."""

    at: int
    names: tuple[str, ...]
    match: HeaderMatch


class HeaderFinder:
    """Finds headers under the profiles of a home, or under the one that is stated for a file.

    Raises:
        UnreadableError: `UNKNOWN_PROFILE`.
    """

    def __init__(self, profiles: Profiles, stated: str | None) -> None:
        if stated is not None and stated not in profiles:
            raise UnreadableError(file_finding("UNKNOWN_PROFILE", stated))
        self._profiles = profiles
        self.stated = None if stated is None else _with_names(profiles[stated], profiles)
        aliases = (self.stated or profiles.generic).columns.values()
        known = (alias for names in (*aliases, OWN_COLUMNS) for alias in names)
        self._names = frozenset(map(normalised, known))

    def known(self, cells: Sequence[str]) -> int:
        """Return how many different names of columns stand in a row."""
        names = all_normalised([cell for cell in cells if len(cell) <= _LONGEST_NAME])
        return len(names & self._names)

    def find(self, rows: Sequence[Sequence[str]]) -> Header:
        """Return the header among the first rows of a file.

        Raises:
            UnreadableError: `EMPTY_FILE`, `NO_HEADER`, `MISSING_COLUMN`, `DUPLICATE_COLUMN`, `TOO_MANY_COLUMNS`.
        """
        filled = [at for at, row in enumerate(rows) if any(cell.strip(BLANKS) for cell in row)]
        if not filled:
            raise UnreadableError(file_finding("EMPTY_FILE"))
        at = self._first_table(rows, filled, max(filled, key=lambda at: (self.known(rows[at]), -at)))
        return Header(at, names := header_names(rows[at]), self.match(names))

    def _first_table(self, rows: Sequence[Sequence[str]], filled: Sequence[int], best: int) -> int:
        """Return the row with most known names, or one above it that is a header, too, with records in between.

        So of two exports in one file the first is not passed over because the second has a column more.
        """
        for at in filled[: filled.index(best)]:
            between = (rows[row] for row in filled if at < row < best)
            if self.known(rows[at]) > 1 and self._laid_over(header_names(rows[at])).fits:
                return at if any(map(self._may_be_record, between)) else best
        return best

    def _may_be_record(self, row: Sequence[str]) -> bool:
        """Return whether a row is more than a heading, and no second line of a header."""
        return sum(bool(cell.strip(BLANKS)) for cell in row) > 1 and self.known(row) < 2

    def _laid_over(self, names: Sequence[str]) -> HeaderMatch:
        return self._profiles.match(names) if self.stated is None else lay_over(names, self.stated)

    def match(self, names: Sequence[str]) -> HeaderMatch:
        """Return what the names of a header mean.

        Raises:
            UnreadableError: `NO_HEADER`, `MISSING_COLUMN`, `DUPLICATE_COLUMN`, `TOO_MANY_COLUMNS`.
        """
        if len(names) > MOST_COLUMNS:
            raise UnreadableError(
                file_finding("TOO_MANY_COLUMNS", f"{len(names):,} columns; {MOST_COLUMNS} are the most")
            )
        if names_own_columns(names):
            return HeaderMatch(Profile(name=CORRECTION), {}, {}, ())
        match = self._laid_over(names)
        self.refuse(match, names)
        return match

    def refuse(self, match: HeaderMatch, names: Sequence[str]) -> None:
        """Refuse a header under which no row can be judged.

        Raises:
            UnreadableError: `NO_HEADER`, `MISSING_COLUMN`, `DUPLICATE_COLUMN`.
        """
        if match.twice:
            raise UnreadableError(file_finding("DUPLICATE_COLUMN", _twice(match)))
        if match.missing:
            raise UnreadableError(self._missing(match, names))

    def _missing(self, match: HeaderMatch, names: Sequence[str]) -> Finding:
        near = self.near_misses(match, names, match.missing)
        if not match.mapping and not near:
            first = ", ".join(names)
            return file_finding(
                "NO_HEADER", f"the first row is `{first[:100]}{'…' if len(first) > 100 else ''}`"
            )
        titles = ", ".join(f"`{_written(match.profile, name)}`" for name in match.missing)
        looks = "".join(
            f"; `{cell}` looks like `{_written(match.profile, column)}`" for column, cell in near.items()
        )
        used = {*near.values(), *(names[at] for at in match.mapping.values())}
        return file_finding(
            "MISSING_COLUMN", titles + looks + _strange([n for n in names if n and n not in used])
        )

    def near_misses(self, match: HeaderMatch, names: Sequence[str], columns: Iterable[str]) -> dict[str, str]:
        """Return which of `columns` have a header cell that looks like one of their names, and that cell."""
        used = set(match.mapping.values())
        cells = (name for at, name in enumerate(names) if at not in used and len(name) <= _LONGEST_NAME)
        free = {normalised(cell): cell for cell in cells if normalised(cell)}
        near: dict[str, str] = {}
        for column in columns:
            aliases = (*match.profile.columns.get(column, ()), *self._profiles.generic.columns[column])
            close = (difflib.get_close_matches(normalised(a), free, n=1, cutoff=_NEAR) for a in aliases)
            if found := next((keys[0] for keys in close if keys), None):
                near[column] = free.pop(found)
        return near


def header_names(row: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a header, trimmed, without the empty ones behind the last."""
    names = [cell.strip(BLANKS) for cell in row]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def _with_names(profile: Profile, profiles: Profiles) -> Profile:
    """Return the profile; one that states no names takes those that anybody uses."""
    return profile if profile.columns else replace(profile, columns=profiles.generic.columns)


def _strange(names: Sequence[str]) -> str:
    """Return which columns nothing is known of: one of them may be the missing one under another name."""
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    shown = ", ".join(f"`{_in_short(name)}`" for name in names[:_MOST_NAMED])
    return f"; nothing is known of {'the column' if len(names) == 1 else 'the columns'} {shown}{more}"


def _in_short(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else name[: _LONGEST_SHOWN - 1] + "…"


def _twice(match: HeaderMatch) -> str:
    pairs = (f"`{first}` and `{second}`" for first, second in match.twice.values())
    return "; ".join(pairs)


def _written(profile: Profile, name: str) -> str:
    """Return how the sender would write a column's name."""
    aliases = profile.columns.get(name, ())
    title = contract.BY_NAME[name].title
    return title if not aliases or title in aliases else aliases[0]
