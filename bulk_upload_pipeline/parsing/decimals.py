"""Columns of amounts with as many decimals in every cell, such as `-302.68`: by their digits, as whole numbers.

So most systems export them, and reading whole numbers takes half the time of Arrow's cast to decimals.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.contract import AMOUNT_DECIMALS, AMOUNT_DIGITS, Kind
from bulk_upload_pipeline.parsing.cells import bytes_of

_POINT, _HYPHEN, _ZERO = ord("."), ord("-"), ord("0")


def even_decimals(cells: pa.StringArray) -> pa.Decimal128Array | None:
    """Return the amounts of a column, None when its cells differ in form, or one is too large.

    Args:
        cells: Texts without any other characters than figures, points and hyphens; none is absent.
    """
    data, begins = bytes_of(cells)
    decimals = _decimals(data, begins)
    if decimals is None or not _signs_lead(data, begins):
        return None
    figures = pa.py_buffer(data.tobytes().translate(None, b"."))
    offsets = pa.py_buffer(begins - np.arange(len(begins), dtype=np.int32))
    try:
        whole = pa.Array.from_buffers(pa.string(), len(cells), [None, offsets, figures]).cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    scale = 10 ** (AMOUNT_DECIMALS - decimals)
    least, most = (number.as_py() for number in pc.min_max(whole).values())
    if max(-least, most) * scale >= 10**AMOUNT_DIGITS:
        return None
    return _as_decimals(whole.to_numpy() * scale)


def _decimals(data: np.ndarray, begins: np.ndarray) -> int | None:
    """Return how many figures stand behind the one point of every cell, None where that differs."""
    is_point = data == _POINT
    if len(data) == 0 or np.count_nonzero(is_point) != len(begins) - 1:
        return None
    decimals = int(begins[1]) - 1 - int(is_point.argmax())
    points = begins[1:] - 1 - decimals
    if not 0 < decimals <= AMOUNT_DECIMALS or (points <= begins[:-1]).any():
        return None
    if not is_point[points].all() or not (data[points - 1] >= _ZERO).all():
        return None
    return decimals


def _signs_lead(data: np.ndarray, begins: np.ndarray) -> bool:
    hyphens = np.flatnonzero(data == _HYPHEN)
    return not len(hyphens) or bool(np.isin(hyphens, begins[:-1]).all())


def _as_decimals(units: np.ndarray) -> pa.Decimal128Array:
    """Return amounts that are stated in units of the last decimal (int64)."""
    halves = np.empty((len(units), 2), np.int64)
    halves[:, 0], halves[:, 1] = units, units >> 63  # 128 bits, the low half first
    return pa.Array.from_buffers(Kind.AMOUNT.value, len(units), [None, pa.py_buffer(halves)])
