"""Bad input from both sides: the client hears a well-formed error, the record says why, and serving goes on."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_kit import WAIT_S, Kit, gateway, post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_passthrough import STREAMED, Asked, Chain, chunk, recording, says, whole

from logtune.edges.sse import StreamAssembler
from logtune.edges.upstream import HttpBackend
from logtune.records import Json
from logtune.stages.redact import TOO_DEEP

CHAT = "/v1/chat/completions"
HELLO: dict[str, Json] = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with gateway(tmp_path_factory.mktemp("embedded"), max_body_mb=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with (
        recording(says(whole(b"{}"))) as recorder,
        gateway(tmp_path_factory.mktemp("remote"), backend=HttpBackend(recorder.url)) as running,
    ):
        yield Chain(running, recorder)


def asked(kit: Kit, body: bytes) -> tuple[int, Json]:
    """Status and answer, which is JSON; an error has OpenAI's shape."""
    status, headers, answer = post(kit.url, CHAT, body)
    if headers["content-type"].startswith("text/event-stream"):
        assert answer.endswith(b"\n\n")
        return status, None
    found = json.loads(answer)
    if status >= 400:
        assert set(found["error"]) >= {"message", "type", "param", "code"}
        assert isinstance(found["error"]["message"], str)
    return status, found


def lives(kit: Kit) -> None:
    assert asked(kit, json.dumps(HELLO).encode())[0] == 200


# --- from clients ---


@pytest.mark.parametrize(("field", "values"), [
    ("messages", [None, 5, "hi",
    {}, [], [None], ["hi"], [[]], [{}], [{"role": "user"}], [{"role": 5, "content": "x"}],
                  [{"content": "x"}], [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}],
                  [{"role": "user", "content": [{"type": "text", "text": 5}, {"type": 7}]}],
                  [{"role": "user", "content": {"type": "text"}}]]),
    ("n", [-1, 0, 1.5, "2", True, 10**30, [], {}]), ("temperature", [-1, "warm", 3, True, [], 1e308]),
    ("top_p", [-0.1, 2, "x"]), ("max_tokens", [0, -5, 1.5, "many", 2**40]), ("seed", ["x", 1.5, 2**70]),
    ("stream", [1, "true", [], {}]), ("stop", [5, [5], [[]], {}, ["x"] * 20]), ("tools", [5, "x", [{}]]),
    ("logprobs", [True, 5, "yes"]), ("response_format", ["json", 5, {"type": "json_object"}]),
    ("model", [5, [], {}, True]), ("logit_bias", [{"5": 1}, 5]),
])  # fmt: skip
def test_a_field_of_the_wrong_type_is_a_400_that_names_it(kit: Kit, field: str, values: list[Json]) -> None:
    for value in values:
        status, answer = asked(kit, json.dumps({**HELLO, field: value}).encode())
        assert status == 400, value
        assert answer["error"]["param"].startswith(field), value  # type: ignore[index,call-overload]
    lives(kit)


@pytest.mark.parametrize(("field", "value"), [
    ("user", 5), ("user", ["x"]), ("metadata", "x"), ("metadata", {"user_id": {}, "session_id": [1]}), ("unknown",
    {"a": []}),
    ("stream_options", "x"), ("stream_options", {"include_usage": "yes"}), ("store", "maybe"),
])  # fmt: skip
def test_a_field_that_the_engine_does_not_need_may_be_anything(kit: Kit, field: str, value: Json) -> None:
    assert asked(kit, json.dumps({**HELLO, field: value}).encode())[0] == 200


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8,
)  # fmt: skip
KNOWN = ("model", "messages", "n", "stream", "temperature", "max_tokens", "stop", "tools", "user", "metadata", "seed")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), any_json, max_size=5), st.booleans())
def test_whatever_json_comes_it_is_no_failure_of_the_gateway(kit: Kit, body: dict[str, Json], valid: bool) -> None:
    assert asked(kit, json.dumps({**HELLO, **body} if valid else body).encode())[0] in (200, 400, 404)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_whatever_bytes_come_they_are_no_failure_of_the_gateway(kit: Kit, noise: bytes) -> None:
    assert asked(kit, noise)[0] == 400
    assert asked(kit, json.dumps(HELLO).encode() + noise)[0] in (200, 400)


@pytest.mark.parametrize("body", [
    b"", b"null", b'"x"', b"[]", b"{", b'{"model": "base"', b'{"messages": [{"role": "user", "content": "x',
    b"\xff\xfe{\x00}\x00",
    b'{"model": "\xed\xa0\x80"}', b"\x00" * 100, b"{" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a": Infinity}',
    b"1" * 5000, b'{"n": ' + b"9" * 5000 + b"}", b'{"a": 1,}',
])  # fmt: skip
def test_what_is_no_json_object_is_a_400(kit: Kit, chain: Chain, body: bytes) -> None:
    assert asked(kit, body)[0] == 400
    chain.answering(says(whole(b"{}")))
    assert asked(chain.kit, body)[0] == 400
    assert chain.recorder.asked == []


