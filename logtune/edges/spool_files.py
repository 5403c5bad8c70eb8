"""The files of the spool: who owns them, how records lie in them, and what is found in them after a crash.

Entry <-> frame: a checksum, the columns as JSON, the record as JSON, one line        folder -> files of dead processes

A process names its files `<time>-<id>.<number>.spool` and holds a lock on `<time>-<id>.lock` as long as it lives, so
another can tell the files of the dead, lock them and store what they hold. A line cut short fails its checksum.
"""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from logtune.edges.intake import Entry, Kind, entry
from logtune.edges.schema import TABLES, decode
from logtune.errors import StoreError
from logtune.records import Feedback, LogRecord

SPOOL = "spool"  # folder of it in store.home
SEGMENT, LOCK, REJECTED = ".spool", ".lock", "rejected.jsonl"
CHUNK_RECORDS, CHUNK_BYTES = 200, 4 << 20  # read and stored at once
TRIES = 20  # to make a lock, while another process takes each new one for a dead one's
_RECORDS: dict[Kind, type[LogRecord] | type[Feedback]] = {"log": LogRecord, "feedback": Feedback}


def frame(item: Entry) -> bytes:
    """The line of an entry."""
    head = json.dumps([item.kind, item.row[:-1], item.names], separators=(",", ":"))
    line = b"%s\t%s" % (head.encode(), item.body.encode("utf-8", "surrogatepass"))
    return b"%08x %s\n" % (zlib.crc32(line), line)


def unframe(line: bytes) -> Entry | None:
    """The entry of a line; None: the line is damaged or was cut short."""
    checksum, _, content = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        return None
    head, _, body = content.partition(b"\t")
    try:
        kind, columns, names = cast("tuple[Kind, list[object], list[str]]", json.loads(head))
        text, record = body.decode("utf-8", "surrogatepass"), _RECORDS[kind]
        if len(columns) + 1 != len(TABLES[record].c):  # written by another version
            return entry(decode(record, text))
    except (ValueError, KeyError, TypeError, StoreError):  # whole, and yet nothing that we write
        return None
    return Entry(kind, (*columns, text), tuple(names))


def append_whole(descriptor: int, data: bytes, size: int) -> None:
    """Append to a file of `size` bytes, all or nothing. Raises OSError."""
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


@dataclass(slots=True)
class Segment:
    """One file of records; read from `offset` on."""

    path: Path
    owner: "Owner"
    size: int  # bytes written whole
    records: int  # not yet read
    offset: int = 0

    def read(self) -> tuple[list[Entry], int, int]:
        """The next entries, the offset behind them, and how many lines on the way were damaged."""
        found, damaged = list[Entry](), 0
        with self.path.open("rb") as file:
            file.seek(self.offset)
            end = self.offset
            while end < self.size and len(found) + damaged < CHUNK_RECORDS and end - self.offset < CHUNK_BYTES:
                line = file.readline(self.size - end)
                if not line:  # shorter than it was
                    return found, self.size, damaged
                item, end = unframe(line), end + len(line)
                if item is not None:
                    found.append(item)
                elif line.endswith(b"\n"):  # else its process died while it wrote, and told nobody that it is kept
                    damaged += 1
        return found, end, damaged


class Owner:
    """The lock on the files of one process, held until `release`."""

    def __init__(self, folder: Path, name: str, descriptor: int) -> None:
        self.name = name
        self._folder = folder
        self._descriptor = descriptor

    @classmethod
    def new(cls, folder: Path) -> "Owner":
        """A name of this process's own. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(TRIES):
            name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
            owner = cls.claim(folder, name)
            if owner is not None:
                return owner
        raise OSError(f"no lock could be made in {folder}")

    @classmethod
    def claim(cls, folder: Path, name: str) -> "Owner | None":
        """The lock of that name, made where it is missing; None: a living process has it."""
        path = folder / f"{name}{LOCK}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = path.stat().st_ino == os.fstat(descriptor).st_ino  # its owner deletes it before it lets go
        except (BlockingIOError, FileNotFoundError):
            there = False
        if there:
            return cls(folder, name, descriptor)
        os.close(descriptor)
        return None

    def path(self, number: int) -> Path:
        """Where the segment of that number lies."""
        return self._folder / f"{self.name}.{number:06d}{SEGMENT}"

    def segments(self) -> Iterator[Segment]:
        """What its process left, in the order of writing."""
        for path in sorted(self._folder.glob(f"{self.name}.*{SEGMENT}")):
            yield Segment(path, self, path.stat().st_size, _lines(path))

    def release(self, *, done: bool) -> None:
        """Let go; `done`: no segment is left, so nobody needs the lock again."""
        if done:
            (self._folder / f"{self.name}{LOCK}").unlink(missing_ok=True)
        os.close(self._descriptor)


def owners(folder: Path) -> list[str]:
    """The names of all processes that have or had files here, oldest first."""
    files = [path.name for path in folder.glob("*") if path.suffix in (SEGMENT, LOCK)]
    return sorted({name.partition(".")[0] for name in files})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What lies in a spool folder."""

    records: int = 0  # at most: those that a running gateway has stored and not yet deleted are among them
    bytes: int = 0
    rejected: int = 0  # records that the store refuses; they lie in `rejected.jsonl`


def waiting(folder: Path) -> Waiting:
    """What lies in a spool folder, whoever owns it; a folder that is not there holds nothing."""
    records = size = rejected = 0
    for path in sorted(folder.glob("*")):
        try:
            records += _lines(path) if path.suffix == SEGMENT else 0
            size += path.stat().st_size if path.suffix == SEGMENT else 0
            rejected += _lines(path) if path.name == REJECTED else 0
        except FileNotFoundError:  # stored meanwhile
            continue
    return Waiting(records=records, bytes=size, rejected=rejected)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
