"""Whether a cycle may begin now: gates that must all be open, each with a reason code.

ScheduleSettings, Facts -> decide -> Look (ready, or the first gate that is shut, and why)
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim

from logtune.config_schedule import WINDOW, ScheduleSettings, interval_s

READY = "ready"
GB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the gates look at; times in seconds since 1970."""

    now: float
    since: float  # when the schedule was first looked at, which is where a cron expression counts from at first
    last_began: float | None = None  # newest cycle, however it was started
    last_ended: float | None = None
    run_ended: float | None = None  # newest run that the schedule began; it may have left its cycle open
    unfinished: bool = False  # the last one was stopped or failed, and waits to be continued
    failures: int = 0  # runs in a row that failed, up to now
    holder: str = ""  # who runs a cycle now; "": nobody
    paused: str = ""  # why the operator holds everything; "": nothing is held
    new: int = 0  # log records and items of feedback since the last cycle that ended
    disk_bytes: int = 0  # free
    memory_bytes: int | None = None  # available; None: the system does not tell
    cost_30d: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the gates."""

    ready: bool
    reason: str  # code
    detail: str  # in words, with the values
    next_at: float | None  # when it is due; None: it is off


Gate = Callable[[ScheduleSettings, Facts], str]  # why it is shut; "": it is open


def decide(settings: ScheduleSettings, facts: Facts, *, timer: bool = False) -> Look:
    """Ready, or the first gate that is shut; `timer`: the caller is one, so without schedule.every it is time now."""
    if not settings.every and not timer:
        detail = "schedule.every is empty, so no cycle begins by itself"
        return Look(ready=False, reason="off", detail=detail, next_at=None)
    at = due_at(settings.every, facts) if settings.every else None
    for reason, gate in GATES:
        if shut := gate(settings, facts):
            return Look(ready=False, reason=reason, detail=shut, next_at=at)
    return Look(ready=True, reason=READY, detail=f"{facts.new} new records", next_at=at)


def due_at(every: str, facts: Facts) -> float:
    """When the next cycle is due: after the last one, or after the first look; what was missed is due at once."""
    seconds = interval_s(every)
    if seconds is not None:
        return facts.since if facts.last_began is None else facts.last_began + seconds
    after = max(facts.since, 0.0) if facts.last_began is None else facts.last_began
    # The clock on the wall, without an offset: the one of `after` need not hold at the time that is looked for.
    times = (at.timestamp() for at in CronSim(every, local(after).replace(tzinfo=None)))
    return next(at for at in times if at > after)  # an hour that comes twice: its second pass is after the first


def backoff_s(settings: ScheduleSettings, failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    if not failures:
        return 0.0
    return 3600 * min(settings.backoff_h * 2.0 ** (failures - 1), settings.longest_backoff_h)


def _not_due(settings: ScheduleSettings, facts: Facts) -> str:
    if not settings.every:
        return ""
    at = due_at(settings.every, facts)
    return f"the next one is due at {clock(at)}" if facts.now < at and not facts.unfinished else ""


def _window(settings: ScheduleSettings, facts: Facts) -> str:
    if not settings.window:
        return ""
    found = WINDOW.fullmatch(settings.window)
    assert found is not None, settings.window
    begin, end = (60 * int(found[n]) + int(found[n + 1]) for n in (1, 3))
    here = local(facts.now)
    minute = 60 * here.hour + here.minute
    inside = begin <= minute < end if begin <= end else minute >= begin or minute < end
    return "" if inside else f"it is {here:%H:%M}, and cycles begin within {settings.window}"


def _cooldown(settings: ScheduleSettings, facts: Facts) -> str:
    ends = (facts.last_ended or 0.0) + 3600 * settings.cooldown_h
    return (
        f"the last cycle ended {clock(facts.last_ended or 0)}; it rests until {clock(ends)}" if facts.now < ends else ""
    )


def _backoff(settings: ScheduleSettings, facts: Facts) -> str:
    last = max(facts.last_ended or 0.0, facts.last_began or 0.0, facts.run_ended or 0.0)
    ends = last + backoff_s(settings, facts.failures)
    if not facts.failures or facts.now >= ends:
        return ""
    return f"{facts.failures} failed in a row; the next try is at {clock(ends)}"


def _new(settings: ScheduleSettings, facts: Facts) -> str:
    if facts.new >= settings.min_new:
        return ""
    return f"{facts.new} new records since the last cycle, and schedule.min_new asks for {settings.min_new}"


def _disk(settings: ScheduleSettings, facts: Facts) -> str:
    if facts.disk_bytes >= settings.min_disk_gb * GB:
        return ""
    return f"{facts.disk_bytes / GB:.1f} GB of disk are free, and schedule.min_disk_gb is {settings.min_disk_gb:g}"


def _memory(settings: ScheduleSettings, facts: Facts) -> str:
    if facts.memory_bytes is None or facts.memory_bytes >= settings.min_memory_gb * GB:
        return ""
    free = f"{facts.memory_bytes / GB:.1f} GB of memory are available"
    return f"{free}, and schedule.min_memory_gb is {settings.min_memory_gb:g}"


def _budget(settings: ScheduleSettings, facts: Facts) -> str:
    if not settings.max_cost_30d or facts.cost_30d < settings.max_cost_30d:
        return ""
    return f"30 days have cost {facts.cost_30d:.4g}, and schedule.max_cost_30d is {settings.max_cost_30d:g}"


GATES: tuple[tuple[str, Gate], ...] = (
    ("paused", lambda _, facts: facts.paused),
    ("not_due", _not_due),
    ("running", lambda _, facts: f"{facts.holder} runs a cycle" if facts.holder else ""),
    ("outside_window", _window),
    ("cooldown", _cooldown),
    ("backing_off", _backoff),
    ("not_enough_new", _new),
    ("disk", _disk),
    ("memory", _memory),
    ("budget", _budget),
)


def local(at: float) -> datetime:
    """A time in this machine's zone."""
    return datetime.fromtimestamp(at, UTC).astimezone()


def clock(at: float) -> str:
    """A time for people, in local time."""
    return f"{local(at):%Y-%m-%d %H:%M}"
