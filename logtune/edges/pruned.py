"""Adapters whose weights were removed from this disk: marks in the store, folders that are sized and taken away.

Pruned.every -> adapter id -> when        folder of all adapters -> folders, bytes
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import delete, select

from logtune.edges import schema
from logtune.edges.database import insert_or_replace
from logtune.edges.store import Store

TRAINING = ".training-"  # how the folder of a training under way begins


class Pruned:
    """The marks of a store; StoreError as the store raises it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def every(self) -> dict[str, float]:
        """Adapter id -> when its weights went, in seconds since 1970."""
        with self._store.transaction() as db:
            return {row.adapter_id: row.at for row in db.execute(select(schema.pruned))}

    def mark(self, ids: Collection[str], at: float) -> None:
        """Say that their weights go."""
        with self._store.transaction(write=True) as db:
            insert_or_replace(db, schema.pruned, [{"adapter_id": name, "at": at} for name in sorted(ids)])

    def unmark(self, ids: Collection[str]) -> None:
        """Say that their weights are there again."""
        with self._store.transaction(write=True) as db:
            for name in sorted(ids):
                db.execute(delete(schema.pruned).where(schema.pruned.c.adapter_id == name))


def folders(home: Path) -> list[str]:
    """Names of the real folders in it."""
    if not home.is_dir():
        return []
    with os.scandir(home) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def remove(folder: Path) -> None:
    """Take a folder away; it is nowhere half gone under its name."""
    going = folder.with_name(f"{TRAINING}gone-{folder.name}")
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    shutil.rmtree(going)
