"""The guards of live tests inside the gateway: a breach ends a test within a second, by what this process sees alone.

Exchange -> Guarding.note, a tuple        every CHECK_S: errors, refusals, slow and odd answers of both -> the test ends
bad answer of the candidate -> Inquiry -> nearly all bad where the base did well -> the test ends

The same bets as in the store's guards (`sequential`), over recent traffic: each unit counts once in a stretch of some
seconds, and each stretch begins anew, so that a breach in the middle of a long test shows as fast as one at its start.
The error of a stretch is tiny, since there are many. Where few users come, their last answers tell, and where few of
them have the candidate, an inquiry. First the base model serves, then the store is told; while the store is down the
test stays ended here.
"""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from logtune.app.chat_api import ChatApi
from logtune.app.exchange import GONE, Exchange
from logtune.app.inquiry import BAD, QUESTIONS, Inquiry
from logtune.app.logs import event
from logtune.app.routing import Router
from logtune.config_experiment import ExperimentSettings
from logtune.edges.store import Store
from logtune.errors import LogtuneError
from logtune.experiments import break_guard
from logtune.records import Json
from logtune.sequential import Capital, Units, advance, begin
from logtune.stages.behaviour import refuses
from logtune.stages.choice import CALLS
from logtune.stages.experiment import BASE, CANDIDATE
from logtune.stages.interactions import answer_text
from logtune.stages.live_guards import QUANTILE_FROM, margins
from logtune.statistics import Floats

LOG = logging.getLogger(__name__)
CHECK_S = 0.2
SHORTEST_S, LONGEST_S = 10.0, 60.0  # of a stretch, in which a unit counts once
REMEMBERED = 200.0  # units, of those before a stretch
ERROR = 1e-8  # of one guard in one stretch: 250,000 of them in four weeks, at most
BURST, BURST_BAD, BURST_BASE = 20, 16, 2  # last answers of an arm; bad ones of the candidate; of the base, at most
RECENT = 500  # answers of the base by which the others are measured
FAST = ("errors", "slow", "odd_length", "refusals")
READ = 50  # answers of a test between two checks that are read for refusals, each for up to 0.3 ms of the event loop
ARMS = (BASE, CANDIDATE)


class Seen(NamedTuple):
    """One answered request of a test."""

    ours: bool  # of the candidate
    share: float
    lot: float
    failed: bool
    seconds: float
    length: int
    calls: int  # that such an answer takes
    refused: bool | None  # None: it was not read, of both arms alike


@dataclass(slots=True)
class Stretch:
    """What is known since a moment."""

    since: float
    capital: dict[str, Capital] = field(default_factory=lambda: {name: begin() for name in FAST})
    units: set[float] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)  # of units, and of bad ones by guard, by arm
    again: int = 0  # requests of units that had counted already

    def count(self, fresh: Sequence["Seen"], bad: Mapping[str, Floats]) -> None:
        """Units that count from now on."""
        for number, seen in enumerate(fresh):
            arm = ARMS[seen.ours]
            self.counts[arm] += 1
            self.counts.update(f"{arm} {name}" for name in FAST if bad[name][number])

    def told(self, guard: str) -> dict[str, Json]:
        """How many users each arm had here, and of how many the first answer was bad."""
        found: dict[str, Json] = {}
        for arm in ARMS:
            found |= {f"users of the {arm}": self.counts[arm], f"bad of the {arm}": self.counts[f"{arm} {guard}"]}
        return found

    def over(self, now: float) -> bool:
        """Whether a new one begins: most who come have counted."""
        age = now - self.since
        return age > LONGEST_S or (age > SHORTEST_S and self.again > len(self.units))

    def next(self, now: float) -> "Stretch":
        """A new one: nobody has counted, nothing is won; what outcomes are like is still known."""
        fresh = begin()
        known = {
            name: replace(old, up=fresh.up, down=fresh.down, **_faded(old)) for name, old in self.capital.items()
        }  # fmt: skip
        return Stretch(now, known)


