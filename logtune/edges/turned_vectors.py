"""Token vectors with a correction already applied: each token is turned once, not each query.

StaticVectors, correction -> TurnedVectors.direction: text -> its corrected vector, not normalised

The sum of turned vectors is the turned sum, so the (D, D) product of every query becomes one of every token that is
seen for the first time. Between two requests that matrix leaves the processor's caches; without it a query takes about
half the time (docs/log.md).
"""

import math
from collections.abc import Sequence

import numpy as np

from logtune.edges.static_vectors import MOST_TOKENS, Row, StaticVectors
from logtune.ports import Vectors

FIRST = 8192  # tokens that are turned beforehand: vocabularies list the frequent ones first
KEPT = 16_384  # turned tokens: 25 MB with 384 dimensions, if so many ever come; 34,000 questions hold 7,500


class TurnedVectors:
    """A copy of an embedder under the correction `turn`, shape (D, D), by which a vector v becomes v @ turn."""

    def __init__(self, vectors: StaticVectors, turn: Vectors, kept: int = KEPT, first: int = FIRST) -> None:
        self._vectors = vectors
        self._turn = np.ascontiguousarray(turn.T)
        self._shift: Row = self._turn @ vectors.shift
        self._rows = np.empty((max(kept, MOST_TOKENS), vectors.dimension), np.float32)
        early = vectors.rows(min(first, kept // 2)) @ turn
        self._rows[: len(early)] = early
        self._places: dict[int, int] = {token: token for token in range(len(early))}  # token -> its row

    def direction(self, text: str) -> Row:
        """`StaticVectors.vector(text) @ turn` but for its length, shape (D,); zeros for a text without known tokens."""
        tokens = self._vectors.tokens(text)
        if not tokens:
            return np.zeros(self._vectors.dimension, np.float32)
        try:
            rows = [self._places[token] for token in tokens]
        except KeyError:
            rows = self._learned(tokens)
        found: Row = self._rows.take(rows, axis=0).sum(axis=0) / math.sqrt(len(rows)) + self._shift
        return found

    def _learned(self, tokens: Sequence[int]) -> list[int]:
        """The rows of tokens of which some are new; all others are forgotten where there is no room for these."""
        new = set(tokens) - self._places.keys()
        if len(self._places) + len(new) > len(self._rows):
            self._places.clear()
            new = set(tokens)
        for token in new:
            place = len(self._places)
            self._rows[place] = self._turn @ self._vectors.row(token)
            self._places[token] = place
        return [self._places[token] for token in tokens]
