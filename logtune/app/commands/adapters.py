"""`logtune adapters`: those that were trained, `budget`: what the live ones take, `prune`: what nothing needs goes."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from logtune.app.commands.records import KINDS, make
from logtune.app.console import Console, common, counted, table
from logtune.errors import ConfigError

if TYPE_CHECKING:
    from logtune.pruning import Plan
    from logtune.stages.budget import Holding

HEAD = ("goes", "adapter", "cluster", "kind", "rank", "parameters", "share", "gain", "traffic", "worth")
adapters = make("adapters", KINDS["adapters"])


@click.command("budget")
@common
def budget(say: Console) -> None:
    """What the live adapters take of train.budget, what each is worth, and which would make way first.

    Gain is the share of held-out votes that an adapter won from the base model, less those it lost;
    traffic the share of requests that went to its cluster in the last four weeks; worth is gain x traffic. An adapter
    that a cycle wants to deploy beyond the budget makes the least worth retire, if it is worth clearly more itself.

    \b
    Examples:
      logtune adapters budget
      logtune adapters budget --json
    """
    from logtune.app.serving_now import base_parameters
    from logtune.holdings import listed

    with say.store() as (store, config):
        size = base_parameters(config)
        if size is None:
            raise ConfigError(
                f"the base model {config.model.base} is not on this disk, so shares of it are not known",
                "logtune doctor shows what is missing; logtune cycle fetches it",
            )
        found = listed(store, size, time.time())
    used = sum(each.parameters for each in found)
    document = {
        "budget": config.train.budget, "base_parameters": size, "parameters": used, "share": used / size,
        "left": round(config.train.budget * size) - used, "next": next((h.adapter_id for h in found if h.goes), None),
        "adapters": found,
    }  # fmt: skip
    say.answer(document, _lines(found, used, size, config.train.budget))


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@common
def prune(say: Console, dry_run: bool) -> None:
    """Remove the folders of adapters that nothing needs, as each cycle does at its end (store.prune).

    What serves stays, what a live test has or would bring back, store.keep_past past adapters of each cluster, and what
    passed its gate in the last cycle. Records of all adapters stay; what trainings have left behind goes too.

    \b
    Examples:
      logtune adapters prune --dry-run
      logtune adapters prune --set store.keep_past=1
    """
    from logtune import pruning
    from logtune.app.build import adapters_dir
    from logtune.edges.lease import CYCLE, Lease

    with say.store() as (store, config), Lease(store, CYCLE).held():
        home = adapters_dir(config)
        found = pruning.by_hand(store, home, config.store.keep_past)
        if not dry_run:
            pruning.apply(store, home, found, time.time())
    document = {"removed": not dry_run, "bytes": found.bytes, "adapters": found.adapters, "training": found.training}
    say.answer(document, _pruned(found, dry_run=dry_run))


def _pruned(found: "Plan", *, dry_run: bool) -> Iterator[str]:
    if not found.sizes:
        yield "Every adapter folder is needed."
        return
    yield from (f"{name}: {size:,} bytes" for name, size in found.sizes.items())
    said = "would be removed; logtune adapters prune does it" if dry_run else "were removed"
    yield f"{counted(len(found.sizes), 'folder')} of {found.bytes:,} bytes {said}."


def _lines(found: "Sequence[Holding]", used: int, size: int, budget: float) -> Iterator[str]:
    if not found:
        yield "No adapter is live. logtune cycle trains some where there is enough to learn."
        return
    yield from table(HEAD, [_row(each) for each in found])
    left = budget * size - used
    room = f"{left:,.0f} parameters are left" if left >= 0 else f"{-left:,.0f} parameters too many"
    yield (
        f"{counted(len(found), 'live adapter')}: {used:,} parameters, {used / size:.3%} of the base model's {size:,}; "
        f"the budget is {budget:.3%}, {room}."
    )
    first = next((each for each in found if each.goes), None)
    if first is not None:
        yield f"Next to make way, should a cycle need room: {first.adapter_id} ({', '.join(first.clusters)})."


def _row(each: "Holding") -> tuple[str, ...]:
    return (
        str(each.goes or "-"), each.adapter_id, ", ".join(each.clusters), each.kind, str(each.rank),
        f"{each.parameters:,}", f"{each.share:.3%}", _share(each.gain, "+.0%"), _share(each.traffic, ".1%"),
        _share(each.worth, "+.3f"),
    )  # fmt: skip


def _share(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


adapters.add_command(budget)
adapters.add_command(prune)
COMMANDS = {"adapters": adapters}