def test_a_model_server_is_sent_wrong_types_as_they_came(chain: Chain) -> None:
    chain.answering(says(whole(b'{"error": {"message": "n is bad"}}', "400 Bad Request")))
    for body in (
        b'{"messages": 5}',
        b'{"model":"big","n":-1,"messages":[{}]}',
        b'{"model":"big","messages":"\\ud800\\u0000"}',
    ):
        status, headers, answer = chain.post(body)
        assert (status, answer) == (400, b'{"error": {"message": "n is bad"}}')
        record = chain.record(headers)
        assert (record.response, record.error) == (None, f"the model server answered 400: {answer.decode()}")
        assert json.loads(chain.recorder.asked[-1].body)["messages"] == json.loads(body)["messages"]


def test_fields_that_come_twice_reach_the_model_server_and_the_last_counts_here(chain: Chain) -> None:
    chain.answering(says(whole(b"{}")))
    body = b'{"model":"big","user":"a","user":"b","messages":[],"messages":[{"role":"user","content":"x"}]}'
    _, headers, _ = chain.post(body)
    assert chain.recorder.asked[-1].body == body
    assert chain.record(headers).user == "b"


@pytest.mark.parametrize("depth", [90, 300, 900])
def test_deep_nesting_reaches_the_model_and_its_depths_are_not_recorded(chain: Chain, depth: int) -> None:
    chain.answering(says(whole(b'{"choices": []}')))
    body = b'{"model":"big","x":' + b"[" * depth + b"]" * depth + b"}"
    status, headers, _ = chain.post(body)
    assert status == 200
    assert chain.recorder.asked[-1].body == body
    kept = json.dumps(chain.record(headers).request["x"])
    assert (kept == "[" * depth + "]" * depth) if depth < 100 else TOO_DEEP in kept


def test_50_mb_are_refused_and_not_kept(kit: Kit) -> None:
    before = len(kit.logs())
    status, answer = asked(kit, b" " * (50 << 20))
    assert status == 413
    assert answer["error"]["code"] == "request_too_large"  # type: ignore[index,call-overload]
    assert len(kit.logs()) == before
    lives(kit)


def raw(kit: Kit, sent: bytes) -> bytes:
    """Everything that comes back until the server hangs up."""
    parts = urlsplit(kit.url)
    with socket.create_connection((str(parts.hostname), parts.port or 0), WAIT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


BODY = json.dumps(HELLO).encode()


@pytest.mark.parametrize("head", [
    b"content-length: 5\r\ncontent-length: 6\r\n", b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    b"transfer-encoding: chunked, identity\r\n", b"content-length: -5\r\n", b"content-length: 5x\r\n",
    b"content-length: +5\r\n",
    b"content-length : 5\r\n", b"transfer-encoding : chunked\r\n", b" transfer-encoding: chunked\r\n",
])  # fmt: skip
def test_a_smuggled_request_is_never_answered(kit: Kit, head: bytes) -> None:
    inner = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
    before = len(kit.engine.calls)
    answer = raw(kit, b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n0\r\n\r\n" + inner)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert len(kit.engine.calls) - before <= 1
    lives(kit)


# --- from model servers ---

GOOD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"so far"}}]}\n\n'
ERRORS = {
    "nothing": b"", "noise": b"\x00\x01\x02 nonsense\r\n\r\n", "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "bad status": b"HTTP/1.1 xyz OK\r\n\r\n", "other protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "bad header": b"HTTP/1.1 200 OK\r\nno colon here\r\ncontent-length: 2\r\n\r\n{}",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
    "cut short": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "cut chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}",
    "huge head": b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20) + b"\r\ncontent-length: 2\r\n\r\n{}",
    "no gzip": whole(b"{}", content_encoding="gzip"),
}  # fmt: skip


def then_hangs_up(answer: bytes):  # type: ignore[no-untyped-def]
    def script(connection: socket.socket, _: Asked) -> bool:
        connection.sendall(answer)
        return False

    return script


