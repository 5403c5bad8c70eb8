"""`logtune serve`: the gateway on a port, until it is interrupted."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, unscoped
from logtune.errors import InputError, ModelError

if TYPE_CHECKING:
    from logtune.app.gateway import Gateway

BACKLOG = 2048  # connections that may wait, as uvicorn's
GRACE_S = 30  # how long answers under way may take after an interrupt


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: serve.host]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [default: serve.port]"
)
@unscoped
def serve(say: Console, host: str | None, port: int | None) -> None:
    """Run the gateway until it is interrupted: OpenAI-compatible, routes to adapters, logs every call.

    \b
    Examples:
      logtune serve
      logtune serve --port 9000 --set model.engine=openai --set model.url=http://127.0.0.1:8000/v1
    """
    from logtune.app import build

    config = say.config(serve__host=host, serve__port=port)
    with listener(
        config.serve.host, config.serve.port
    ) as listening:  # before the model is loaded: a taken port tells at once
        opened = build.store(config)
        try:
            build.check_address(opened, config, say.progress)
            app = build.gateway(opened, build.serving(config, progress=say.progress), config)
            url = f"http://{_shown(listening)}"
            run(app, listening, lambda: say.answer({"url": url}, [f"Listening on {url}/v1 (Ctrl-C ends it)."]))
        finally:
            opened.close()


def listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address; InputError where it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        hint = "choose another with --port, or 0 for a free one" if port else "choose another with --host"
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint) from error
    return bound


def run(app: "Gateway", listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve `app` on a bound socket; `ready` is called when connections are taken. An interrupt ends it in order."""
    import uvicorn

    settings = uvicorn.Config(
        app, lifespan="on", ws="none", access_log=False, log_level="warning", timeout_graceful_shutdown=GRACE_S
    )
    listening.listen(BACKLOG)
    ready()
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except SystemExit as error:
        raise ModelError(
            "the gateway did not start", "its log above says why; logtune doctor checks the parts"
        ) from error


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


COMMANDS = {"serve": serve}
