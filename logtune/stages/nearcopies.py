"""texts -> which of them nearly repeat an earlier one: MinHash over character 5-grams, in a table of fixed size.

A text's signature holds for each of HASHES functions the least value over its 5-grams; two texts agree in as many
places as they share 5-grams (Jaccard). Texts that agree in a whole band are compared. The oldest are forgotten when
the table is full, so that memory is bounded however many texts come.
"""

import numpy as np
import numpy.typing as npt

from logtune.stages import grams

HASHES, BANDS = 32, 8
ROWS = HASHES // BANDS
NONE = -1

Signatures = npt.NDArray[np.uint32]  # (N, HASHES)
Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_drawn = np.random.default_rng(20_26)
_FACTORS = (_drawn.integers(1, 1 << 31, HASHES, dtype=np.uint64) * 2 + 1).astype(np.uint32)
_SHIFTS = _drawn.integers(0, 1 << 32, HASHES, dtype=np.uint64).astype(np.uint32)


def signatures(texts: grams.Batch) -> Signatures:
    """The signature of each text; texts too short for a 5-gram are taken by their longest ones."""
    (run,) = grams.characters(texts, (5,))
    mixed = np.concatenate([run.hashes ^ (run.hashes >> np.uint32(15)), np.zeros(1, np.uint32)])
    edges = np.column_stack([run.begins, np.maximum(run.stops, run.begins + 1)]).ravel()
    edges = np.minimum(edges, len(run.hashes))
    found = np.empty((len(texts.starts), HASHES), np.uint32)
    for place in range(HASHES):
        found[:, place] = np.minimum.reduceat(mixed * _FACTORS[place] + _SHIFTS[place], edges)[::2]
    short = np.flatnonzero(run.stops <= run.begins)
    for row in short:
        whole = texts.data[texts.starts[row] : texts.ends[row]].tobytes()
        found[row] = np.uint32(int.from_bytes(whole[:4], "little")) * _FACTORS + _SHIFTS
    return found


class NearCopies:
    """Remembers so many texts, and finds those that a new one nearly repeats."""

    def __init__(self, room: int = 1 << 18, least: float = 0.85) -> None:
        """`least`: similarity 0..1 from which on a text is a near copy; `room`: texts that are remembered."""
        slots = 1 << max(10, (2 * room - 1).bit_length())
        self._least, self._seen = least, 0
        self._marks = np.zeros((BANDS, slots), np.uint64)
        self._rows = np.full((BANDS, slots), NONE, np.int64)
        self._known = np.zeros((room, HASHES), np.uint8)  # the lowest byte of each value
        self._owners = np.zeros(room, np.uint64)

    def add(self, found: Signatures, owners: Keys) -> tuple[Rows, Floats]:
        """(row of the earlier text that each repeats, or NONE; similarity). Only texts of equal `owners` are compared.

        Rows count from the first text that was ever added.
        """
        keys = self._keys(found, owners)
        rows = self._seen + np.arange(len(found))
        low = (found & np.uint32(255)).astype(np.uint8)
        self._known[rows % len(self._known)], self._owners[rows % len(self._known)] = low, owners
        best, similar = np.full(len(found), NONE, np.int64), np.zeros(len(found), np.float32)
        for band in range(BANDS):
            for candidate in self._candidates(band, keys[:, band], rows):
                self._compare(candidate, rows, low, owners, best, similar)
        self._seen += len(found)
        return best, similar

    def _keys(self, found: Signatures, owners: Keys) -> Keys:
        """(N, BANDS)."""
        keys = np.tile(owners[:, None], (1, BANDS))
        for place in range(ROWS):
            keys = (keys ^ found[:, place::ROWS]) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
        return keys

    def _candidates(self, band: int, keys: Keys, rows: Rows) -> tuple[Rows, Rows]:
        """Row with the same band before this batch, and the first one in it; both are then remembered."""
        slots = (keys & np.uint64(self._rows.shape[1] - 1)).astype(np.int64)
        before = np.where(self._marks[band, slots] == keys, self._rows[band, slots], NONE)
        _, first, member = np.unique(keys, return_index=True, return_inverse=True)
        opened = rows[first[member]]
        fresh = before == NONE
        self._marks[band, slots[fresh]], self._rows[band, slots[fresh]] = keys[fresh], opened[fresh]
        return before, np.where(opened < rows, opened, NONE)

    def _compare(
        self, candidate: Rows, rows: Rows, low: npt.NDArray[np.uint8], owners: Keys, best: Rows, similar: Floats
    ) -> None:
        """Keep what is closer than the best so far."""
        room = len(self._known)
        there = np.flatnonzero((candidate != NONE) & (candidate > rows - room) & (candidate != best))
        at = candidate[there] % room
        there, at = there[self._owners[at] == owners[there]], at[self._owners[at] == owners[there]]
        agree = (self._known[at] == low[there]).mean(axis=1)
        value = np.clip((agree - 1 / 256) / (1 - 1 / 256), 0, 1).astype(np.float32)  # bytes agree by chance too
        better = (value >= self._least) & (value > similar[there])
        best[there[better]], similar[there[better]] = candidate[there[better]], value[better]
