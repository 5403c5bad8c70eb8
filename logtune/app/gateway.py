"""The gateway: an OpenAI-compatible ASGI app that answers through the deployed adapters and logs every call.

path, method -> chat_api | feedback_api | models | health        lifespan: routing table in place .. journal flushed
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from logtune.app.asgi import Event, Receive, Request, Scope, Send, error_body, parse_object, respond, respond_json
from logtune.app.chat_api import ChatApi
from logtune.app.feedback_api import Answers, FeedbackApi
from logtune.app.journal import Journal
from logtune.app.routing import Router
from logtune.config import Config
from logtune.edges.store import Store
from logtune.edges.upstream import Backend, model_row
from logtune.errors import LogtuneError, RequestError
from logtune.ports import AdapterServer, Embedder
from logtune.records import Json

LOG = logging.getLogger(__name__)
RECENT_S = 86_400.0  # answers of the last day can be named by the model server's id after a restart
Handler = Callable[[Request, Send], Awaitable[None]]


class Gateway:
    """The ASGI app; made by `create`."""

    def __init__(self, store: Store, backend: Backend, router: Router, settings: Config) -> None:
        self._store = store
        self._backend = backend
        self._router = router
        self._journal = Journal(store)
        self._answers = Answers()
        self._chat = ChatApi(backend, router, self._journal, self._answers, settings.model.served_name)
        self._feedback = FeedbackApi(store, self._journal, self._answers)
        self._limit = int(settings.serve.max_body_mb * 2**20)
        self._poll_s = settings.serve.poll_s
        self._served_name = settings.model.served_name
        self._ready = False
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._post_chat},
            "/v1/feedback": {"POST": self._post_feedback},
            "/v1/models": {"GET": self._models},
            "/healthz": {"GET": self._healthz},
            "/health": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._guarded(Request.of(scope, receive), send)

    async def _guarded(self, request: Request, send: Send) -> None:
        """Every failure is an answer, unless an answer has already begun: then the connection breaks visibly."""
        begun = False

        async def noted(message: Event) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._dispatch(request, noted)
        except RequestError as error:
            await respond_json(send, error.status, error_body(error))
        except ConnectionError:
            return  # nobody is left to answer
        except Exception:
            LOG.exception("%s %s failed", request.method, request.path)
            if begun:
                raise
            await respond_json(send, 500, error_body(RequestError("the gateway failed; its log says why", 500)))

    async def _dispatch(self, request: Request, send: Send) -> None:
        methods = self._routes.get(request.path)
        if methods is None and request.path.startswith("/v1/models/"):
            methods = {"GET": self._model}
        if methods is None:
            raise RequestError(f"there is nothing at {request.path[:200]}", 404, code="unknown_url")
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        if request.method == "OPTIONS":
            await respond(send, 204, b"", "text/plain", [(b"allow", allowed.encode())])
            return
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            problem = error_body(RequestError(f"{request.method} is not allowed here; {allowed} are", 405))
            await respond_json(send, 405, problem, [(b"allow", allowed.encode())])
            return
        await handler(request, send)

    # life

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        polling: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                polling = await self._start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._stop(polling)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> "asyncio.Task[None]":
        await self._look()
        try:
            await self._router.warm()
        except Exception:  # requests meet it too, and go to the base model
            LOG.exception("the embedder does not work; every request goes to the base model")
        await asyncio.to_thread(self._remember_answers)
        self._ready = True
        return asyncio.create_task(self._poll())

    async def _stop(self, polling: "asyncio.Task[None] | None") -> None:
        self._ready = False
        if polling is not None:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        await self._journal.close()
        await self._router.close()
        await self._backend.close()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._look()

    async def _look(self) -> None:
        """Follow the store's deployments; the table in place stays when that fails."""
        try:
            await self._router.refresh()
        except Exception as error:  # noqa: BLE001  serving goes on, the next look tries again
            LOG.warning("the routing table could not be refreshed: %s", error)

    def _remember_answers(self) -> None:
        try:
            for record in self._store.logs(time.time() - RECENT_S):
                self._answers.note(record.response, record.id)
        except LogtuneError as error:
            LOG.warning("earlier answers cannot be named by the model server's id: %s", error)

    # what is small

    async def _healthz(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, {"status": "ok"})

    async def _readyz(self, request: Request, send: Send) -> None:
        ready = self._ready and not self._journal.problem
        await respond_json(send, 200 if ready else 503, {
            "status": "ready" if ready else "not ready", "store": self._journal.problem or "ok",
            "waiting": self._journal.waiting, "lost": self._journal.lost,
            "adapters": list(self._router.table.live()),
        })  # fmt: skip

    async def _post_chat(self, request: Request, send: Send) -> None:
        await self._chat.post(request, self._limit, send)

    async def _post_feedback(self, request: Request, send: Send) -> None:
        body = parse_object(await request.body(self._limit))
        status, answer = await self._feedback.post(body, time.time())
        await respond_json(send, status, answer)

    async def _models(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, {"object": "list", "data": list(await self._rows())})

    async def _model(self, request: Request, send: Send) -> None:
        name = request.path.removeprefix("/v1/models/")
        row = next((row for row in await self._rows() if row.get("id") == name), None)
        if row is None:
            raise RequestError(f"the model {name[:80]!r} does not exist", 404, param="model", code="model_not_found")
        await respond_json(send, 200, row)

    async def _rows(self) -> list[dict[str, Json]]:
        """The backend's models, and what is deployed beside them."""
        try:
            rows = await self._backend.models()
        except RequestError as error:
            LOG.warning("the model server lists no models: %s", error)
            rows = [model_row(self._served_name, 0)]
        listed = {row.get("id") for row in rows}
        live = [name for name in self._router.table.live() if name not in listed]
        return [*rows, *(model_row(name, 0, self._served_name) for name in live)]


def create(store: Store, backend: Backend, embedder: Embedder, adapters: AdapterServer, settings: Config) -> Gateway:
    """The gateway as an ASGI app. It needs its lifespan, and closes `backend`; the store stays the caller's."""
    router = Router(store, embedder, adapters, (Path(settings.store.home) / "adapters").resolve())
    return Gateway(store, backend, router, settings)
