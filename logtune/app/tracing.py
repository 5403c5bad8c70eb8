"""OpenTelemetry for those who collect it: one GenAI span for each exchange, one event for each item of feedback.

Exchange -> span `chat MODEL` (CLIENT)        Feedback -> gen_ai.evaluation.result        both -> OTLP, in batches

Names are those of the GenAI conventions (semantic conventions 1.41, "development"). No attribute holds what was said.
Spans follow the client's `traceparent`, also its wish not to be sampled. Batches are sent by a thread of their own, and
what cannot be sent is dropped there.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from logtune import __version__
from logtune.app.exchange import Exchange
from logtune.edges.upstream import CHAT
from logtune.errors import MissingExtra
from logtune.records import Feedback, Json

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

LOG = logging.getLogger(__name__)
REMEMBERED = 10_000  # spans that feedback can still be tied to
CLOSING_S = 5.0  # for the last batches
LONGEST = 200  # characters of a name that a client chose
REQUESTED: Mapping[str, tuple[str, type]] = {  # field of the request -> attribute, type
    "max_tokens": ("gen_ai.request.max_tokens", int), "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "temperature": ("gen_ai.request.temperature", float), "top_p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", int), "seed": ("gen_ai.request.seed", int),
    "n": ("gen_ai.request.choice.count", int), "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
}  # fmt: skip
Value = str | bool | int | float | list[str]


class Tracing:
    """Sends spans and events to two exporters; `model_url` is the model server's, None for the embedded engine."""

    def __init__(self, spans: "SpanExporter", events: "LogRecordExporter", model_url: str | None = None) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "logtune", "service.version": __version__})
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(spans))
        self._events = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._events.add_log_record_processor(BatchLogRecordProcessor(events))
        self._tracer = self._spans.get_tracer("logtune", __version__)
        self._logger = self._events.get_logger("logtune", __version__)
        self._parent = TraceContextTextMapPropagator()
        self._server = _server(model_url)
        self._seen: OrderedDict[str, tuple[SpanContext, str | None]] = OrderedDict()  # record id -> span, response id

    def exchange(self, exchange: Exchange) -> None:
        """One exchange that has ended, as a span of the time it took."""
        from opentelemetry.trace import SpanKind, StatusCode

        named = exchange.requested[:LONGEST] or exchange.called
        span = self._tracer.start_span(
            f"{_operation(exchange)} {named}".rstrip(), self._parent.extract(exchange.client), SpanKind.CLIENT,
            attributes={**self._server, **_attributes(exchange)}, start_time=int(exchange.at * 1e9),
        )  # fmt: skip
        if exchange.error is not None:
            span.set_status(StatusCode.ERROR)
        span.end(int((exchange.at + time.perf_counter() - exchange.started) * 1e9))
        if span.is_recording() or span.get_span_context().trace_flags.sampled:
            answer_id = (exchange.response or {}).get("id")
            self._seen[exchange.id] = span.get_span_context(), answer_id if isinstance(answer_id, str) else None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    def feedback(self, feedback: Feedback, shape: str) -> None:
        """One item of feedback as an evaluation of the answer, tied to its span while that is remembered."""
        from opentelemetry._logs import LogRecord
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        span, answer_id = self._seen.get(feedback.target, (None, None))
        attributes: dict[str, Value] = {
            "gen_ai.evaluation.name": "user_feedback", "gen_ai.evaluation.score.label": _label(feedback),
            "logtune.feedback.kind": feedback.kind, "logtune.feedback.shape": shape,
            f"logtune.{'interaction' if feedback.target_kind == 'record' else feedback.target_kind}": feedback.target,
        }  # fmt: skip
        if feedback.value is not None:
            attributes["gen_ai.evaluation.score.value"] = feedback.value
        if answer_id is not None:
            attributes["gen_ai.response.id"] = answer_id
        self._logger.emit(
            LogRecord(
                timestamp=int(feedback.at * 1e9), event_name="gen_ai.evaluation.result", attributes=attributes,
                context=None if span is None else set_span_in_context(NonRecordingSpan(span)),
            )
        )  # fmt: skip

    def close(self, wait_s: float = CLOSING_S) -> None:
        """Send what waits, for at most `wait_s` seconds; a collector that does not answer holds nobody up."""
        closing = threading.Thread(target=self._close, name="otel-close", daemon=True)
        closing.start()
        closing.join(wait_s)
        if closing.is_alive():
            LOG.warning("the OpenTelemetry collector did not take the last spans within %g s", wait_s)

    def _close(self) -> None:
        self._spans.shutdown()
        self._events.shutdown()


def to_collector(url: str, model_url: str | None) -> Tracing:
    """Tracing to an OTLP endpoint (HTTP) such as http://127.0.0.1:4318; MissingExtra without the packages."""
    try:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "opentelemetry-sdk", "otel") from error
    base = url.rstrip("/").removesuffix("/v1/traces")
    return Tracing(OTLPSpanExporter(f"{base}/v1/traces"), OTLPLogExporter(f"{base}/v1/logs"), model_url)


def _server(url: str | None) -> dict[str, Value]:
    if url is None:
        return {"gen_ai.provider.name": "logtune"}
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"gen_ai.provider.name": "openai", "server.address": parts.hostname or "", "server.port": port}


def _attributes(exchange: Exchange) -> dict[str, Value]:
    response, choice = exchange.response or {}, exchange.choice
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": _operation(exchange),
        "gen_ai.request.model": exchange.requested[:LONGEST] or exchange.called,
        "gen_ai.request.stream": exchange.body.get("stream") is True, "gen_ai.conversation.id": exchange.who.session,
        "gen_ai.response.id": _text(response.get("id")), "gen_ai.response.model": _text(response.get("model")),
        "gen_ai.response.finish_reasons": _finish_reasons(response) or None,
        "gen_ai.response.time_to_first_chunk": exchange.first_byte_s, "error.type": _error_type(exchange),
        "logtune.interaction": exchange.id, "logtune.cluster": choice.cluster, "logtune.arm": choice.arm,
        "logtune.adapter": choice.adapter, "logtune.overhead_ms": exchange.overhead_ms,
    }  # fmt: skip
    usage = response.get("usage")
    for field, name in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
        found[f"gen_ai.usage.{name}"] = _number(usage.get(field), int) if isinstance(usage, dict) else None
    for field in REQUESTED.keys() & exchange.body.keys():
        attribute, kind = REQUESTED[field]
        value = _number(exchange.body[field], kind)
        found[attribute] = found.get(attribute) if value is None else value
    return {name: value for name, value in found.items() if value is not None}


def _operation(exchange: Exchange) -> str:
    return "chat" if exchange.path == CHAT else "text_completion"


def _finish_reasons(response: Mapping[str, Json]) -> list[str]:
    choices = response.get("choices")
    reasons = [
        item.get("finish_reason") for item in (choices if isinstance(choices, list) else ()) if isinstance(item, dict)
    ]
    return [str(reason)[:LONGEST] for reason in reasons if reason]


def _error_type(exchange: Exchange) -> str | None:
    if exchange.error is None:
        return None
    return str(exchange.status) if exchange.status >= 400 else "incomplete_answer"


def _label(feedback: Feedback) -> str:
    if feedback.revoked:
        return "revoked"
    if feedback.value is None:
        return feedback.kind
    return "positive" if feedback.value > 0 else "negative" if feedback.value < 0 else "neutral"


def _number(value: Json, kind: type) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**63:  # OTLP's integers
        return None
    return float(value) if kind is float else int(value)


def _text(value: Json) -> str | None:
    return value[:LONGEST] if isinstance(value, str) else None
