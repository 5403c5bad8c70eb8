"""vectors -> how close each query is to what others of the deployment ask, and where off topic begins.

Closeness is the mean cosine similarity to the K nearest queries of other people. New topics need no special care: a
handful of people asking the same makes it a topic. Requests that `textchecks` recognised as attacks are nobody's
neighbours, and show how close text that has nothing to do with the deployment comes: off topic begins part of the way
between them and the bulk of the traffic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from logtune.config import FilterSettings
from logtune.ports import Vectors

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

K = 8  # neighbours: of 3, 5, 8, 12, 15 the best ranking of 16 simulated deployments of 144 to 1440 logs
BLOCK = 1024  # rows compared at once: BLOCK * REFERENCES similarities are in memory
REFERENCES = 10_000  # at most so many queries stand for the traffic
NEEDED = 4  # attacks that calibrate; fewer say nothing
STEP = (
    0.4  # of the way from the attacks' median to the traffic's; mean of those deployments: 94% of noise, 1.6% of clean
)
WIDER, NARROWER = 2.0, 1.0  # the attacks may move the cut by so many robust standard deviations down or up
NARROWEST = 0.03  # of the standard deviation; free text of one topic has 0.1, templates and buttons nearly 0
MAD = 1.4826  # standard deviations in a median absolute deviation of a normal distribution


class Cut(NamedTuple):
    """Where off topic begins."""

    below: float  # closeness; lower is off topic
    typical: float  # the traffic's median closeness


def closeness(vectors: Vectors, owners: Sequence[str], trusted: Mask) -> Floats:
    """Mean similarity of each row to its K nearest trusted rows of other owners, shape (N,); nan: there are none."""
    found = np.full(len(vectors), np.nan)
    codes = _codes(owners)
    chosen = np.flatnonzero(trusted)
    if not len(chosen):
        return found
    references = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), REFERENCES)).astype(np.intp)]
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        similar = vectors[rows] @ vectors[references].T
        similar[codes[rows, None] == codes[None, references]] = -np.inf
        found[rows] = _mean_of_largest(similar)
    return found


def _codes(owners: Sequence[str]) -> npt.NDArray[np.intp]:
    """Owners as numbers; with no more than K of them each row stands for itself, or nobody would have neighbours."""
    numbered = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    if len(numbered) <= K:
        return np.arange(len(owners))
    return np.array([numbered[owner] for owner in owners], dtype=np.intp)


def _mean_of_largest(similar: npt.NDArray[np.float32]) -> Floats:
    """Mean of each row's K largest finite values, shape (rows,)."""
    k = min(K, similar.shape[1])
    largest = -np.partition(-similar, k - 1, axis=1)[:, :k]
    finite = np.isfinite(largest)
    total = np.where(finite, largest, 0.0).sum(axis=1, dtype=np.float64)
    count = finite.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def cut(traffic: Floats, attacks: Floats, settings: FilterSettings) -> Cut | None:
    """Where off topic begins, from the closeness of unflagged `traffic` and of known `attacks`; None: too few logs."""
    traffic, attacks = traffic[np.isfinite(traffic)], attacks[np.isfinite(attacks)]
    if settings.off_topic == "off" or len(traffic) < settings.off_topic_min_logs:
        return None
    middle, width = spread(traffic)
    below = middle - settings.off_topic_z * width
    if len(attacks) >= NEEDED and np.median(attacks) < middle - width:
        between = float(np.median(attacks)) * (1 - STEP) + middle * STEP
        below = float(np.clip(between, below - WIDER * width, below + NARROWER * width))
    return Cut(below, middle)


def spread(values: Floats) -> tuple[float, float]:
    """Median and robust standard deviation of the benign bulk: what lies far below is left out until nothing does."""
    kept = values
    for _ in range(20):
        middle = float(np.median(kept))
        width = MAD * float(np.median(np.abs(kept - middle)))
        inside = values[values >= middle - 2.5 * width]
        if len(inside) == len(kept):
            break
        kept = inside
    return middle, max(width, NARROWEST)
