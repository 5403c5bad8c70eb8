"""`logtune status`: what came in, what the last cycle did, what serves, and what would happen next."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, counted, moment, one_line
from logtune.records import Feedback, Interaction, LogRecord

if TYPE_CHECKING:
    from logtune.app.due import Look
    from logtune.app.serving_now import Serving
    from logtune.config import Config
    from logtune.edges.runs import Run
    from logtune.edges.store import CycleRow, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the store says now."""

    logs: int
    feedback: int
    last_log_at: float | None
    last_cycle: "CycleRow | None"  # ended
    running_cycle: "CycleRow | None"
    serving: "tuple[Serving, ...]"
    adapter_share: float | None  # of the base model's parameters; None: not known yet
    budget: float
    spooled: int  # records that wait on disk for the store, at most
    rejected: int  # records that the store refused
    schedule: "Look"  # what it would decide now
    failed: "tuple[Run, ...]"  # runs of the schedule that did not end well since a cycle did, oldest first
    next: str


@click.command("status")
@common
def status(say: Console) -> None:
    """Say what came in, what the last cycle did, what serves, and what would happen next.

    \b
    Examples:
      logtune status
      logtune status --json
    """
    with say.store() as (store, config):
        now = look(store, config)
    say.answer(now, sentences(now))


def look(store: "Store", config: "Config") -> Status:
    """Read the store once."""
    from logtune.app.scheduler import look_at
    from logtune.app.serving_now import base_parameters, live, sum_of_shares
    from logtune.edges.runs import course, failed_between
    from logtune.edges.spool_files import SPOOL, waiting

    spool = waiting(Path(config.store.home) / SPOOL)
    logs, feedback = store.count(LogRecord), store.count(Feedback)
    running, newest = store.running_cycle(), next(iter(store.list(LogRecord, limit=1)), None)
    last = next((row for row in store.cycles(100) if row.ended_at is not None), None)
    serving = live(store, base_parameters(config))
    since = course(store, time.time()).succeeded_at or 0.0
    return Status(
        schedule=look_at(store, config), failed=tuple(failed_between(store, since, inf)),
        logs=logs, feedback=feedback, last_log_at=newest.at if newest else None, last_cycle=last, running_cycle=running,
        serving=serving, adapter_share=sum_of_shares(serving), budget=config.train.budget,
        spooled=spool.records, rejected=spool.rejected,
        next=_next(logs, last, running, _unread(store, last) if last else 0),
    )  # fmt: skip


def _unread(store: "Store", last: "CycleRow") -> int:
    """How many interactions, as the next cycle would read them, the last cycle did not have."""
    from logtune.stages.interactions import join

    seen = {item.id for item in store.list(Interaction, limit=None, cycle_id=last.id)}
    return sum(item.id not in seen for item in join(list(store.logs()), store.feedback()))


def _next(logs: int, last: "CycleRow | None", running: "CycleRow | None", unread: int) -> str:
    """What would happen next, and the command for it."""
    if running:
        return "A cycle was started and has not ended. If it is not at work any more, logtune cycle continues it."
    if not logs:
        return "There is nothing to learn from yet: logtune import FILE reads logs, logtune serve collects them."
    if last is None:
        return "No cycle has run yet: logtune cycle learns from these logs; --dry-run shows what it would keep."
    if unread:
        what = counted(unread, "interaction is", "interactions are")
        return f"{what} new, or have new feedback, since the last cycle: logtune cycle learns from them."
    return "No interaction is new since the last cycle; what was done is not done again."


def sentences(now: Status) -> Iterator[str]:
    """The status in plain words."""
    from logtune.app.report import percent
    from logtune.app.week import failure

    latest = f"; the last one came {moment(now.last_log_at)}" if now.last_log_at else ""
    yield f"{counted(now.logs, 'log')} and {now.feedback:,} feedback{latest}."
    if now.spooled:
        yield f"{counted(now.spooled, 'record waits', 'records wait')} in the spool for the store; logtune serve brings"
        yield "  them there as soon as it works."
    if now.rejected:
        yield f"The store refused {counted(now.rejected, 'record')}; rejected.jsonl in the spool folder says why."
    if now.last_cycle:
        ended = f"The last cycle ({now.last_cycle.id}) ended {moment(now.last_cycle.ended_at)}."
        yield f"{ended} {now.last_cycle.receipt.get('summary') or ''}".rstrip()
    if now.running_cycle:
        yield f"Cycle {now.running_cycle.id} has been open since {moment(now.running_cycle.started_at)}."
    if now.schedule.reason != "off":
        yield f"The schedule says {now.schedule.reason}: {now.schedule.detail}."
    if now.failed:
        what = counted(len(now.failed), "cycle of the schedule has", "cycles of the schedule have")
        yield f"{what} not ended well since one last did; {one_line(failure(now.failed[-1]))}"
    adapted = sum(item.adapter is not None for item in now.serving)
    if adapted:
        share = "a share not known" if now.adapter_share is None else percent(now.adapter_share)
        yield f"Adapters serve {counted(adapted, 'group')} of requests with {share} of the base model's parameters;"
        yield f"  {percent(now.budget)} are allowed."
    else:
        yield "The base model serves every request."
    for item in now.serving:
        what = f"{item.deployment.candidate} {item.adapter.id}" if item.adapter else item.deployment.candidate
        yield f"  {item.deployment.cluster_name}: {what} since {moment(item.deployment.at)}, {item.deployment.reason}"
    yield now.next


COMMANDS = {"status": status}
