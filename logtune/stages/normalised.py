"""Scores of several data sets -> one normalised summary, as MemoryBench computes it (arXiv 2510.17281).

Each set is normalised by constants of its own: min-max to 0..1, and z = (score - mean) / standard deviation. The
average weighs each set the same; weighted average and z-score weigh each answer the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

LEAST_DEVIATION = 1e-6  # below, all answers score alike and z is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """By what one set is normalised: over all answers of all methods."""

    low: float
    high: float
    mean: float
    deviation: float

    def minmax(self, score: float) -> float:
        """0 the lowest .. 1 the highest; 0 where both are the same."""
        return (score - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def z(self, score: float) -> float:
        """In standard deviations above the mean."""
        return (score - self.mean) / self.deviation if self.deviation > LEAST_DEVIATION else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One method over the sets of a task."""

    means: Mapping[str, float]  # set -> mean score, not normalised
    counts: Mapping[str, int]  # set -> answers
    average: float | None  # of the sets' min-max means; None: no set has a score
    weighted_average: float | None  # of the answers' min-max scores
    z_score: float | None  # mean of the answers


def summarise(means: Mapping[str, float], counts: Mapping[str, int], constants: Mapping[str, Constants]) -> Summary:
    """The summary of sets given by mean and count; the normalisations are linear, so no single score is needed."""
    sets = [name for name in means if name in constants and counts.get(name)]
    total = sum(counts[name] for name in sets)
    scaled = {name: constants[name].minmax(means[name]) for name in sets}
    return Summary(
        means=dict(means), counts=dict(counts), average=fmean(scaled.values()) if sets else None,
        weighted_average=sum(scaled[name] * counts[name] for name in sets) / total if sets else None,
        z_score=sum(constants[name].z(means[name]) * counts[name] for name in sets) / total if sets else None,
    )  # fmt: skip


def constants_of(methods: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Constants]:
    """Set -> constants over all scores of all methods of one run."""
    together: dict[str, list[float]] = {}
    for scores in methods:
        for name, values in scores.items():
            together.setdefault(name, []).extend(values)
    return {
        name: Constants(low=min(values), high=max(values), mean=fmean(values), deviation=pstdev(values))
        for name, values in together.items()
        if values
    }
