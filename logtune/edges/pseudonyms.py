"""Pseudonyms for ids that are personal themselves: the same id always gets the same one, and nobody can turn it back.

folder -> the key in it (made once, readable by its owner alone)        id -> pseudonym-<16 hex digits>
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from logtune.errors import ConfigError

FILE = "pseudonyms.key"
KEY_BYTES = 32
PREFIX = "pseudonym-"


def load_key(folder: Path) -> bytes:
    """The key of this folder, made where there is none yet, by whichever process comes first.

    ConfigError where it can be neither read nor made.
    """
    path = folder / FILE
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        what = f"the key of the pseudonyms, {path}, cannot be used: {error.strerror or error}"
        raise ConfigError(what, "make store.home a folder that logtune may write to") from error
    if len(key) != KEY_BYTES:
        hint = f"restore it from a backup; without it, move it away: ids like {PREFIX}... then get new names"
        raise ConfigError(f"the key of the pseudonyms, {path}, has {len(key)} bytes, not {KEY_BYTES}", hint)
    return key


def pseudonym(key: bytes, name: str) -> str:
    """The name that stands for `name`: 64 bits of a keyed hash (HMAC-SHA-256). Case and outer space don't count."""
    plain = name.strip().casefold().encode("utf-8", "surrogatepass")
    return PREFIX + hmac.digest(key, plain, hashlib.sha256).hex()[:16]


def _make(path: Path) -> None:
    """Write the key beside its place and link it there whole: of two processes that do so, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()
