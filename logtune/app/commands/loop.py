"""`logtune import`, `cycle`, `report` and `rollback`: what happens every week."""

import time
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, counted, fit, moment, one_line
from logtune.errors import OK, InputError

if TYPE_CHECKING:
    from logtune.app.findings import Reason
    from logtune.config import Config
    from logtune.edges.importers import ImportReport
    from logtune.edges.store import Store
    from logtune.ports import Tools
    from logtune.receipts import CycleReceipt
    from logtune.records import Deployment

EXAMPLES = 3  # lines of each reason that an import shows
BY_HAND = "by-hand"  # in place of the cycle that deploys


@click.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    help="Format of the files: logtune, openai-chat or feedback.  [default: seen from the first lines]",
)
@common
def import_logs(say: Console, paths: Sequence[Path], format_name: str | None) -> None:
    """Read logs and feedback from files: our own JSONL, or OpenAI chat JSONL.

    A line that cannot be used is reported with file, line and reason, and the rest is imported. Importing a file again
    adds nothing.

    \b
    Examples:
      logtune import logs.jsonl feedback.jsonl
      logtune import chats.jsonl --format openai-chat --json
    """
    from logtune.app.redaction import Redaction
    from logtune.edges.importers import import_file

    with say.store() as (store, config):
        clean = Redaction.of(config).imported
        reports = [import_file(store, path, format=format_name, progress=say.progress, clean=clean) for path in paths]
    say.answer(reports, imported(reports))


@click.command("cycle")
@click.option("--dry-run", is_flag=True, help="Show what the filter would keep and drop, and write nothing.")
@click.option("--every", metavar="TIME", help="Go on, and begin one at each: 7d, 12h, or a cron expression.")
@click.option("--max-calls", type=click.IntRange(1), help="Calls of the teacher.  [default: spend.max_calls]")
@click.option("--max-cost", type=click.FloatRange(0, min_open=True), help="Their cost.  [default: spend.max_cost]")
@common
def cycle(say: Console, dry_run: bool, every: str | None, max_calls: int | None, max_cost: float | None) -> int:
    """Learn from the logs: filter, distil, cluster, train, gate, deploy. Exit 3 where no candidate passed its gate.

    What an earlier run did is not done again. A cycle may be killed at any time; the next one continues it. One runs at
    a time for a store, whoever begins it.

    \b
    Examples:
      logtune cycle --dry-run       counts and examples a reason
      logtune cycle
      logtune cycle --max-calls 2000 --set train.epochs=5 --json
      logtune cycle --every "0 3 * * 1" --set schedule.min_new=100
    """
    if every is not None:
        from logtune.app.unattended import go_on

        return go_on(say, every, (max_calls, max_cost))
    from logtune.app.build import tools

    with say.store(spend__max_calls=max_calls, spend__max_cost=max_cost) as (store, config):
        made = tools(config, say.progress, store)
        return foretell(say, store, made, config) if dry_run else learn(say, store, made, config)


@click.command("report")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The page.  [default: report.html]")
@click.option("--cycle", "cycle_id", metavar="ID", help="Of this cycle.  [default: the newest]")
@common
def report(say: Console, out: Path | None, cycle_id: str | None) -> None:
    """Say what was learned and from how many users, what changed, what was refused and why; the rest in an HTML page.

    \b
    Examples:
      logtune report
      logtune report --cycle 0198c2 -o week-27.html
    """
    from logtune.app.findings import gather
    from logtune.app.report import render, save, told
    from logtune.app.serving_now import base_parameters
    from logtune.app.week import failures
    from logtune.edges.runs import failed_between

    with say.store() as (store, config):
        if not store.cycles(1):
            runs = list(failures(failed_between(store, 0.0, inf)))
            nothing = "There is nothing to report: no cycle has run yet. Next: logtune cycle"
            say.answer({"path": None, "failed": runs}, [nothing, *map(one_line, runs)])
            return
        found = gather(store, cycle_id, base_parameters(config))
        week = told(store, found)
        path = save(out or Path("report.html"), render(found, config, week))
    document = {"path": str(path), "cycle": found.cycle.id, "week": week}
    say.answer(document, [*week.lines(), "", f"Wrote {path}. Open it in a browser for all of it, with plots."])


@click.command("rollback")
@click.argument("name", metavar="CLUSTER")
@click.option("--base", is_flag=True, help="To the base model, whatever served before.")
@common
def rollback(say: Console, name: str, base: bool) -> None:
    """Give a cluster back to what served it before; a running gateway follows within seconds.

    \b
    Examples:
      logtune rollback card_arrival
      logtune rollback card_arrival --base
      logtune deployments           shows the names, and what happened
    """
    with say.store() as (store, _):
        made = undo(store, name, time.time(), to_base=base)
        before = made.adapter_id or "the base model"
    say.answer(made, [f"{made.cluster_name} is served by {before} again ({made.id})."])


