"""Imports: what each format means, every kind of bad line told and the rest kept, nothing twice, never an exception."""

import gzip
import json
import os
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logtune.edges import json_lines, log_lines
from logtune.edges.importers import FORMATS, REASONS, detect, import_file, read
from logtune.edges.store import Reject, Store
from logtune.errors import InputError, StoreError
from logtune.ids import digest
from logtune.records import Feedback, Json, LogRecord
from logtune.stages.interactions import answer_text, join, request_messages

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
PAGE = ROOT / "docs" / "reference" / "log-format.md"

ASK: dict[str, Json] = {"role": "user", "content": "My card is not here yet"}
ANSWER: dict[str, Json] = {"role": "assistant", "content": "card_not_working"}
LOG: dict[str, object] = {"id": "r1", "messages": [ASK], "answer": "card_not_working", "at": 1748855640}


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store("sqlite://")
    yield opened
    opened.close()


def write(folder: Path, *lines: object, name: str = "logs.jsonl") -> Path:
    """A file of lines: text and bytes as they are, everything else as JSON."""
    path = folder / name
    raw = [line if isinstance(line, bytes) else _text(line).encode("utf-8", "surrogatepass") for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


def _text(line: object) -> str:
    return line if isinstance(line, str) else json.dumps(line)


def logs_of(path: Path, name: str | None = None) -> list[LogRecord]:
    found = list(read(path, name))
    assert all(isinstance(record, LogRecord) for record in found), found
    return [record for record in found if isinstance(record, LogRecord)]


def feedback_of(path: Path) -> list[Feedback]:
    return [record for record in read(path) if isinstance(record, Feedback)]


def rejects_of(path: Path, name: str | None = None) -> list[Reject]:
    return [record for record in read(path, name) if isinstance(record, Reject)]


# our own format


def test_a_log_is_read_as_it_is_told(tmp_path: Path) -> None:
    request: dict[str, Json] = {"model": "m", "messages": [ASK], "temperature": 0, "top_k": 5}
    response: dict[str, Json] = {"id": "chatcmpl-1", "choices": [{"message": ANSWER}], "usage": {"total_tokens": 9}}
    line: dict[str, Json] = {
        "id": "r1", "request": request, "response": response, "at": 1748855640.25, "user": "ann", "session": "s1",
        "model": "support", "adapter": "ada-1", "arm": "b", "cluster": "cards", "latency_ms": 12,
        "route_reason": "near", "source": "gateway", "some": ["other", "field"],
    }  # fmt: skip
    assert logs_of(write(tmp_path, line)) == [
        LogRecord(
            id="r1", request=request, response=response, at=1748855640.25, model="support", adapter="ada-1", arm="b",
            cluster="cards", user="ann", session="s1", source="gateway", route_reason="near", latency_ms=12.0,
            usage={"total_tokens": 9},
        )
    ]  # fmt: skip


def test_bare_messages_and_answer_make_request_and_response(tmp_path: Path) -> None:
    (record,) = logs_of(write(tmp_path, {**LOG, "model": "m", "tools": [{"type": "function"}], "error": "late"}))
    assert record.request == {"model": "m", "messages": [ASK], "tools": [{"type": "function"}]}
    assert answer_text(record.response) == "card_not_working"
    assert (record.source, record.model, record.error) == ("logtune", "m", "late")


@pytest.mark.parametrize("missing", [{}, {"response": None}, {"answer": None}])
def test_a_log_without_an_answer_has_none(tmp_path: Path, missing: dict[str, Json]) -> None:
    (record,) = logs_of(write(tmp_path, {"messages": [ASK], **missing}), "logtune")
    assert record.response is None


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    (record,) = logs_of(write(tmp_path, {**LOG, "answer": ""}))
    assert record.response is not None


def test_user_and_session_are_also_found_in_the_request(tmp_path: Path) -> None:
    metadata = {"user_id": "m-user", "session_id": "m-session"}
    body = {"messages": [ASK], "metadata": metadata}
    found = logs_of(
        write(
            tmp_path,
            {"request": body, "response": None},
            {"request": {**body, "user": "body"}, "response": None},
            {"request": body, "response": None, "user_id": 17, "session_id": "x"},
            {"request": body, "response": None, "user": "", "session": None},
        )
    )
    assert [(record.user, record.session) for record in found] == [
        ("m-user", "m-session"),
        ("body", "m-session"),
        ("17", "x"),
        ("m-user", "m-session"),
    ]


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (1748855640, 1748855640.0),
        (1748855640123, 1748855640.123),
        ("2025-06-02T09:14:00Z", 1748855640.0),
        ("2025-06-02T11:14:00+02:00", 1748855640.0),
        ("2025-06-02 09:14:00", 1748855640.0),
    ],
)
def test_times_are_seconds_milliseconds_or_iso(tmp_path: Path, at: Json, seconds: float) -> None:
    (record,) = logs_of(write(tmp_path, {**LOG, "at": at}))
    assert record.at == pytest.approx(seconds, abs=1e-6)


