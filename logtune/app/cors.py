"""Which pages of other origins may call the gateway from a browser (the fetch standard's CORS protocol).

serve.cors_origins, Request -> headers of the answer; a preflight's answer

Without configured origins no such header is ever sent, and browsers keep other origins' pages out. Keys travel in the
Authorization header, never as cookies, so credentials are not allowed.
"""

from collections.abc import Iterable

from logtune.app.asgi import Event, Headers, Request, Send

EXPOSED = (
    "x-logtune-interaction", "x-logtune-cluster", "x-logtune-arm", "x-logtune-adapter", "x-logtune-overhead-ms",
    "x-logtune-calls", "retry-after", "x-request-id", "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
)  # fmt: skip
METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED = "authorization, content-type"  # where a preflight names none
MAX_AGE_S = 600  # how long a browser may keep a preflight's answer


class Cors:
    """The rules for one list of origins; `["*"]` lets every page."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = {origin.strip().rstrip("/").lower() for origin in origins}
        self._every = "*" in self._origins

    def wrap(self, request: Request, send: Send) -> Send:
        """A `send` that adds what lets the page read the answer, streams included."""
        extra = self._headers(request)
        if not extra:
            return send

        async def allowed(message: Event) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", [])
                message = {**message, "headers": [*(given if isinstance(given, list) else []), *extra]}
            await send(message)

        return allowed

    def preflight(self, request: Request) -> Headers:
        """What an OPTIONS request is told beside `wrap`'s headers; nothing when the origin is not allowed."""
        if "access-control-request-method" not in request.headers or not self._allows(request):
            return []
        # Clients send headers of their own (x-stainless-*, traceparent); an origin that may call may send any.
        wanted = request.headers.get("access-control-request-headers") or ALLOWED
        headers = [
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", wanted.encode("latin-1")),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
        ]
        if request.headers.get("access-control-request-private-network") == "true":
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers

    def _headers(self, request: Request) -> Headers:
        if not self._origins:
            return []
        if not self._allows(request):
            return [(b"vary", b"Origin")]
        origin = "*" if self._every else request.headers["origin"]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", ", ".join(EXPOSED).encode()),
            *([] if self._every else [(b"vary", b"Origin")]),
        ]

    def _allows(self, request: Request) -> bool:
        origin = request.headers.get("origin", "")
        return bool(origin) and (self._every or origin.lower() in self._origins)
