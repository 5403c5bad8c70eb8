"""`logtune serve`: the gateway on a port and its administration on another, in one process or several."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from logtune import __version__
from logtune.app.console import Console, counted, unscoped
from logtune.errors import ConfigError, InputError, LogtuneError, StoreError

if TYPE_CHECKING:
    from logtune.app.gateway import Gateway
    from logtune.app.sidecar import Task as Sidecar
    from logtune.app.tracing import Tracing
    from logtune.app.workers import Task
    from logtune.config import Config
    from logtune.config_gateway import ServeSettings
    from logtune.edges.store import Store
    from logtune.records import Json

SHORTEST_TOKEN = 16  # characters
OPEN_FILES = 65_536  # asked for: a connection of a client, one to the model server, and the store's
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client keeps the numbers of several processes
MOST_NAMES = 20  # of adapters on the screen


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: serve.host]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [default: serve.port]"
)
@click.option("--workers", type=click.IntRange(1), help="Processes that answer.  [default: serve.workers]")
@unscoped
def serve(say: Console, host: str | None, port: int | None, workers: int | None) -> int:
    """Run the gateway until it is interrupted: OpenAI-compatible, routes to adapters, logs every call.

    Metrics and administration are at serve.admin_port. SIGTERM or Ctrl-C lets answers under way finish; a second one
    ends at once. SIGHUP looks for new deployments now. With schedule.every, cycles run beside it by themselves.

    \b
    Examples:
      logtune serve
      logtune serve --port 9000 --set model.engine=openai --set model.url=http://127.0.0.1:8000/v1
    """
    from logtune.app.logs import logging_to
    from logtune.app.sidecar import running
    from logtune.app.unattended import beside

    config = say.config(serve__host=host, serve__port=port, serve__workers=workers)
    check_workers(config)
    token = token_of(config.serve)
    with logging_to(sys.stderr, config.serve.log_format), sockets(config.serve) as (listening, admin):
        # Addresses and keys first: what is taken or refused tells at once, before a model is loaded.
        keys = check_keys(config, say)
        serving = Serving(say, config, listening, admin, token, keys, partial(_made, say))
        with running(beside(say, config)):
            return serving.alone() if config.serve.workers == 1 else serving.together()


@dataclass(frozen=True, slots=True)
class Serving:
    """One run of the command."""

    say: Console
    config: "Config"
    listening: socket.socket
    admin: socket.socket | None
    token: str
    keys: str  # who may ask, for people
    make: "Callable[[Store, Config], Gateway]"

    def alone(self) -> int:
        """Serve in this process."""
        from logtune.app.workers import Task

        self.work(Task(0, None, self.announce))
        return 0

    def together(self) -> int:
        """Serve in processes of their own."""
        from logtune.app.workers import Workers

        with tempfile.TemporaryDirectory(prefix="logtune-metrics-") as folder:
            os.environ[SHARED] = folder
            try:
                return Workers(
                    work=self.work, count=self.config.serve.workers, ready=self.announce, died=_forget_gauges,
                    sockets=[self.listening, *([self.admin] if self.admin else [])],
                    end_s=self.config.serve.drain_s + self.config.serve.grace_s,
                ).run()  # fmt: skip
            finally:
                del os.environ[SHARED]

    def work(self, task: "Task") -> None:
        """Be a server process."""
        from logtune.app.sidecar import running
        from logtune.edges.no_store import NoStore

        opened = store_or_none(self.config)
        leads = task.slot == 0 and not isinstance(opened, NoStore)
        try:
            with running(self._leader() if leads else None):
                run(self.make(opened, self.config), self, task)
        finally:
            opened.close()

    def _leader(self) -> "Sidecar | None":
        """What leads live tests: with the mode off too while some run, which are still to be decided."""
        from logtune.app import leading
        from logtune.app.kill_switch import forced

        settings = self.config.experiment
        if not settings.keep_looking or forced() or (settings.mode == "off" and not tests_run(self.config)):
            return None
        return leading.task(self.say.arguments(), settings.look_s)

    def announce(self, facts: "Mapping[str, Json]") -> None:
        """Say what serves where."""
        adapters = cast("Sequence[str]", facts["adapters"])
        document = {
            "url": self._url(), "admin_url": f"http://{shown(self.admin)}" if self.admin else None,
            "store": _public(self.config.store.url), "keys": self.keys, "model": _model(self.config),
            "adapters": list(adapters), "workers": self.config.serve.workers, "version": __version__,
        }  # fmt: skip
        self.say.answer(document, self._lines(adapters))

    def _url(self) -> str:
        return f"http://{shown(self.listening)}"

    def _lines(self, adapters: "Sequence[str]") -> Iterator[str]:
        yield f"Serving {self._url()}/v1 (Ctrl-C ends it)."
        reads = "changes need the token" if self.token else "reading only: no token is set"
        yield f"  administration  {f'http://{shown(self.admin)} ({reads})' if self.admin else 'off'}"
        yield f"  model           {_model(self.config)}"
        yield f"  adapters        {', '.join(adapters) or 'none is deployed: the base model answers'}"
        yield f"  keys            {self.keys}"
        yield f"  store           {_public(self.config.store.url)}"
        if self.config.serve.workers > 1:
            yield f"  workers         {self.config.serve.workers}"


def run(app: "Gateway", serving: Serving, task: "Task") -> None:
    """Serve `app` in this process until a signal ends it in order; ModelError when it cannot start."""
    from logtune.app import core_dumps, server

    config = serving.config
    core_dumps.forbid()

    def ready() -> None:
        live = [name for lane in app.lanes().values() for name in lane.router.table.live()]
        task.ready({"adapters": [*live[:MOST_NAMES]]})

    server.Process(
        gateway=app, settings=config.serve, listening=serving.listening, admin=serving.admin, token=serving.token,
        public_admin=not _loopback(config.serve.admin_host), tracing=_tracing(config), ready=ready,
        parent=task.parent, files=server.descriptors(OPEN_FILES), facts=_facts(config, task.slot),
    ).run()  # fmt: skip


def _made(say: Console, opened: "Store", config: "Config") -> "Gateway":
    from logtune.app import build

    return build.gateway(opened, build.serving(config, say.progress), config)


# what is checked before anything is loaded


def check_workers(config: "Config") -> None:
    """Refuse several processes that would load the model each (ConfigError), unless the settings insist."""
    serve = config.serve
    if serve.workers > 1 and config.model.engine == "embedded" and serve.embedded_workers == "refuse":
        raise ConfigError(
            f"serve.workers is {serve.workers} and model.engine is 'embedded': each process would load the model",
            "set model.engine to openai and model.url to a model server, or serve.workers to 1; "
            "serve.embedded_workers = \"allow\" insists",
        )  # fmt: skip


def token_of(settings: "ServeSettings") -> str:
    """The administration's token, "" where there is none; ConfigError where the settings need one, or a longer one."""
    token = os.environ.get(settings.admin_token_env, "").strip()
    if settings.admin == "off":
        return ""
    if token and len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"the token in {settings.admin_token_env} has {len(token)} characters and needs {SHORTEST_TOKEN}",
            "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    if not token and not _loopback(settings.admin_host):
        raise ConfigError(
            f"serve.admin_host is {settings.admin_host}, which other machines reach, and there is no token",
            f"put one into the environment variable {settings.admin_token_env}, or keep serve.admin_host at 127.0.0.1",
        )
    return token


