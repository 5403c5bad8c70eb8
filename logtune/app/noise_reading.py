"""The shipped classifiers and the tuned embedder together, where it can be had: what reads noise in a cycle.

The tuned embedder takes as long as the vector did, so it is asked only where the classifiers leave a doubt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from logtune.app.noise_parameters import noise_model, noise_tuning
from logtune.edges.noise_encoder import LateEncoder, NoiseEncoder, Tuning
from logtune.edges.weights import embedder_model
from logtune.errors import LogtuneError
from logtune.ports import NoiseReader, Vectors
from logtune.stages.noise import CLASSES, Floats, NoiseModel, doubtful, joined, sigmoid


class Odds(Protocol):
    """A tuned encoder."""

    def odds(self, texts: Sequence[str]) -> Floats:
        """(N, C) log odds."""
        ...


@dataclass(frozen=True, slots=True)
class TunedReader:
    """The full reading and the tuned embedder together; texts without vectors of its embedder by the words alone."""

    model: NoiseModel
    tuning: Tuning
    encoder: Odds

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.model.name}+{self.tuning.name}"

    def by_class(self, texts: Sequence[str], vectors: Vectors | None, embedder: str) -> list[Mapping[str, float]]:
        """Each text's score by class."""
        if vectors is None or embedder != self.tuning.embedder or not texts:
            return self.model.by_class(texts, vectors, embedder)
        odds = self.model.full_odds(texts, vectors)
        asked: list[int] = np.flatnonzero(doubtful(odds, self.tuning.line)).tolist()
        if asked:
            odds[asked] = joined(odds[asked], self.encoder.odds([texts[row] for row in asked]))
        return [dict(zip(CLASSES, row, strict=True)) for row in sigmoid(odds - self.tuning.line).tolist()]


def noise_reader(embedder: str, dtype: str) -> NoiseReader:
    """What understands the vectors of the embedder with this fingerprint best."""
    model, tuning = noise_model(), noise_tuning()
    if embedder != tuning.embedder:
        return model
    try:
        folder = embedder_model(embedder.partition("@")[0])
    except LogtuneError:  # its package was taken away
        return model
    return TunedReader(model, tuning, LateEncoder(lambda: NoiseEncoder(folder, tuning, dtype=dtype)))