def test_undated_logs_have_the_files_time_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, *({"id": str(number), "messages": [ASK], "answer": "x"} for number in range(300)))
    os.utime(path, (1.7e9, 1.7e9))
    times = [record.at for record in logs_of(path)]
    assert times == sorted(set(times))
    assert 1.7e9 <= times[0] < times[-1] < 1.7e9 + 1


def test_an_id_of_its_own_depends_on_what_is_said_alone(tmp_path: Path) -> None:
    line = {"messages": [ASK], "answer": "x"}
    first = write(tmp_path, line, {**line, "user": "ann"}, {**line, "at": 5}, {"answer": "x", "messages": [ASK]})
    other = write(tmp_path, {}, {**line, "some": "other field", "feedback": {"rating": "up"}}, name="other.jsonl")
    ids = [record.id for record in logs_of(first)]
    assert len(set(ids)) == 3
    assert ids[3] == ids[0]
    assert [record.id for record in read(other) if isinstance(record, LogRecord)] == ids[:1]
    assert ids[0].startswith("logtune:")


def test_content_parts_and_tool_calls_are_kept(tmp_path: Path) -> None:
    call: dict[str, Json] = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}
    parts: Json = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    messages: Json = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}, call,
                      {"role": "tool", "tool_call_id": "c1", "content": "a cat"}]  # fmt: skip
    (record,) = logs_of(write(tmp_path, {"messages": messages, "answer": "a cat"}))
    assert record.request["messages"] == messages
    assert request_messages(record.request)[1].content == "what is this?"


# feedback


@pytest.mark.parametrize(
    ("rating", "value", "revoked"),
    [("up", 1.0, False), ("Down", -1.0, False), ("neutral", None, True), (True, 1.0, False), (False, -1.0, False),
     (0.25, 0.25, False), (1, 1.0, False), (-1, -1.0, False), (0, 0.0, False)],
)  # fmt: skip
@pytest.mark.parametrize("key", ["rating", "value"])
def test_ratings(tmp_path: Path, key: str, rating: Json, value: float | None, revoked: bool) -> None:
    (item,) = feedback_of(write(tmp_path, {"log_id": "r1", key: rating, "at": 5}))
    assert (item.value, item.revoked, item.kind, item.target, item.at) == (value, revoked, "rating", "r1", 5.0)


@pytest.mark.parametrize(
    ("line", "target", "kind", "user"),
    [
        ({"log_id": "a"}, "a", "record", None),
        ({"target": "a"}, "a", "record", None),
        ({"target": "a", "target_kind": "session"}, "a", "session", None),
        ({"session": "s", "user": "ann"}, "s", "session", "ann"),
        ({"session_id": 7}, "7", "session", None),
        ({"user": "ann"}, "ann", "user", "ann"),
        ({"log_id": "a", "session": "s", "user_id": "ann"}, "a", "record", "ann"),
    ],
)
def test_targets(tmp_path: Path, line: dict[str, Json], target: str, kind: str, user: str | None) -> None:
    (item,) = feedback_of(write(tmp_path, {**line, "rating": "up"}))
    assert (item.target, item.target_kind, item.user) == (target, kind, user)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"comment": "no"}, "comment"),
        ({"comment": "no", "rating": "down"}, "rating"),
        ({"comment": "no", "correction": "yes"}, "correction"),
        ({"kind": "edit", "correction": "yes"}, "edit"),
        ({"kind": "copy"}, "copy"),
        ({"revoked": True}, "rating"),
    ],
)
def test_kinds(tmp_path: Path, said: dict[str, Json], kind: str) -> None:
    (item,) = feedback_of(write(tmp_path, {"log_id": "a", **said}))
    assert item.kind == kind


