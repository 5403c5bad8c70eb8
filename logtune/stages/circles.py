"""Vectors, users -> for each row the nearest row of each of the nearest other users: whom a claim is weighed against.

A block of rows is compared at once, which is what makes it quick: 10,000 rows take seconds. Beyond MOST_HEARD rows each
is compared with a fixed draw of so many, so that time grows with the number of rows and no longer with its square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors

Rows = npt.NDArray[np.intp]
BLOCK = 256  # rows compared at once: with 20,000 others 20 MB
FIRST_TRIED = 8  # rows looked at for each neighbour wanted, before all are
MOST_HEARD = 20_000  # rows that each is compared with
SALT = 20_260  # of the draw, so that it is the same each time
DIGITS = 6  # of a cosine: beyond them its last bits depend on what it was computed with


@dataclass(frozen=True, slots=True)
class Near:
    """The rows around one, of other users, one a user, nearest first; of equally near ones the first row first."""

    rows: list[int]
    edge: float  # cosine of the farthest


def around(vectors: Vectors, users: Sequence[str], count: int, most: int = MOST_HEARD) -> list[Near]:
    """The `count` nearest other users of each row, or fewer where there are no more; `vectors` (N, D) of length 1."""
    heard = _heard(len(users), most)
    names = [users[row] for row in heard.tolist()]
    pool = vectors[heard]
    if not names:
        return [Near([], 1.0) for _ in users]
    found: list[Near] = []
    for start in range(0, len(users), BLOCK):
        block = vectors[start : start + BLOCK] @ pool.T
        for own, closeness, part in zip(users[start : start + BLOCK], block, _parts(block, count), strict=True):
            rows = _nearest(closeness, part, names, own, count)
            found.append(Near(heard[rows].tolist(), float(closeness[rows[-1]]) if rows else 1.0))
    return found


def _heard(total: int, most: int) -> Rows:
    rows = np.arange(total)
    return rows if total <= most else np.sort(np.random.default_rng(SALT).choice(rows, most, replace=False))


def _parts(block: Vectors, count: int) -> Iterator[Rows]:
    """For each row of a block some columns among which its nearest are; mostly they are enough."""
    width = block.shape[1]
    tried = min(width, FIRST_TRIED * count)
    return iter(np.argpartition(block, width - tried, axis=1)[:, width - tried :])


def _nearest(closeness: Vectors, part: Rows, names: Sequence[str], own: str, count: int) -> list[int]:
    rounded = closeness.round(DIGITS)
    rows = _first_of_users(_ordered(rounded, part), names, own, count)
    inside = len(part) == len(closeness) or (len(rows) == count and rounded[rows[-1]] > rounded[part].min())
    return rows if inside else _first_of_users(_ordered(rounded, np.arange(len(closeness))), names, own, count)


def _ordered(rounded: Vectors, part: Rows) -> list[int]:
    found: list[int] = part[np.lexsort((part, -rounded[part]))].tolist()
    return found


def _first_of_users(order: Sequence[int], names: Sequence[str], own: str, count: int) -> list[int]:
    seen, rows = {own}, list[int]()
    for row in order:
        if names[row] not in seen:
            seen.add(names[row])
            rows.append(row)
            if len(rows) == count:
                break
    return rows
