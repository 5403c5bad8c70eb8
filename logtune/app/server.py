"""The server process: uvicorn on the gateway's port, the administration beside it, signals, and an end in order.

Gateway, sockets -> Process.run        SIGTERM, SIGINT: /readyz says 503, answers under way finish, records are flushed
                                       the same again: the end at once        SIGHUP: look at deployments now
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import uvicorn

from logtune.app.admin import Admin, Operated
from logtune.app.gateway import Gateway
from logtune.app.http_protocol import Limits, limited
from logtune.app.logs import event
from logtune.app.metrics import App, Counted, Metrics, Sample, sampled
from logtune.app.tracing import Tracing
from logtune.config_gateway import ServeSettings
from logtune.errors import ModelError
from logtune.records import Json

LOG = logging.getLogger(__name__)
IDLE_S = 75  # a kept connection without a request; longer than clients and load balancers keep theirs
SWITCH_S = 0.0005  # until a thread gives way to another
LOOK_S = 0.02  # between looks whether the last answers are out
CANCELLED_S = 5.0  # for answers that were cut off to be recorded
ADMIN_LIMITS = Limits(head_bytes=16 << 10, head_s=10.0, send_s=30.0, connections=200)
FILES_EACH = 2  # open files of a connection: a client's, and one to the model server
TICKS = 10  # of uvicorn's main loop in a second


@dataclass(frozen=True, kw_only=True)
class Process:
    """One server process and what it is told."""

    gateway: Gateway
    settings: ServeSettings
    listening: socket.socket
    admin: socket.socket | None = None  # None: no administration
    token: str = ""  # of the administration
    public_admin: bool = False  # whether other machines reach it
    files: int = 65_536  # that may be open at once
    tracing: Tracing | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)  # for /admin/status
    parent: int | None = None  # file descriptor that ends when the parent process does; None: there is none
    ready: Callable[[], None] = lambda: None  # called when requests are taken

    def run(self) -> None:
        """Serve until a signal; returns when all is flushed. ModelError when the gateway cannot start."""
        metrics = Metrics()
        self.gateway.watch(metrics)
        if self.tracing is not None:
            self.gateway.watch(self.tracing)
        counted = Counted(self.gateway, metrics, access_log=self.settings.access_log == "on")
        server = _Server(self, counted, metrics)
        try:
            server.run(sockets=[self.listening])
        except SystemExit as error:
            raise ModelError(
                "the gateway did not start", "its log above says why; logtune doctor checks the parts"
            ) from error
        finally:
            if self.tracing is not None:
                self.tracing.close()


class _Server(uvicorn.Server):
    """uvicorn's server with our signals and our end. Its steps are called as uvicorn's own `serve` calls them."""

    def __init__(self, process: Process, app: App, metrics: Metrics) -> None:
        serve = process.settings
        limits = Limits(
            head_bytes=serve.max_header_kb << 10, head_s=serve.receive_timeout_s, send_s=serve.send_timeout_s,
            refused=metrics.refused, connections=min(serve.max_open, process.files // FILES_EACH),
        )  # fmt: skip
        super().__init__(_config(app, limits, lifespan="on"))
        self._process = process
        self._metrics = metrics
        if process.parent is not None:
            process.gateway.changed = _tell_others
        self._admin = None if process.admin is None else _beside(self._administration())
        self._signalled = False
        self._tasks = set[asyncio.Task[None]]()

    def sample(self) -> Sample:
        """The numbers of now."""
        gateway = self._process.gateway
        return sampled(
            gateway.lanes().values(), ready=gateway.readiness()[0], under_way=self._metrics.under_way,
            connections=len(self.server_state.connections),
        )  # fmt: skip

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The administration first: it tells how the start goes."""
        if self._admin is not None and self._process.admin is not None:
            await self._admin.startup([self._process.admin])
        await super().startup(sockets)
        _steady()
        event(LOG, "serving", **_address("address", self._process.listening))
        self._process.ready()

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn, and once a second the gauges."""
        if counter % TICKS == 0:
            self._metrics.sample(self.sample())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections; what is under way ends; records are written; the administration goes last."""
        began = time.monotonic()
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        cut = await self._finish(self._process.settings.grace_s)
        await self.lifespan.shutdown()
        self._metrics.sample(self.sample())
        if self._admin is not None and self._process.admin is not None:
            await _end(self._admin, self._process.admin)
        event(LOG, "stopped", seconds=round(time.monotonic() - began, 2), cut=cut)

    async def _finish(self, grace_s: float) -> int:
        """Wait for the answers under way; how many had to be cut off."""
        deadline = time.monotonic() + grace_s
        while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < deadline:
            for connection in list(self.server_state.connections):
                connection.shutdown()  # closes it, or lets it end with its answer
            await asyncio.sleep(LOOK_S)
        left = list(self.server_state.tasks)
        for task in left:
            task.cancel()
        if left:
            LOG.warning("%d answers did not end within %g s and were cut off", len(left), grace_s)
            await asyncio.wait(left, timeout=CANCELLED_S)
        return len(left)

    # signals

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the loop runs; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a worker leaves Ctrl-C to its parent
                loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        if self._process.parent is not None:
            loop.add_reader(self._process.parent, self._orphaned)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._signalled:
            LOG.warning("ended at once by a second signal")
            _leave(128 + number)
        if not self.started:  # nothing is under way, and threads that load a model cannot be interrupted
            event(LOG, "stopped before it served", signal=number.name)
            _leave(0)
        self._signalled = True
        settings = self._process.settings
        event(LOG, "stopping", signal=number.name, drain_s=settings.drain_s, grace_s=settings.grace_s)
        self._process.gateway.drain()
        if settings.drain_s:
            asyncio.get_running_loop().call_later(settings.drain_s, self._exit)
        else:
            self._exit()

    def _exit(self) -> None:
        self.should_exit = True

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.parent or 0)
        if not self._signalled:
            LOG.error("the parent process is gone")
            self._stop(signal.SIGTERM)

    def _reload_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._process.gateway.look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        event(LOG, "reloading")

    # the administration

    def _administration(self) -> Admin:
        process = self._process
        operated = Operated(
            lanes=process.gateway.lanes, readiness=process.gateway.readiness, sample=self.sample,
            reload=self._reload, facts=self._facts,
        )  # fmt: skip
        return Admin(operated, self._metrics, process.token, public=process.public_admin)

    def _facts(self) -> dict[str, Json]:
        gateway = self._process.gateway
        return {**self._process.facts, "keys": gateway.keys(), "killed": gateway.kill.on()}

    async def _reload(self) -> None:
        event(LOG, "reloading")
        await self._process.gateway.look()
        if self._process.parent is not None:
            _tell_others()


