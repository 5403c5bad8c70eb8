"""Thresholds of the noise classes for a deployment's own traffic, from its store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from logtune.app.noise_reading import noise_reader
from logtune.config import Config
from logtune.edges.store import Store
from logtune.errors import InputError
from logtune.stages.filter import of_ordinary
from logtune.stages.interactions import join
from logtune.stages.noise import CLASSES
from logtune.stages.thresholds import NEEDED, Floats, thresholds

MOST = 20_000  # interactions, the newest: more change no quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Proposed thresholds and what they do; shares are 0..1."""

    fpr: float
    total: int
    ordinary: int
    thresholds: Mapping[str, float]
    flagged_before: float  # of the ordinary queries, with the settings as they are
    flagged: float
    others_before: float  # of all other queries
    others: float


def tuned(store: Store, config: Config, fpr: float, progress: Callable[[str], None]) -> Tuned:
    """InputError where there is too little ordinary traffic to say."""
    from logtune.app.build import embedder

    items = join(list(store.logs())[-MOST:], ())
    meaning = embedder(config, progress)
    queries = [item.query for item in items]
    vectors = meaning.embed(queries)
    reader = noise_reader(meaning.fingerprint, config.embedder.dtype)
    scores = dict(zip(queries, reader.by_class(queries, vectors, meaning.fingerprint), strict=True))
    ours, others = of_ordinary(items, vectors, scores, config.filter) if items else ({}, {})
    found = thresholds(ours, fpr) if ours else None
    if found is None:
        count = len(next(iter(ours.values()))) if ours else 0
        raise InputError(
            f"only {count} queries of {len(items)} are what several users ask alike, {NEEDED} are needed",
            "collect or import more logs; until then the shipped thresholds hold",
        )
    now = {name: float(getattr(config.filter, name)) for name in CLASSES}
    return Tuned(
        fpr=fpr, total=len(items), ordinary=len(next(iter(ours.values()))), thresholds=found,
        flagged_before=_share(ours, now), flagged=_share(ours, found), others_before=_share(others, now),
        others=_share(others, found),
    )  # fmt: skip


def _share(scores: Mapping[str, Floats], limits: Mapping[str, float]) -> float:
    """Of the rows that reach a limit."""
    reached = np.column_stack([scores[name] >= limits[name] for name in scores])
    return float(reached.any(axis=1).mean()) if len(reached) else 0.0
