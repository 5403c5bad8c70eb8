"""`logtune experiments`: live tests and where they stand, looked at, ended or decided by hand; `pause` and `resume`."""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.commands.records import Listed
from logtune.app.console import Console, common, moment, one_line, table, unscoped
from logtune.errors import InputError, LogtuneError

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.experiments import Led
    from logtune.edges.live_logs import LiveLogs as Seen
    from logtune.edges.store import Store
    from logtune.estimates import Estimated
    from logtune.records import Experiment, Step
    from logtune.stages.trials import Trial

RATIO = 10  # a look may take a tenth of the time between two


def _said(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why")
    return value.strip()


REASON = click.option(
    "--reason", required=True, callback=_said, help="Why; it is recorded with your name and the time."
)


@click.group("experiments", cls=Listed)
def experiments() -> None:
    """Live tests: a candidate against what serves its cluster, on users drawn by lot.

    \b
    Examples:
      logtune experiments
      logtune experiments show card_arrival      with its confidence sequence
      logtune experiments rollback card_arrival --reason "complaints on the phone"
    """


@experiments.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@common
def list_tests(say: Console, limit: int) -> None:
    """The newest tests, what was done last with each, and why.

    \b
    Examples:
      logtune experiments
      logtune experiments list --json
    """
    from logtune.edges.experiments import Experiments
    from logtune.records import Experiment

    with say.store() as (store, _):
        tests = Experiments(store)
        found = [(test, tests.led(test)) for test in store.list(Experiment, limit=limit)]
        paused = tests.paused()
    rows = [{"experiment": test, "last": steps[-1]} for test, steps in found]
    say.answer(
        {"experiments": rows, "paused": paused}, [*_listed(found), *(_paused(c.name, c.by, c.reason) for c in paused)]
    )


def _listed(found: "Sequence[Led]") -> Iterator[str]:
    if not found:
        yield (
            'There are no experiments: with experiment.mode = "ab" a cycle begins one for what passed its gate; '
            "logtune simulate tells how many users it takes."
        )
        return
    head = ("id", "began", "cluster", "candidate", "now", "share", "by", "reason")
    yield from table(head, [_row(test, steps[-1]) for test, steps in found])


def _row(test: "Experiment", last: "Step") -> tuple[str, ...]:
    share = f"{100 * last.share:g}%"
    return test.id, moment(test.at), test.cluster_name, test.candidate, last.action, share, last.by, last.reason


def _paused(name: str, by: str, reason: str) -> str:
    return f"Paused by {by}: {name or 'everything'} ({reason}). logtune resume {name}".rstrip()


@experiments.command("show")
@click.argument("wanted", metavar="ID|CLUSTER")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the confidence sequence there.")
@common
def show(say: Console, wanted: str, png: Path | None) -> None:
    """One test: its steps, its numbers, and its confidence sequence.

    \b
    Examples:
      logtune experiments show exp-3f9c
      logtune experiments show card_arrival --png card_arrival.png
    """
    from logtune.app.live_tests import shown
    from logtune.experiments import find

    with say.store() as (store, _):
        found = shown(store, find(store, wanted))
    at, course = found.at, found.course
    if png is not None:
        from logtune.app.plots import sequence_png

        png.write_bytes(sequence_png(at.test.cluster_name, course))
    points = [{"users": users, "low": item.low, "high": item.high} for users, item in course]
    say.answer(
        {"experiment": at.test, "steps": at.steps, "state": at.state.numbers(), "sequence": points},
        [*_told(at), *drawn(course), *([f"Wrote {png}."] if png else [])],
    )  # fmt: skip


@experiments.command("estimate")
@click.argument("wanted", metavar="[CLUSTER|EVALUATION]", required=False)
@common
def estimate(say: Console, wanted: str | None) -> None:
    """What a live test would show before it begins: the expected gain with its interval, users and days.

    Or that the traffic can never prove it. For every cluster whose newest evaluation passed, or for one of them.

    \b
    Examples:
      logtune experiments estimate
      logtune experiments estimate card_arrival --set experiment.metric=thumbs --json
    """
    from logtune import estimates
    from logtune.app.live_tests import passed

    with say.store() as (store, config):
        found = [
            estimates.of(store, evaluation, name, config.experiment, time.time())
            for name, evaluation in passed(store, wanted).items()
        ]
    lines = [line for item in found for line in _estimated(item, config.experiment.metric)]
    say.answer({"estimates": found}, lines or ["No candidate has passed its gate yet: logtune evaluations"])


def _estimated(item: "Estimated", metric: str) -> Iterator[str]:
    yield f"{item.cluster}: {item.candidate.replace('_', ' ')} ({item.evaluation})"
    if item.users_per_day is not None and item.content is not None:
        yield f"  traffic:   {item.users_per_day:g} users a day, {100 * item.content:.0f}% of them content ({metric})"
    for lift in item.lifts:
        found = lift.estimate
        gain = f"{100 * found.mean:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        yield f"  {lift.method + ':':<10} {gain} from {item.units} users of its tests"
    yield f"  {'expected:':<10} {item.reason}"


def _told(at: "Trial") -> Iterator[str]:
    from logtune.stages.trials import words

    test, state = at.test, at.state
    what = f"{test.candidate} {test.adapter_id or ''}".rstrip()
    yield f"Experiment {test.id}: {what} for {test.cluster_name}, attempt {test.attempt}"
    confidence = f"{100 * at.settings.confidence:g}% confidence"
    yield f"  decides:    {at.settings.metric}, at {confidence}, declared {moment(test.at)}"
    if at.shadow is not None:
        yield f"  shadow:     {at.shadow.words()}"
    yield f"  users:      {state.seen} drawn, {state.exposed} had the candidate, {state.waiting} windows are open"
    yield f"  left out:   {state.moved} whom the ramp moves, {state.mixed} who saw two arms, {state.silent} silent"
    for arm, mean in state.means.items():
        yield f"  {arm + ':':<11} {'nothing yet' if mean is None else f'{100 * mean:.1f}%'} of {state.units[arm]} users"
    yield f"  split:      {'BROKEN' if state.mismatch else 'as it should be'}"
    for name, guard in state.guards.items():
        sides = " against ".join(
            "-" if side is None else f"{100 * side:.1f}%" for side in (guard.candidate, guard.base)
        )
        yield f"  guard:      {name}: {sides}{', BROKEN' if guard.broken else ''}"
    for step in at.steps:
        yield f"  {moment(step.at)}  {step.action} to {100 * step.share:g}%, by {step.by}: {one_line(step.reason)}"
    if at.now.action in ("start", "ramp"):
        yield f"  now:        {words(at, 'open')}"


def drawn(course: "Sequence[tuple[int, object]]", width: int = 61) -> Iterator[str]:
    """The confidence sequence in letters: a line a moment, the interval between -1 and 1 as the last one needs it."""
    from logtune.statistics import Interval

    found = [(users, item) for users, item in course if isinstance(item, Interval)]
    if not found or not found[-1][0]:
        return
    edge = max(0.05, *(max(abs(item.low), abs(item.high)) for _, item in found[len(found) // 3 :]))
    place = {item: [_place(value, edge, width) for value in (item.low, item.high)] for _, item in found}
    yield f"  users  {'worse':<{width // 2 - 2}}0{'better':>{width // 2 + 1}}  points"
    for users, item in found:
        low, high = place[item]
        line = "".join(
            "|" if column == width // 2 else "=" if low <= column <= high else " " for column in range(width)
        )
        yield f"  {users:>5}  {line}  {100 * item.low:+6.1f} .. {100 * item.high:+.1f}"


def _place(value: float, edge: float, width: int) -> int:
    return round((min(max(value, -edge), edge) + edge) / (2 * edge) * (width - 1))


def _decision(action: str, about: str) -> click.Command:
    @click.argument("wanted", metavar="ID|CLUSTER")
    @REASON
    @common
    def run(say: Console, wanted: str, reason: str) -> None:
        from logtune.experiments import by_hand

        with say.store() as (store, config):
            step = by_hand(store, wanted, action, reason, config, time.time())
        say.answer(step, [f"{step.experiment_id}: {step.action}, by {step.by}. Gateways follow within serve.poll_s."])

    example = f'logtune experiments {action} card_arrival --reason "..."'
    return click.command(action, help=f"{about}\n\n\b\nExample:\n  {example}")(run)


for _action, _about in (
    ("stop", "End a test; what served before it serves on. A promoted candidate that is watched is taken back."),
    (
        "promote",
        "Let the candidate serve now, with the hold-back that experiment.hold_back says; in the watch, end that.",
    ),
    ("rollback", "Take the candidate away, also one that was promoted and is watched."),
):
    experiments.add_command(_decision(_action, _about))


@experiments.command("look")
@click.option("--every", type=click.FloatRange(1), metavar="SECONDS", help="Again and again, until interrupted.")
@click.option("--leash", is_flag=True, hidden=True, help="End with whoever holds the other end of stdin.")
@unscoped
def look(say: Console, every: float | None, leash: bool) -> None:
    """Lead all running tests as far as their users' outcomes allow. `logtune serve` does so by itself.

    \b
    Examples:
      logtune experiments look
      logtune experiments look --every 60
    """
    from logtune.edges.live_logs import LiveLogs

    config, over, seen = say.config(), threading.Event(), defaultdict[str, LiveLogs](LiveLogs)
    if leash:
        threading.Thread(target=_until_let_go, args=(over,), daemon=True).start()
    while True:
        began = time.monotonic()
        taken = _look_at_all(say, config, seen)
        if every is None or taken:
            say.answer(
                taken, [f"{step.experiment_id}: {step.action}, {step.reason}" for step in taken] or ["Nothing is due."]
            )
        if every is None or over.wait(max(every, RATIO * (time.monotonic() - began))):
            return


def _until_let_go(over: threading.Event) -> None:
    sys.stdin.buffer.read()
    over.set()


def _look_at_all(say: Console, config: "Config", seen: "Mapping[str, Seen]") -> "list[Step]":
    """One look at the tests of every project; one whose store fails is told and left for the next look."""
    from logtune.app.projects import for_project, known, open_store

    taken: list[Step] = []
    for name in known(config):
        mine = for_project(config, name)
        try:
            store = open_store(mine)
            try:
                taken += _lead(store, mine, seen[name])
            finally:
                store.close()
        except LogtuneError as error:
            say.progress(f"experiments of {name}: {error.what}")
    return taken


def _lead(store: "Store", config: "Config", seen: "Seen") -> "list[Step]":
    """A look at one store. Where no test runs it is one query, and nothing is imported for more."""
    from logtune.edges.experiments import Experiments

    if not Experiments(store).running():
        return []
    from logtune.app.serving_now import base_parameters
    from logtune.experiments import look as lead

    return [step for _, step in lead(store, config, time.time(), base_parameters(config), seen)]


@click.command("pause")
@click.argument("name", metavar="[CLUSTER]", default="")
@REASON
@common
def pause(say: Console, name: str, reason: str) -> None:
    """Let no cycle begin and no live test change by itself, until `logtune resume`; guards go on rolling back.

    \b
    Examples:
      logtune pause --reason "holiday traffic"
      logtune pause card_arrival --reason "the card team is changing its texts"
    """
    from logtune.edges.experiments import Control, Experiments
    from logtune.experiments import whoami

    with say.store() as (store, _):
        control = Control(name=name, at=time.time(), by=whoami(), reason=reason)
        Experiments(store).pause(control)
    say.answer(control, [_paused(control.name, control.by, control.reason)])


@click.command("resume")
@click.argument("name", metavar="[CLUSTER]", default="")
@common
def resume(say: Console, name: str) -> None:
    """Undo `logtune pause`.

    \b
    Examples:
      logtune resume
      logtune resume card_arrival
    """
    from logtune.edges.experiments import Experiments

    with say.store() as (store, _):
        if not Experiments(store).resume(name):
            names = ", ".join(control.name or "everything" for control in Experiments(store).paused())
            raise InputError(f"{name or 'everything'} is not paused", f"paused: {names or 'nothing'}")
    say.answer({"resumed": name}, [f"Resumed: {name or 'everything'}."])


COMMANDS = {"experiments": experiments, "pause": pause, "resume": resume}
