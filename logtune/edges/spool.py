"""Where records wait while the store cannot take them: files of a bounded size, and behind them a bounded memory.

Entry -> Spool.append -> Kept        Spool.chunk -> entries, oldest first -> Spool.done: they are stored

What `append` says is on the disk survives the process being killed; the next process that opens the folder takes it
over (`adopt`). A disk that is full leaves the records in memory. One thread appends while another takes out.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, TypeAlias

from logtune.edges.intake import Entry
from logtune.edges.schema import to_json
from logtune.edges.spool_files import CHUNK_RECORDS, REJECTED, Owner, Segment, append_whole, frame, owners

LOG = logging.getLogger(__name__)
Full: TypeAlias = Literal["drop_new", "drop_old", "refuse"]
SEGMENT_BYTES = 4 << 20  # of a file; at least sixteen make up a spool
RETRY_S = 1.0  # after a disk failed
REJECTED_SHARE = 1 / 8  # of the spool's size that the file of rejected records may have
RESERVE = 1 / 8  # of the spool is for the requests under way when others begin to be refused


class Kept(Enum):
    """Where a record is. Only one in the store counts as true."""

    STORED = "stored"
    SPOOLED = "spooled"  # on the disk
    HELD = "held"  # in memory
    REJECTED = "rejected"  # the store refuses it for what is in it
    DROPPED = "dropped"

    def __bool__(self) -> bool:
        return self is Kept.STORED


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may wait, in all and in memory."""

    disk_bytes: int = 256 << 20
    records: int = 10_000  # in memory
    bytes: int = 64 << 20  # in memory, roughly
    full: Full = "drop_new"


@dataclass(slots=True)
class Chunk:
    """The oldest records."""

    entries: list[Entry]
    segment: Segment | None = None  # None: they come from memory
    end: int = 0  # offset behind them


@dataclass(slots=True)
class _Held:
    """Records that not even the disk takes."""

    entries: deque[Entry] = field(default_factory=deque)
    bytes: int = 0

    def push(self, item: Entry) -> None:
        self.entries.append(item)
        self.bytes += item.size

    def pop(self) -> Entry:
        item = self.entries.popleft()
        self.bytes -= item.size
        return item


