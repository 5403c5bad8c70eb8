"""A gateway process for the test that looks for what users said: a remote model server, bugs on demand.

python leak_process.py FOLDER MODEL_URL REDACT        REDACT: the section of the settings as JSON
"""

import json
import logging
import sys
from collections.abc import Mapping

from logtune.app.commands.serve import Serving, sockets
from logtune.app.console import Console
from logtune.app.gateway import Gateway, create
from logtune.app.logs import logging_to
from logtune.config import Config, build
from logtune.edges.store import Store
from logtune.edges.upstream import Answer, HttpBackend, UpstreamCall
from logtune.records import Json
from logtune.testing import MemoryAdapterServer, WordEmbedder


class Buggy(HttpBackend):
    """Fails on a message with BUG, in words that repeat it."""

    async def open(self, call: UpstreamCall) -> Answer:
        if b"BUG" in call.raw:
            raise KeyError(call.raw.decode())
        return await super().open(call)


def main(folder: str, url: str, redact: str) -> int:
    values: Mapping[str, Json] = {
        "store": {"home": folder, "url": f"sqlite:///{folder}/logtune.db"}, "redact": json.loads(redact),
        "serve": {"port": 0, "admin_port": 0, "poll_s": 0.05, "access_log": "on", "commit_wait_ms": 50.0},
        "model": {"engine": "openai", "url": url, "served_name": "big"},
    }  # fmt: skip
    config = build(values)

    def make(store: Store, config: Config) -> Gateway:
        return create(store, Buggy(url, None, config.serve), WordEmbedder(), MemoryAdapterServer(), config)

    with logging_to(sys.stderr, config.serve.log_format), sockets(config.serve) as (listening, admin):
        Store(config.store.url).close()
        Serving(Console(True, None), config, listening, admin, "", "none", make).alone()
    logging.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