def store_or_none(config: "Config") -> "Store":
    """The store; under the kill switch one that always fails, where it cannot be opened.

    StoreError where it is not known either who may ask: neither by a copy of the keys, nor because everybody may.
    """
    from logtune.app import build, kill_switch
    from logtune.edges.key_copy import KeyCopy
    from logtune.edges.no_store import NoStore

    home = Path(config.store.home)
    try:
        return build.store(config)
    except StoreError as error:
        if not kill_switch.asked(home):
            raise
        if config.serve.keys != "never" and KeyCopy(home).read() is None:
            what = f"{error.what}; the kill switch is on, and {home} holds no copy of the keys that says who may ask"
            raise StoreError(what, 'serve.keys = "never" lets everybody ask') from error
        return NoStore(error)


def tests_run(config: "Config") -> bool:
    """Whether a live test of any project is not over; True also where that cannot be read now."""
    from logtune.app.projects import for_project, known, open_store
    from logtune.edges.experiments import Experiments

    try:
        for name in known(config):
            with closing(open_store(for_project(config, name))) as store:
                if Experiments(store).running():
                    return True
    except LogtuneError:  # what leads tests tells it at each look, and serving goes on
        return True
    return False


def check_keys(config: "Config", say: Console) -> str:
    """Who may ask, for people; ConfigError for a public address without keys. Brings the store's schema up to date."""
    from logtune.app import build
    from logtune.edges.key_copy import KeyCopy
    from logtune.edges.keyring import Keyring
    from logtune.edges.no_store import NoStore

    copy, opened = KeyCopy(Path(config.store.home)), store_or_none(config)
    if isinstance(opened, NoStore):
        say.progress("The store cannot be opened. The kill switch is on: the base model answers, records wait on disk.")
        keys = copy.read() or []
    else:
        try:
            keys = list(Keyring(opened).every())
        finally:
            opened.close()
        copy.keep(keys)
    build.check_address(keys, config, say.progress)
    return _who([key.project for key in keys if key.revoked_at is None], config.serve.keys)