@pytest.mark.parametrize("odd", ERRORS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_broken_answer_is_a_502_and_recorded(chain: Chain, odd: str, streamed: bool) -> None:
    chain.answering(then_hangs_up(ERRORS[odd]))
    status, headers, answer = chain.post(json.dumps({**HELLO, "model": "big", "stream": streamed}).encode())
    assert status == 502
    assert json.loads(answer)["error"]["code"] == "upstream_error"
    record = chain.record(headers)
    assert record.response is None
    assert record.error is not None
    assert record.error.startswith("the model server failed")
    chain.answering(says(whole(b'{"choices": []}')))
    assert chain.post(BODY)[0] == 200


@pytest.mark.parametrize(("answer", "said"), [
    (whole(b"<html>Welcome</html>", content_type="text/html"), "answered 200: <html>Welcome</html>"),
    (whole(b""), "answered 200: "), (whole(b"null"), "answered 200: null"), (whole(b'{"choices": 5'),
    "answered 200: {"),
    (whole(b"\xff\xfe"), "answered 200: "), (whole(b"[" * 100_000), "answered 200: [["), (whole(b"{}",
    "204 No Content"), "204"),
    (whole(b'{"detail": "no"}', "503 Service Unavailable"), 'answered 503: {"detail": "no"}'),
])  # fmt: skip
def test_an_answer_that_is_no_completion_reaches_the_client_and_the_record_says_so(
    chain: Chain, answer: bytes, said: str
) -> None:
    chain.answering(says(answer))
    status, headers, got = chain.post(json.dumps({**HELLO, "model": "big"}).encode())
    assert status == int(answer.split(b" ")[1])
    assert got == (b"" if status == 204 else answer.partition(b"\r\n\r\n")[2])
    record = chain.record(headers)
    assert record.response is None
    assert said in str(record.error)


def test_an_answer_in_gzip_that_nobody_asked_for_can_be_read(chain: Chain) -> None:
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}'
    chain.answering(says(whole(gzip.compress(body), content_encoding="gzip")))
    status, headers, answer = chain.post(json.dumps({**HELLO, "model": "big"}).encode())
    if headers.get("content-encoding") == "gzip":
        answer = gzip.decompress(answer)
    assert (status, answer) == (200, body)
    assert chain.record(headers).response == json.loads(body)


@pytest.mark.parametrize(("rest", "said"), [
    (b"", "failed"), (b"zz\r\n", "failed"), (chunk(b"data: {"), "failed"), (chunk(b": x\n\n") + b"5\r\nab", "failed"),
])  # fmt: skip
def test_a_stream_that_breaks_off_ends_in_an_error_event(chain: Chain, rest: bytes, said: str) -> None:
    chain.answering(then_hangs_up(STREAMED + chunk(GOOD) + rest))
    status, headers, answer = chain.post(json.dumps({**HELLO, "model": "big", "stream": True}).encode())
    assert status == 200
    assert answer.startswith(GOOD)
    *_, last = [line for line in answer.split(b"\n") if line.startswith(b"data: ")]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    record = chain.record(headers)
    assert record.response["choices"][0]["message"]["content"] == "so far"  # type: ignore[index,call-overload]
    assert said in str(record.error)


@pytest.mark.parametrize("noise", [
    b"nonsense\n\n", b"data: {{{\n\n", b"data: 5\n\n", b"data: [1]\n\n", b"data: \xff\xfe\n\n", b"data\n\n",
    b"data:\n\n",
    b'data: {"choices": 5}\n\n', b'data: {"choices": [5, null, []]}\n\n',
    b'data: {"choices": [{"index": [], "delta": 5}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {"content": 5, "tool_calls": [5, {"index": {}, "function": 7}]}}]}\n\n',
    b'data: {"choices": [{"index": 0, "logprobs": {"content": 5}, "delta": {"content": "\\ud800"}}]}\n\n',
    b'data: {"id": {}, "usage": [], "model": 5, "choices": []}\n\n', b"data: " + b"[" * 5000 + b"\n\n",
    b"\r\r\n\n\n", b"\x00" * 99 + b"\n",
])  # fmt: skip
def test_garbage_in_a_stream_passes_and_the_rest_is_recorded(chain: Chain, noise: bytes) -> None:
    stream = noise + GOOD + noise + b"data: [DONE]\n\n"
    chain.answering(says(STREAMED + chunk(stream[:20]) + chunk(stream[20:]) + b"0\r\n\r\n"))
    status, headers, answer = chain.post(json.dumps({**HELLO, "model": "big", "stream": True}).encode())
    assert (status, answer) == (200, stream)
    text = chain.record(headers).response["choices"][0]["message"]["content"]  # type: ignore[index,call-overload]
    assert text.replace("\ud800", "") == "so far"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        any_json | st.dictionaries(st.sampled_from(("id", "choices", "usage", "error", "index", "delta")), any_json)
    )
)
def test_whatever_a_stream_holds_it_can_be_put_together(chunks: list[Json]) -> None:
    seen = StreamAssembler()
    for value in chunks:
        for wrapped in (value, {"choices": [value]}, {"choices": [{"index": 0, "delta": value}]}):
            seen.feed(b"data: " + json.dumps(wrapped).encode() + b"\n\n")
    json.dumps(seen.completion())
    seen.problem()


def test_models_that_cannot_be_listed_are_the_base_model_alone(tmp_path: Path) -> None:
    def script(connection: socket.socket, _: Asked) -> bool:
        return True

    with recording(script) as recorder, gateway(tmp_path, backend=HttpBackend(recorder.url)) as kit:
        for _ in range(3):  # over a connection that was used before too
            status, _, answer = post(kit.url, "/v1/models", b"", "GET")
            assert (status, json.loads(answer)["object"]) == (200, "list")
