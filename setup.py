"""The build: pure Python, or with LOGTUNE_COMPILE=1 in the environment the modules of a request compiled by mypyc.

That needs mypy and a C compiler, and takes minutes. What is compiled are modules that every request passes through and
whose values stay in the process: a compiled class can be neither pickled nor changed by assignment to it.
"""

import os

from setuptools import setup

COMPILED = (
    "app/access", "app/answering", "app/asgi", "app/batching", "app/chat_api", "app/cors", "app/critic", "app/exchange",
    "app/gateway", "app/identity", "app/journal", "app/metrics", "app/redaction", "app/routing", "app/table",
    "edges/http_client", "edges/intake", "edges/renaming", "edges/sse", "stages/credentials", "stages/personal",
    "stages/redact",
)  # fmt: skip
if os.environ.get("LOGTUNE_COMPILE") == "1":
    from mypyc.build import mypycify

    files = [f"logtune/{name}.py" for name in COMPILED]
    # What they share lies in the package: beside it, an editable installation would not find it.
    shared = "logtune.compiled"
    setup(ext_modules=mypycify(["--config-file=scripts/mypyc.ini", *files], opt_level="2", group_name=shared))
else:
    setup()
