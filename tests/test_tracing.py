"""OpenTelemetry spans of real exchanges, to exporters in memory and to a small collector."""

import http.server
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_kit import gateway, post

from logtune.errors import MissingExtra
from logtune.records import Feedback, Json

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from logtune.app.exchange import begin
from logtune.app.tracing import Tracing, to_collector

QUERY = "where is my card"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Seen:
    """Tracing into memory."""

    def __init__(self, model_url: str | None = None) -> None:
        self._spans, self._events = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self.tracing = Tracing(self._spans, self._events, model_url)

    def spans(self) -> list[ReadableSpan]:
        self.tracing.close()
        return list(self._spans.get_finished_spans())

    def events(self) -> list[tuple[str | None, dict[str, object], int | None]]:
        """Name, attributes, trace."""
        self.tracing.close()
        records = [found.log_record for found in self._events.get_finished_logs()]
        return [(record.event_name, dict(record.attributes or {}), record.trace_id) for record in records]


def ask(
    url: str, text: str, headers: dict[str, str] | None = None, **fields: Json
) -> tuple[int, dict[str, str], bytes]:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return post(url, "/v1/chat/completions", json.dumps(body).encode(), **(headers or {}))


def test_an_exchange_is_a_span_of_the_conventions_without_content(tmp_path: Path) -> None:
    seen = Seen("https://models.example:8443/v1")
    with gateway(tmp_path, deploy=[("cards", QUERY)]) as kit:
        kit.gateway.watch(seen.tracing)
        answer = ask(
            kit.url, QUERY, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, model="base", temperature=0,
            max_tokens=50, seed=7, stop=["secret stop"], metadata={"session_id": "s-1"},
        )  # fmt: skip
        (record,) = kit.store.wait()
    (span,) = seen.spans()
    attributes = dict(span.attributes or {})
    assert (span.name, span.kind) == ("chat base", SpanKind.CLIENT)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert (attributes["server.address"], attributes["server.port"]) == ("models.example", 8443)
    assert attributes["gen_ai.request.temperature"] == 0.0
    assert (attributes["gen_ai.request.max_tokens"], attributes["gen_ai.request.seed"]) == (50, 7)
    assert attributes["gen_ai.request.stream"] is False
    assert attributes["gen_ai.conversation.id"] == "s-1"
    assert attributes["gen_ai.response.id"] == json.loads(answer[2])["id"]
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.output_tokens"] == record.usage["completion_tokens"]
    assert attributes["logtune.interaction"] == answer[1]["x-logtune-interaction"]
    assert (attributes["logtune.cluster"], attributes["logtune.adapter"]) == ("cards", record.adapter)
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 60e9
    assert QUERY not in str(attributes)
    assert "secret stop" not in str(attributes)


def test_a_failure_has_a_type_and_no_words(tmp_path: Path) -> None:
    seen = Seen()
    with gateway(tmp_path) as kit:
        kit.gateway.watch(seen.tracing)
        status = ask(kit.url, "FAIL my secret")[0]
    (span,) = seen.spans()
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description is None
    assert (span.attributes or {})["error.type"] == str(status)
    assert "secret" not in str(span.attributes)
    assert not span.events


def test_what_a_client_does_not_want_sampled_is_not(tmp_path: Path) -> None:
    seen = Seen()
    with gateway(tmp_path) as kit:
        kit.gateway.watch(seen.tracing)
        assert ask(kit.url, "hello", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"})[0] == 200
        assert ask(kit.url, "hello", {"traceparent": "nonsense"})[0] == 200
    assert len(seen.spans()) == 1


def test_the_environment_thins_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    seen = Seen()
    seen.tracing.exchange(begin(b'{"messages": []}', {}))
    assert seen.spans() == []


def test_feedback_is_an_evaluation_of_the_answer(tmp_path: Path) -> None:
    seen = Seen()
    with gateway(tmp_path) as kit:
        kit.gateway.watch(seen.tracing)
        answer = ask(kit.url, "hello", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        interaction, response = answer[1]["x-logtune-interaction"], json.loads(answer[2])["id"]
        said = {"target": interaction, "value": "down", "comment": "my secret"}
        assert post(kit.url, "/v1/feedback", json.dumps(said).encode())[0] == 200
        assert post(kit.url, "/v1/feedback", b'{"session": "s-9", "comment": "my secret"}')[0] == 202
    first, second = seen.events()
    assert first[0] == second[0] == "gen_ai.evaluation.result"
    assert first[1]["gen_ai.evaluation.name"] == "user_feedback"
    assert (first[1]["gen_ai.evaluation.score.value"], first[1]["gen_ai.evaluation.score.label"]) == (-1.0, "negative")
    assert (first[1]["gen_ai.response.id"], first[1]["logtune.interaction"]) == (response, interaction)
    assert f"{first[2]:032x}" == TRACE
    assert second[1]["logtune.session"] == "s-9"
    assert second[1]["gen_ai.evaluation.score.label"] == "comment"
    assert "secret" not in str(first) + str(second)


@pytest.mark.parametrize("odd", [
    '"max_tokens": 1e999', '"seed": 123456789012345678901234567890', '"temperature": true', '"n": "many"',
    '"top_p": null', '"stream": "yes"',
])  # fmt: skip
def test_odd_requests_make_spans_that_can_be_sent(odd: str) -> None:
    seen = Seen()
    exchange = begin(b'{"messages": [], ' + odd.encode() + b"}", {})
    exchange.response = {"id": 5, "choices": [None, {"finish_reason": 7}], "usage": {"prompt_tokens": [1]}}
    seen.tracing.exchange(exchange)
    seen.tracing.feedback(Feedback(id="f", target="nobody", at=1.0, revoked=True), "langfuse")
    (span,) = seen.spans()
    assert all(isinstance(value, (str, bool, int, float, tuple)) for value in (span.attributes or {}).values())
    assert not any(isinstance(value, int) and abs(value) >= 2**63 for value in (span.attributes or {}).values())


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps the paths and sizes of what it is sent."""

    got: list[tuple[str, int]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append((self.path, len(body)))
        self.send_response(200)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    handler = type("Kept", (Collector,), {"got": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.got  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", ["", "/", "/v1/traces"])
def test_a_collector_gets_both(suffix: str) -> None:
    with collector() as (url, got):
        tracing = to_collector(url + suffix, None)
        tracing.exchange(begin(b'{"messages": []}', {}))
        tracing.feedback(Feedback(id="f", target="x", at=1.0, value=1.0), "logtune")
        tracing.close()
        assert sorted(path for path, size in got if size) == ["/v1/logs", "/v1/traces"]


def test_a_collector_that_is_not_there_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    tracing = to_collector("http://127.0.0.1:9", None)
    tracing.exchange(begin(b'{"messages": []}', {}))
    with caplog.at_level(logging.WARNING):
        tracing.close(wait_s=0.05)
    assert "collector" in caplog.text or "export" in caplog.text.lower()


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    with pytest.raises(MissingExtra, match=r"logtune\[otel\]"):
        to_collector("http://127.0.0.1:9", None)
