"""The gateway's log: one line an event, no texts, no floods."""

import io
import json
import logging
import sys
import threading

import pytest

from logtune.app.logs import ACCESS, BURST, LONGEST, WINDOW_S, Line, Often, event, logging_to
from logtune.errors import RequestError, StoreError

LOG = logging.getLogger("logtune.test")
SAID = "my card number is 4111"


def json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_holds_fields() -> None:
    stream = io.StringIO()
    with logging_to(stream, "json"):
        event(LOG, "reloading", adapters=2, names=["a", "b"])
    (line,) = json_lines(stream)
    assert line["message"] == "reloading"
    assert (line["level"], line["logger"], line["adapters"], line["names"]) == ("info", "logtune.test", 2, ["a", "b"])
    assert str(line["time"]).endswith("Z")


def test_a_line_of_text_is_one_line_and_harmless() -> None:
    stream = io.StringIO()
    with logging_to(stream, "text"):
        LOG.warning("the server said %s", "well\n2026-01-01 ERROR forged\x1b[31m")
        event(LOG, "bound", address="::1 port", empty="")
    first, second = stream.getvalue().splitlines()
    assert "well 2026-01-01 ERROR forged\\x1b[31m" in first
    assert second.endswith('logtune.test: bound address="::1 port" empty=""')


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_words_of_exceptions_are_kept_back_where_they_may_quote(form: str) -> None:
    stream = io.StringIO()
    with logging_to(stream, form):  # type: ignore[arg-type]
        for error in (KeyError(SAID), RequestError(SAID), ValueError(SAID)):
            try:
                try:
                    raise error
                except Exception as cause:
                    raise RuntimeError(SAID) from cause
            except RuntimeError:
                LOG.exception("a request failed")
    text = stream.getvalue()
    assert SAID not in text
    assert "4111" not in text
    assert "RuntimeError" in text
    assert "KeyError" in text
    assert "test_logs.py:" in text


def test_words_of_ours_and_of_the_system_are_told() -> None:
    stream = io.StringIO()
    with logging_to(stream, "json"):
        for error in (StoreError("the disk is full"), OSError(28, "No space left on device", SAID)):
            try:
                raise error
            except (StoreError, OSError):
                LOG.exception("a write failed")
    assert [line["reason"] for line in json_lines(stream)] == ["the disk is full", "No space left on device"]
    assert SAID not in stream.getvalue()


def test_asyncio_s_view_of_a_task_stays_out() -> None:
    stream = io.StringIO()
    with logging_to(stream, "text"):
        logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: <Task {SAID}>")
    assert "never retrieved" in stream.getvalue()
    assert SAID not in stream.getvalue()


def test_threads_and_finalisers_fail_without_words() -> None:
    def fail() -> None:
        raise KeyError(SAID)

    class Odd:
        def __del__(self) -> None:
            raise KeyError(SAID)

    stream = io.StringIO()
    before = threading.excepthook, sys.unraisablehook
    with logging_to(stream, "text"):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        Odd()
    assert (threading.excepthook, sys.unraisablehook) == before
    assert stream.getvalue().count("error=KeyError") == 2
    assert SAID not in stream.getvalue()


def test_a_flood_is_a_few_lines_and_a_number() -> None:
    now = [0.0]
    often = Often(lambda: now[0])

    def line(name: str = "logtune.test", message: str = "the store failed: %s") -> logging.LogRecord:
        return logging.LogRecord(name, logging.WARNING, "", 0, message, (1,), None)

    assert [often.filter(line()) for _ in range(100)].count(True) == BURST
    assert often.filter(line(message="another %s"))
    assert all(often.filter(line(name=ACCESS.name)) for _ in range(100))
    now[0] = WINDOW_S
    record = line()
    assert often.filter(record)
    assert json.loads(Line("json").format(record))["held_back"] == 100 - BURST
    record = line()
    assert often.filter(record)
    assert not hasattr(record, "held_back")


def test_an_endless_message_ends() -> None:
    stream = io.StringIO()
    with logging_to(stream, "text"):
        LOG.warning("x" * 100_000)
    assert len(stream.getvalue()) < LONGEST + 100


def test_what_was_set_up_before_comes_back() -> None:
    root = logging.getLogger()
    before = root.handlers[:], logging.getLogger("uvicorn").level
    with logging_to(io.StringIO(), "text"):
        assert len(root.handlers) == 1
        assert logging.getLogger("uvicorn").level == logging.WARNING
    assert (root.handlers[:], logging.getLogger("uvicorn").level) == before
