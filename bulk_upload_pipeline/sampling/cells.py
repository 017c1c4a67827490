"""How figures, days and texts are written in a sample: as cells of a CSV file, quoted where they must be."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.sampling.invoices import FIRST_DAY, NO_DAY, YEAR

if TYPE_CHECKING:
    from collections.abc import Iterable

_LATEST_DAY = 2 * YEAR
_ISO, _NAMED, _SLASHED = "{day:%Y-%m-%d}", "{day:%d}-{month:.3}-{day:%Y}", "{day:%d/%m/%Y}"
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def quoted(text: str) -> str:
    """Return a text as a CSV cell, in quotation marks where it needs them."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def text_cells(texts: Iterable[str]) -> pa.StringArray:
    """Return texts as cells."""
    return pa.array([quoted(text) for text in texts], pa.string())


_HUNDREDTHS = pa.array([f".{cents:02d}" for cents in range(100)])


def amount_cells(hundredths: np.ndarray) -> pa.StringArray:
    """Return amounts, none below zero, with their two decimals."""
    whole = pa.array(hundredths // 100).cast(pa.string())
    return pc.binary_join_element_wise(whole, _HUNDREDTHS.take(pa.array(hundredths % 100)), "")


def number_cells(prefix: str, numbers: np.ndarray, width: int) -> pa.StringArray:
    """Return running numbers, filled up with zeros to at least `width` figures."""
    figures = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, figures, "")


@lru_cache(maxsize=16)
def calendar(form: str) -> pa.StringArray:
    """Return every day as text, by day number; an empty text at the end stands for `NO_DAY`.

    Names of months are spelled out here: `strftime` would take those of the machine's language.
    """
    days = (FIRST_DAY + np.arange(_LATEST_DAY)).tolist()
    return pa.array([*(form.format(day=day, month=_MONTHS[day.month - 1]) for day in days), ""])


def day_cells(days: np.ndarray, form: str = _ISO) -> pa.StringArray:
    """Return days since `FIRST_DAY` as dates; `NO_DAY` is empty."""
    return calendar(form).take(pa.array(np.where(days == NO_DAY, _LATEST_DAY, days)))


def written_day_cells(days: np.ndarray, with_slashes: np.ndarray) -> pa.StringArray:
    """Return days as `31/12/2024` where `with_slashes` says so, else as `31-Dec-2024`."""
    return pc.if_else(pa.array(with_slashes), day_cells(days, _SLASHED), day_cells(days, _NAMED))


def grouped(amounts: pa.StringArray, where: np.ndarray) -> pa.StringArray:
    """Group some amounts in the Indian way (`1,23,456.50`) and quote them."""
    chosen = pa.array(where)
    grouped = pc.replace_substring_regex(amounts.filter(chosen), r"^(\d+)(\d{3}\.)", r"\1,\2")
    for _ in range(4):
        grouped = pc.replace_substring_regex(grouped, r"^(\d+)(\d{2},)", r"\1,\2")
    grouped = pc.replace_substring_regex(grouped, r"^(.*,.*)$", r'"\1"')
    return pc.replace_with_mask(amounts, chosen, grouped)
