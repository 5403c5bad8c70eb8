"""texts -> how likely each is noise of a class, by small trained models, in numpy alone.

Two rungs. The words alone (`grams`) cost some microseconds a text. The full reading adds the clues of `lexicon` and
what the text means, as a small embedder puts it. Both are small networks: no text of the training is in them. A
score is 0..1, and 0.5 is where the shipped model draws the line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors
from logtune.stages import grams
from logtune.stages.textchecks import class_scores

Floats = npt.NDArray[np.float32]

CLASSES = ("jailbreak", "prompt_injection", "harmful_request", "toxic", "spam")
PADDED = 8  # columns of a weight table: rows of 32 bytes are read fastest
BLOCK = 256  # texts read at once: their features fit the processor's cache
DOUBT = (
    4.0  # log odds below a line from which on a text is beyond doubt: of benign texts 62%, for 0.06 points of recall
)


@dataclass(frozen=True, slots=True)
class Rung:
    """Weights of one reading: log odds = words + relu(x . inner + shift) . outer + bias; column c is of CLASSES[c].

    x is a text's shape, and where the rung reads them the lexicon's scores and the embedder's vector.
    """

    words: Floats  # (grams.BUCKETS, PADDED)
    inner: Floats  # (X, H)
    shift: Floats  # (H,)
    outer: Floats  # (H, C)
    bias: Floats  # (C,)


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """The shipped classifiers."""

    name: str
    quick: Rung
    full: Rung
    embedder: str  # fingerprint of the only embedder whose vectors the full reading understands

    def scores(self, texts: Sequence[str], vectors: Vectors | None = None, embedder: str = "") -> Floats:
        """(N, C) scores 0..1: by the full reading where the vectors are of its embedder, else by the words alone."""
        if vectors is None or embedder != self.embedder:
            return sigmoid(_in_blocks(self.quick, texts, None))
        return sigmoid(self.full_odds(texts, vectors))

    def full_odds(self, texts: Sequence[str], vectors: Vectors) -> Floats:
        """(N, C) log odds by the full reading; `vectors` are those of its embedder."""
        return _in_blocks(self.full, texts, vectors)

    def by_words(self, texts: Sequence[str], read: grams.Batch) -> Floats:
        """(N, C) scores by the words alone of one block of texts, `read` before."""
        return sigmoid(logits(self.quick, texts, None, read))

    def by_class(self, texts: Sequence[str], vectors: Vectors | None, embedder: str) -> list[Mapping[str, float]]:
        """As `scores`, by the name of the class."""
        return [dict(zip(CLASSES, row, strict=True)) for row in self.scores(texts, vectors, embedder).tolist()]


def _in_blocks(rung: Rung, texts: Sequence[str], vectors: Vectors | None) -> Floats:
    parts = [slice(at, at + BLOCK) for at in range(0, len(texts), BLOCK)]
    found = [logits(rung, texts[part], None if vectors is None else vectors[part]) for part in parts]
    return np.concatenate(found) if found else np.zeros((0, len(CLASSES)), np.float32)


def logits(rung: Rung, texts: Sequence[str], vectors: Vectors | None, read: grams.Batch | None = None) -> Floats:
    """(N, C) log odds of each class; `read`: the texts' n-grams, where they are known."""
    found = _by_words(rung.words, read or grams.batch(texts))[:, : len(CLASSES)]
    seen = [grams.shape(texts)] if vectors is None else [grams.shape(texts), clues(texts), vectors]
    hidden = np.maximum(np.concatenate(seen, axis=1) @ rung.inner + rung.shift, 0.0)
    return np.asarray(found + hidden @ rung.outer + rung.bias, np.float32)


def joined(full: Floats, tuned: Floats) -> Floats:
    """(N, C) log odds by the full reading and the tuned embedder together: their mean, which no weighing has beaten."""
    return np.asarray((full + tuned) / 2, np.float32)


def doubtful(full: Floats, line: Floats) -> npt.NDArray[np.bool_]:
    """(N,): whether the tuned embedder is asked: where a class is near its line, or beyond."""
    return np.asarray(np.any(full > line - DOUBT, axis=1), np.bool_)


def clues(texts: Sequence[str]) -> Floats:
    """(N, C): what the lexicon says of each text."""
    found = [class_scores(text) for text in texts]
    return np.array([[scores[name] for name in CLASSES] for scores in found], np.float32).reshape(-1, len(CLASSES))


def _by_words(weights: Floats, texts: grams.Batch) -> Floats:
    """(N, PADDED): the weights of each text's features, added up and divided by the root of their number."""
    total = np.zeros((len(texts.starts), weights.shape[1]), np.float32)
    count = np.zeros(len(texts.starts), np.int64)
    for run in grams.runs(texts):
        total += _sums(weights[grams.buckets(run.hashes)], run)
        count += run.stops - run.begins
    return np.asarray(total / np.sqrt(np.maximum(count, 1))[:, None], np.float32)


def _sums(rows: Floats, run: grams.Run) -> Floats:
    """Sum of rows[begins:stops] of each text."""
    padded = np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)])
    edges = np.minimum(np.column_stack([run.begins, run.stops]).ravel(), len(rows))
    sums = np.add.reduceat(padded, edges, axis=0)[::2]
    sums[run.begins == run.stops] = 0.0  # reduceat gives the row itself where there is none
    return np.asarray(sums, np.float32)


def sigmoid(values: Floats) -> Floats:
    """Log odds as 0..1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), np.float32)
