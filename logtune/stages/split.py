"""The split of a live test: did units reach the arms in the shares in which they were sent? In -> out: Unit* -> bool.

Where they did not, the draw or the records are broken, and the test says nothing (Fabijan et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from logtune.sequential import SRM_LOOKS, Bools, due, split_capital, split_mismatch
from logtune.stages.lots import chance_at
from logtune.stages.outcomes import Unit
from logtune.statistics import Floats

MISMATCH = 0.001  # error of the check; it has its own, as it only ever stops a test


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """How units fell on the arms, a column a step of the ramp. Each shape (R, steps)."""

    candidate: Floats
    base: Floats
    chance: Floats  # of the candidate arm

    def deviation(self) -> Floats:
        """Units in the candidate arm beyond those expected, shape (R,)."""
        return np.asarray((self.candidate - (self.candidate + self.base) * self.chance).sum(axis=1))

    def variance(self) -> Floats:
        """Of that number."""
        return np.asarray(((self.candidate + self.base) * self.chance * (1 - self.chance)).sum(axis=1))


def no_looks(rows: int) -> Floats:
    """Before the first look at the split."""
    return np.full((rows, SRM_LOOKS), np.nan)


def looked(looks: Floats, before: Split, after: Split, max_users: int) -> Floats:
    """The deviations at the looks, once a unit or some more are in."""
    now = due(before.variance(), after.variance(), max_users / 4)
    return np.where(now, after.deviation()[:, None], looks)


def mismatched(split: Split, looks: Floats, max_users: int) -> Bools:
    """Whether the split is not what it should be, each shape (R,)."""
    capital = np.prod(split_capital(split.candidate, split.base, split.chance), axis=1)
    return split_mismatch(capital, looks, max_users / 4, MISMATCH)


def mismatch(found: Sequence[Unit], max_users: int, last: float) -> bool:
    """Whether the split is broken, checked after each unit as they came."""
    shares = sorted({unit.share for unit in found})
    if not shares:
        return False
    mine = np.array([[unit.share == share for share in shares] for unit in found])
    ours = np.array([[unit.candidate] for unit in found])
    one = np.cumsum(mine & ours, axis=0).astype(np.float64)
    other = np.cumsum(mine & ~ours, axis=0).astype(np.float64)
    chance = np.tile(chance_at(np.array(shares), last), (len(found), 1))
    fair = (chance < 1).all(axis=1)
    if not fair.all():  # everybody has the candidate: there is no split
        return False
    after = Split(one, other, chance)
    variance = after.variance()
    looks = due(np.concatenate(([0.0], variance[:-1])), variance, max_users / 4)
    at_looks = np.where(looks, after.deviation()[:, None], np.nan)
    return bool(mismatched(after, at_looks, max_users).any())
