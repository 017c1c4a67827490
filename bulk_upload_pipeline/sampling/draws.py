"""Chance that can be asked for again: a number depends on the seed, a name and a position, on nothing else.

So a file comes out the same in whatever pieces it is written, and with every version of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers of one seed."""

    seed: int

    def below(self, limit: int, name: str, positions: np.ndarray) -> np.ndarray:
        """Return an even whole number from 0 up to `limit` (excluded, at most 2**31) a position (int64)."""
        return ((self._bits(name, positions) >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(
            np.int64
        )

    def skewed(self, limit: int, name: str, positions: np.ndarray) -> np.ndarray:
        """Return a number as `below` does, the small ones far more often, as regular customers come."""
        even = self.below(1 << 20, name, positions)
        return even * even * limit >> 40

    def chance(self, parts: int, whole: int, name: str, positions: np.ndarray) -> np.ndarray:
        """Return a boolean a position, true for `parts` of `whole` of them."""
        return self.below(whole, name, positions) < parts

    def _bits(self, name: str, positions: np.ndarray) -> np.ndarray:
        stream = np.uint64(crc32(f"{self.seed}/{name}".encode()) << 32 | self.seed & 0xFFFFFFFF)
        with np.errstate(over="ignore"):
            bits = (positions.astype(np.uint64) + np.uint64(1)) * _STEP + _mixed(stream)
            return _mixed(bits)


def _mixed(bits: np.ndarray | np.uint64) -> np.ndarray:
    """Spread every bit over all 64 (the finaliser of splitmix64, a public-domain generator)."""
    mixed = np.asarray(bits)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))
