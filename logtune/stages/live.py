"""What a live test decides after each unit. In -> out: capital of the gamblers, split, users, time -> Ruling.

The same rules for the loop, for `logtune simulate` and for the benchmark: arrays, a row an experiment. The error of a
test is split beforehand: a tenth for its guards, the rest in halves for a wrong promotion and a wrong rollback.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from logtune.config_experiment import ExperimentSettings
from logtune.records import DAY_S, Json
from logtune.sequential import Course, Units, advance, begin, bounds
from logtune.stages.experiment import BASE, CANDIDATE
from logtune.stages.live_guards import GUARDS, HIGHEST, Guarded, guard
from logtune.stages.lots import chance_at, next_share, worth
from logtune.stages.outcomes import Unit
from logtune.stages.split import mismatch
from logtune.statistics import Floats, Interval

GUARD_PART = 0.1  # of a test's error
ARMS = {BASE: False, CANDIDATE: True}
CODES: Mapping[str, str] = {
    "better": "the candidate is better, surely",
    "worse": "the candidate is worse, surely",
    "guard": "a guard was broken",
    "mismatch": "units reached the arms in other shares than they were sent",
    "undecided": "the planned users or days are over and nothing is sure",
    "moved": "what serves the cluster has changed since the test began",
    "watched": "the candidate was no worse than the hold-back until the end of its watch",
    "shadowed": "the candidate broke no guard in the shadow",
    "ramp": "enough users had the candidate for the next step, and no guard was broken",
    "open": "nothing is sure yet",
    "by_hand": "decided by hand",
}
Ruling = Literal["promote", "rollback", "stop", "extend"]


@dataclass(frozen=True, slots=True)
class Errors:
    """How much of a test's error each decision may spend."""

    promote: float
    rollback: float
    guard: float  # each


def errors(confidence: float) -> Errors:
    """The split of 1 - `confidence`."""
    alpha = 1 - confidence
    return Errors((1 - GUARD_PART) * alpha / 2, (1 - GUARD_PART) * alpha / 2, GUARD_PART * alpha / len(GUARDS))


def decided(up: Floats, down: Floats, confidence: float) -> npt.NDArray[np.int64]:
    """1: promote, -1: roll back, 0: neither; for any shape."""
    spent = errors(confidence)
    return np.asarray((up >= 1 / spent.promote).astype(int) - (down >= 1 / spent.rollback).astype(int))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a live test stands."""

    seen: int  # units that were drawn
    exposed: int  # of these, who had the candidate, those whom the ramp moved to it too
    known: int  # units drawn into the candidate arm whose windows are over
    active: int  # units that came within a window, the most of the last day
    worth: float  # compared units whose windows are over, counted as of even arms
    units: Mapping[str, int]  # an arm's units whose outcome is known
    means: Mapping[str, float | None]  # of their outcomes
    waiting: int  # units whose window is open
    silent: int  # units that say nothing by this metric
    moved: int  # units that a step of the ramp moves, or will: not compared
    mixed: int  # other units that saw two arms: not compared
    interval: Interval  # candidate minus base, -1..1, at every moment
    up: float  # largest capital so far of those who bet on the candidate
    down: float  # and against it
    leads: bool  # whether those who bet on the candidate own no less now than those who bet against it
    verdict: int  # 1: surely better, -1: surely worse, 0: open; whichever came first
    mismatch: bool
    guards: Mapping[str, Guarded]

    def numbers(self) -> dict[str, Json]:
        """All of it, for the receipt of a verdict."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("interval", "guards")}
        return {
            **plain, "units": dict(self.units), "means": dict(self.means),
            "interval": [self.interval.low, self.interval.high],
            "guards": {name: asdict(guard) for name, guard in self.guards.items()},
        }  # fmt: skip


def state(found: Sequence[Unit], settings: ExperimentSettings, now: float, last: float, slow_factor: float) -> State:
    """Where a test stands with these units, oldest first; `last`: the share that its ramp ends with."""
    clean = [unit for unit in found if _is_compared(unit, last) and len(unit.arms) == 1]
    moved = sum(not _is_compared(unit, last) for unit in found)
    ripe = [unit for unit in clean if is_ripe(unit, settings, now)]
    told = telling(found, settings, now, last)
    course = _course(told, last)
    spent = errors(settings.confidence)
    return State(
        seen=len(found), exposed=sum(CANDIDATE in unit.arms for unit in found), waiting=len(clean) - len(ripe),
        known=sum(unit.candidate and is_ripe(unit, settings, now) for unit in found),
        active=_busiest(found, 3600 * settings.window_hours, now),
        worth=float(worth(chance_at(np.array([unit.share for unit in ripe]), last)).sum()),
        silent=len(ripe) - len(told), moved=moved, mixed=len(found) - moved - len(clean),
        units={arm: sum(u.candidate == own for u in told) for arm, own in ARMS.items()},
        means={arm: _mean([u.value for u in told if u.candidate == own]) for arm, own in ARMS.items()},
        interval=interval(told, settings, last), up=_largest(course.up), down=_largest(course.down),
        leads=bool(course.up[0, -1] >= course.down[0, -1]),
        verdict=_first(decided(course.up, course.down, settings.confidence)),
        mismatch=mismatch(clean, settings.max_users, last),
        guards={name: guard(name, clean, settings, last, spent.guard, slow_factor) for name in GUARDS},
    )  # fmt: skip


