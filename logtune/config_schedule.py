"""Settings of the schedule: when a cycle begins by itself, and what must hold before it may."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field, field_validator

from logtune.config_gateway import Settings

INTERVAL = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def interval_s(every: str) -> float | None:
    """Seconds of an interval such as 7d or 12h; None for what is none."""
    found = INTERVAL.fullmatch(every.strip())
    return float(found[1]) * UNITS[found[2]] if found and float(found[1]) else None


class ScheduleSettings(Settings):
    """When `logtune serve`, `cycle --every` and `schedule --begin` begin a cycle. All of it must hold."""

    every: str = ""
    """An interval (7d, 12h, 30m) or a cron expression in local time (0 3 * * 1); empty: never by itself."""
    window: str = ""
    """Hours in which a cycle may begin, in local time, such as 01:00-05:00; empty: at any time."""
    min_new: Annotated[int, Field(ge=0)] = 20
    """New log records, with or without feedback and unseen answers of live tests too, and items of feedback."""
    cooldown_h: Annotated[float, Field(ge=0)] = 1.0
    """Hours after the end of a cycle in which no other begins."""
    backoff_h: Annotated[float, Field(gt=0)] = 1.0
    """Hours after a cycle that failed; doubled with each failure in a row."""
    longest_backoff_h: Annotated[float, Field(gt=0)] = 168.0
    """Hours beyond which that does not grow."""
    min_disk_gb: Annotated[float, Field(ge=0)] = 2.0
    """Free space where store.home lies."""
    min_memory_gb: Annotated[float, Field(ge=0)] = 1.0
    """Memory that is available, on the machine and below its container's limit; not asked where no system tells it."""
    max_cost_30d: Annotated[float, Field(ge=0)] = 0.0
    """Cost of the teacher's calls in 30 days, in the unit of spend's prices, from which on no cycle begins; 0: any."""
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """Niceness of the process that learns; serving is never niced."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads that the process may compute with; 0: as many as there are cores."""
    max_memory_gb: Annotated[float, Field(ge=0)] = 0.0
    """Memory that each process which learns may have (Linux); one that asks for more fails alone. 0: any."""
    timeout_h: Annotated[float, Field(gt=0)] = 24.0
    """Hours after which a cycle is stopped; the next one goes on where it was."""

    @field_validator("every")
    @classmethod
    def _readable(cls, every: str) -> str:
        if every and interval_s(every) is None:
            from cronsim import CronSim, CronSimError  # only where there is one to read

            try:
                CronSim(every, datetime.now(UTC))
            except CronSimError as error:
                raise ValueError(f"is neither an interval such as 7d nor a cron expression: {error}") from error
        return every

    @field_validator("window")
    @classmethod
    def _hours(cls, window: str) -> str:
        if window and not WINDOW.fullmatch(window):
            raise ValueError("is not of the form 01:00-05:00")
        if window and window[:5] == window[-5:]:
            raise ValueError("ends when it begins, so no cycle could ever begin; empty means at any time")
        return window
