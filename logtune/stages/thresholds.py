"""Scores of a deployment's own traffic -> thresholds at which a stated share of its ordinary queries is flagged.

Nobody labels the logs, so ordinary is what several others ask alike: attacks are rarely what the bulk of the users
wants. A deployment whose users never come near a class gets a lower threshold for it than one whose users write crime
novels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors
from logtune.stages.closeness import closeness, spread

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LOWEST, HIGHEST = 0.2, 0.999  # a threshold is never moved beyond
NEEDED = 100  # ordinary queries; fewer say too little
STEPS = 40  # halvings of the interval that the shared rank is searched in


def ordinary(vectors: Vectors, owners: Sequence[str], usable: Mask) -> Mask:
    """Rows as close to what others ask as the bulk of the traffic is."""
    close = closeness(vectors, owners, usable)
    known = close[usable & np.isfinite(close)]
    if not len(known):
        return np.zeros(len(close), np.bool_)
    middle, width = spread(known)
    return np.asarray(usable & (np.nan_to_num(close, nan=-np.inf) >= middle - width))


def thresholds(scores: Mapping[str, Floats], share: float) -> dict[str, float] | None:
    """A threshold a class, so that at most `share` (0..1) of the rows reach one of them; None: too few rows.

    All classes are cut at the same rank, the lowest one that the share allows.
    """
    table = np.column_stack(list(scores.values()))
    if len(table) < NEEDED:
        return None
    strict, loose = 0.0, share
    best = _cut(table, 0.0)
    for _ in range(STEPS):
        rank = (strict + loose) / 2
        tried = _cut(table, rank)
        if float((table >= tried).any(axis=1).mean()) <= share:
            strict, best = rank, tried
        else:
            loose = rank
    return {name: round(float(value), 4) for name, value in zip(scores, best, strict=True)}


def _cut(table: Floats, rank: float) -> Floats:
    """Just above each column's value at 1 - rank."""
    at = np.quantile(table, 1 - rank, axis=0, method="higher")
    return np.clip(at + 1e-4, LOWEST, HIGHEST)
