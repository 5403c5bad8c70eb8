"""Complaints that name no answer, answers that others gave to such requests -> who agrees on the right one.

Of requests whose users only said that an answer was wrong, many are like some whose users named the right one. Where
the nearest of those agree, theirs is taken (label propagation; Zhu and Ghahramani 2002).
"""

from collections.abc import Sequence

from logtune.ports import Vectors
from logtune.stages.circles import Near, among

# On real messages (banking77, clinc150) 91 and 98% of what two agree on is right, of the nearest alone 72 and 64%.
NEAREST = 2  # users whose answers must agree
LEAST_CLOSE = 0.5  # cosine similarity that the farther of them must have


def agreed(
    complaints: Vectors, complained: Sequence[str], known: Vectors, answers: Sequence[str], owners: Sequence[str]
) -> list[tuple[int, ...]]:
    """For each complaint the rows of the nearest known requests, one a user, that name the same answer; () for none.

    `complaints`, shape (M, D), of users `complained`; `known`, shape (N, D), with their `answers` in a plain form and
    the users `owners` who gave them. Nobody agrees with themselves.
    """
    near = among(complaints, complained, known, owners, NEAREST)
    return [tuple(each.rows) if _agree(each, answers) else () for each in near]


def _agree(near: Near, answers: Sequence[str]) -> bool:
    full = len(near.rows) == NEAREST and near.edge >= LEAST_CLOSE
    return full and len({answers[row] for row in near.rows}) == 1
