"""Results of a comparison -> its figures. Points are percentage points; bounds are of two-sided 95% intervals.

Of several seeds a held-out request counts once, with its mean score: what is paired are requests. What was not
measured has no key.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np

from logtune.records import Json
from logtune.statistics import Estimate, paired_difference

OURS, BASE, UNFILTERED = "logtune", "base", "logtune_unfiltered"
RETRIEVAL = ("bm25", "embedding", "few_shot")
MEMORY = ("memory", "mem0")
FIRST, LAST, LATER = 2, 4, 6  # weeks that the figures are about

Scores = Mapping[str, float]  # held-out request -> 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one system did in one week of one stream, over all seeds that were run."""

    stream: str
    system: str
    week: int
    seeds: tuple[int, ...]
    scores: Scores
    topic_weeks: Mapping[str, int]
    prompt_tokens: float
    latency_ms: float
    learn_seconds: float
    training_tokens: float
    adapter_share: float  # the largest
    human_actions: int  # of this and all weeks before, in all seeds
    retention: Scores
    quality_of_traffic: float | None
    notes: tuple[str, ...]

    @property
    def quality(self) -> float:
        """Mean score."""
        return float(np.mean(list(self.scores.values())))


ONCE = ("note", "quick_minutes")  # of no stream: they stay until they are measured again

Results = Mapping[tuple[str, str, int], Found]  # (stream, system, week)