class Spool:
    """Keeps records in order; `folder` None: in memory alone. The counters may be read from any thread."""

    def __init__(self, folder: Path | None, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._segments: deque[Segment] = deque()
        self._open: tuple[Segment, int] | None = None  # the newest of them, with its descriptor
        self._number = 0
        self._held = _Held()
        self._retry_at = 0.0
        self.bytes = 0  # of all files
        self.dropped = 0  # records lost since the start
        self.rejected = 0  # records since the start that the store refused
        self.problem = ""  # what the disk said last; "": it works

    @property
    def records(self) -> int:
        """How many wait."""
        return sum(segment.records for segment in tuple(self._segments)) + len(self._held.entries)

    @property
    def held(self) -> int:
        """How many of them are in memory."""
        return len(self._held.entries)

    @property
    def held_bytes(self) -> int:
        """Their size in memory, roughly."""
        return self._held.bytes

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._segments and not self._held.entries

    @property
    def nearly_full(self) -> bool:
        """Whether what is left should be kept for the requests under way."""
        limits, held = self._limits, self._held
        return (
            self.bytes > limits.disk_bytes * (1 - RESERVE)
            or len(held.entries) > limits.records * (1 - RESERVE)
            or held.bytes > limits.bytes * (1 - RESERVE)
        )

    def append(self, entries: Sequence[Entry]) -> list[Kept]:
        """Keep entries behind all others, or drop some as the settings say."""
        with self._lock:
            if self._held.entries and not self._write_held():
                return [self._hold(item) for item in entries]
            frames = [frame(item) for item in entries]
            fits, size = list[bool](), 0
            for line in frames:
                fits.append(self._room(size + len(line)))
                size += len(line) if fits[-1] else 0
            lines = [line for line, fit in zip(frames, fits, strict=True) if fit]
            self.dropped += len(frames) - len(lines)
            written = self._write(lines)
            kept = [Kept.DROPPED if not fit else Kept.SPOOLED if written else None for fit in fits]
            return [self._hold(item) if where is None else where for item, where in zip(entries, kept, strict=True)]

    def chunk(self) -> Chunk | None:
        """The oldest entries, at most a few hundred; None: nothing waits. They stay until `done`."""
        while True:
            with self._lock:
                if not self._segments:
                    held = [item for item, _ in zip(self._held.entries, range(CHUNK_RECORDS), strict=False)]
                    return Chunk(held) if held else None
                segment = self._segments[0]
            try:
                entries, end, damaged = segment.read()
            except OSError as error:
                self._forget(segment, error)
                continue
            if damaged:
                LOG.error("%s: %d lines are damaged and lost", segment.path, damaged)
                self._count_lost(segment, damaged)
            chunk = Chunk(entries, segment, end)
            if entries:
                return chunk
            self.done(chunk)

    def done(self, chunk: Chunk) -> None:
        """The chunk is stored: it is deleted."""
        with self._lock:
            segment, held = chunk.segment, self._held
            if segment is None:
                for item in chunk.entries:  # some may have gone to the disk meanwhile; to store them again is harmless
                    if held.entries and held.entries[0] is item:
                        held.pop()
            elif segment in self._segments:  # else it was dropped meanwhile
                segment.offset = chunk.end
                segment.records = max(segment.records - len(chunk.entries), 0)
                if segment.offset >= segment.size:
                    self._remove(segment)

    def reject(self, item: Entry, reason: str) -> Kept:
        """Keep an entry that the store refuses, in a file for people to read."""
        with self._lock:
            self.rejected += 1
            line = f'{{"at":{time.time():.3f},"reason":{to_json(reason)},"kind":"{item.kind}","record":{item.body}}}\n'
            try:
                self._write_rejected(line.encode("utf-8", "surrogatepass"))
            except OSError as error:
                LOG.error("a record that the store refuses is lost: %s", error)
                self.dropped += 1
                return Kept.DROPPED
            return Kept.REJECTED

    def adopt(self) -> int:
        """Take over what dead processes left; how many records that is."""
        if self._folder is None or not self._folder.is_dir():
            return 0
        adopted = 0
        for name in owners(self._folder):
            with self._lock:
                adopted += self._adopt(name)
        return adopted

    def close(self) -> int:
        """Write to the disk what is in memory; how many records are lost because that fails."""
        with self._lock:
            self._retry_at = 0.0
            self._write_held()
            lost = len(self._held.entries)
            self.dropped += lost
            self._held = _Held()
            self._seal()
            left = {segment.owner.name: segment.owner for segment in self._segments}
            for owner in {**left, **({self._owner.name: self._owner} if self._owner else {})}.values():
                owner.release(done=owner.name not in left)
            self._owner = None
            self._segments.clear()
            return lost

    def _write_rejected(self, line: bytes) -> None:
        if self._folder is None:
            raise OSError("there is no spool folder")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / REJECTED
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size + len(line) > self._limits.disk_bytes * REJECTED_SHARE:
                raise OSError(f"{path} is full")
            append_whole(descriptor, line, size)
        finally:
            os.close(descriptor)

    def _adopt(self, name: str) -> int:
        if self._folder is None or any(name == owner.name for owner in self._owners()):
            return 0
        owner = Owner.claim(self._folder, name)
        if owner is None:
            return 0
        found = list(owner.segments())
        if not found:
            owner.release(done=True)
        self._segments.extendleft(reversed(found)) if not self._segments else self._segments.extend(found)
        self.bytes += sum(segment.size for segment in found)
        return sum(segment.records for segment in found)

    def _owners(self) -> list[Owner]:
        mine = [self._owner] if self._owner else []
        return [*mine, *(segment.owner for segment in self._segments)]

    def _room(self, size: int) -> bool:
        """Whether `size` more bytes fit; the oldest file gives way where the settings say so."""
        limit = self._limits.disk_bytes
        if self._limits.full == "drop_old" and size <= limit:
            while self._segments and self.bytes + size > limit:
                self.dropped += self._segments[0].records
                self._remove(self._segments[0])
        return self.bytes + size <= limit

    def _hold(self, item: Entry) -> Kept:
        limits, held = self._limits, self._held
        over = len(held.entries) >= limits.records or held.bytes + item.size > limits.bytes
        while over and limits.full == "drop_old" and held.entries:
            held.pop()
            self.dropped += 1
            over = held.bytes + item.size > limits.bytes
        if over:
            self.dropped += 1
            return Kept.DROPPED
        held.push(item)
        return Kept.HELD

    def _write_held(self) -> bool:
        """Bring what is in memory to the disk; False: not all of it went."""
        if time.monotonic() < self._retry_at:
            return False
        held = self._held.entries
        while held:
            part = [item for item, _ in zip(held, range(CHUNK_RECORDS), strict=False)]
            lines = [frame(item) for item in part]
            if not self._room(sum(map(len, lines))) or not self._write(lines):
                self._retry_at = time.monotonic() + RETRY_S
                return False
            for _ in part:
                self._held.pop()
        return True

    def _write(self, lines: Sequence[bytes]) -> bool:
        """Append whole lines; False: the disk takes none of them."""
        if not lines:
            return True
        try:
            segment, descriptor = self._opened()
            append_whole(descriptor, b"".join(lines), segment.size)
        except OSError as error:
            self.problem = str(error)
            self._retry_at = time.monotonic() + RETRY_S
            self._seal()
            return False
        self.problem = ""
        size = sum(map(len, lines))
        segment.size += size
        segment.records += len(lines)
        self.bytes += size
        return True

    def _opened(self) -> tuple[Segment, int]:
        if self._open and self._open[0].size >= min(SEGMENT_BYTES, self._limits.disk_bytes / 16):
            self._seal()
        if self._open is None:
            if self._folder is None:
                raise OSError("there is no spool folder")
            self._owner = self._owner or Owner.new(self._folder)
            self._number += 1
            path = self._owner.path(self._number)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._open = Segment(path, self._owner, 0, 0), os.open(path, flags, 0o600)
            self._segments.append(self._open[0])
        return self._open

    def _seal(self) -> None:
        """End the newest segment; an empty one goes."""
        if self._open is not None:
            segment, descriptor = self._open
            os.close(descriptor)
            self._open = None
            if not segment.size and segment in self._segments:
                self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        if self._open and self._open[0] is segment:
            os.close(self._open[1])
            self._open = None
        self._segments.remove(segment)
        self.bytes -= segment.size
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:  # the next start finds it and stores it again, which changes nothing
            LOG.warning("%s cannot be deleted: %s", segment.path, error)
            return
        if segment.owner is not self._owner and all(other.owner is not segment.owner for other in self._segments):
            segment.owner.release(done=True)

    def _forget(self, segment: Segment, error: OSError) -> None:
        """A file that cannot be read is left where it is; the others go on."""
        LOG.error("%s cannot be read, %d records stay in it: %s", segment.path, segment.records, error)
        with self._lock:
            if segment in self._segments:
                self.dropped += segment.records
                if self._open and self._open[0] is segment:
                    self._seal()
                self._segments.remove(segment)
                self.bytes -= segment.size

    def _count_lost(self, segment: Segment, lines: int) -> None:
        with self._lock:
            self.dropped += lines
            segment.records = max(segment.records - lines, 0)
