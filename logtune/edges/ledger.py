"""The rules ledger in the store: what people decided about rules, who and when; lines are only ever added.

RuleEntry -> RuleLedger.add -> True, False where that holds already        RuleLedger.every -> RuleEntry*
"""

import json
from collections.abc import Sequence
from typing import cast

from sqlalchemy import Connection, func, select

from logtune.edges import schema
from logtune.edges.store import Store
from logtune.records import Json, RuleEntry


class RuleLedger:
    """The lines in a store; StoreError as the store raises it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def every(self) -> tuple[RuleEntry, ...]:
        """Every line, oldest first."""
        with self._store.transaction() as db:
            return tuple(_lines(db))

    def last(self) -> int:
        """Number of the newest line, 0 without one: what holds has not changed while this has not."""
        with self._store.transaction() as db:
            return db.execute(select(func.max(schema.rule_ledger.c.number))).scalar() or 0

    def add(self, entry: RuleEntry) -> RuleEntry:
        """Write a line, and give it back; where the last of its kind about this rule says the same, give that one."""
        table = schema.rule_ledger
        with self._store.transaction(write=True) as db:
            same = _repeated(_lines(db), entry)
            if same is not None:
                return same
            number = (db.execute(select(func.max(table.c.number))).scalar() or 0) + 1
            db.execute(
                table.insert(), {"number": number, "id": entry.id, "at": entry.at, "body": schema.to_json(entry)}
            )
        return entry


def _lines(db: Connection) -> list[RuleEntry]:
    table = schema.rule_ledger
    bodies = db.execute(select(table.c.body).order_by(table.c.number)).scalars()
    return [_entry(cast("dict[str, Json]", json.loads(body))) for body in bodies]


def _entry(body: dict[str, Json]) -> RuleEntry:
    lists = {name: tuple(cast("list[str]", body.get(name, ()))) for name in ("parts", "interaction_ids")}
    return RuleEntry(**{**body, **lists})  # type: ignore[arg-type]


def _repeated(lines: Sequence[RuleEntry], entry: RuleEntry) -> RuleEntry | None:
    """The line that makes this one needless."""
    about = [line for line in lines if set(line.parts) & set(entry.parts) or line.rule_id == entry.rule_id]
    edits = entry.action == "edit"
    kind = [line for line in about if (line.action == "edit") == edits or "reset" in (line.action, entry.action)]
    last = kind[-1] if kind else None
    if last is None or last.action != entry.action or last.text != entry.text:
        return None
    return last if entry.action != "expire" or last.until == entry.until else None
