"""`logtune rules`, `logtune clusters`...: `list` and `show ID` of every kind of record, made from one table."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple, cast

import click

from logtune import ids, records
from logtune.app.console import Console, common, counted, harmless, moment, table
from logtune.errors import InputError

if TYPE_CHECKING:
    from logtune.edges.store import Store

CYCLE = "logtune cycle makes them"
ELSEWHERE = ("rules", "adapters")  # with verbs of their own


class Kind(NamedTuple):
    """One kind of record as the command line shows it."""

    record: type[records.Record]
    one: str  # in the singular
    columns: tuple[str, ...]  # fields of the list
    empty: str  # what to say, and the next command, where there are none
    parts: str = ""  # field with the ids of what a record sums up; those are listed with --all only


KINDS = {
    "interactions": Kind(
        records.Interaction, "interaction", ("id", "at", "user", "query", "answer", "follow_ups"), CYCLE,
    ),
    "feedback": Kind(
        records.Feedback, "feedback", ("id", "at", "target", "kind", "value", "comment", "correction"),
        "logtune import FILE reads it, and clients of logtune serve post it to /v1/feedback",
    ),
    "signals": Kind(
        records.Signal, "signal", ("id", "interaction_id", "kind", "polarity", "confidence", "evidence"), CYCLE,
    ),
    "decisions": Kind(
        records.Decision, "decision", ("id", "interaction_id", "teaches", "reason"),
        CYCLE + "; --dry-run only shows them",
    ),
    "rules": Kind(
        records.Rule, "rule", ("id", "text", "distinct_users", "interaction_ids", "covered", "state"),
        CYCLE + " from what users corrected", "merged_from",
    ),
    "pairs": Kind(
        records.PreferencePair, "pair", ("id", "origin", "margin", "chosen", "rejected"), CYCLE + " from corrections",
    ),
    "standings": Kind(
        records.Standing, "standing", ("id", "lesson_id", "state", "reason", "users"),
        CYCLE + "; what has none is trusted",
    ),
    "clusters": Kind(
        records.Cluster, "cluster", ("id", "name", "label", "interaction_ids", "radius", "previous_id"), CYCLE,
    ),
    "gaps": Kind(records.Gap, "gap", ("id", "cluster_id", "novelty", "route", "reason"), CYCLE),
    "adapters": Kind(
        records.Adapter, "adapter", ("id", "cluster_id", "kind", "rank", "parameters", "epoch", "losses", "pair_ids"),
        CYCLE + " where a cluster has pairs enough",
    ),
    "evaluations": Kind(
        records.Evaluation, "evaluation",
        ("id", "cluster_id", "candidate", "cases", "win_rate", "lower", "upper", "outcome", "reason"),
        CYCLE + " where something was trained",
    ),
    "verdicts": Kind(
        records.Verdict, "verdict", ("id", "cluster_id", "effect", "lower", "upper", "decision", "reason"), CYCLE,
    ),
    "deployments": Kind(
        records.Deployment, "deployment", ("id", "at", "cluster_name", "candidate", "adapter_id", "action", "reason"),
        CYCLE + " when a candidate passes its gate",
    ),
    "failures": Kind(
        records.Failure, "failure", ("id", "stage", "record_id", "error", "reason"), "no stage has failed on an item",
    ),
}  # fmt: skip


class Listed(click.Group):
    """A group whose verb may be left out: `logtune rules --limit 5` is `logtune rules list --limit 5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with `list` put in where an option or nothing comes first."""
        helps = ctx.help_option_names
        if not args or (args[0].startswith("-") and args[0] not in helps):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with a guess where an id was given without its verb."""
        if args[0] not in self.commands:
            raise click.UsageError(f"There is no verb '{args[0]}'. Did you mean 'show {args[0]}'?", ctx)
        return super().resolve_command(ctx, args)


def make(name: str, kind: Kind) -> click.Group:
    """The group `name` with its two verbs."""
    group = Listed(
        name,
        help=f"{kind.record.__doc__}\n\n\b\nExamples:\n  logtune {name}\n  logtune {name} list --limit 5 --json\n"
        f"  logtune {name} show ID          a unique beginning of the id is enough",
    )

    group.add_command(_list_command(name, kind))
    group.add_command(_show_command(name, kind))
    return group


def _list_command(name: str, kind: Kind) -> click.Command:
    @click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
    @click.option("--cycle", "cycle_id", metavar="ID", help="Only what this cycle used.")
    @click.option(
        "--all", "everything", is_flag=True, help="Parts, and what later cycles replaced, too.", hidden=not kind.parts
    )
    @common
    def run(say: Console, limit: int, cycle_id: str | None, everything: bool) -> None:
        from logtune.app.findings import find_cycle
        from logtune.served import in_use

        with say.store() as (store, _):
            cycle_id = find_cycle(store, cycle_id).id if cycle_id else None
            if kind.parts and not everything and cycle_id is None:
                found = in_use(store, kind.record)
            else:
                found = store.list(kind.record, limit=None if kind.parts else limit + 1, cycle_id=cycle_id)
            whole = found if everything else whole_ones(found, kind.parts)
        say.answer(whole[:limit], lines(name, kind, whole, limit))

    examples = f"\n\n\b\nExamples:\n  logtune {name}\n  logtune {name} --limit 5 --json"
    return click.command("list", help=f"The newest, one a line.{examples}")(run)


def _show_command(name: str, kind: Kind) -> click.Command:
    @click.argument("record_id", metavar="ID")
    @common
    def run(say: Console, record_id: str) -> None:
        from logtune.app.serving_now import logs_and_users, sources

        with say.store() as (store, _):
            record = known(store, name, kind, record_id)
            logs, users = logs_and_users(sources(store, record))
            lineage = {
                "parents": store.parents(record.id), "children": store.children(record.id),
                "logs": logs, "users": users,
            }  # fmt: skip
        say.answer({"kind": type(record).__name__, "record": record} | lineage, details(record, lineage))

    examples = f"\n\n\b\nExample:\n  logtune {name} show {example_id(kind.record)}"
    return click.command("show", help=f"Every field of one {kind.one}, and its lineage.{examples}")(run)


def whole_ones(found: Sequence[records.Record], parts: str) -> Sequence[records.Record]:
    """The records that no other one sums up."""
    covered = {part for record in found for part in getattr(record, parts)} if parts else set()
    return [record for record in found if record.id not in covered]


def known(store: "Store", name: str, kind: Kind, wanted: str) -> records.Record:
    """The record of that id or, for what has one, that name; InputError with the closest, or with the right command."""
    record = store.get(wanted)
    if record is None:
        return _named(store, name, kind, wanted)
    if not isinstance(record, kind.record):
        right = next((key for key, other in KINDS.items() if isinstance(record, other.record)), None)
        hint = f"logtune {right} show {record.id}" if right else f"logtune {name} lists the ids of this kind"
        raise InputError(f"'{wanted}' is not a {kind.one} but a {type(record).__name__}", hint)
    return record


def _named(store: "Store", name: str, kind: Kind, wanted: str) -> records.Record:
    """The newest cluster of that name, or its deployment."""
    newest = store.list(kind.record, limit=NEAR)
    named = {getattr(item, "name", None) or getattr(item, "cluster_name", ""): item for item in reversed(newest)}
    if wanted in named:
        return named[wanted]
    close = get_close_matches(wanted, [*filter(None, named), *(item.id for item in newest)], 1, 0.5)
    guess = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"there is no {kind.one} '{wanted}'", f"{guess}logtune {name} lists them")


def lines(name: str, kind: Kind, found: Sequence[records.Record], limit: int) -> Iterator[str]:
    """The list as a table, or a sentence where it is empty."""
    if not found:
        yield f"There are no {kind.one if kind.one == 'feedback' else kind.one + 's'}: {kind.empty}."
        return
    heads = [HEADS.get(column, column.replace("_", " ")) for column in kind.columns]
    yield from table(heads, [[cell(record, column) for column in kind.columns] for record in found[:limit]])
    if len(found) > limit:
        yield f"... there are more: logtune {name} --limit {10 * limit}"


HEADS = {
    "lesson_id": "lesson",
    "interaction_id": "interaction", "cluster_id": "cluster", "record_id": "item", "interaction_ids": "interactions",
    "pair_ids": "pairs", "losses": "loss", "distinct_users": "users", "cluster_name": "cluster",
    "adapter_id": "adapter", "previous_id": "continues",
}  # fmt: skip


def cell(record: records.Record, column: str) -> str:
    """One field in a table: short, and telling."""
    value = getattr(record, column)
    if column == "losses":
        return " > ".join(f"{loss:.2f}" for loss in cast("tuple[float, ...]", value))
    if isinstance(value, tuple):
        return str(len(value))
    return written(column, value)[:160]


def written(name: str, value: object) -> str:
    """A single value in words."""
    if value is None:
        return "-"
    if name == "at":
        return moment(cast("float", value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def details(record: records.Record, lineage: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every field of a record, a paragraph each, and its lineage."""
    yield f"{type(record).__name__} {record.id}"
    for item in dataclasses.fields(record):
        if item.name != "id":
            yield from _field(item.name, getattr(record, item.name))
    if lineage["logs"]:
        yield f"  {'came from:':<18} {counted(len(lineage['logs']), 'log')} of {counted(len(lineage['users']), 'user')}"
    yield from _field("led to", tuple(lineage["children"]))


def _field(name: str, value: object) -> Iterator[str]:
    if name == "centroids":
        vectors = cast("tuple[records.Vector, ...]", value)
        value = f"{len(vectors)} of {len(vectors[0]) if vectors else 0} numbers"
    parts = _parts(value)
    first, *rest = harmless("\n".join(parts)).split("\n") if parts else ["-"]
    yield (
        f"  {name.replace('_', ' ') + ':':<18} {first}"
        if name != "at"
        else f"  {'at:':<18} {moment(cast('float', value))}"
    )
    for line in rest:
        yield f"  {'':<18} {line}"


def _parts(value: object) -> list[str]:
    if isinstance(value, records.Message):
        return [f"{value.role}: {value.content}"]
    if isinstance(value, records.FollowUp):
        return [f"user: {value.text}", f"assistant: {value.answer or '-'}  ({value.log_id})"]
    if isinstance(value, Mapping):
        return [f"{key} = {_told(value[key])}" for key in value]
    if isinstance(value, tuple):
        return [part for item in value[:MOST] for part in _parts(item)] + _rest(value)
    return [written("", value)]


def _told(value: object) -> str:
    """A check by its reason, where it has one; else as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("reason"), str):
        passed = {True: "kept: ", False: "broken: "}.get(cast("bool", value.get("passed")), "")
        return f"{passed}{value['reason']}"
    return value if isinstance(value, str) else ids.canonical(value)


NEAR = 1000  # newest records among which a name or a mistyped id is looked for
MOST = 20  # items of a field that `show` writes out; --json has all


def _rest(value: tuple[object, ...]) -> list[str]:
    return [f"... {len(value) - MOST} more; --json has all"] if len(value) > MOST else []


def example_id(kind: type[records.Record]) -> str:
    """An id as this kind has it."""
    return f"{ids.PREFIX[kind.__name__]}-3f9c" if kind.__name__ in ids.PREFIX else "0198c2"


COMMANDS: Mapping[str, click.Command] = {
    name: make(name, kind) for name, kind in KINDS.items() if name not in ELSEWHERE
}
