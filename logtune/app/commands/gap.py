"""`logtune gap`: how new each cluster's lessons are by several methods, and which of them the gate bears out."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, counted, table
from logtune.errors import OK, InputError

if TYPE_CHECKING:
    from logtune.app.gap_comparison import Comparison
    from logtune.config import Config
    from logtune.edges.store import Store
    from logtune.ports import Coverage, Tools

METHODS = ("embedding", "log_probability", "reranker", "cross_encoder")


@click.command("gap")
@click.option("--compare", is_flag=True, help="Measure by every method; without it, as `logtune gaps`.")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), help="Only these.  [default: all]")
@click.option("--cycles", type=click.IntRange(1), default=10, show_default=True, help="Newest cycles to look at.")
@common
def gap(say: Console, compare: bool, methods: tuple[str, ...], cycles: int) -> int:
    """Compare the ways of measuring how new a cluster's lessons are: do they agree, and does the gate bear them out?

    A method that lacks its model is left out, with the setting that names one. Nothing is written.

    \b
    Examples:
      logtune gap --compare
      logtune gap --compare --set gap.reranker=smollm2-135m-instruct --json
    """
    from logtune.app import build

    if not compare:
        raise InputError("nothing to do", "logtune gap --compare measures by every method; logtune gaps lists the gaps")
    with say.store() as (store, config):
        if not any(row.ended_at is not None for row in store.cycles(limit=None)):
            raise InputError("there are no clusters: no cycle has ended", "logtune cycle makes them")
        # whatever measures the gap in a cycle is made below, or left out with its reason
        asked = config.model_copy(update={"gap": config.gap.model_copy(update={"method": "embedding"})})
        found = measure(say, store, build.tools(asked, say.progress, store), config, methods or METHODS, cycles)
    say.answer(found, told(found))
    return OK


def measure(
    say: Console, store: "Store", tools: "Tools", config: "Config", methods: Sequence[str], cycles: int
) -> "Comparison":
    """Measure by those of the methods that can be made."""
    from logtune.app import build
    from logtune.app.gap_comparison import available, compare

    def make(name: str) -> "Coverage":
        return build.coverage(config, name, tools.embedder, tools.likelihood, tools.base_fingerprint)

    made, left_out = available(methods, make)
    return asyncio.run(compare(store, tools, config, made, left_out, say.progress, cycles))


def told(found: "Comparison") -> Iterator[str]:
    """Clusters, agreements, and what each method foretold."""
    names = list(found.clusters[0].gaps) if found.clusters else []
    if not names:
        yield "No method could measure anything." if found.clusters else "The cycles have made no clusters."
    else:
        rows = [
            [item.name or item.cluster_id, str(item.interactions), *(_number(item.gaps[name]) for name in names),
             ", ".join(f"{who} {how.replace('_', ' ')}" for who, how in item.gate.items()) or "-"]
            for item in found.clusters
        ]  # fmt: skip
        yield f"Gap by method (0 known .. 1 new; {found.reflect_at:g} and above asks for a critic):"
        yield from table(["cluster", "interactions", *names, "gate"], rows)
    yield from _agreeing(found)
    yield from _foretelling(found)
    for method, reason in found.left_out.items():
        yield f"\n{method} is left out: {reason}."


def _agreeing(found: "Comparison") -> Iterator[str]:
    if found.agreements:
        yield "\nHow they agree:"
        heads = ["methods", "clusters", "rank correlation", "same route"]
        rows = [
            [
                f"{item.first}, {item.second}",
                str(item.clusters),
                _number(item.rank_correlation),
                _share(item.same_route),
            ]
            for item in found.agreements
        ]
        yield from table(heads, rows)


def _foretelling(found: "Comparison") -> Iterator[str]:
    if not found.foretold:
        return
    if not any(item.evaluations for item in found.foretold):
        yield "\nThe gate has decided about no expert and no critic of these clusters yet, so nothing can be foretold."
        return
    yield "\nWhat each foretells of the gate (small gap: experts pass; large gap: critics pass):"
    rows = [
        [item.method, counted(item.evaluations, "evaluation"), _share(item.right), _share(item.by_chance),
         _number(item.auc)]
        for item in found.foretold
    ]  # fmt: skip
    yield from table(["method", "decided", "right", "saying always the same", "AUC"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


COMMANDS = {"gap": gap}
