"""The administration: metrics, state and a reload, on a port that clients do not reach.

GET /metrics, /healthz, /readyz, /admin/status        POST /admin/reload        token -> Admin -> ASGI

Reading is free on a loopback address. Whatever changes something needs the token, and so does everything but /healthz
where other machines reach the port.
"""

import asyncio
import hmac
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from logtune import __version__
from logtune.app.asgi import Receive, Request, Scope, Send, error_body, respond, respond_json
from logtune.app.lane import Lane
from logtune.app.metrics import Metrics, Sample
from logtune.errors import RequestError
from logtune.records import Json

CHALLENGE = {"www-authenticate": 'Bearer realm="logtune administration"'}
LOCAL = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)
LONGEST_BODY = 1 << 16
Handler = Callable[[Request, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operated:
    """What the administration sees of the gateway beside it."""

    lanes: Callable[[], Mapping[str, Lane]]  # by project
    readiness: Callable[[], tuple[bool, dict[str, Json]]]
    sample: Callable[[], Sample]
    reload: Callable[[], Awaitable[None]]
    facts: Callable[[], Mapping[str, Json]]  # what does not change, and what only the caller knows


class Admin:
    """The ASGI app of the administration."""

    def __init__(self, operated: Operated, metrics: Metrics, token: str, *, public: bool) -> None:
        self._operated = operated
        self._metrics = metrics
        self._token = token
        self._public = public
        self._started = time.monotonic()
        self._routes: Mapping[tuple[str, str], Handler] = {
            ("GET", "/metrics"): self._page, ("GET", "/healthz"): self._healthz, ("GET", "/readyz"): self._readyz,
            ("GET", "/admin/status"): self._status, ("POST", "/admin/reload"): self._reload,
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        request = Request.of(scope, receive)
        try:
            await self._handler(request)(request, send)
        except RequestError as error:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]
            await respond_json(send, error.status, error_body(error), headers)

    def _handler(self, request: Request) -> Handler:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, request.path))
        if request.path != "/healthz":
            self._check(request, changes=method != "GET")
        if handler is not None:
            return handler
        allowed = [verb for verb, path in self._routes if path == request.path]
        if allowed:
            raise RequestError(f"{request.method} is not allowed here", 405, headers={"allow": ", ".join(allowed)})
        raise RequestError("there is nothing here; see /metrics and /admin/status", 404, code="unknown_url")

    def _check(self, request: Request, *, changes: bool) -> None:
        """Refuse whoever may not: 401 without the token, 403 where there is none that could be given."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())
        if right and self._token:
            return
        if not self._public and not changes:
            if LOCAL.fullmatch(request.headers.get("host", "localhost")):
                return
            # A page of another site whose name was made to point here (DNS rebinding) sends its own name.
            raise RequestError("without the token the administration answers at localhost alone", 403)
        if not self._token:
            what = "this needs the administration's token, and none is set; serve.admin_token_env names its variable"
            raise RequestError(what, 403, code="no_admin_token")
        raise RequestError("this needs the administration's token: Authorization: Bearer ...", 401, headers=CHALLENGE)

    # what is answered

    async def _healthz(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, {"status": "ok"})

    async def _readyz(self, request: Request, send: Send) -> None:
        ready, said = self._operated.readiness()
        await respond_json(send, 200 if ready else 503, said)

    async def _page(self, request: Request, send: Send) -> None:
        self._metrics.sample(self._operated.sample())
        page, content_type = await asyncio.to_thread(self._metrics.page, request.headers.get("accept", ""))
        await respond(send, 200, page, content_type)

    async def _status(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, self._state())

    async def _reload(self, request: Request, send: Send) -> None:
        await request.body(LONGEST_BODY)
        await self._operated.reload()
        await respond_json(send, 200, self._state())

    def _state(self) -> dict[str, Json]:
        ready, said = self._operated.readiness()
        return {
            "ready": ready, "readiness": said, "version": __version__, "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 1), **self._operated.facts(),
            "projects": {name: _lane_state(lane) for name, lane in self._operated.lanes().items()},
        }  # fmt: skip


def _lane_state(lane: Lane) -> dict[str, Json]:
    table, journal = lane.router.table, lane.journal
    names = {cluster.id: cluster.name or cluster.id for cluster in table.clusters}
    deployments: dict[str, Json] = {
        names.get(cluster, cluster): [
            {"arm": arm.name, "kind": arm.kind, "share": arm.share, "adapter": arm.adapter, "rules": len(arm.rules)}
            for arm in arms.arms
        ]
        for cluster, arms in table.arms.items()
    }  # fmt: skip
    adapters: dict[str, Json] = {
        adapter: {"name": loaded.name, "serves": not loaded.problem, "problem": loaded.problem or None}
        for adapter, loaded in table.adapters.items()
    }  # fmt: skip
    return {
        "deployments": deployments, "adapters": adapters,
        "journal": {
            "queued": journal.queued, "spooled": journal.spooled, "spool_bytes": journal.spool_bytes,
            "stored": journal.stored, "dropped": journal.dropped, "rejected": journal.rejected,
            "problem": journal.problem or None,
        },
    }  # fmt: skip