def test_feedback_inside_a_log_is_about_it(tmp_path: Path) -> None:
    inside: Json = [
        {"rating": "up", "user": "bob"},
        {"id": "f", "comment": "thanks", "at": 1748855700},
        {"log_id": "r0", "rating": 0},
    ]
    path = write(tmp_path, {**LOG, "feedback": inside}, {**LOG, "id": "r2", "feedback": {"rating": "down"}})
    items = feedback_of(path)
    assert [(item.target, item.value, item.user) for item in items] == [
        ("r1", 1.0, "bob"), ("r1", None, None), ("r0", 0.0, None), ("r2", -1.0, None),
    ]  # fmt: skip
    assert [item.at for item in items[:2]] == [1748855640.0, 1748855700.0]
    assert items[1].id == "f"
    assert len({item.id for item in items}) == 4


def test_bad_feedback_inside_a_log_costs_itself_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {**LOG, "feedback": [{"rating": "up"}, {"rating": 9}, "good", {}]})
    found = list(read(path))
    assert [type(record).__name__ for record in found] == ["LogRecord", "Feedback", "Reject", "Reject", "Reject"]
    assert [reject.reason for reject in rejects_of(path)] == ["bad_rating", "wrong_type", "missing_field"]


# conversations


def turns(*texts: str) -> list[Json]:
    return [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at, text in enumerate(texts)]


def test_a_conversation_gives_a_record_an_answer(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, *turns("q1", "a1", "q2", "a2", "q3")]
    path = write(tmp_path, {"id": "talk", "messages": messages, "user": "ann", "at": 1748855640, "model": "m"})
    found = logs_of(path)
    assert [record.id for record in found] == ["talk", "talk/2", "talk/3"]
    assert [answer_text(record.response) for record in found] == ["a1", "a2", None]
    assert [len(request_messages(record.request)) for record in found] == [2, 4, 6]
    assert {(record.user, record.session, record.model, record.source) for record in found} == {
        ("ann", "talk", "m", "openai-chat")
    }
    assert found[0].at < found[1].at < found[2].at == 1748855640


def test_stages_join_the_turns_of_a_conversation(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"messages": turns("q1", "a1", "q2", "a2", "q3")}, {"messages": turns("q1", "a1", "no", "b2")}
    )
    found = logs_of(path)
    assert len({record.id for record in found}) == 5
    assert len({record.session for record in found}) == 2
    joined = join(sorted(found, key=lambda record: (record.at, record.id)), [])
    assert [(item.query, [follow.text for follow in item.follow_ups]) for item in joined] == [
        ("q1", ["q2"]), ("q2", ["q3"]), ("q1", ["no"]), ("no", []),
    ]  # fmt: skip


def test_what_comes_before_the_first_question_is_context(tmp_path: Path) -> None:
    hello: Json = {"role": "assistant", "content": "How may I help?"}
    (record,) = logs_of(write(tmp_path, {"messages": [hello, *turns("q", "a")]}))
    assert [message.content for message in request_messages(record.request)] == ["How may I help?", "q"]


def test_a_tool_result_without_an_answer_is_an_open_turn(tmp_path: Path) -> None:
    call: Json = {"role": "assistant", "content": None, "tool_calls": []}
    result: Json = {"role": "tool", "content": "3"}
    found = logs_of(write(tmp_path, {"messages": [ASK, call, result]}))
    assert [record.response is None for record in found] == [False, True]


def test_feedback_on_a_conversation_is_about_its_session(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "one", "messages": turns("q", "a"), "feedback": {"rating": "up"}},
        {"id": "two", "messages": turns("q", "a", "q", "a"), "feedback": {"rating": "up"}},
        {"log_id": "one", "rating": "down"},
    )
    items = feedback_of(path)
    assert [(item.target, item.target_kind) for item in items] == [
        ("one", "record"),
        ("two", "session"),
        ("one", "record"),
    ]
    logs = [record for record in read(path) if isinstance(record, LogRecord)]
    joined = join(logs, items)
    assert [len(item.feedback_ids) for item in joined] == [2, 0, 1]


