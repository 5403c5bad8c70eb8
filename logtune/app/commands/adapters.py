"""`logtune adapters`: those that were trained, and `budget`: what the live ones take and which would go first."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from logtune.app.commands.records import KINDS, make
from logtune.app.console import Console, common, counted, table
from logtune.errors import ConfigError

if TYPE_CHECKING:
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
COMMANDS = {"adapters": adapters}
