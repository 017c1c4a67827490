"""What a sensor has kept for its next tick. In the UI a person may have written something else there."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

Kept = TypeVar("Kept")


def kept(cursor: str | None, read: Callable[[dict[str, Any]], Kept]) -> Kept:
    """Return what a cursor says; one that cannot be read counts as none, since each tick would fail for ever.

    Args:
        cursor: Of a sensor, as JSON.
        read: Makes of the JSON what the sensor has kept, and of an empty object what it begins with.
    """
    try:
        return read(json.loads(cursor or "{}"))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return read({})