def _faded(old: Capital) -> dict[str, Floats]:
    share = np.minimum(1.0, REMEMBERED / old.units)
    return {"units": old.units * share, "total": old.total * share, "spread": old.spread * share}


class Watched:
    """The recent traffic of one test."""

    def __init__(self, now: float, inquiry: Inquiry[Seen]) -> None:
        self.waiting: list[Seen] = []
        self.inquiry = inquiry
        self._stretch = Stretch(now)
        self._base: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._last: dict[tuple[str, bool], deque[bool]] = {}  # by guard and arm, what was bad

    def check(self, settings: ExperimentSettings, now: float) -> tuple[str, dict[str, Json]] | None:
        """The guard that what has waited breaks, with its numbers."""
        waiting, self.waiting = self.waiting, []
        if self._stretch.over(now):
            self._stretch = self._stretch.next(now)
        bad = self._bad(waiting, settings)
        known, order = self._stretch.units, {seen.lot: number for number, seen in reversed(list(enumerate(waiting)))}
        fresh = sorted(number for lot, number in order.items() if lot not in known)
        self._stretch.again += len(waiting) - len(fresh)
        known.update(waiting[number].lot for number in fresh)
        broken = self._bet([waiting[n] for n in fresh], {g: bad[g][fresh] for g in FAST}, settings) if fresh else None
        self._base.extend((seen.seconds, seen.length) for seen in waiting if not seen.ours and not seen.failed)
        broken = broken or self._burst(waiting, bad) or self._inquired(settings)
        if any(seen.ours and any(bad[name][number] for name in FAST) for number, seen in enumerate(waiting)):
            self.inquiry.open(now)  # after its answers were looked at, as the next one forgets them
        return broken

    def _bet(
        self, fresh: Sequence[Seen], bad: Mapping[str, Floats], settings: ExperimentSettings
    ) -> tuple[str, dict[str, Json]] | None:
        ours = np.array([[seen.ours for seen in fresh]])
        chance = np.array([[seen.share for seen in fresh]])
        allowed, capital = margins(settings), self._stretch.capital
        self._stretch.count(fresh, bad)
        for name in FAST:
            units = Units(ours, chance, 1 - bad[name][None], np.ones(ours.shape, dtype=bool))
            capital[name], course = advance(capital[name], units, null_down=-allowed[name])
            if course.down.max() >= 1 / ERROR:
                return name, {"capital": round(float(course.down.max())), **self._stretch.told(name)}
        return None

    def _burst(self, waiting: Sequence[Seen], bad: Mapping[str, Floats]) -> tuple[str, dict[str, Json]] | None:
        """Nearly all that the candidate does is bad, and nearly nothing of the base: seen with few users too."""
        for name in FAST:
            for seen, is_bad in zip(waiting, bad[name], strict=True):
                if name == "refusals" and seen.refused is None:
                    continue
                self._last.setdefault((name, seen.ours), deque(maxlen=BURST)).append(bool(is_bad))
            ours, base = (self._last.get((name, side), ()) for side in (True, False))
            if len(ours) == len(base) == BURST and sum(ours) >= BURST_BAD and sum(base) <= BURST_BASE:
                return name, {f"of the candidate's last {BURST}": sum(ours), "of the base's": sum(base)}
        return None

    def _inquired(self, settings: ExperimentSettings) -> tuple[str, dict[str, Json]] | None:
        """Asked what the base has answered well, the candidate nearly always fails; the base itself does not."""
        found = self.inquiry.answers
        bad = self._bad(found, settings) if len(found) >= BAD else {}
        for name in bad:
            count, base = int(bad[name].sum()), self._last.get((name, False), ())
            if count >= BAD and sum(base) <= BURST_BASE:
                return name, {f"of {QUESTIONS} answers asked unseen": count, f"of the base's last {BURST}": sum(base)}
        return None

    def _bad(self, waiting: Sequence[Seen], settings: ExperimentSettings) -> dict[str, Floats]:
        slow = long = math.inf
        if len(self._base) >= QUANTILE_FROM:
            slow, long = np.percentile(np.array(self._base), 95, axis=0)
            slow, long = slow * settings.slow_factor * max(seen.calls for seen in waiting), long * settings.long_factor
        return {
            "errors": np.array([float(seen.failed) for seen in waiting]),
            "slow": np.array([float(seen.seconds > slow) for seen in waiting]),
            "odd_length": np.array([float(not seen.failed and not 0 < seen.length <= long) for seen in waiting]),
            "refusals": np.array([float(seen.refused or False) for seen in waiting]),
        }


