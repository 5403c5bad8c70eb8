"""The gateway's own log: one line for each event, as text or JSON, that never holds what users or models said.

records of `logging` -> Often (filter) -> Line (formatter) -> stderr        event(): a line with named fields

Of an exception the line tells its type and where it was raised: its own words may quote a request, so they are told
only where logtune or the operating system wrote them.
"""

import json
import logging
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO, cast

from logtune.app.console import harmless
from logtune.errors import LogtuneError, RequestError
from logtune.records import Json
from logtune.stages.redact import KINDS as PERSONAL
from logtune.stages.redact import redact

ACCESS = logging.getLogger("logtune.access")  # one line for each request, where serve.access_log is on
BURST, WINDOW_S = 5, 10.0  # lines of one kind in so many seconds; the rest are counted
SELDOM_S = 60.0
KINDS = 1000  # of lines that are counted at once
LONGEST = 1000  # characters of a line's words
TOLD = PERSONAL - {"ip"}  # cut out of a line's words, where addresses of servers are what one looks for
FRAMES = 6
LEVELS = {"logtune": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.WARNING, "aiohttp": logging.WARNING}


class Seldom:
    """Tells of trouble, the same at most once a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next: dict[str, float] = {}  # kind of trouble -> when it may be told again

    def __call__(self, what: str, message: str, *values: object) -> None:
        """Log an error of the kind `what`."""
        now = time.monotonic()
        if now >= self._next.get(what, 0.0):
            self._next[what] = now + SELDOM_S
            self._log.error(message, *values)


def event(log: logging.Logger, name: str, **fields: Json) -> None:
    """Tell that something happened, with what a reader may want to filter by."""
    log.info(name, extra={"fields": fields})


class Often(logging.Filter):
    """Lets a few lines of one kind through in each window, and tells how many there would have been."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # kind of line -> start of its window, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; the first of a window carries the number that the last one held back."""
        if record.name == ACCESS.name:
            return True
        kind, now = (record.name, str(record.msg)[:200]), self._clock()
        with self._lock:
            if len(self._seen) > KINDS:
                self._seen.clear()
            start, lines = self._seen.get(kind, (now, 0))
            if now - start >= WINDOW_S:
                record.held_back = max(0, lines - BURST)
                start, lines = now, 0
            self._seen[kind] = (start, lines + 1)
        return lines < BURST


class Line(logging.Formatter):
    """Formats a record as one line of `form`."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields = self._fields(record)
        if self._form == "json":
            head: dict[str, Json] = {
                "time": at, "level": record.levelname.lower(), "logger": record.name, "message": _words(record),
                "pid": record.process,
            }  # fmt: skip
            return json.dumps(head | fields, ensure_ascii=True)
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        return f"{at} {record.levelname:<7} {record.name}: {_words(record)}{' ' if shown else ''}{shown}"

    def _fields(self, record: logging.LogRecord) -> dict[str, Json]:
        given = cast("dict[str, Json]", getattr(record, "fields", {}))
        fields = {name: redact(value, PERSONAL) if isinstance(value, str) else value for name, value in given.items()}
        if held_back := getattr(record, "held_back", 0):
            fields["held_back"] = held_back
        if record.exc_info and record.exc_info[1]:
            fields |= told(record.exc_info[1])
        return fields


def told(error: BaseException) -> dict[str, Json]:
    """What may be said of an exception: its type, where it was raised, and harmless words."""
    found: dict[str, Json] = {"error": type(error).__name__}
    if isinstance(error, OSError) and error.strerror:
        found["reason"] = error.strerror
    elif isinstance(error, LogtuneError) and not isinstance(error, RequestError):  # that one may quote a request
        found["reason"] = _one_line(error.what)
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    found["where"] = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[::-1])
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        found["cause"] = type(cause).__name__
    return found


@contextmanager
def logging_to(stream: TextIO, form: Literal["text", "json"]) -> Iterator[None]:
    """Write the log to `stream` while the gateway runs; what was set up before comes back after."""
    handler = logging.StreamHandler(stream)
    handler.addFilter(Often())
    handler.setFormatter(Line(form))
    root = logging.getLogger()
    before = root.handlers[:], {name: logging.getLogger(name).level for name in LEVELS}
    hooks = threading.excepthook, sys.unraisablehook
    root.handlers[:] = [handler]
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    threading.excepthook, sys.unraisablehook = _in_thread, _unraisable
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        for name, level in before[1].items():
            logging.getLogger(name).setLevel(level)
        threading.excepthook, sys.unraisablehook = hooks


def _in_thread(failure: threading.ExceptHookArgs) -> None:
    _uncaught("a thread failed", failure.exc_value)


def _unraisable(failure: "sys.UnraisableHookArgs") -> None:
    _uncaught("an error could not be raised", failure.exc_value)


def _uncaught(what: str, error: BaseException | None) -> None:
    if error is not None:
        trace: types.TracebackType | None = error.__traceback__
        logging.getLogger("logtune").error("%s", what, exc_info=(type(error), error, trace))


def _words(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.name == "asyncio":  # its further lines show the repr of tasks, with what their exceptions say
        text = text.partition("\n")[0]
    return _one_line(text)


def _one_line(text: str) -> str:
    return harmless(redact(" ".join(text[: 2 * LONGEST].split()), TOLD))[:LONGEST]


def _shown(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if not text or any(letter in text for letter in ' "=') else harmless(text)