@pytest.mark.parametrize("message", [ANSWER, {"role": "system", "content": "x"}])
def test_a_conversation_without_a_question_is_refused(tmp_path: Path, message: dict[str, Json]) -> None:
    (reject,) = rejects_of(write(tmp_path, {"messages": [message]}))
    assert (reject.reason, reject.detail) == ("missing_field", "no message of a user")


def test_a_conversation_that_has_grown_adds_its_new_turns(tmp_path: Path, store: Store) -> None:
    import_file(store, write(tmp_path, {"id": "t", "messages": turns("q1", "a1")}))
    report = import_file(store, write(tmp_path, {"id": "t", "messages": turns("q1", "a1", "q2", "a2")}))
    assert (report.new_logs, report.known_logs) == (1, 1)


def test_a_conversation_whose_records_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": turns(*(["x" * 2000] * 700))})
    (reject,) = rejects_of(path)
    assert reject.reason == "too_long"
    assert "350 answers" in reject.detail


# which format


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([LOG], "logtune"),
        ([{"messages": [ASK]}, LOG], "logtune"),
        ([{"messages": [ASK, ANSWER]}], "openai-chat"),
        (["garbage", "", [1], {"messages": [ASK, ANSWER]}], "openai-chat"),
        ([{"log_id": "a", "rating": "up"}], "feedback"),
        ([{"log_id": "a", "rating": "up"}, {"messages": [ASK, ANSWER]}], "openai-chat"),
        ([{"foo": 1}, "garbage"], "logtune"),
        ([], "logtune"),
    ],
)
def test_the_format_is_seen_from_the_first_usable_lines(tmp_path: Path, lines: list[object], name: str) -> None:
    assert detect(write(tmp_path, *lines)) == name


def test_the_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": turns("q", "a", "q2", "a2")})
    assert len(logs_of(path)) == 2
    assert len(logs_of(path, "logtune")) == 1
    assert [reject.reason for reject in rejects_of(path, "feedback")] == ["missing_field"]
    with pytest.raises(InputError, match=r"no import format 'csv'\n  use one of: logtune, openai-chat, feedback"):
        list(read(path, "csv"))


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path, store: Store, name: str) -> None:
    for attempt in (detect, lambda path: list(read(path)), lambda path: import_file(store, path)):
        with pytest.raises(InputError, match="cannot be read"):
            attempt(tmp_path / name)


def test_gzip_is_told_by_its_bytes_and_a_byte_order_mark_passed_over(tmp_path: Path) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(LOG).encode() + b"\r\n\r\n  \n" + json.dumps({**LOG, "id": "r2"}).encode()
    for name, raw in (("a.gz", body), ("a.jsonl", gzip.compress(body)), ("a.jsonl.gz", gzip.compress(body))):
        (tmp_path / name).write_bytes(raw)
        assert [record.id for record in logs_of(tmp_path / name)] == ["r1", "r2"]


def test_a_damaged_gzip_file_gives_what_comes_before_the_damage(tmp_path: Path, store: Store) -> None:
    lines = b"".join(json.dumps({**LOG, "id": digest(number, 64)}).encode() + b"\n" for number in range(300))
    whole = gzip.compress(lines)
    for name, raw in (("cut", whole[:-2000]), ("mangled", whole[:-2000] + bytes(2000))):
        (tmp_path / name).write_bytes(raw)
        report = import_file(store, tmp_path / name)
        assert report.rejected["damaged_file"] == 1
        assert 150 < report.new_logs + report.known_logs < 300


# bad lines


def deep(levels: int) -> str:
    return (
        '{"messages": [{"role": "user", "content": "x"}], "answer": "y", "deep": ' + "[" * levels + "]" * levels + "}"
    )


