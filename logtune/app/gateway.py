"""The gateway: an OpenAI-compatible ASGI app that answers through the deployed adapters and logs every call.

path, method -> chat_api | feedback_api | models | health        lifespan: routing table in place .. journal flushed
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from logtune.app import feedback_shapes, openapi, static_router
from logtune.app.access import Access, without_credentials
from logtune.app.adapters import Adapters
from logtune.app.asgi import (
    Event,
    Headers,
    Receive,
    Request,
    Scope,
    Send,
    error_body,
    parse_json,
    parse_object,
    respond,
    respond_json,
)  # fmt: skip
from logtune.app.cors import Cors
from logtune.app.exchange import Exchange
from logtune.app.feedback_reading import Shape
from logtune.app.kill_switch import KillSwitch
from logtune.app.lane import Lane
from logtune.app.lanes import Lanes
from logtune.app.projects import for_project, open_store
from logtune.app.routing import Router
from logtune.config import Config
from logtune.edges.key_copy import KeyCopy
from logtune.edges.keyring import Keyring
from logtune.edges.no_store import NoStore
from logtune.edges.project_scope import DEFAULT, ScopedAdapters, ScopedBackend
from logtune.edges.store import Store
from logtune.edges.upstream import COMPLETION, UNKNOWN_URL, Backend
from logtune.errors import LogtuneError, RequestError, StoreError
from logtune.ports import AdapterServer, Embedder
from logtune.records import Feedback, Json

LOG = logging.getLogger(__name__)
Handler = Callable[[Request, Send], Awaitable[None]]
OPEN = frozenset({"/healthz", "/health", "/readyz", "/openapi.json"})  # paths that need no key and count for no limit


class Watcher(Protocol):
    """Who counts, or traces."""

    def exchange(self, exchange: Exchange) -> None:
        """One exchange has ended."""

    def feedback(self, feedback: Feedback, shape: str, /) -> None:
        """One item of feedback was taken in, in the shape of this system."""


class Gateway:
    """The ASGI app; made by `create`."""

    def __init__(
        self, store: Store, backend: Backend, embedder: Embedder, adapters: AdapterServer, settings: Config
    ) -> None:
        self._backend = backend
        self._embedder = embedder
        self._adapters = adapters
        self._settings = settings
        self.kill = KillSwitch(Path(settings.store.home))
        self._main = self._make_lane(DEFAULT, store)
        self._lanes = Lanes(self._main, self._project_store, self._make_lane)
        self._keyring = Keyring(store)
        self._copy = KeyCopy(Path(settings.store.home))
        self._access = Access(settings.serve)
        self._limit = int(settings.serve.max_body_mb * 2**20)
        self._cors = Cors(settings.serve.cors_origins)
        self._receive_s = settings.serve.receive_timeout_s
        self._poll_s = settings.serve.poll_s
        self._ready = False
        self.changed: Callable[[], None] = lambda: None  # tells other processes to look at the store
        self._watching: list[Watcher] = []
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._post_chat},
            "/v1/completions": {"POST": self._post_completion},
            "/v1/feedback": {"POST": self._post_feedback},
            "/v1/models": {"GET": self._models},
            "/healthz": {"GET": self._healthz},
            "/health": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/openapi.json": {"GET": self._openapi},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            request = Request.of(scope, receive)
            await self._guarded(request, self._cors.wrap(request, send))

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
            headers = [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]
            await respond_json(send, error.status, error_body(error), headers)
        except ConnectionError:
            return  # nobody is left to answer
        except Exception:
            # The rest of a path is the client's words, such as the name of a model.
            path = request.path if request.path in self._routes else "/".join(request.path.split("/")[:3])
            LOG.exception("%s %s failed", request.method, path)
            if begun:
                raise
            await respond_json(send, 500, error_body(RequestError("the gateway failed; its log says why", 500)))

    async def _dispatch(self, request: Request, send: Send) -> None:
        methods = self._methods(request.path)
        if not methods:
            raise RequestError(f"there is nothing at {request.path[:200]}", 404, code=UNKNOWN_URL)
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        if request.method == "OPTIONS":
            await respond(send, 204, b"", "text/plain", [(b"allow", allowed.encode()), *self._cors.preflight(request)])
            return
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            problem = error_body(RequestError(f"{request.method} is not allowed here; {allowed} are", 405))
            await respond_json(send, 405, problem, [(b"allow", allowed.encode())])
            return
        await (handler(request, send) if request.path in OPEN else self._admit(handler, request, send))

    def _methods(self, path: str) -> Mapping[str, Handler]:
        """What may be done at a path."""
        if path.startswith("/v1/models/"):
            return {"GET": self._model}
        if path.startswith(feedback_shapes.PREFIX):
            found = feedback_shapes.find(path).items()
            return {method: partial(self._post_shaped, shape, named) for method, (shape, named) in found}
        return self._routes.get(path, {})

    async def _admit(self, handler: Handler, request: Request, send: Send) -> None:
        """Let `handler` answer whoever may ask, for their project and within their limits."""
        caller = self._access.caller(request.headers)
        with self._access.admitted(caller) as told:
            ours = self._access.needed or caller.key_id  # then a key never goes on to the model server
            headers = without_credentials(request.headers) if ours else request.headers
            await self._lanes.opened(caller.project)
            known = replace(request, headers=headers, project=caller.project, receive_s=self._receive_s)
            await handler(known, _telling(send, told) if told else send)

    # life

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        polling: list[asyncio.Task[None]] = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                polling = await self._start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._stop(polling)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> "list[asyncio.Task[None]]":
        self.kill.start()
        await self._follow_keys()
        await self._lanes.start()
        await self._lanes.open_all(self._access.projects())
        self._ready = True
        # Apart, because a look may wait for a model server, and a revoked key must not.
        return [asyncio.create_task(self._poll_keys()), asyncio.create_task(self._poll_lanes())]

    async def _stop(self, polling: "Sequence[asyncio.Task[None]]") -> None:
        self._ready = False
        self.kill.close()
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)
        await self._lanes.stop()
        await self._backend.close()

    async def _poll_keys(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._follow_keys()

    async def _poll_lanes(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._lanes.open_all(self._access.projects())
            await self._lanes.look()

    async def _follow_keys(self) -> None:
        """Know the store's keys; when that fails those in place stay, or under the kill switch the copy is taken."""
        try:
            keys = await asyncio.to_thread(self._keyring.every)
        except LogtuneError as error:
            LOG.warning("the keys could not be read: %s", error)
            copy = await asyncio.to_thread(self._copy.read) if self.kill.on() and not self._access.followed else None
            if copy is not None:
                self._access.follow(copy)
            return
        self._access.follow(keys)
        await asyncio.to_thread(self._copy.keep, keys)

    def _project_store(self, project: str) -> Store:
        """The store of a project; under the kill switch one that always fails, where it cannot be opened."""
        try:
            return open_store(for_project(self._settings, project))
        except StoreError as error:
            if not self.kill.on():
                raise
            return NoStore(error)

    def _make_lane(self, project: str, store: Store) -> Lane:
        """A lane that sees its own store and its own adapters alone."""
        settings = for_project(self._settings, project)
        backend = ScopedBackend(self._backend, project, settings.model.served_name)
        home = (Path(settings.store.home) / "adapters").resolve()
        adapters = Adapters(ScopedAdapters(self._adapters, project), home)
        router = Router(store, self._embedder, adapters, static_router.wanted(settings))
        router.killed = self.kill.on
        lane = Lane(store, backend, router, settings, self._done)
        lane.feedback.heard = self._heard
        lane.guarding.told = lambda: self.changed()
        return lane

    def _done(self, exchange: Exchange) -> None:
        """One exchange has ended: what is counted and traced of it hangs here, and cannot harm it."""
        for watcher in self._watching:
            try:
                watcher.exchange(exchange)
            except Exception:
                LOG.exception("an exchange could not be counted")

    def _heard(self, feedback: Feedback, system: str) -> None:
        for watcher in self._watching:
            try:
                watcher.feedback(feedback, system)
            except Exception:
                LOG.exception("feedback could not be counted")

    def _lane(self, request: Request) -> Lane:
        """The lane of whoever asks."""
        return self._lanes.get(request.project)

    # for whoever operates it

    def watch(self, watcher: "Watcher") -> None:
        """Tell `watcher` of every exchange once it has ended, and of feedback."""
        self._watching.append(watcher)

    def drain(self) -> None:
        """Say at /readyz that no more shall come; what comes is answered."""
        self._ready = False

    async def look(self) -> None:
        """Follow keys and deployments now."""
        await self._follow_keys()
        await self._lanes.open_all(self._access.projects())
        await self._lanes.look()

    def keys(self) -> dict[str, Json]:
        """Whether a key is needed, and how many there are."""
        return {"needed": self._access.needed, "active": self._access.active()}

    def lanes(self) -> Mapping[str, Lane]:
        """The open lanes, by project."""
        return self._lanes.by_project()

    def readiness(self, *, named: bool = True) -> tuple[bool, dict[str, Json]]:
        """Whether requests are welcome, and what /readyz says; `named`: adapters too."""
        journals = [lane.journal for lane in self._lanes.every()]
        problem = next((journal.problem for journal in journals if journal.problem), "")
        ready = self._ready and not problem
        said: dict[str, Json] = {
            "status": "ready" if ready else "not ready", "store": problem or "ok",
            "waiting": sum(journal.waiting for journal in journals),
            "lost": sum(journal.dropped for journal in journals),
        }  # fmt: skip
        if named:
            said["adapters"] = list(self._main.router.table.live())
            said["adapter_problems"] = dict(self._main.router.table.problems())
        return ready, said

    # what is small

    async def _healthz(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, {"status": "ok"})

    async def _readyz(self, request: Request, send: Send) -> None:
        ready, said = self.readiness(named=not self._access.needed)  # names are for those who have a key
        await respond_json(send, 200 if ready else 503, said)

    async def _post_chat(self, request: Request, send: Send) -> None:
        await self._lane(request).chat.post(request, self._limit, send)

    async def _post_completion(self, request: Request, send: Send) -> None:
        await self._lane(request).chat.post(request, self._limit, send, COMPLETION)

    async def _post_feedback(self, request: Request, send: Send) -> None:
        body = parse_object(await request.body(self._limit))
        status, answer = await self._lane(request).feedback.post(body, time.time())
        await respond_json(send, status, answer)

    async def _post_shaped(self, shape: Shape, named: str, request: Request, send: Send) -> None:
        """Feedback in another system's shape."""
        raw = await request.body(self._limit)
        body = parse_json(raw) if shape.method not in ("GET", "DELETE") else None
        status, answer = await self._lane(request).feedback.shaped(shape, named, body, request.headers, time.time())
        if isinstance(answer, str):
            await respond(send, status, answer.encode(), "text/plain")
        else:
            await respond_json(send, status, answer)

    async def _openapi(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, openapi.document())

    async def _models(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, {"object": "list", "data": list(await self._lane(request).rows())})

    async def _model(self, request: Request, send: Send) -> None:
        name = request.path.removeprefix("/v1/models/")
        row = next((row for row in await self._lane(request).rows() if row.get("id") == name), None)
        if row is None:
            raise RequestError(f"the model {name[:80]!r} does not exist", 404, param="model", code="model_not_found")
        await respond_json(send, 200, row)


def _telling(send: Send, told: Mapping[str, str]) -> Send:
    """`send`, with headers added to the head of the answer."""
    more: Headers = [(name.encode(), value.encode()) for name, value in told.items()]

    async def tell(message: Event) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*cast("Headers", message["headers"]), *more]
        await send(message)

    return tell


def create(store: Store, backend: Backend, embedder: Embedder, adapters: AdapterServer, settings: Config) -> Gateway:
    """The gateway as an ASGI app. It needs its lifespan, and closes `backend`; the store stays the caller's."""
    return Gateway(store, backend, embedder, adapters, settings)