def read(out: Path) -> dict[tuple[str, str, int], Found]:
    """Every week that was measured, as `compare_run` wrote it."""
    by_key: dict[tuple[str, str, int], list[dict[str, Json]]] = {}
    for path in sorted(out.glob("*/*/seed-*/week-*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        by_key.setdefault((row["stream"], row["system"], row["week"]), []).append(row)
    actions = {key: sum(_learnt(row, "human_actions") for row in found) for key, found in by_key.items()}
    return {key: _merged(key, found, actions) for key, found in sorted(by_key.items())}


def _merged(
    key: tuple[str, str, int], found: Sequence[dict[str, Json]], actions: Mapping[tuple[str, str, int], float]
) -> Found:
    stream, system, week = key
    told = sum(count for (s, y, w), count in actions.items() if (s, y) == (stream, system) and w <= week)
    return Found(
        stream=stream, system=system, week=week, seeds=tuple(cast("int", row["seed"]) for row in found),
        scores=_means(cast("Scores", row["scores"]) for row in found),
        topic_weeks=cast("dict[str, int]", found[0]["topic_weeks"]),
        prompt_tokens=_mean(cast("float", row["prompt_tokens"]) for row in found),
        latency_ms=_mean(cast("float", row["latency_ms"]) for row in found),
        learn_seconds=_mean(_learnt(row, "seconds") for row in found),
        training_tokens=_mean(_learnt(row, "training_tokens") for row in found),
        adapter_share=max(_learnt(row, "adapter_share") for row in found), human_actions=int(told),
        retention=_means(cast("Scores", row["retention"]) for row in found if row["retention"]),
        quality_of_traffic=cast("float | None", cast("dict[str, Json]", found[0]["traffic"])["quality"]),
        notes=tuple(str(cast("dict[str, Json]", row["learnt"])["note"]) for row in found),
    )  # fmt: skip


def _learnt(row: Mapping[str, Json], name: str) -> float:
    return float(cast("float", cast("dict[str, Json]", row["learnt"])[name]))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _means(found: Iterable[Scores]) -> dict[str, float]:
    by_id: dict[str, list[float]] = {}
    for scores in found:
        for name, score in scores.items():
            by_id.setdefault(name, []).append(score)
    return {name: float(np.mean(each)) for name, each in by_id.items()}


def points(ours: Scores, theirs: Scores) -> Estimate | None:
    """What ours is better by, in points, on the requests that both were asked; None: there are none."""
    both = sorted({*ours} & {*theirs})
    if not both:
        return None
    found = paired_difference([ours[name] for name in both], [theirs[name] for name in both])
    return Estimate(100 * found.mean, 100 * found.low, 100 * found.high)


def streams(results: Results) -> list[str]:
    """The streams that anything was measured on."""
    return list(dict.fromkeys(stream for stream, _, _ in results))


def changes(results: Results, ours: tuple[str, int], theirs: tuple[str, int]) -> dict[str, Estimate]:
    """Stream -> what one (system, week) is better by than another; only streams on which both were measured."""
    found = {}
    for stream in streams(results):
        a, b = results.get((stream, *ours)), results.get((stream, *theirs))
        change = points(a.scores, b.scores) if a and b else None
        if change:
            found[stream] = change
    return found


def best_rival(results: Results, stream: str, week: int, names: Sequence[str]) -> Found | None:
    """The best retrieval or memory system, among those that put no fewer tokens into the prompt than we."""
    ours = results.get((stream, OURS, week))
    rivals = [results[stream, name, week] for name in names if (stream, name, week) in results]
    dear = [rival for rival in rivals if ours and ours.prompt_tokens <= rival.prompt_tokens]
    return max(dear, key=lambda rival: rival.quality, default=None)


def figures(results: Results) -> dict[str, Json]:
    """The figures by their keys, and what they rest on."""
    parts = (_gain, _lead, _ratio, _old_skill, _retention, _stability, _filter)
    found = {key: value for part in parts for key, value in part(results).items()}
    actions = [row.human_actions for (_, system, week), row in results.items() if (system, week) == (OURS, LAST)]
    found |= {"human_actions": max(actions)} if actions else {}
    return _complete({**found, "measured": _measured(results)})


RESTS_ON: Mapping[str, str] = dict.fromkeys(  # figure by stream -> a system that serves for nothing else
    ("filter_gain_points_by_stream", "filter_gain_lower", "filter_gain_upper"), UNFILTERED
)


def beside(found: Mapping[str, Json], earlier: Mapping[str, Json]) -> dict[str, Json]:
    """The figures, with those of streams and systems that only an earlier run measured kept as they are.

    Of a stream that is measured again only what rests on a system that is not: what the filter gains.
    """
    rows, before = _rows(found), _rows(earlier)
    now, again = {row["stream"] for row in rows}, {(row["stream"], row["system"]) for row in rows}
    old = [row for row in before if (row["stream"], row["system"]) not in again]
    merged: dict[str, Json] = {**found, "measured": [*old, *rows]}
    gone = {row["stream"] for row in old} - now
    for key, values in earlier.items():
        still = gone | {row["stream"] for row in old if row["system"] == RESTS_ON.get(key)}
        kept = {s: value for s, value in values.items() if s in still} if isinstance(values, dict) else {}
        if kept:
            merged[key] = {**kept, **cast("dict[str, Json]", found.get(key, {}))}
    actions = [cast("int", each["human_actions"]) for each in (found, earlier) if "human_actions" in each]
    merged |= {"human_actions": max(actions)} if actions else {}
    return _complete({**{key: earlier[key] for key in ONCE if key in earlier}, **merged})


def _rows(figures: Mapping[str, Json]) -> list[dict[str, Json]]:
    return cast("list[dict[str, Json]]", figures.get("measured", []))


def _ahead(lower: Sequence[float]) -> int:
    return sum(bound > 0 for bound in lower)


Together = Callable[[Sequence[float]], float]
OVER_ALL: Mapping[str, tuple[str, Together]] = {  # key -> of which figure by stream, and how. The mean of a lead would
    "streams_measured": ("gain_points_week2_by_stream", len),  # hide where it is behind
    "gain_points_week2": ("gain_points_week2_by_stream", fmean),
    "streams_ahead_week2": ("lead_lower_week2", _ahead),
    "streams_ahead_week4": ("lead_lower_week4", _ahead),
    "prompt_token_ratio": ("prompt_token_ratio_by_stream", min),
    "old_skill_points": ("old_skill_points_by_stream", min),
    "retention_points": ("retention_points_by_stream", min),
    "stability_points": ("stability_points_by_stream", min),
    "filter_gain_points": ("filter_gain_points_by_stream", fmean),
}


def _complete(by_stream: Mapping[str, Json]) -> dict[str, Json]:
    """With the figures over all streams."""
    totals: dict[str, Json] = {
        key: together([*cast("Mapping[str, float]", by_stream[of]).values()])
        for key, (of, together) in OVER_ALL.items()
        if of in by_stream
    }
    shares = [row["adapter_share"] for row in _rows(by_stream) if (row["system"], row["week"]) == (OURS, LAST)]
    totals |= {"adapter_share": max(cast("list[float]", shares))} if shares else {}
    return {**by_stream, **totals}


def _gain(results: Results) -> dict[str, Json]:
    return _by_stream("gain", "_week2", changes(results, (OURS, FIRST), (BASE, FIRST)))


def _lead(results: Results) -> dict[str, Json]:
    return _lead_after(results, FIRST) | _lead_after(results, LAST)


def _lead_after(results: Results, week: int) -> dict[str, Json]:
    """Against the best rival of each stream."""
    rivals = {s: best_rival(results, s, week, (*RETRIEVAL, *MEMORY)) for s in streams(results)}
    found = {s: points(results[s, OURS, week].scores, rival.scores) for s, rival in rivals.items() if rival}
    leads = {stream: lead for stream, lead in found.items() if lead}
    if not leads:
        return {}
    return {
        f"lead_points_week{week}": {stream: lead.mean for stream, lead in leads.items()},
        f"lead_lower_week{week}": {stream: lead.low for stream, lead in leads.items()},
        f"lead_upper_week{week}": {stream: lead.high for stream, lead in leads.items()},
        f"lead_over_week{week}": {stream: rival.system for stream, rival in rivals.items() if rival},
    }


def _ratio(results: Results) -> dict[str, Json]:
    rivals = {stream: best_rival(results, stream, LAST, RETRIEVAL) for stream in streams(results)}
    ratios: Json = {s: r.prompt_tokens / results[s, OURS, LAST].prompt_tokens for s, r in rivals.items() if r}
    return {"prompt_token_ratio_by_stream": ratios} if ratios else {}


def _old_skill(results: Results) -> dict[str, Json]:
    """Only the first week's topics were tested after the first week, so only they are paired."""
    return _by_stream("old_skill", "", changes(results, (OURS, LAST), (OURS, 1)))


def _retention(results: Results) -> dict[str, Json]:
    found = {}
    for stream in streams(results):
        ours, base = results.get((stream, OURS, LAST)), results.get((stream, BASE, LAST))
        change = points(ours.retention, base.retention) if ours and base else None
        if change:
            found[stream] = change
    return _by_stream("retention", "", found)


def _stability(results: Results) -> dict[str, Json]:
    return _by_stream("stability", "", changes(results, (OURS, LATER), (OURS, LAST)))


def _filter(results: Results) -> dict[str, Json]:
    """Training on what the filter lets through, against training on everything."""
    return _by_stream("filter_gain", "", changes(results, (OURS, LAST), (UNFILTERED, LAST)))


def _by_stream(name: str, suffix: str, found: Mapping[str, Estimate]) -> dict[str, Json]:
    """NAME_points by stream with its interval; nothing where nothing was measured."""
    if not found:
        return {}
    return {
        f"{name}_points{suffix}_by_stream": {stream: change.mean for stream, change in found.items()},
        f"{name}_lower{suffix}": {stream: change.low for stream, change in found.items()},
        f"{name}_upper{suffix}": {stream: change.high for stream, change in found.items()},
    }


def _measured(results: Results) -> list[Json]:
    """A row a stream, system and week: what the figures rest on."""
    return [
        {
            "stream": f.stream, "system": f.system, "week": f.week, "seeds": list(f.seeds), "held_out": len(f.scores),
            "quality": f.quality, "prompt_tokens": f.prompt_tokens, "latency_ms": f.latency_ms,
            "learn_seconds": f.learn_seconds, "training_tokens": f.training_tokens, "adapter_share": f.adapter_share,
            "retention": _mean(f.retention.values()) if f.retention else None,
        }
        for f in results.values()
    ]  # fmt: skip