BAD: list[tuple[object, str]] = [
    ("{", "invalid_json"),
    ("not json at all", "invalid_json"),
    ('{"messages": NaN}', "invalid_json"),
    ('{"messages": [], "at": 1e999}', "invalid_json"),
    ('{"at": ' + "9" * 5000 + "}", "invalid_json"),
    (json.dumps(LOG) + json.dumps(LOG), "invalid_json"),
    (b'{"messages": "\xff\xfe"}', "not_utf8"),
    ("[]", "not_an_object"),
    ("null", "not_an_object"),
    ('"text"', "not_an_object"),
    ("[" + json.dumps(LOG) + "]", "not_an_object"),
    (deep(120), "too_deep"),
    (deep(100_000), "too_deep"),
    ('{"messages": [{"role": "user", "content": "a\x00b"}]}', "control_characters"),
    ({**LOG, "answer": "a\x00b"}, "control_characters"),
    ({**LOG, "messages": [{"role": "user", "content": "\x01\x02\x07"}]}, "control_characters"),
    ({**LOG, "user": "\x1a"}, "control_characters"),
    ({**LOG, "\x00": 1}, "control_characters"),
    ({**LOG, "answer": "half \ud83d"}, "not_unicode"),
    ({}, "missing_field"),
    ({"id": "x", "answer": "y"}, "missing_field"),
    ({**LOG, "messages": []}, "missing_field"),
    ({**LOG, "messages": None}, "missing_field"),
    ({"request": {}, "response": None}, "missing_field"),
    ({**LOG, "messages": [{"content": "x"}]}, "missing_field"),
    ({**LOG, "messages": [{"role": "user"}]}, "missing_field"),
    ({**LOG, "messages": [{"role": "user", "content": None}]}, "missing_field"),
    ({**LOG, "response": {"choices": []}}, "missing_field"),
    ({**LOG, "response": {"error": "x"}}, "missing_field"),
    ({**LOG, "messages": "hello"}, "wrong_type"),
    ({**LOG, "messages": ["hello"]}, "wrong_type"),
    ({**LOG, "messages": [{"role": "user", "content": 5}]}, "wrong_type"),
    ({**LOG, "messages": [{"role": "user", "content": ["x"]}]}, "wrong_type"),
    ({**LOG, "messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "wrong_type"),
    ({**LOG, "request": "hello"}, "wrong_type"),
    ({**LOG, "response": "hello"}, "wrong_type"),
    ({**LOG, "answer": 5}, "wrong_type"),
    ({**LOG, "id": ["x"]}, "wrong_type"),
    ({**LOG, "id": "x" * 501}, "wrong_type"),
    ({**LOG, "user": True}, "wrong_type"),
    ({**LOG, "at": "yesterday"}, "wrong_type"),
    ({**LOG, "at": -5}, "wrong_type"),
    ({**LOG, "at": True}, "wrong_type"),
    ({**LOG, "at": 10**400}, "wrong_type"),
    ({**LOG, "at": "0001-01-01"}, "wrong_type"),
    ({**LOG, "latency_ms": "fast"}, "wrong_type"),
    ({**LOG, "usage": [1]}, "wrong_type"),
    ({**LOG, "messages": [{"role": "human", "content": "x"}]}, "unknown_role"),
    ({**LOG, "messages": [{"role": 5, "content": "x"}]}, "unknown_role"),
    ({**LOG, "response": {"choices": [{"message": {"role": "bot", "content": "x"}}]}}, "unknown_role"),
    ({"log_id": "a", "kind": "applause"}, "unknown_kind"),
    ({"log_id": "a", "kind": ["copy"]}, "unknown_kind"),
    ({"log_id": "a", "rating": 2}, "bad_rating"),
    ({"log_id": "a", "rating": "great"}, "bad_rating"),
    ({"log_id": "a", "rating": [1]}, "bad_rating"),
    ({"log_id": "a", "comment": 5}, "wrong_type"),
    ({"log_id": "a", "revoked": "yes", "rating": 1}, "wrong_type"),
    ({"target": "a", "target_kind": "planet", "rating": 1}, "wrong_type"),
    ({"log_id": "a", "comment": ""}, "missing_field"),
    ({"log_id": "a", "rating": None}, "missing_field"),
    ({"log_id": "", "rating": "up"}, "missing_field"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[f"{reason}-{at}" for at, (_, reason) in enumerate(BAD)])
def test_a_bad_line_is_told_with_its_reason(tmp_path: Path, line: object, reason: str) -> None:
    path = write(tmp_path, {**LOG, "id": "before"}, line, {**LOG, "id": "after"})
    found = list(read(path))
    assert [getattr(record, "id", None) for record in found] == ["before", None, "after"]
    (reject,) = rejects_of(path)
    assert (reject.file, reject.line, reject.reason) == (str(path), 2, reason)
    assert reject.detail
    assert len(reject.excerpt) <= 200
    assert reject.excerpt.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "tab\tand\r\nlines",
        "\x1b[31mred\x1b[0m",
        "a\x08b\x0b\x0c",
        "naïve 😀 \u200f\u202e",
        "\x7f\x85\ufeff",
        "C:\\u0000",
    ],
)
def test_what_terminals_and_people_write_is_no_reason(tmp_path: Path, text: str) -> None:
    (record,) = logs_of(write(tmp_path, {**LOG, "messages": [{"role": "user", "content": text}]}))
    assert request_messages(record.request)[0].content == text


def test_every_reason_is_met_and_named(tmp_path: Path, store: Store) -> None:
    met = {reason for _, reason in BAD} | {"too_long", "unknown_target", "damaged_file"}
    assert met == set(REASONS)


def test_a_line_of_over_10_mb_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "logs.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps({**LOG, "id": "before"}).encode() + b'\n{"messages": "')
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + json.dumps({**LOG, "id": "after"}).encode())
    tracemalloc.start()
    found = list(read(path, "logtune"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [getattr(record, "id", None) for record in found] == ["before", None, "after"]
    reject = found[1]
    assert isinstance(reject, Reject)
    assert (reject.line, reject.reason) == (2, "too_long")
    assert reject.excerpt.startswith('{"messages": "xxx')
    assert peak < 3 * json_lines.MAX_LINE


def test_a_message_of_just_under_10_mb_is_taken(tmp_path: Path) -> None:
    text = "x" * (json_lines.MAX_LINE - 200)
    (record,) = logs_of(write(tmp_path, {**LOG, "answer": text}))
    assert answer_text(record.response) == text


# into the store


def test_the_rest_of_a_bad_file_is_imported_and_nothing_is_lost(tmp_path: Path, store: Store) -> None:
    store.add_logs([LogRecord(id="r1", request={}, response=None, at=1.0)])
    good = [{**LOG, "id": f"g{number}", "feedback": {"rating": "up"}} for number in range(30)]
    lines = [line for pair in zip(good, [line for line, _ in BAD], strict=False) for line in pair]
    path = write(tmp_path, LOG, *lines)
    report = import_file(store, path)
    wanted = Counter(reason for _, reason in BAD[:30])
    assert (report.file, report.format, report.lines) == (str(path), "logtune", 61)
    assert (report.new_logs, report.known_logs, report.new_feedback, report.unknown_targets) == (30, 1, 30, 0)
    assert report.rejected == wanted
    assert [reject.line for reject in report.rejects] == list(range(3, 62, 2))
    assert store.rejects() == list(report.rejects)
    assert store.load(LogRecord, ["r1"])[0].at == 1.0


@pytest.mark.parametrize("dated", [True, False])
def test_a_second_import_adds_nothing(tmp_path: Path, store: Store, dated: bool) -> None:
    when: dict[str, Json] = {"at": 1748855640} if dated else {}
    lines = [
        {"messages": [ASK], "answer": "x", "feedback": [{"rating": "up"}, {"id": "f", "comment": "thanks"}], **when},
        {"messages": turns("q", "a", "q2", "a2"), "response": None, **when},
        {"session": "s9", "rating": "down", **when},
        "garbage",
    ]
    first = import_file(store, write(tmp_path, *lines))
    assert (first.new_logs, first.new_feedback, first.unknown_targets) == (2, 3, 1)
    before = (list(store.logs()), list(store.feedback()), store.rejects())
    again = import_file(store, write(tmp_path, *lines))
    assert (again.new_logs, again.known_logs, again.new_feedback) == (0, 2, 0)
    assert (list(store.logs()), list(store.feedback()), store.rejects()) == before
    copy = write(tmp_path, *lines, name="copy.jsonl")
    os.utime(copy, (1e9, 1e9))
    moved = import_file(store, copy)
    assert (moved.new_logs, moved.new_feedback) == (0, 0)
    assert (list(store.logs()), list(store.feedback())) == before[:2]


class FullDisk(Store):
    """A store whose disk is full from the third batch on."""

    batches = 0

    def add_logs(self, logs: Sequence[LogRecord]) -> int:
        self.batches += 1
        if self.batches > 2:
            raise StoreError("database or disk is full")
        return super().add_logs(logs)


def test_an_import_that_was_broken_off_is_finished_by_the_next(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'records.db'}"
    path = write(tmp_path, *({**LOG, "id": f"g{number:04d}", "feedback": {"rating": "up"}} for number in range(900)))
    broken = FullDisk(url)
    with pytest.raises(StoreError):
        import_file(broken, path)
    broken.close()
    store = Store(url)
    kept = store.count(LogRecord)
    assert 0 < kept < 900
    report = import_file(store, path)
    assert (report.new_logs, report.known_logs) == (900 - kept, kept)
    assert store.count(Feedback) == 900
    store.close()


def test_feedback_for_an_unknown_id_is_kept_and_told(tmp_path: Path, store: Store) -> None:
    path = write(
        tmp_path,
        {"log_id": "later", "rating": "up"},
        {"log_id": "never", "rating": "up"},
        {"session": "nobody", "rating": "up"},
        {"user": "ann", "rating": "up"},
        {**LOG, "id": "later", "user": "ann"},
    )
    report = import_file(store, path)
    assert (report.new_feedback, report.unknown_targets, report.rejected) == (4, 2, {})
    assert [(reject.line, reject.reason, reject.excerpt) for reject in store.rejects()] == [
        (2, "unknown_target", "never"), (3, "unknown_target", "nobody"),
    ]  # fmt: skip
    assert list(report.rejects) == store.rejects()
    assert store.count(Feedback) == 4
    import_file(store, write(tmp_path, {**LOG, "id": "never"}, name="logs2.jsonl"))
    assert import_file(store, path).unknown_targets == 1


def test_feedback_is_replaced_by_its_id(tmp_path: Path, store: Store) -> None:
    line = {"id": "f", "log_id": "r1", "rating": "down"}
    import_file(store, write(tmp_path, LOG, line))
    report = import_file(store, write(tmp_path, LOG, {**line, "rating": "neutral"}))
    assert report.new_feedback == 1
    (item,) = store.feedback()
    assert (item.value, item.revoked) == (None, True)


def test_a_large_file_is_stored_in_parts_and_says_how_far_it_is(tmp_path: Path, store: Store) -> None:
    lines = [{**LOG, "id": f"g{number}", "feedback": {"rating": "up"}} for number in range(1200)]
    said: list[str] = []
    path = write(tmp_path, *lines)
    report = import_file(store, path, progress=said.append)
    assert (report.new_logs, report.new_feedback, report.lines) == (1200, 1200, 1200)
    assert said
    assert all(re.fullmatch(rf"{path}: [\d,]+ lines, \d+%", line) for line in said)


def test_many_bad_lines_are_all_counted_and_some_of_each_reason_shown(tmp_path: Path, store: Store) -> None:
    report = import_file(store, write(tmp_path, *["garbage"] * 700, "[]", *[{"log_id": "x", "rating": "up"}] * 2))
    assert report.rejected == {"invalid_json": 700, "not_an_object": 1}
    assert Counter(reject.reason for reject in report.rejects) == {
        "invalid_json": 100, "not_an_object": 1, "unknown_target": 2,
    }  # fmt: skip
    assert len(store.rejects(limit=1000)) == 703


# garbage: anything in a file, and anything in the fields

PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\n", b"\r", b"\x00", b"\xff", b"\\u0000", b"\\ud800", b"1e999", b"NaN",
     b"messages", b":", json.dumps(LOG).encode(), b'{"log_id": "a", "rating": "up"}\n', b"\x1f\x8b\x08\x00",
     b"\xef\xbb\xbf"]
)  # fmt: skip
KEYS = ["id", "messages", "request", "response", "answer", "at", "user", "session", "model", "feedback", "usage",
        "log_id", "target", "target_kind", "kind", "value", "rating", "comment", "correction", "revoked", "role",
        "content", "choices", "message", "metadata", "tools", "type", "text"]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5)
    | st.sampled_from(["user", "assistant", "text", "up", "copy", "session", ASK, ANSWER, [ASK], [ASK, ANSWER], LOG]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Path]]:
    opened = Store("sqlite://")
    yield opened, tmp_path_factory.mktemp("garbage") / "logs.jsonl"
    opened.close()


