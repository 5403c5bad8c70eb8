"""`logtune schedule`: whether the next cycle may begin now, why not, and how the last ones ended."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, moment, one_line, table
from logtune.errors import KNOWN_ERROR, OK, InUse, LogtuneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logtune.app.due import Look
    from logtune.config import Config
    from logtune.edges.runs import Run
    from logtune.edges.store import Store

SHOWN = 10  # runs


@click.command("schedule")
@click.option("--begin", is_flag=True, help="Begin a cycle where all gates are open: for cron and other timers.")
@common
def schedule(say: Console, begin: bool) -> int:
    """Show what the schedule would decide now, with its reason, and the cycles that it has begun.

    schedule.every says when; `logtune serve` and `logtune cycle --every` follow it. With --begin a timer may ask as
    often as it likes: it is `logtune cycle` where all gates are open, else exit 0. Where schedule.every is empty, the
    timer says when.

    \b
    Examples:
      logtune schedule
      logtune schedule --begin
      logtune schedule --set schedule.every=7d --json
    """
    from logtune.app.scheduler import look_at
    from logtune.edges.runs import Runs

    with say.store() as (store, config):
        if begin:
            return when_due(say, store, config, lambda: _learn(say, store, config))
        look = look_at(store, config)
        runs = Runs(store).recent(SHOWN)
    say.answer({"look": look, "runs": runs}, _lines(look, runs))
    return OK


def when_due(say: Console, store: "Store", config: "Config", learn: Callable[[], int]) -> int:
    """Learn where the schedule's gates are open, as a run of the schedule; else say which one is shut."""
    from logtune.app.scheduler import Ended, Scheduler

    codes, errors = list[int](), list[LogtuneError]()

    def start(_: threading.Event) -> Ended:
        try:
            codes.append(learn())
        except LogtuneError as error:
            errors.append(error)
            code = None if isinstance(error, InUse) else error.exit_code  # the other one's end is what counts
            return Ended(exit_code=code, detail=one_line(error.what))
        summary = str(store.cycles(1)[0].receipt.get("summary") or "")
        return Ended(exit_code=codes[0], detail=one_line(summary))

    scheduler = Scheduler(store, config, start, say.progress, timer=True)
    if scheduler.step(threading.Event()) is None:
        look = scheduler.look()
        say.answer({"look": look}, [f"No cycle begins: {look.detail}."])
        return OK
    if errors:
        raise errors[0]
    return codes[0] if codes else KNOWN_ERROR  # the system refused something, as was told


def _learn(say: Console, store: "Store", config: "Config") -> int:
    from logtune.app.build import tools
    from logtune.app.commands.loop import learn

    return learn(say, store, tools(config, say.progress, store), config)


def _lines(look: "Look", runs: "Sequence[Run]") -> "Iterator[str]":
    due = f" (due {moment(look.next_at)})" if look.next_at is not None else ""
    yield f"{look.reason}: {look.detail}{due}"
    if runs:
        yield ""
        rows = [[moment(run.began_at), _ended(run), one_line(run.detail)] for run in runs]
        yield from table(["began", "ended", "last words"], rows)


def _ended(run: "Run") -> str:
    if run.ended_at is None:
        return "not yet, or its scheduler died"
    how = "stopped" if run.exit_code is None else f"exit code {run.exit_code}"
    return f"{moment(run.ended_at)}, {how}"


COMMANDS = {"schedule": schedule}
