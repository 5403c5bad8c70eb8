"""Files of logs and feedback -> LogRecord, Feedback, and a Reject for each line that cannot be used.

Formats: `logtune` (ours), `feedback` (ours, feedback alone), `openai-chat` (conversations); `log_lines` says what each
holds. Files are read line by line, plain or gzip, in bounded memory. Nothing in a file raises: a bad line is reported
with file, line and reason, and the rest is imported. A file imported twice adds nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol, TypeAlias, cast

from logtune.edges.json_lines import Bad, Object, excerpt, opened, parsed, raw_lines
from logtune.edges.log_lines import Parsed, TargetKind, chat_line, feedback_line, own_line, shape
from logtune.edges.store import Reject
from logtune.errors import InputError
from logtune.records import Feedback, LogRecord

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

BATCH_RECORDS, BATCH_BYTES = 500, 8_000_000  # one transaction takes the records of so many lines
PEEK_LINES = 50  # usable lines that tell a file's format
LINE_S = 1e-3  # undated lines of one file lie this far apart, so that they keep their order
PENDING = 20_000  # feedback whose target may still come, held until then
SHOWN, OF_EACH_REASON = 100, 3  # a report shows so many rejected lines, and so many of each reason in any case

Reader: TypeAlias = Callable[[Object, float], Iterable[Parsed | Bad]]
Progress: TypeAlias = Callable[[str], None]  # a line of text now and then
Clean: TypeAlias = Callable[[LogRecord | Feedback | Reject], LogRecord | Feedback | Reject]


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

    file: str
    format: str
    lines: int
    new_logs: int
    known_logs: int
    new_feedback: int  # new or changed
    rejected: Mapping[str, int]  # reason code -> lines; feedback for an unknown target is kept, and not in here
    unknown_targets: int
    rejects: tuple[Reject, ...]  # the first ones, some of each reason in any case; the store has them all


@dataclass(frozen=True, slots=True)
class _Item:
    line: int
    size: int  # bytes of the line
    record: LogRecord | Feedback | Reject
    dated: bool = True


def detect(path: Path | str) -> str:
    """The format of a file, by its first usable lines; `logtune` where none says. InputError: it cannot be opened."""
    shapes: Counter[str] = Counter()
    with opened(Path(path)) as (stream, _):
        for number, raw in enumerate(raw_lines(stream)):
            line = raw if isinstance(raw, Bad) else parsed(raw)
            shapes[shape(line) if isinstance(line, dict) else ""] += 1
            if shapes.total() - shapes[""] >= PEEK_LINES or number >= 20 * PEEK_LINES:
                break
    return next((name for name in FORMATS if shapes[name]), "logtune")


def read(path: Path | str, format: str | None = None) -> Iterator[LogRecord | Feedback | Reject]:  # noqa: A002
    """The records of a file and its rejected lines, in order. InputError: it cannot be opened, or no such format."""
    source = Path(path)
    reader = _reader(source, format)[1]
    with opened(source) as (stream, _):
        yield from (item.record for item in _items(source, stream, reader))


def import_file(
    store: Sink,
    path: Path | str,
    *,
    format: str | None = None,  # noqa: A002
    progress: Progress | None = None,
    clean: Clean | None = None,
) -> ImportReport:
    """Import a file, a transaction every few hundred lines; what was stored before stays, whatever the file holds.

    `clean` makes of each record, and each rejected line, what may be stored of it.
    """
    source = Path(path)
    name, reader = _reader(source, format)
    running = _Import(store, str(path))
    with opened(source) as (stream, raw):
        total = max(source.stat().st_size, 1)
        for item in _items(source, stream, reader):
            cleaned = item if clean is None else replace(item, record=clean(item.record))
            if running.add(cleaned) and progress is not None:
                progress(f"{path}: {running.lines:,} lines, {min(raw.tell() / total, 1):.0%}")
    running.finish()
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
    counts: Counter[str] = field(default_factory=Counter)  # rejects by reason
    shown: list[Reject] = field(default_factory=list)
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
        self.new_logs += self.store.add_logs(logs) if logs else 0
        self.new_feedback += self.store.put_feedback(self._with_old_times(said)) if said else 0
        self._reject(rejects)
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
        unknown = self.counts.pop("unknown_target", 0)
        return ImportReport(
            file=self.file, format=name, lines=self.lines, new_logs=self.new_logs,
            known_logs=self.seen_logs - self.new_logs, new_feedback=self.new_feedback, unknown_targets=unknown,
            rejected=dict(sorted(self.counts.items())), rejects=tuple(self.shown),
        )  # fmt: skip

    def _with_old_times(self, items: Sequence[_Item]) -> list[Feedback]:
        """Undated feedback keeps the time of its first import, so that a touched or copied file changes nothing."""
        undated = [cast("Feedback", item.record).id for item in items if not item.dated]
        old = self.store.feedback_by_id(undated) if undated else {}
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
        self._reject([
            Reject(
                file=self.file, line=line, reason="unknown_target", excerpt=excerpt(item.target),
                detail=f"no {'log' if item.target_kind == 'record' else item.target_kind} has this name; "
                "the feedback is kept, and joined when it comes",
            )
            for line, item in left
        ])  # fmt: skip

    def _reject(self, rejects: Sequence[Reject]) -> None:
        if rejects:
            self.store.add_rejects(rejects)
        for reject in rejects:
            if len(self.shown) < SHOWN or self.counts[reject.reason] < OF_EACH_REASON:
                self.shown.append(reject)
            self.counts[reject.reason] += 1


def _reader(path: Path, name: str | None) -> tuple[str, Reader]:
    chosen = name or detect(path)
    if chosen not in FORMATS:
        raise InputError(f"there is no import format '{chosen}'", f"use one of: {', '.join(FORMATS)}")
    return chosen, FORMATS[chosen]


def _items(path: Path, stream: IO[bytes], reader: Reader) -> Iterator[_Item]:
    modified = path.stat().st_mtime
    for number, raw in enumerate(raw_lines(stream), 1):
        found: Iterable[Parsed | Bad]
        if isinstance(raw, Bad):
            text, found = raw.start, [raw]
        else:
            text, found = raw, _records(raw, reader, modified + number * LINE_S)
        for item in found:
            if isinstance(item, Parsed):
                yield _Item(number, len(text), item.record, item.dated)
            else:
                start = excerpt(text)
                reject = Reject(file=str(path), line=number, reason=item.reason, excerpt=start, detail=item.detail)
                yield _Item(number, len(start), reject)


def _records(raw: bytes, reader: Reader, at: float) -> Iterator[Parsed | Bad]:
    if not raw.strip():
        return
    line = parsed(raw)
    if isinstance(line, Bad):
        yield line
        return
    try:
        yield from reader(line, at)
    except Bad as error:
        yield error