def in_order(found: Sequence[Unit], last: float) -> Units:
    """The units that tell something, as `sequential` takes them: one row."""
    share = np.array([[unit.share for unit in found]])
    return Units(
        candidate=np.array([[unit.candidate for unit in found]], dtype=bool), chance=chance_at(share, last),
        value=np.array([[unit.value for unit in found]], dtype=np.float64), counted=np.ones(share.shape, dtype=bool),
    )  # fmt: skip


def interval(found: Sequence[Unit], settings: ExperimentSettings, last: float, points: int = 1) -> Interval:
    """The confidence interval after the last unit."""
    return intervals(found, settings, last, points)[-1][1]


def intervals(
    found: Sequence[Unit], settings: ExperimentSettings, last: float, points: int
) -> list[tuple[int, Interval]]:
    """The confidence sequence at some evenly spread moments, with the units until then."""
    if not found:
        return [(0, Interval(-1.0, 1.0))]
    at = sorted({max(1, round(len(found) * (number + 1) / points)) for number in range(points)})
    alpha = (1 - GUARD_PART) * (1 - settings.confidence)
    return list(zip(at, bounds(in_order(found, last), alpha, at), strict=True))


def telling(found: Sequence[Unit], settings: ExperimentSettings, now: float, last: float) -> list[Unit]:
    """The units that are compared."""
    ripe = (unit for unit in found if is_ripe(unit, settings, now))
    return [u for u in ripe if _is_compared(u, last) and len(u.arms) == 1 and u.value is not None]


def is_ripe(unit: Unit, settings: ExperimentSettings, now: float) -> bool:
    """Whether its window is over."""
    return unit.first_at + 3600 * settings.window_hours <= now


def _busiest(found: Sequence[Unit], window: float, now: float) -> int:
    """Units that came within one window, the most of the last day: short windows know day and night."""
    reach = max(window, DAY_S)
    came = Counter(
        place
        for unit in found
        for place in {int((now - at) // window) for at in (unit.first_at, unit.last_at) if now - at < reach}
    )
    return max(came.values(), default=0)


def _is_compared(unit: Unit, last: float) -> bool:
    return unit.lot < unit.share or unit.lot >= last


def _course(found: Sequence[Unit], last: float) -> Course:
    return advance(begin(), in_order(found, last))[1] if found else Course(np.ones((1, 1)), np.ones((1, 1)))


def _largest(capital: Floats) -> float:
    return float(min(capital.max(), HIGHEST))


def _first(ruled: npt.NDArray[np.int64]) -> int:
    known = ruled[ruled != 0]
    return int(known[0]) if known.size else 0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None


def ruling(now_: State, settings: ExperimentSettings, *, days: float, share: float) -> tuple[Ruling, str]:
    """What to do with a test, and the code of why: safety first, then what is sure, then the end, then the ramp."""
    broken = any(guard.broken for guard in now_.guards.values())
    enough = now_.worth >= settings.max_users or days >= settings.max_days
    grows = 24 * days >= settings.window_hours and allowed(now_, settings) > share  # before, nobody knows the traffic
    found: list[tuple[bool, Ruling, str]] = [
        (broken, "rollback", "guard"), (now_.mismatch, "stop", "mismatch"), (now_.verdict > 0, "promote", "better"),
        (now_.verdict < 0, "rollback", "worse"), (enough, "stop", "undecided"), (grows, "extend", "ramp"),
    ]  # fmt: skip
    return next(((what, code) for holds, what, code in found if holds), ("extend", "open"))


def first_share(settings: ExperimentSettings, active: int) -> float:
    """The share that a test begins with where so many units come within a window; none in the shadow."""
    if settings.mode != "ab":
        return 0.0
    return float(next_share(settings, np.zeros(1, dtype=np.int64), np.ones(1, dtype=bool), active)[0])


def allowed(now_: State, settings: ExperimentSettings) -> float:
    """The share that the candidate may have now."""
    return float(next_share(settings, np.array([now_.known]), np.array([now_.leads]), now_.active)[0])


def watch_ruling(now_: State, settings: ExperimentSettings, *, days: float) -> tuple[Ruling, str]:
    """The same for the time after a promotion."""
    if any(guard.broken for guard in now_.guards.values()):
        return "rollback", "guard"
    if now_.verdict < 0:
        return "rollback", "worse"
    return ("promote", "watched") if days >= settings.watch_days else ("extend", "open")


def backoff_days(outcomes: Sequence[str], settings: ExperimentSettings) -> float:
    """How long a cluster waits after its last test; `outcomes`: last actions of its tests, in order."""
    lost = 0
    for action in reversed(outcomes):
        if action not in ("stop", "rollback"):
            break
        lost += 1
    return min(settings.backoff_days * 2 ** (lost - 1), settings.backoff_max_days) if lost else 0.0