def _seen(exchange: Exchange, *, ours: bool, read: bool = True) -> Seen:
    """What the guards look at; `read`: for refusals too."""
    draw, text = exchange.choice.draw, answer_text(exchange.response) or ""
    assert draw is not None
    share = draw.propensity if exchange.choice.arm == CANDIDATE else 1 - draw.propensity
    seconds = exchange.elapsed_s or time.perf_counter() - exchange.started
    return Seen(
        ours, share, draw.lot, failed=exchange.error is not None, seconds=seconds, length=len(text),
        calls=CALLS[exchange.choice.kind], refused=refuses(text) if read else None,
    )  # fmt: skip


class Guarding:
    """The guards of one project's tests; its methods belong to the event loop."""

    def __init__(self, store: Store, router: Router, chat: ChatApi, settings: ExperimentSettings) -> None:
        self.told: Callable[[], None] = lambda: None  # called once the store knows of a test that was ended here
        self._store = store
        self._router = router
        self._chat = chat
        self._settings = settings
        self._watched: dict[str, Watched] = {}  # by experiment
        self._untold: dict[str, tuple[str, dict[str, Json]]] = {}  # ended here, the store does not know it yet
        self._checking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None  # apart: a store that hangs must not hold up the guards

    def note(self, exchange: Exchange) -> None:
        """Remember an exchange that has ended, if it was drawn into a test."""
        draw = exchange.choice.draw
        if draw is None or exchange.error == GONE:
            return
        watched = self._watched.get(draw.experiment)
        if watched is None:
            watched = Watched(asyncio.get_running_loop().time(), Inquiry(self._unseen))
            self._watched[draw.experiment] = watched
        seen = _seen(exchange, ours=exchange.choice.arm == CANDIDATE, read=len(watched.waiting) < READ)
        if 0 < seen.share < 1:
            watched.waiting.append(seen)
            if not seen.ours:
                watched.inquiry.note(exchange)

    async def _unseen(self, exchange: Exchange) -> Seen | None:
        """The candidate's answer to what the base has answered."""
        draw = exchange.choice.draw
        choice = self._router.table.asked_again(draw) if draw else None
        found = await self._chat.unseen(exchange, choice) if choice else None
        return None if found is None else _seen(found, ours=True)

    def start(self) -> None:
        """Check from now on."""
        self._checking = asyncio.create_task(self._check())

    async def close(self) -> None:
        """Check no more."""
        tasks = [task for task in (self._checking, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watched in self._watched.values():
            watched.inquiry.close()

    async def _check(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                for experiment, watched in list(self._watched.items()):
                    if watched.waiting and (broken := watched.check(self._settings, loop.time())):
                        self._end(experiment, *broken)
                if self._untold and (self._telling is None or self._telling.done()):
                    self._telling = asyncio.create_task(self._tell())
            except Exception:  # guards go on
                LOG.exception("the guards of live tests failed")

    def _end(self, experiment: str, guard: str, numbers: dict[str, Json]) -> None:
        self._router.end_test(experiment)
        self._untold[experiment] = (guard, numbers)
        self._watched.pop(experiment).inquiry.close()
        event(LOG, "a guard ended a live test", experiment=experiment, guard=guard, **numbers)

    async def _tell(self) -> None:
        for experiment, (guard, numbers) in list(self._untold.items()):
            try:
                await asyncio.to_thread(break_guard, self._store, experiment, guard, numbers, time.time())
            except LogtuneError as error:
                LOG.warning("the store does not know yet that a guard ended %s: %s", experiment, error.what)
                return
            except Exception:  # it is told again
                LOG.exception("the store could not be told that a guard ended %s", experiment)
                return
            del self._untold[experiment]
            self.told()
