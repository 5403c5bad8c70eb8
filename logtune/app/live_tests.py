"""Store -> LiveTest*: the newest live tests with their confidence sequences, for whoever shows them."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logtune.edges.experiments import ENDS, Experiments
from logtune.errors import InputError
from logtune.records import Cluster, Evaluation, Experiment
from logtune.stages import live
from logtune.stages.trials import Trial, standing, words
from logtune.statistics import Interval

if TYPE_CHECKING:
    from logtune.edges.experiments import Led
    from logtune.edges.store import Store

POINTS = 24  # of a sequence
MOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTest:
    """One test as it stands."""

    at: Trial
    course: tuple[tuple[int, Interval], ...]  # users, and the difference of the arms then
    words: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.at.now.action in ENDS


def shown(store: "Store", led: "Led", now: float | None = None) -> LiveTest:
    """A test with all that is known of it."""
    now = time.time() if now is None else now
    logs = list(store.logs(led[0].at, shadow=True))
    at = standing(*led, logs, list(store.feedback()), now)
    told = live.telling(at.units, at.settings, now, at.last)
    course = live.intervals(told, at.settings, at.last, POINTS)
    return LiveTest(at=at, course=tuple(course), words=at.now.reason if at.now.action in ENDS else words(at, "open"))


def passed(store: "Store", wanted: str | None) -> dict[str, Evaluation]:
    """Cluster name -> its newest candidate that passed the gate; `wanted`: a cluster's name, or an evaluation's id.

    InputError where that names nothing that has passed.
    """
    found: dict[str, Evaluation] = {}
    for item in store.list(Evaluation, limit=None):
        if item.outcome == "passed":
            (cluster,) = store.load(Cluster, [item.cluster_id])
            if wanted is None or wanted in (cluster.name, item.id):
                found.setdefault(cluster.name or cluster.id, item)
    if wanted is not None and not found:
        raise InputError(f"no candidate of '{wanted}' has passed its gate", "logtune evaluations lists what was tried")
    return found


def newest_tests(store: "Store") -> tuple[LiveTest, ...]:
    """The tests begun last."""
    tests = Experiments(store)
    return tuple(shown(store, (test, tests.led(test))) for test in store.list(Experiment, limit=MOST))
