"""Train the next adapter anew, or go on from the one that serves: TrainingJob -> TrainingJob.

Going on costs as much as there is new; training anew costs as much as was ever said. `benchmarks/go_on.py` measures
what either keeps. What goes on is trained on the new pairs and as many old ones, drawn by lot, so that the guard of
earlier lessons sees whether those that were not drawn are kept too. The reference of the loss stays the base model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from logtune import incumbents
from logtune.ports import TrainingJob, TrainingPair
from logtune.records import Adapter, PreferencePair
from logtune.runner import Cycle
from logtune.statistics import uniform
from logtune.views import ended, held

SALT = "logtune-replay"


def going_on(cycle: Cycle, job: TrainingJob) -> TrainingJob:
    """The job, as one that goes on where the rule of the settings says so; `job`: on all that there is to learn."""
    settings = cycle.config.train
    adapter = incumbents.of_name(cycle, job.name).adapter if settings.go_on else None
    if adapter is None or not _fits(adapter, job) or not _believed(cycle, adapter):
        return job
    learned, times = set(adapter.pair_ids), _times(adapter) + 1
    new = [pair for pair in job.pairs if pair.id not in learned]
    if not new or len(new) > settings.go_on * len(job.pairs) or times > settings.go_on_times:
        return job
    old = [pair for pair in job.pairs if pair.id in learned]
    replayed = _drawn(old, max(len(new), settings.min_pairs - len(new)), job.cluster_id)
    return replace(
        job, pairs=(*replayed, *new), start=adapter.path, start_id=adapter.id, learned=adapter.pair_ids, times=times
    )


def _fits(adapter: Adapter, job: TrainingJob) -> bool:
    return (adapter.kind, adapter.rank, adapter.base) == (job.kind, job.rank, job.base_fingerprint)


def _believed(cycle: Cycle, adapter: Adapter) -> bool:
    """Whether all that an adapter has learned still holds: what was taken back, vetoed or outvoted stays in it."""
    out, over = held(cycle), ended(cycle)
    said = {pair.id: pair.interaction_id for pair in cycle.board.all(PreferencePair) if pair.id not in out}
    return all(
        name in cycle.aged or (name in said and said[name] not in out and said[name] not in over)
        for name in adapter.pair_ids
    )


def _times(adapter: Adapter) -> int:
    found = adapter.checks.get("went_on", 0)
    return int(cast("int", found)) if isinstance(found, (int, float)) else 0


def _drawn(pairs: Sequence[TrainingPair], count: int, salt: str) -> list[TrainingPair]:
    return sorted(pairs, key=lambda pair: uniform(SALT, salt, pair.id))[:count]