def _tell_others() -> None:
    """Let the parent send SIGHUP to all workers."""
    os.kill(os.getppid(), signal.SIGHUP)


def _steady() -> None:
    """Settings of the interpreter for a process whose event loop must not wait.

    What was made until now stays, so the collector need not go through it again. A thread that commits a record holds
    the interpreter for microseconds at a time; with the default interval it would wait 5 ms for each of these turns.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


def _config(app: App, limits: Limits, lifespan: str) -> uvicorn.Config:
    return uvicorn.Config(
        app, http=limited(limits), ws="none", lifespan=lifespan, interface="asgi3", log_config=None,  # type: ignore[arg-type]
        access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=IDLE_S, backlog=2048,
    )  # fmt: skip


def _beside(app: App) -> uvicorn.Server:
    """A server whose steps are called by another one's."""
    config = _config(app, ADMIN_LIMITS, lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


async def _end(server: uvicorn.Server, listening: socket.socket) -> None:
    for port in server.servers:
        port.close()
    listening.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _address(name: str, listening: socket.socket) -> dict[str, Json]:
    host, port = listening.getsockname()[:2]
    return {name: f"{host}:{port}"}


def descriptors(wanted: int) -> int:
    """Allow this process as many open files as it may have, up to `wanted`; how many those are."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft
