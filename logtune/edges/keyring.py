"""Client keys of the gateway, hashed at rest: made once, listed without their secrets, revoked.

name, project -> Keyring.create -> the key's text, once        text -> hash_of -> looked up among Keyring.every

A key is `lt-<id>-<secret>` with 256 random bits of secret. The plain SHA-256 is kept of it: a slow, salted hash defends
passwords, which can be guessed; nobody guesses 256 bits, and a slow hash would cost every request its time.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import select

from logtune.edges import schema
from logtune.edges.store import Store
from logtune.errors import InputError

KEY = re.compile(r"lt-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A client key as the store knows it."""

    id: str  # 12 hex digits, part of the key's text
    name: str  # whose it is, for people
    project: str
    hash: str  # SHA-256 of the key's text, in hex
    created_at: float  # seconds since 1970
    revoked_at: float | None = None
    rate_per_minute: int | None = None  # None: serve.rate_per_minute holds; 0: no limit


class Keyring:
    """The keys in a store; StoreError as the store raises it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, name: str, project: str, rate_per_minute: int | None = None) -> tuple[Key, str]:
        """A new key and its text, which nobody can read again; InputError for an empty or endless name."""
        if not name.strip() or len(name) > LONGEST_NAME:
            raise InputError(f"a key cannot be called {name[:LONGEST_NAME]!r}", "give 1 to 80 characters")
        key_id = secrets.token_hex(6)
        text = f"lt-{key_id}-{secrets.token_urlsafe(32)}"
        key = Key(
            id=key_id, name=name.strip(), project=project, hash=hash_of(text), created_at=time.time(),
            rate_per_minute=rate_per_minute,
        )  # fmt: skip
        with self._store.transaction(write=True) as db:
            db.execute(schema.keys.insert(), asdict(key))
        return key, text

    def every(self) -> Sequence[Key]:
        """Every key, revoked ones too, oldest first."""
        table = schema.keys
        with self._store.transaction() as db:
            rows = db.execute(select(table).order_by(table.c.created_at, table.c.id))
            return [Key(**row._mapping) for row in rows]

    def revoke(self, key_id: str) -> Key:
        """Revoke the key with this id, or with the only id that starts so; InputError where there is none.

        A key that is revoked already keeps its first time.
        """
        found = [key for key in self.every() if key_id and key.id.startswith(key_id)]
        if len(found) != 1:
            what = f"several keys have an id that starts with {key_id!r}" if found else f"there is no key {key_id!r}"
            raise InputError(what, "logtune keys list shows the ids")
        table = schema.keys
        change = table.update().where(table.c.id == found[0].id, table.c.revoked_at.is_(None))
        with self._store.transaction(write=True) as db:
            db.execute(change.values(revoked_at=time.time()))
        return next(key for key in self.every() if key.id == found[0].id)


def hash_of(text: str) -> str:
    """What is kept of a key's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
