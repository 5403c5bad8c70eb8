"""One request for an answer on its way through the gateway, from its bytes to the record that the store keeps.

bytes, headers -> Exchange -> LogRecord, headers for the client
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from logtune.app.asgi import Headers, parse_object
from logtune.app.critic import Part, usage_of
from logtune.app.identity import Identity, identify
from logtune.app.redaction import Redaction
from logtune.app.table import Choice
from logtune.edges.schema import to_json
from logtune.edges.upstream import BASE, CHAT
from logtune.errors import RequestError
from logtune.ids import new_id
from logtune.records import Json, LogRecord
from logtune.stages.answer import CRITICS
from logtune.statistics import unit_of

GONE = "the client went away"  # an exchange's error then
SAFE = re.compile(r"[\w.@:/+~ -]*", re.ASCII)  # values of headers that need no escapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a record holds of a request. It is made, and encoded, while the model is at work and nobody waits for it."""

    request: Mapping[str, Json]  # without what is personal
    encoded: str  # the same as JSON
    user: str | None
    session: str | None
    traces: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request on its way; what is known so far."""

    id: str
    at: float  # seconds since 1970
    started: float  # of the performance counter
    raw: bytes
    body: dict[str, Json]
    client: Mapping[str, str]  # headers, lower-case names
    who: Identity
    requested: str  # model name in the request
    path: str = CHAT  # at the model server
    choice: Choice = field(default_factory=Choice)
    called: str = ""  # model name at the backend
    backend_s: float = 0.0  # time spent waiting for the model
    asked: float = 0.0  # when the model that answered was asked, of the performance counter
    first_byte_s: float | None = None  # from then to the first byte of its answer; None: none came
    upstream_s: float | None = None  # from then to the last byte
    elapsed_s: float | None = None  # of an answer that nobody sees, from its beginning to its end
    overhead_ms: float | None = None  # the gateway's own time until the head of the answer left
    status: int = 0  # of the answer; 0: none was begun
    response: dict[str, Json] | None = None
    asked_for: "Asked | None" = None  # the request as its record holds it; None: not made yet
    error: str | None = None
    answer_bytes: int = 0
    recorded: bool = False
    parts: list[Part] = field(default_factory=list)  # calls before the one whose answer the client gets

    def unit(self) -> str:
        """Who is drawn into an arm."""
        return unit_of(self.who.user, self.who.session, self.id)

    def clean(self, redaction: Redaction) -> "Asked":
        """The request without what is personal."""
        if self.asked_for is None:
            request, who = redaction.request(self.body), self.who
            self.asked_for = Asked(
                request=request, encoded=to_json(request), user=redaction.maybe_name(who.user),
                session=redaction.session(who.session, who.session_source), traces=redaction.names(who.traces),
            )  # fmt: skip
        return self.asked_for

    def begun(self, status: int) -> None:
        """Note when the first byte of the answer came."""
        if self.first_byte_s is None:
            self.status, self.first_byte_s = status, time.perf_counter() - self.asked

    def record(self, redaction: Redaction) -> LogRecord:
        """What the store keeps."""
        asked, who, response = self.clean(redaction), self.who, redaction.response(self.response)
        usage = self._usage(response)
        return LogRecord(
            id=self.id, request=asked.request, response=response, at=self.at,
            model=redaction.label(self.called or self.requested), adapter=self.choice.adapter, arm=self.choice.arm,
            cluster=self.choice.cluster, user=asked.user, session=asked.session, user_source=who.user_source,
            session_source=who.session_source, error=redaction.error(self.error),
            route_reason=redaction.label(self.choice.reason), usage=usage,
            latency_ms=round(1000 * (time.perf_counter() - self.started), 3), traces=asked.traces,
            draw=self.choice.draw,
        )  # fmt: skip

    def usage(self) -> dict[str, Json]:
        """What all calls took (`critic.usage_of`)."""
        return self._usage(self.response)

    def _usage(self, response: Mapping[str, Json] | None) -> dict[str, Json]:
        return usage_of(self.parts, (response or {}).get("usage"), reviewed=self.choice.kind in CRITICS)

    def headers(self) -> Headers:
        """Where the answer comes from, for the client."""
        overhead = self.overhead_ms = 1000 * (time.perf_counter() - self.started - self.backend_s)
        values = {
            "interaction": self.id, "cluster": self.choice.cluster or "none", "arm": self.choice.arm or "none",
            "adapter": self.choice.adapter or BASE, "overhead-ms": f"{overhead:.2f}",
            **({"calls": str(len(self.parts) + 1)} if self.parts else {}),
        }  # fmt: skip
        return [
            (b"x-logtune-" + name.encode(), (value if SAFE.fullmatch(value) else quote(value, safe=" @:/+")).encode())
            for name, value in values.items()
        ]


def begin(raw: bytes, headers: Mapping[str, str], path: str = CHAT) -> Exchange:
    """An exchange from a request's bytes; RequestError 400 when they are none."""
    started, at, body = time.perf_counter(), time.time(), parse_object(raw)
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError("'model' must be a text", param="model")
    return Exchange(
        id=new_id(), at=at, started=started, raw=raw, body=body, client=headers, who=identify(body, headers),
        requested=model or "", path=path,
    )  # fmt: skip