def imported(reports: "Sequence[ImportReport]") -> Iterator[str]:
    """What came in, and each kind of line that could not be used, with examples."""
    from logtune.edges.importers import REASONS

    for report in reports:
        known = f" ({report.known_logs:,} known already)" if report.known_logs else ""
        new = f"{counted(report.new_logs, 'new log')}{known}, {report.new_feedback:,} new feedback"
        yield f"{report.file}: {counted(report.lines, 'line')} of format {report.format}, {new}"
        unknown = {"unknown_target": report.unknown_targets} if report.unknown_targets else {}
        for reason, count in (dict(report.rejected) | unknown).items():
            yield f"  {reason}: {count:,}. {REASONS.get(reason, '')}"
            examples = [reject for reject in report.rejects if reject.reason == reason]
            for reject in examples[:EXAMPLES]:
                yield f"    {reject.file}:{reject.line}: {one_line(reject.detail)}  {fit(one_line(reject.excerpt), 60)}"
    yield "Next: logtune cycle" if any(report.new_logs or report.new_feedback for report in reports) else "Nothing new."


def learn(say: Console, store: "Store", tools: "Tools", config: "Config") -> int:
    """Run a cycle and say what came of it; 3 where no candidate passed its gate."""
    from logtune.edges.lease import CYCLE, Lease
    from logtune.pipeline import run_cycle

    lease = Lease(store, CYCLE)
    with lease.held():
        receipt = run_cycle(store, tools, config, say.progress, lease.check)
    told = [one_line(receipt.summary), *billed(receipt), "Next: logtune report shows what was learned, and why."]
    say.answer(receipt, told)
    return receipt.exit_code


def billed(receipt: "CycleReceipt") -> Iterator[str]:
    """What the teacher's calls took; nothing where there were none."""
    calls, remembered, cost = (
        sum(spent[name] for spent in receipt.spent.values()) for name in ("calls", "remembered", "cost")
    )
    if calls or remembered:
        price = f", cost {cost:.4g}" if cost else ""
        purposes = ", ".join(f"{purpose} {spent['calls']:,.0f}" for purpose, spent in receipt.spent.items())
        yield f"Calls of the teacher: {calls:,.0f} ({purposes}), {remembered:,.0f} remembered{price}."


def foretell(say: Console, store: "Store", tools: "Tools", config: "Config") -> int:
    """Say what the filter would keep and drop; nothing is written."""
    from logtune.app.findings import reasons
    from logtune.pipeline import dry_run

    found = dry_run(store, tools, config)
    would = reasons([decision for _, decision in found], {item.id: item for item, _ in found})
    say.answer({"reasons": would}, foretold(would))
    return OK


def foretold(would: "Sequence[Reason]") -> Iterator[str]:
    """What the filter would keep and drop, with examples."""
    from logtune.app.report import TEACHES, percent, reason_words

    if not would:
        yield "The store holds no answered request. Next: logtune import FILE, or logtune serve"
        return
    total = {kind: sum(item.count for item in would if item.teaches == kind) for kind in TEACHES}
    kept = f"{total['positive']:,} good examples, {total['rule']:,} sources of rules, {total['nothing']:,} dropped"
    yield f"{counted(sum(total.values()), 'interaction')}: {kept}. Nothing was written."
    words = reason_words()
    for item in would:
        yield f"\n{item.reason}: {item.count:,} ({percent(item.share)}), {TEACHES[item.teaches]}"
        yield f"  {words.get(item.reason, '')}"
        yield from (f"  {example.id}  {fit(one_line(example.query), 100)}" for example in item.examples)


def undo(store: "Store", name: str, now: float, *, to_base: bool = False) -> "Deployment":
    """Deploy what served the cluster before; InputError with the closest name where there is no such cluster."""
    from logtune import rebasing
    from logtune.edges.pruned import Pruned
    from logtune.experiments import stop_test
    from logtune.records import Deployment
    from logtune.stages.deploy import rollback as previous
    from logtune.stages.deploy import state_of
    from logtune.stages.deploy import to_base as base_of

    names = store.deployments()
    if names and name not in names:
        close = get_close_matches(name, names, 1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"no cluster '{name}' was ever deployed", f"{guess}deployed are: {', '.join(sorted(names))}")
    history = [row for row in store.list(Deployment, limit=None) if row.cluster_name == name]
    made, base = (base_of if to_base else previous)(name, history, now, "rolled back by hand"), rebasing.last(store)
    proven = next((row for row in history if row.action == "deploy" and state_of(row) == state_of(made)), made)
    if base is not None and made.candidate != "base" and (reason := rebasing.misfit(store, proven, base)):
        raise InputError(
            f"what served {name} before was {reason}", "what serves now stays; the next cycle that passes deploys again"
        )
    if (at := Pruned(store).every().get(made.adapter_id or "")) is not None:
        raise InputError(
            f"the weights of {made.adapter_id}, which served {name} before, were removed on {moment(at)}",
            f"logtune rollback {name} --base gives it to the base model; store.keep_past says how many stay",
        )
    stop_test(store, name, now)
    store.deploy(made, BY_HAND)
    return made


COMMANDS = {"import": import_logs, "cycle": cycle, "report": report, "rollback": rollback}