@contextmanager
def sockets(settings: "ServeSettings") -> "Iterator[tuple[socket.socket, socket.socket | None]]":
    """The bound sockets of gateway and administration; InputError where an address is taken or not this machine's."""
    with ExitStack() as stack:
        hint = "choose another with --port, or 0 for a free one" if settings.port else "choose another with --host"
        listening = stack.enter_context(listener(settings.host, settings.port, hint))
        if settings.admin == "off":
            yield listening, None
            return
        hint = "set serve.admin_port to another, 0 for a free one, or serve.admin to off"
        yield listening, stack.enter_context(listener(settings.admin_host, settings.admin_port, hint))


def listener(host: str, port: int, hint: str) -> socket.socket:
    """A socket bound to the address; InputError with `hint` where it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: without it, small chunks wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint) from error
    return bound


def shown(listening: socket.socket) -> str:
    """The address as the host of a URL."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# what is said


def _who(projects: "Sequence[str]", setting: str) -> str:
    if setting == "never":
        return "not asked for (serve.keys is never)"
    if not projects:
        return "none: whoever reaches the port may ask" if setting == "auto" else "none: nobody may ask"
    return f"{counted(len(projects), 'key')} of {counted(len(set(projects)), 'project')}"


def _model(config: "Config") -> str:
    if config.model.engine == "embedded":
        return f"{config.model.base}, embedded"
    return f"{config.model.served_name} at {_public(config.model.url or '')}"


def _public(url: str) -> str:
    """The URL without a password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else url


def _facts(config: "Config", slot: int) -> "Mapping[str, Json]":
    from logtune.app import build

    return {
        "worker": slot, "workers": config.serve.workers, "model": _model(config), "store": _public(config.store.url),
        "versions": build.versions(),
    }  # fmt: skip


def _loopback(host: str) -> bool:
    from logtune.app.access import is_loopback

    return is_loopback(host)


def _tracing(config: "Config") -> "Tracing | None":
    if not config.serve.otel_url:
        return None
    from logtune.app.tracing import to_collector

    return to_collector(config.serve.otel_url, config.model.url if config.model.engine == "openai" else None)


def _forget_gauges(pid: int) -> None:
    """Let the gauges of a process that has ended count no more."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


COMMANDS = {"serve": serve}
