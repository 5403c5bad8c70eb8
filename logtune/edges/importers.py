"""Files of logs and feedback -> LogRecord, Feedback, and a Reject for each line that cannot be used.

Formats: `logtune` (ours), `feedback` (ours, feedback alone), `openai-chat` (conversations); `log_lines` says what each
holds. Files are read line by line, plain or gzip, in bounded memory. Nothing in a file raises: a bad line is reported
with file, line and reason, and the rest is imported. A file imported twice adds nothing.
"""

import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol, TypeAlias, cast

from logtune.edges.log_lines import Bad, Object, Parsed, TargetKind, chat_line, feedback_line, own_line, shape
from logtune.edges.store import Reject
from logtune.errors import InputError
from logtune.records import Feedback, Json, LogRecord

REASONS: Mapping[str, str] = MappingProxyType({
    "invalid_json": "The line is no JSON.",
    "not_utf8": "The line is not UTF-8.",
    "not_an_object": "The line is JSON, but no object.",
    "too_long": "The line is longer than 10 MB, or its conversation would take more than 100 MB.",
    "too_deep": "Objects and lists lie more than 100 deep in each other.",
    "control_characters": "A text holds control characters that no text should, such as NUL.",
    "not_unicode": "A text holds half a surrogate pair, which is no character.",
    "missing_field": "A field that a line of this kind must have is missing or empty.",
    "wrong_type": "A field holds a value of the wrong type or out of its range.",
    "unknown_role": "A message has a role that OpenAI's chat format does not know.",
    "unknown_kind": "Feedback has a kind that is not known.",
    "bad_rating": "A rating is none of up, down, neutral, true, false and a number in -1..1.",
    "unknown_target": "Feedback names a log, session or user that is not in the store; it is kept.",
    "damaged_file": "The compressed file ends early or is damaged here; the rest cannot be read.",
})  # fmt: skip

MAX_LINE = 10_000_000  # bytes
MAX_DEPTH = 100
BATCH_RECORDS, BATCH_BYTES = 500, 8_000_000  # one transaction takes the records of so many lines
PEEK_LINES = 50  # usable lines that tell a file's format
LINE_S = 1e-3  # undated lines of one file lie this far apart, so that they keep their order
PENDING = 20_000  # feedback whose target may still come, held until then
EXAMPLES = 3  # rejected lines of each reason that a report shows

_UNUSABLE = re.compile("[\x00-\x07\x0e-\x1a\x1c-\x1f]")  # not: backspace, white space, and the escapes of terminals
_SURROGATE = re.compile("[\ud800-\udfff]")
_SUSPECT = re.compile(rb"\\u(00[01]|[dD][89a-fA-F])")
_BOM = b"\xef\xbb\xbf"

Reader: TypeAlias = Callable[[Object, float], Iterable[Parsed | Bad]]
Progress: TypeAlias = Callable[[int, int], None]  # bytes read, bytes in all


def _feedback_alone(line: Object, at: float) -> Iterator[Parsed | Bad]:
    yield feedback_line(line, at)


FORMATS: Mapping[str, Reader] = MappingProxyType(
    {"logtune": own_line, "openai-chat": chat_line, "feedback": _feedback_alone}
)


class Sink(Protocol):
    """The part of the store that an import needs."""

    def add_logs(self, logs: Sequence[LogRecord]) -> int: ...
    def put_feedback(self, items: Sequence[Feedback]) -> int: ...
    def add_rejects(self, rejects: Sequence[Reject]) -> None: ...
    def known(self, kind: TargetKind, targets: Sequence[str]) -> set[str]: ...
    def feedback_by_id(self, ids: Sequence[str]) -> dict[str, Feedback]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did."""

    format: str
    lines: int
    new_logs: int
    known_logs: int
    new_feedback: int  # new or changed
    rejected: Mapping[str, int]  # reason code -> lines; feedback for an unknown target is kept, and not in here
    unknown_targets: int
    examples: tuple[Reject, ...]  # the first few rejects of each reason


@dataclass(frozen=True, slots=True)
class _Item:
    line: int
    size: int  # bytes of the line
    record: LogRecord | Feedback | Reject
    dated: bool = True


def detect(path: Path | str) -> str:
    """The format of a file, by its first usable lines; `logtune` where none says. InputError: it cannot be opened."""
    shapes: Counter[str] = Counter()
    with _opened(Path(path)) as (stream, _):
        for number, raw in enumerate(_raw_lines(stream)):
            line = _parsed(raw) if isinstance(raw, bytes) else raw
            shapes[shape(line) if isinstance(line, dict) else ""] += 1
            if shapes.total() - shapes[""] >= PEEK_LINES or number >= 20 * PEEK_LINES:
                break
    return next((name for name in FORMATS if shapes[name]), "logtune")


def read(path: Path | str, format: str | None = None) -> Iterator[LogRecord | Feedback | Reject]:  # noqa: A002
    """The records of a file and its rejected lines, in order. InputError: it cannot be opened, or no such format."""
    source = Path(path)
    reader = _reader(source, format)[1]
    with _opened(source) as (stream, _):
        yield from (item.record for item in _items(source, stream, reader))


def import_file(
    store: Sink,
    path: Path | str,
    *,
    format: str | None = None,  # noqa: A002
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file, a transaction every few hundred lines; what was stored before stays, whatever the file holds."""
    source = Path(path)
    name, reader = _reader(source, format)
    running = _Import(store, str(path))
    with _opened(source) as (stream, raw):
        total = source.stat().st_size
        for item in _items(source, stream, reader):
            if running.add(item) and progress is not None:
                progress(raw.tell(), total)
    running.finish()
    if progress is not None:
        progress(total, total)
    return running.report(name)


@dataclass(slots=True)
class _Import:
    """An import under way: the batch that is being collected, and the counts so far."""

    store: Sink
    file: str
    batch: list[_Item] = field(default_factory=list)
    size: int = 0
    lines: int = 0
    seen_logs: int = 0
    new_logs: int = 0
    new_feedback: int = 0
    unknown: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[Reject] = field(default_factory=list)
    pending: list[tuple[int, Feedback]] = field(default_factory=list)  # feedback whose target may still come

    def add(self, item: _Item) -> bool:
        """Take one item; True when a batch was stored."""
        self.batch.append(item)
        self.size += item.size
        self.lines = item.line
        if len(self.batch) < BATCH_RECORDS and self.size < BATCH_BYTES:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Store the batch: logs first, since its feedback may be about them."""
        logs = [item.record for item in self.batch if isinstance(item.record, LogRecord)]
        rejects = [item.record for item in self.batch if isinstance(item.record, Reject)]
        said = [item for item in self.batch if isinstance(item.record, Feedback)]
        self.seen_logs += len(logs)
        self.new_logs += self.store.add_logs(logs)
        self.new_feedback += self.store.put_feedback(self._with_old_times(said))
        self._reject(rejects)
        self.reasons.update(reject.reason for reject in rejects)
        self.pending += self._unknown([(item.line, cast("Feedback", item.record)) for item in said])
        if len(self.pending) >= PENDING:
            self._report_unknown()
        self.batch, self.size = [], 0

    def finish(self) -> None:
        """Store what is left, and report the feedback whose target never came."""
        self.flush()
        self._report_unknown()

    def report(self, name: str) -> ImportReport:
        """The counts."""
        return ImportReport(
            format=name, lines=self.lines, new_logs=self.new_logs, known_logs=self.seen_logs - self.new_logs,
            new_feedback=self.new_feedback, rejected=dict(sorted(self.reasons.items())), unknown_targets=self.unknown,
            examples=tuple(self.examples),
        )  # fmt: skip

    def _with_old_times(self, items: Sequence[_Item]) -> list[Feedback]:
        """Undated feedback keeps the time of its first import, so that a touched or copied file changes nothing."""
        undated = [cast("Feedback", item.record).id for item in items if not item.dated]
        old = self.store.feedback_by_id(undated)
        found = [(cast("Feedback", item.record), item.dated) for item in items]
        return [
            replace(record, at=old[record.id].at) if not dated and record.id in old else record
            for record, dated in found
        ]

    def _unknown(self, said: Sequence[tuple[int, Feedback]]) -> list[tuple[int, Feedback]]:
        targets: dict[TargetKind, list[str]] = {}
        for _, item in said:
            targets.setdefault(item.target_kind, []).append(item.target)
        known = {kind: self.store.known(kind, names) for kind, names in targets.items()}
        return [(line, item) for line, item in said if item.target not in known[item.target_kind]]

    def _report_unknown(self) -> None:
        left = self._unknown(self.pending)
        self.pending = []
        self.unknown += len(left)
        self._reject([
            Reject(
                file=self.file, line=line, reason="unknown_target", excerpt=_excerpt(item.target),
                detail=f"no {'log' if item.target_kind == 'record' else item.target_kind} has this name; "
                "the feedback is kept, and joined when it comes",
            )
            for line, item in left
        ])  # fmt: skip

    def _reject(self, rejects: Sequence[Reject]) -> None:
        self.store.add_rejects(rejects)
        for reject in rejects:
            if sum(example.reason == reject.reason for example in self.examples) < EXAMPLES:
                self.examples.append(reject)


def _reader(path: Path, name: str | None) -> tuple[str, Reader]:
    chosen = name or detect(path)
    if chosen not in FORMATS:
        raise InputError(f"there is no import format '{chosen}'", f"use one of: {', '.join(FORMATS)}")
    return chosen, FORMATS[chosen]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], BufferedReader]]:
    """The file's text as bytes, and the file itself; gzip is told by its first bytes, not by its name."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    with raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as stream:
                yield cast("IO[bytes]", stream), raw
        else:
            yield raw, raw


def _raw_lines(stream: IO[bytes]) -> Iterator[bytes | Bad]:
    """The lines of a file, each with its number implied; a line that is too long is skipped, never held whole."""
    try:
        while raw := stream.readline(MAX_LINE + 1):
            if len(raw) <= MAX_LINE or raw.endswith(b"\n"):
                yield raw
                continue
            start = raw[:200]
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(1 << 16)
            yield Bad("too_long", f"the line is longer than {MAX_LINE // 1_000_000} MB", start)
    except (EOFError, OSError, zlib.error) as error:
        yield Bad("damaged_file", str(error))


def _items(path: Path, stream: IO[bytes], reader: Reader) -> Iterator[_Item]:
    modified = path.stat().st_mtime
    for number, raw in enumerate(_raw_lines(stream), 1):
        found: Iterable[Parsed | Bad]
        if isinstance(raw, bytes):
            if not raw.strip():
                continue
            text = raw.removeprefix(_BOM) if number == 1 else raw
            found = _records(text, reader, modified + number * LINE_S)
        else:
            text, found = raw.start, [raw]
        for item in found:
            if isinstance(item, Parsed):
                yield _Item(number, len(text), item.record, item.dated)
            else:
                excerpt = _excerpt(text)
                yield _Item(number, 200, Reject(
                    file=str(path), line=number, reason=item.reason, excerpt=excerpt, detail=item.detail
                ))  # fmt: skip


def _records(raw: bytes, reader: Reader, at: float) -> Iterator[Parsed | Bad]:
    line = _parsed(raw)
    if isinstance(line, Bad):
        yield line
        return
    try:
        yield from reader(line, at)
    except Bad as error:
        yield error


def _parsed(raw: bytes) -> Object | Bad:
    """The JSON object of a line, or why it cannot be used."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad("not_utf8", str(error))
    try:
        line = _DECODER.decode(text)
    except RecursionError:
        return Bad("too_deep", f"more than {MAX_DEPTH} deep")
    except ValueError as error:
        return _no_json(text, error)
    if not isinstance(line, dict):
        return Bad("not_an_object", f"the line is a {type(line).__name__}")
    try:
        _check(line, raw)
    except Bad as error:
        return error
    return line


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def _no_json(text: str, error: ValueError) -> Bad:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return Bad("invalid_json", str(error))
    return Bad("control_characters" if "control character" in str(error) else "invalid_json", str(error))


def _check(line: Object, raw: bytes) -> None:
    """Refuse what JSON allows and the rest of the program could not use."""
    # Both walks are for suspects only: nothing can hide from these two looks at the bytes.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        raise Bad("too_deep", f"more than {MAX_DEPTH} deep")
    if not _SUSPECT.search(raw):
        return
    for text in _texts(line):
        if found := _UNUSABLE.search(text):
            raise Bad("control_characters", f"U+{ord(found[0]):04X} in {text[:40]!a}")
        if found := _SURROGATE.search(text):
            raise Bad("not_unicode", f"U+{ord(found[0]):04X} in {text[:40]!a}")


def _texts(value: Object) -> Iterator[str]:
    """Every text in a value, keys included."""
    left: list[Json] = [dict(value)]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left.extend(item.keys())
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _depth(value: Object) -> int:
    """How deep objects and lists lie in each other."""
    level: list[Json] = [dict(value)]
    depth = 0
    while level:
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
        depth += bool(inner)
    return depth


def _excerpt(text: bytes | str) -> str:
    """The start of a line, at most 200 characters, harmless on a terminal."""
    start = text[:800].decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in start.strip()[:200])
