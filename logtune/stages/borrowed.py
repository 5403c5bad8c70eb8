"""vectors of requests -> which told answer each borrows: the one that the requests around it have in common.

A user who only complains says that an answer is wrong, and not what would be right. Where others asked nearly the same
and named the right answer, that answer is most likely right here too. How near is near enough is read off the told
requests themselves: each looks for its own answer among the others', those too whose users are not believed, since they
are where neighbours disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors
from logtune.stages.circles import Rows

Floats = npt.NDArray[np.float64]

AROUND = 3  # neighbours that are asked, one a user
AGREEING = 2  # of them, the nearest among these, that must name the same answer
LEAST_FOUND = 10  # told requests that must find their answer again before anything is borrowed
BLOCK = 256  # requests compared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A request whose right answer its user named."""

    id: str  # of the interaction
    user: str
    answer: str  # in its plain form: what is the same answer is equal here
    believed: bool = True  # else nobody borrows from it


@dataclass(frozen=True, slots=True)
class Loan:
    """An answer that the requests around one have in common."""

    told: tuple[int, ...]  # rows of those that name it, nearest first
    margin: float  # cosine of the nearest one less that of the nearest one with another answer

    @property
    def clearness(self) -> tuple[int, float]:
        """By which loans are ordered: how many name the answer, then the margin."""
        return len(self.told), self.margin


def borrow(
    vectors: Vectors, users: Sequence[str], told: Sequence[Told], told_vectors: Vectors, precision: float
) -> list[Loan | None]:
    """One a request, None where nothing is near and clear enough; `vectors` (N, D), `told_vectors` (M, D), length 1.

    `precision`: share of the told requests that must find their own answer again where it is as clear, 0..1.
    """
    least = _least_clear(told, told_vectors, precision)
    if least is None:
        return [None] * len(users)
    loans = _loans(vectors, users, told, told_vectors)
    return [loan if loan is not None and loan.clearness >= least else None for loan in loans]


def _least_clear(told: Sequence[Told], vectors: Vectors, precision: float) -> tuple[int, float] | None:
    """The clearness from which on enough of the told requests find their own answer again; None: too few do."""
    loans = zip(_loans(vectors, [each.user for each in told], told, vectors), told, strict=True)
    found = [(loan.clearness, told[loan.told[0]].answer == own.answer) for loan, own in loans if loan is not None]
    found.sort(key=lambda each: each[0], reverse=True)
    right = np.cumsum([same for _, same in found])
    good = [row for row, count in enumerate(right) if count >= LEAST_FOUND and count >= precision * (row + 1)]
    return found[good[-1]][0] if good else None


def _loans(
    vectors: Vectors, users: Sequence[str], told: Sequence[Told], told_vectors: Vectors
) -> list[Loan | None]:  # fmt: skip
    codes = {user: code for code, user in enumerate({*users, *(each.user for each in told)})}
    theirs = np.array([codes[each.user] for each in told], dtype=np.intp)
    doubted = np.array([not each.believed for each in told], dtype=np.bool_)
    found: list[Loan | None] = []
    for start in range(0, len(users), BLOCK):
        similar = (vectors[start : start + BLOCK] @ told_vectors.T).astype(np.float64)
        for own, row in zip(users[start : start + BLOCK], similar, strict=True):
            row[doubted | (theirs == codes[own])] = -np.inf  # nobody borrows from themselves
            found.append(_loan(row, theirs, told))
    return found


def _loan(similar: Floats, users: Rows, told: Sequence[Told]) -> Loan | None:
    order = np.argsort(-similar, kind="stable")
    near: dict[int, int] = {}  # user -> their nearest row
    other = -np.inf
    for row in order[np.isfinite(similar[order])].tolist():
        if near and told[row].answer != told[next(iter(near.values()))].answer and other == -np.inf:
            other = float(similar[row])
        if len(near) < AROUND:
            near.setdefault(int(users[row]), row)
        elif other > -np.inf:
            break
    rows = list(near.values())
    alike = tuple(row for row in rows if told[row].answer == told[rows[0]].answer)
    if len(alike) < AGREEING or other == -np.inf:
        return None
    return Loan(alike, float(similar[rows[0]]) - other)