def check(store: Store, path: Path, name: str | None) -> None:
    """Importing raises nothing, says each reason from the list, and the second time adds nothing."""
    first = import_file(store, path, format=name)
    assert set(first.rejected) <= set(REASONS)
    logs, feedback = store.count(LogRecord), store.count(Feedback)
    again = import_file(store, path, format=name)
    assert again.new_logs == 0
    assert again.rejected == first.rejected
    assert (store.count(LogRecord), store.count(Feedback)) == (logs, feedback)


PACKED = st.sampled_from([bytes, gzip.compress, lambda raw: gzip.compress(raw)[:-3]])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    raw=st.binary(max_size=200) | st.lists(PIECES, max_size=12).map(b"".join),
    name=st.sampled_from([None, *FORMATS]),
    pack=PACKED,
)
def test_no_bytes_raise(
    shared: tuple[Store, Path], raw: bytes, name: str | None, pack: Callable[[bytes], bytes]
) -> None:
    store, path = shared
    path.write_bytes(pack(raw))
    check(store, path, name)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(OBJECTS | st.builds(lambda extra: {**LOG, **extra}, OBJECTS), max_size=4),
    name=st.sampled_from([None, *FORMATS]),
)
def test_no_fields_raise(shared: tuple[Store, Path], lines: list[dict[str, Json]], name: str | None) -> None:
    store, path = shared
    write(path.parent, *lines)
    check(store, path, name)
    for record in read(path, name):
        if isinstance(record, LogRecord):
            assert request_messages(record.request)
            answer_text(record.response)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20), min_size=1, max_size=7
    )
)
def test_a_conversation_loses_no_word(shared: tuple[Store, Path], texts: list[str]) -> None:
    path = write(shared[1].parent, {"messages": turns(*texts)}, name="talk.jsonl")
    found = logs_of(path)
    assert len(found) == (len(texts) + 1) // 2
    told = [message.content for message in request_messages(found[-1].request)]
    assert told + texts[len(told) :] == texts
    assert [answer_text(record.response) or "" for record in found if record.response] == texts[1::2]


