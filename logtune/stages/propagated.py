"""Complaints that name no answer, requests whose users named one -> the answer that is meant.

Requests with the same right answer lie together, so the answer in whose middle a request lies is mostly the right one,
the more so the farther away all others are (nearest centroid; Rocchio 1971). How sure is sure enough is measured on the
named ones: each is left out once, and of those that are as sure LEAST_RIGHT find the answer that their user named.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors

# Of the left-out requests; with it 97 and 96% of real complaints come out right (clinc150, banking77: docs/log.md).
LEAST_RIGHT = 0.95
LEAST_SURE = 10  # left-out requests above the threshold; of fewer the share says nothing
LEAST_USERS = 2  # who must have named an answer before it is anybody else's
NOWHERE = -1.0  # closeness to what is no answer here; no cosine is less

Vector = npt.NDArray[np.float32]
Rows = tuple[int, ...]


class Named:
    """Requests whose users named an answer."""

    def __init__(self, vectors: Vectors, answers: Sequence[str], owners: Sequence[str]) -> None:
        """`vectors`, shape (N, D), with their `answers` in a plain form and the users `owners` who gave them."""
        self._vectors, self._answers, self._owners = vectors, answers, owners
        rows: dict[str, list[int]] = defaultdict(list)
        for row, answer in enumerate(answers):
            rows[answer].append(row)
        self._rows = {a: mine for a, mine in rows.items() if len({owners[row] for row in mine}) >= LEAST_USERS}
        self._users = np.array([len({owners[row] for row in mine}) for mine in self._rows.values()])
        self._number = {answer: number for number, answer in enumerate(self._rows)}
        self._named_by: dict[str, set[str]] = defaultdict(set)
        for answer, mine in self._rows.items():
            for row in mine:
                self._named_by[owners[row]].add(answer)
        self._middles = np.array([_middle(vectors[mine]) for mine in self._rows.values()], np.float32)
        # with one answer every request finds its own, and nothing is measured
        self._threshold = self._measured() if len(self._rows) > 1 else float("inf")

    def meant(self, vector: Vector, user: str, refused: str) -> Rows:
        """The rows of other users that name the answer which `user` surely means; () where none is sure.

        `vector`, shape (D,), of the request; `refused`: what it was answered, in the plain form, which is not meant.
        """
        if len(self._rows) < 2:
            return ()
        answer, sureness = self._surest(vector, user, refused, LEAST_USERS)
        return self._of_others(answer, user) if sureness >= self._threshold else ()

    def _measured(self) -> float:
        """The least sureness from which on LEAST_RIGHT of the left-out requests find their own answer."""
        tried = []
        for vector, own, user in zip(self._vectors, self._answers, self._owners, strict=True):
            found, sureness = self._surest(vector, user, "", LEAST_USERS - 1)
            tried.append((sureness, found == own))
        tried.sort(reverse=True)
        right = np.cumsum([ok for _, ok in tried])
        enough = [n for n in range(LEAST_SURE, len(tried) + 1) if right[n - 1] >= LEAST_RIGHT * n]
        return tried[enough[-1] - 1][0] if enough else float("inf")

    def _surest(self, vector: Vector, user: str, refused: str, least_users: int) -> tuple[str, float]:
        """The answer in whose middle it lies by others' words; its closeness and, added to it, its lead over the next.

        `least_users`: others who must have named it.
        """
        close = self._middles @ vector
        for answer in self._named_by.get(user, ()):
            number = self._number[answer]
            enough = self._users[number] - 1 >= least_users
            close[number] = _middle(self._vectors[[*self._of_others(answer, user)]]) @ vector if enough else NOWHERE
        if refused in self._number:
            close[self._number[refused]] = NOWHERE
        first = int(np.argmax(close))
        lead = close[first] - max(0.0, *np.delete(close, first).tolist())
        return [*self._rows][first], float(close[first] + lead)

    def _of_others(self, answer: str, user: str) -> Rows:
        return tuple(row for row in self._rows[answer] if self._owners[row] != user)


def _middle(vectors: Vectors) -> Vector:
    """The direction of their sum, shape (D,)."""
    total = vectors.sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)
