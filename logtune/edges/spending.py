"""What a cycle has spent on the teacher, on its row in the store: over all processes that have worked on it.

a meter -> Spending.save (with each batch that is committed, and at the end, however that comes) -> the cycle's receipt
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import cast

from sqlalchemy import select

from logtune.edges import schema
from logtune.edges.store import Store
from logtune.ports import Spent
from logtune.records import Json

FIELD = "spent"  # of the receipt


class Spending:
    """Brings what a meter counts from now on to the row of a cycle. `spent`: the meter's, by purpose."""

    def __init__(self, store: Store, cycle_id: str, spent: Callable[[], Mapping[str, Spent]]) -> None:
        self._store = store
        self._cycle_id = cycle_id
        self._spent = spent
        self._saved = dict(spent())

    def save(self) -> None:
        """Add what has come since the last time; what another process added meanwhile stays."""
        now = dict(self._spent())
        if now == self._saved:
            return
        table, this = schema.cycles, schema.cycles.c.id == self._cycle_id
        with self._store.transaction(write=True) as db:
            receipt = json.loads(db.execute(select(table.c.receipt).where(this).with_for_update()).scalar_one())
            before = read(receipt)
            added = {name: _since(spent, self._saved.get(name, Spent())) for name, spent in now.items()}
            total = {name: before.get(name, Spent()) + added.get(name, Spent()) for name in [*before, *added]}
            receipt[FIELD] = {name: asdict(spent) for name, spent in total.items()}
            db.execute(table.update().where(this).values(receipt=schema.to_json(receipt)))
        self._saved = now

    def total(self) -> dict[str, Spent]:
        """What the cycle has spent so far, as far as it is saved."""
        table = schema.cycles
        with self._store.transaction() as db:
            found = db.execute(select(table.c.receipt).where(table.c.id == self._cycle_id)).scalar_one()
        return read(json.loads(found))


def read(receipt: Mapping[str, Json]) -> dict[str, Spent]:
    """What the receipt of a cycle says of its spending, by purpose."""
    found = cast("dict[str, dict[str, float]]", receipt.get(FIELD) or {})
    known = {item.name for item in fields(Spent)}
    return {
        name: Spent(**{key: value for key, value in row.items() if key in known})  # type: ignore[arg-type]
        for name, row in found.items()
    }


def _since(now: Spent, before: Spent) -> Spent:
    return Spent(**{name: value - getattr(before, name) for name, value in asdict(now).items()})
