"""`logtune signals`: readings of what users thought of answers, and how far what users only do can be trusted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from logtune.app.commands.records import KINDS, make
from logtune.app.console import Console, common, table

if TYPE_CHECKING:
    from logtune.stages.implicit import Reliability

COLUMNS = ("kind", "seen", "judged", "agreed", "by chance", "estimate", "90% interval", "weight")


@click.command("reliability")
@click.option("--cycle", "cycle_id", metavar="ID", help="Of this cycle's interactions; default: the newest cycle.")
@common
def reliability(say: Console, cycle_id: str | None) -> None:
    """How far copies, regenerations, haste and the like agree with what the same users said explicitly.

    Measured on your own log. An act weighs what its agreement is above chance, and nothing as long as nobody rates,
    corrects or comments; alone it never teaches.

    \b
    Examples:
      logtune signals reliability
      logtune signals reliability --json
    """
    from logtune.app.findings import trust_in_acts

    with say.store() as (store, _):
        found = trust_in_acts(store, cycle_id)
    say.answer(found, table(COLUMNS, [_row(item) for item in found]))


def _row(item: "Reliability") -> Sequence[str]:
    interval = f"{item.lower:.2f} to {item.upper:.2f}"
    numbers = (f"{item.chance:.2f}", f"{item.estimate:.2f}", interval, f"{item.weight:.2f}")
    return (item.kind, str(item.seen), str(item.judged), str(item.agreed), *numbers)


signals = make("signals", KINDS["signals"])
signals.add_command(reliability)
COMMANDS = {"signals": signals}