# real files


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    "name", ["import_formats/openai_chat_messages.jsonl", "realhumaneval_chat/conversations.jsonl.gz"]
)
def test_real_conversations_come_in_whole(store: Store, name: str) -> None:
    path = DATA / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        talks = [json.loads(line)["messages"] for line in file]
    answered = sum(message["role"] == "assistant" for messages in talks for message in messages)
    still_open = sum(messages[-1]["role"] == "user" for messages in talks)
    report = import_file(store, path)
    assert report.format == "openai-chat"
    assert report.rejected == {}
    assert report.new_logs == answered + still_open
    joined = join(list(store.logs()), [])
    assert sum(len(item.follow_ups) for item in joined) == report.new_logs - len(talks)  # every turn but the first


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_no_real_file_raises(tmp_path: Path) -> None:
    for path in sorted((DATA / "import_formats").iterdir()):
        if path.is_file():
            assert all(record.reason in REASONS for record in read(path) if isinstance(record, Reject))
    raw = (DATA / "naughty_strings" / "strings.jsonl").read_text(encoding="utf-8")
    strings = [json.loads(line)["text"] for line in raw.split("\n") if line]
    path = write(tmp_path, *({"id": str(at), "messages": [{"role": "user", "content": text}], "answer": text}
                             for at, text in enumerate(strings)))  # fmt: skip
    found = list(read(path))
    kept = [request_messages(record.request)[0].content for record in found if isinstance(record, LogRecord)]
    assert set(kept) <= set(strings)
    assert {record.reason for record in found if isinstance(record, Reject)} <= {"control_characters"}
    assert len(kept) > 0.98 * len(strings)


# the page that describes all this


def test_the_examples_of_the_page_are_imported(tmp_path: Path, store: Store) -> None:
    examples = re.findall(r"```jsonl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(example, encoding="utf-8")
        report = import_file(store, path)
        assert report.rejected == {}
        assert report.unknown_targets == 0
    assert [record.id for record in store.logs() if record.session == "talk-7"] == ["talk-7", "talk-7/2", "talk-7/3"]
    assert store.load(Feedback, ["fb-2"])[0].revoked


def test_the_page_names_every_reason_role_and_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page.partition("| reason |")[2], re.MULTILINE)) == REASONS
    for name in {*FORMATS, *log_lines.ROLES - {"human"}, *log_lines.TARGETS, *log_lines.SAID, *log_lines.OWN}:
        assert f"`{name}`" in page, name
