"""Texts, query -> which texts are nearest by words: Okapi BM25 (Robertson et al. 1994)."""

import math
from collections import Counter
from collections.abc import Sequence

from logtune.stages.grading import words

K1, B = 1.5, 0.75  # saturation of a word's count, weight of a text's length


class Bm25:
    """Texts made ready for many queries."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(words(text.casefold())) for text in texts]
        self._lengths = [count.total() for count in self._counts]
        self._mean = sum(self._lengths) / max(1, len(texts)) or 1.0
        self._in_texts = Counter(word for count in self._counts for word in count)

    def nearest(self, query: str, count: int) -> list[int]:
        """The numbers of the `count` best texts, best first; those without a word in common are left out."""
        asked = set(words(query.casefold())) & self._in_texts.keys()
        weights = {word: self._weight(word) for word in asked}
        scores = [self._score(number, weights) for number in range(len(self._counts))]
        found = [number for number, score in enumerate(scores) if score > 0]
        return sorted(found, key=lambda number: (-scores[number], number))[:count]

    def _weight(self, word: str) -> float:
        """Inverse document frequency, never negative."""
        having = self._in_texts[word]
        return math.log(1 + (len(self._counts) - having + 0.5) / (having + 0.5))

    def _score(self, number: int, weights: dict[str, float]) -> float:
        counts, length = self._counts[number], self._lengths[number] / self._mean
        return sum(
            weight * counts[word] * (K1 + 1) / (counts[word] + K1 * (1 - B + B * length))
            for word, weight in weights.items()
        )
