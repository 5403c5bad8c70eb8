"""How records lie in the database: one table a record kind, its body as JSON, and real columns for what is queried.

    record <-> row     encode, decode: generic over the dataclass fields and their type hints
    text   <-> column  ExactText: any Python string, NUL and lone surrogates included

Tables are made by `migrations`; this module says what they look like now (a test compares the two).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import TypeAlias, TypeVar, Union, cast, get_args, get_origin

from sqlalchemy import Column, Dialect, Double, Integer, MetaData, Table, Text, TypeDecorator
from sqlalchemy.types import TypeEngine

from logtune.errors import StoreError
from logtune.records import (
    Adapter,
    Cluster,
    Decision,
    Deployment,
    Derived,
    Evaluation,
    Experiment,
    Failure,
    Feedback,
    FollowUp,
    Gap,
    Interaction,
    LogRecord,
    PreferencePair,
    Record,
    Rule,
    Signal,
    Standing,
    Step,
    Verdict,
)

R = TypeVar("R", bound=Record)
Row: TypeAlias = dict[str, object]
Restore: TypeAlias = Callable[[object], object]

_UNSAFE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


def exact(text: str) -> str:
    """A text as `ExactText` stores it."""
    return _UNSAFE.sub(lambda found: f"\x1a{ord(found[0]):04x}", text)


class ExactText(TypeDecorator[str]):
    """A text column that keeps every Python string.

    UTF-8 has no lone surrogates and PostgreSQL no NUL: both are stored as U+001A and four hex digits, as is U+001A.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        # Prefixes are looked up by order, and only the C collation orders by code point, as SQLite does.
        return dialect.type_descriptor(Text(collation="C") if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else exact(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or "\x1a" not in value:
            return value
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)


NAMES: Mapping[type, str] = MappingProxyType({
    LogRecord: "logs", Feedback: "feedback", Interaction: "interactions", Signal: "signals", Decision: "decisions",
    Rule: "rules", PreferencePair: "pairs", Standing: "standings", Cluster: "clusters", Gap: "gaps",
    Adapter: "adapters", Evaluation: "evaluations", Verdict: "verdicts", Experiment: "experiments", Step: "steps",
    Deployment: "deployments", Failure: "failures",
})  # fmt: skip
KINDS: Mapping[str, type[Record]] = MappingProxyType({kind.__name__: kind for kind in NAMES})
GIVEN = (LogRecord, Feedback)  # what came in; everything else was derived from it
QUERIED: Mapping[type, tuple[str, ...]] = MappingProxyType({
    LogRecord: ("user", "session"), Feedback: ("target",), Interaction: ("user", "session"), Cluster: ("name",),
    Experiment: ("cluster_name",), Step: ("experiment_id",), Deployment: ("cluster_name",), Failure: ("stage",),
})  # fmt: skip
OPTIONAL = frozenset({"user", "session"})

metadata = MetaData()


def _text(name: str, *, key: bool = False, optional: bool = False) -> Column[str]:
    return Column(name, ExactText, primary_key=key, nullable=optional)


def _record_table(kind: type) -> Table:
    made = () if kind in GIVEN else (_text("cycle_id"), _text("config_hash"))
    queried = (_text(name, optional=name in OPTIONAL) for name in QUERIED.get(kind, ()))
    at = Column("at", Double, nullable=False)
    return Table(NAMES[kind], metadata, _text("id", key=True), at, *made, *queried, _text("body"))


TABLES: Mapping[type, Table] = MappingProxyType({kind: _record_table(kind) for kind in NAMES})
lineage = Table(
    "lineage", metadata, _text("child", key=True), _text("parent", key=True),
    Column("position", Integer, nullable=False),
)  # fmt: skip
units = Table(
    "units", metadata, _text("stage", key=True), _text("key", key=True), _text("cycle_id"), _text("config_hash"),
    Column("at", Double, nullable=False),
)  # fmt: skip
unit_outputs = Table(
    "unit_outputs", metadata, _text("stage", key=True), _text("key", key=True),
    Column("position", Integer, primary_key=True), _text("kind"), _text("record_id"),
)  # fmt: skip
cycle_units = Table(
    "cycle_units", metadata, _text("cycle_id", key=True), _text("stage", key=True), _text("key", key=True)
)
cycles = Table(
    "cycles", metadata, _text("id", key=True), _text("config_hash"), Column("started_at", Double, nullable=False),
    Column("ended_at", Double), _text("receipt"),
)  # fmt: skip
live = Table(
    "live", metadata, _text("cluster_name", key=True), Column("number", Integer, primary_key=True),
    _text("deployment_id"), _text("cycle_id"),
)  # fmt: skip
keys = Table(
    "keys", metadata, _text("id", key=True), _text("name"), _text("project"), _text("hash"),
    Column("created_at", Double, nullable=False), Column("revoked_at", Double), Column("rate_per_minute", Integer),
)  # fmt: skip
aliases = Table(
    "aliases", metadata, _text("name", key=True), Column("at", Double, primary_key=True), _text("log_id", key=True)
)
leases = Table("leases", metadata, _text("name", key=True), _text("holder"), Column("until", Double, nullable=False))
runs = Table(
    "runs", metadata, _text("id", key=True), Column("began_at", Double, nullable=False),
    Column("records", Integer, nullable=False), Column("ended_at", Double), Column("exit_code", Integer),
    _text("detail"),
)  # fmt: skip
rule_ledger = Table(
    "rule_ledger", metadata, Column("number", Integer, primary_key=True), _text("id"),
    Column("at", Double, nullable=False), _text("body"),
)  # fmt: skip
running = Table("running", metadata, _text("experiment_id", key=True))
controls = Table(
    "controls", metadata, _text("name", key=True), Column("at", Double, nullable=False), _text("by"), _text("reason")
)
pruned = Table("pruned", metadata, _text("adapter_id", key=True), Column("at", Double, nullable=False))
replies = Table("replies", metadata, _text("key", key=True), Column("at", Double, nullable=False), _text("body"))
rejects = Table(
    "rejects", metadata, _text("file", key=True), Column("line", Integer, primary_key=True), _text("reason", key=True),
    _text("excerpt"), _text("detail"),
)  # fmt: skip


def to_json(value: object) -> str:
    """Compact JSON of a record or of plain data; tuples become lists, records become objects."""
    return _ENCODER.encode(value)


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


# Made once: making it takes as long as half a record's encoding.
_ENCODER = json.JSONEncoder(default=_plain, ensure_ascii=False, separators=(",", ":"))


def encode(record: Record) -> Row:
    """The row of a record, without the columns that say how it was derived (cycle, settings, time)."""
    kind: type = type(record)
    row: Row = {name: getattr(record, name) for name in QUERIED.get(kind, ())}
    at = (
        {"at": record.at}
        if isinstance(record, (LogRecord, Feedback, Interaction, Experiment, Step, Deployment))
        else {}
    )
    return {"id": record.id, **at, **row, "body": to_json(record)}


def decode(kind: type[R], body: str) -> R:
    """The record of a body. Fields a body lacks take their default, since older code may have written it."""
    data = cast("Row", json.loads(body))
    make: Callable[..., R] = kind
    restored = {name: restore(data[name]) for name, restore in _restorers(cast("type", kind)).items() if name in data}
    try:
        return make(**restored)
    except TypeError as error:
        raise StoreError(
            f"the {kind.__name__} {data.get('id')!r} in the store cannot be read: {error}",
            "it was written by another version of logtune: upgrade, or import the logs into a new store",
        ) from error


@cache
def _restorers(kind: type) -> dict[str, Restore]:
    return {item.name: _restorer(item.type) for item in fields(kind)}


def _restorer(hint: object) -> Restore:
    """What turns the JSON form of a field back into the type its hint names."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple:
        item = _restorer(inner[0])
        return lambda value: tuple(map(item, cast("list[object]", value)))
    if origin in (Union, UnionType):
        made = [_restorer(part) for part in inner if get_origin(part) is tuple or is_dataclass(part)]
        return (lambda value: None if value is None else made[0](value)) if made else _same
    if isinstance(hint, type) and is_dataclass(hint):
        parts = _restorers(hint)
        return lambda value: hint(**{key: parts[key](part) for key, part in cast("Row", value).items()})
    return _same


def _same(value: object) -> object:
    return value


def parents_of(record: Derived) -> list[str]:
    """The ids a derived record rests on: every field named `..._id` or `..._ids`, and the logs of its follow-ups."""
    found: list[str | None] = []
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name.endswith("_id"):
            found.append(value)
        elif item.name.endswith("_ids"):
            found.extend(value)
        elif isinstance(value, tuple):
            found.extend(part.log_id for part in value if isinstance(part, FollowUp))
    return [name for name in dict.fromkeys(found) if name is not None]
