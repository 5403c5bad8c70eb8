"""`logtune schedule`: whether the next cycle may begin now, why not, and how the last ones ended."""

from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, moment, one_line, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logtune.app.due import Look
    from logtune.edges.runs import Run

SHOWN = 10  # runs


@click.command("schedule")
@common
def schedule(say: Console) -> None:
    """Show what the schedule would decide now, with its reason, and the cycles that it has begun.

    schedule.every says when; `logtune serve` and `logtune cycle --every` follow it.

    \b
    Examples:
      logtune schedule
      logtune schedule --set schedule.every=7d --json
    """
    from logtune.app.scheduler import look_at
    from logtune.edges.runs import Runs

    with say.store() as (store, config):
        look = look_at(store, config)
        runs = Runs(store).recent(SHOWN)
    say.answer({"look": look, "runs": runs}, _lines(look, runs))


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
