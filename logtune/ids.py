"""How records are named: by when they came, or by what they hold.

Log records and feedback keep the id that the client knows; a derived record's id is its kind and a hash of its content.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, fields, replace
from typing import TypeVar

from logtune.records import SHADOW, Derived, Draw, FollowUp, LogRecord, Message

ANSWER_PREFIX = "chatcmpl-"  # of the ids of answers, before the id of the log record
T = TypeVar("T", bound=Derived)
UNHASHED = frozenset({"id", "at"})  # a record made again later is the same record
PREFIX = {
    "Interaction": "int", "Signal": "sig", "Decision": "dec", "Rule": "rule", "PreferencePair": "pair",
    "Standing": "sta", "Cluster": "clu", "Gap": "gap", "Adapter": "ada", "Evaluation": "eval", "Verdict": "ver",
    "Deployment": "dep", "Failure": "fail", "Experiment": "exp", "Step": "step",
}  # fmt: skip


def new_id() -> str:
    """A UUIDv7 (RFC 9562): sortable by time, so an id tells when it was made."""
    value = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (7 << 76)
    value = (value & ~(0x3 << 62)) | (2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def digest(value: object, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:length]


def identified(record: T) -> T:
    """The record with its id: its kind and a hash of its canonical content, without id and time."""
    kind = type(record)
    plain = {name: _plain(getattr(record, name)) for name in field_names(kind) if name not in UNHASHED}
    return replace(record, id=f"{PREFIX[kind.__name__]}-{digest(plain)}")


def _plain(value: object) -> object:
    if isinstance(value, (Message, FollowUp, Draw)):
        return asdict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def also_known_as(log: LogRecord) -> tuple[str, ...]:
    """The ids beside its own by which feedback may name a log record: that of the response, and its traces."""
    if log.source == SHADOW:  # nobody saw it; its trace is the request that it answered too
        return ()
    given = (log.response or {}).get("id")
    apart = isinstance(given, str) and given and given not in (log.id, f"{ANSWER_PREFIX}{log.id}")
    return tuple(dict.fromkeys((*([str(given)] if apart else []), *log.traces)))


def field_names(kind: type) -> tuple[str, ...]:
    """The names of a record's fields, in order."""
    return tuple(item.name for item in fields(kind))
