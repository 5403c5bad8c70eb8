"""Turn*, vectors -> Detection*: is a turn feedback on the answer before it, and of which kind; no language model.

A radial basis network over the embedder's vectors of turn, query and answer, how alike they are, and `turn_features`.
Its numbers are learned by benchmarks/train_detector.py and come in as an argument; their model card says what they are
good for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from logtune.ports import Detection, Turn, Vectors
from logtune.records import SignalKind
from logtune.stages.turn_features import TURN_PATTERNS, features

Floats = npt.NDArray[np.float32]

KINDS: tuple[SignalKind, ...] = ("reask", "correction", "complaint", "doubt", "constraint", "praise")
READ = 4000  # characters of a text that are looked at
HEAD, TAIL = 30, 20  # words of a long text that the embedder reads
STACK = re.compile(r"^\s*(?:File \"|at [\w.$<]+|Traceback )|^\s+\^+\s*$")
LIMIT = 3.0  # standard deviations at which a feature is cut


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What was learned: a weight for the likeness to each of some landmarks (a radial basis network)."""

    version: str
    embedder: str  # fingerprint of the embedder whose vectors it reads
    names: tuple[str, ...]  # of the features, in order
    mean: Floats  # (F,) of the features
    deviation: Floats  # (F,)
    landmarks: Floats  # (M, I)
    widths: tuple[float, float]  # of features and of vectors: likeness = exp(-width * squared distance)
    weights: Floats  # (M, 1 + kinds)
    bias: Floats  # (1 + kinds,)
    slope: float = 1.0  # calibration: logit of the share that is feedback = slope * output + offset
    offset: float = 0.0
    threshold: float = 0.5  # least share that counts as feedback

    @property
    def name(self) -> str:
        """As signals name their detector."""
        return f"small-{self.version}"


def said(text: str) -> str:
    """What a turn says beside code and stack traces, and of a long text the begin and the end."""
    lines = [line for line in text[:READ].splitlines() if line.strip()]
    plain = [line for line in lines if not TURN_PATTERNS["code"].search(line) and not STACK.search(line)]
    words = " ".join(plain or lines).split()
    return " ".join(words if len(words) <= HEAD + TAIL else [*words[:HEAD], "...", *words[-TAIL:]])


def texts_of(turn: Turn) -> tuple[str, str, str]:
    """What the embedder reads of a turn: turn, query, answer."""
    return said(turn.text), said(turn.query), said(turn.answer or "")


def detect(turns: Sequence[Turn], vectors: Vectors, learned: Parameters) -> list[Detection]:
    """`vectors` (N, 3, D): those of `texts_of` each turn."""
    if not turns:
        return []
    out = outputs(inputs(turns, vectors, learned), learned)
    shares = calibrated(out[:, 0], learned)
    kinds = np.exp(out[:, 1:] - out[:, 1:].max(axis=1, keepdims=True))
    kinds /= kinds.sum(axis=1, keepdims=True)
    return [_detection(float(share), row, learned) for share, row in zip(shares, kinds, strict=True)]


def _detection(share: float, kinds: Floats, learned: Parameters) -> Detection:
    return Detection(
        feedback=share, is_feedback=share >= learned.threshold, kind=KINDS[int(np.argmax(kinds))],
        kinds=cast("Mapping[SignalKind, float]", {kind: float(p) for kind, p in zip(KINDS, kinds, strict=True)}),
        detector=learned.name,
    )  # fmt: skip


def calibrated(output: Floats, learned: Parameters) -> Floats:
    """The share of turns with such an output that are feedback."""
    return cast("Floats", 1 / (1 + np.exp(-(learned.slope * output + learned.offset))))


def described(turns: Sequence[Turn], vectors: Vectors) -> tuple[tuple[str, ...], Floats]:
    """Names and values (N, F) of the features, and of how alike turn, query and answer are."""
    turn, query, answer = (vectors[:, part] for part in range(3))
    known = np.array([bool(item.answer) for item in turns], dtype=np.float32)
    asks, says = (turn * query).sum(1), (turn * answer).sum(1) * known
    alike = {
        "like_query": asks, "like_answer": says, "answer_like_query": (query * answer).sum(1) * known,
        "like_query_alone": asks * (1 - known),
    }  # fmt: skip
    rows = [features(item) for item in turns]
    values = np.array([list(row.values()) for row in rows], dtype=np.float32)
    return (*rows[0], *alike), np.hstack([values, np.stack(list(alike.values()), axis=1)]).astype(np.float32)


def joined(values: Floats, vectors: Vectors) -> Floats:
    """What the landmarks are compared with: scaled features beside the vectors, and where those part and agree."""
    turn, query, answer = (vectors[:, part] for part in range(3))
    agree = turn * answer * (np.sqrt(vectors.shape[2]) / 2)
    return np.hstack([values, turn, turn - query, answer, agree]).astype(np.float32)


def scaled(values: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Features in standard deviations."""
    return cast("Floats", np.clip((values - mean) / deviation, -LIMIT, LIMIT).astype(np.float32))


def inputs(turns: Sequence[Turn], vectors: Vectors, learned: Parameters) -> Floats:
    """(N, I)."""
    _, values = described(turns, vectors)
    return joined(scaled(values, learned.mean, learned.deviation), vectors)


def outputs(rows: Floats, learned: Parameters) -> Floats:
    """(N, 1 + kinds): logit of feedback, then of each kind."""
    like = likeness(rows, learned.landmarks, len(learned.names), learned.widths)
    return cast("Floats", like @ learned.weights + learned.bias)


def likeness(rows: Floats, landmarks: Floats, features_end: int, widths: tuple[float, float]) -> Floats:
    """(N, M), 1 for the same: the mean of how alike the features are, the vectors, and both at once."""
    by_features = np.exp(-widths[0] * _squared(rows[:, :features_end], landmarks[:, :features_end]))
    by_vectors = np.exp(-widths[1] * _squared(rows[:, features_end:], landmarks[:, features_end:]))
    return cast("Floats", (by_features + by_vectors + by_features * by_vectors) / 3)


def _squared(rows: Floats, landmarks: Floats) -> Floats:
    found = (rows**2).sum(1)[:, None] + (landmarks**2).sum(1)[None] - 2 * rows @ landmarks.T
    return cast("Floats", np.maximum(found, 0))
