"""LiteLLM's proxy before the same upstream, in an environment of its own: a peer for the gateway benchmark.

Its settings are what its own documentation names for speed: one worker, no telemetry, errors alone in its log. It has
neither a store nor routing by content here, so it does less than the gateway it is compared with.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway_bench import say
from gateway_parts import Process, free_port

START_S = 180.0


def cache() -> Path:
    """Where the environment lies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logtune" / "litellm"


def environment() -> Path:
    """The folder with LiteLLM's commands; built once, which takes a minute."""
    home = cache() / "env"
    if not (home / "bin" / "litellm").exists():
        say(f"peer     building an environment for LiteLLM in {home}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)
    return home / "bin"


def version() -> str:
    """Of LiteLLM."""
    code = "import importlib.metadata as found; print(found.version('litellm'))"
    done = subprocess.run([environment() / "python", "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


CONFIG = """\
model_list:
  - model_name: base
    litellm_params: {{model: openai/base, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
litellm_settings: {{telemetry: false, set_verbose: false, num_retries: 0, drop_params: false}}
"""


@contextmanager
def litellm(folder: Path, upstream: int) -> Iterator[tuple[Process, int]]:
    """The proxy and its port."""
    config, port = folder / "litellm.yaml", free_port()
    config.write_text(CONFIG.format(port=upstream), encoding="utf-8")
    command = [
        str(environment() / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1",
    ]  # fmt: skip
    quiet = {
        "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it listens on loopback alone
    }  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    process = Process(command, folder / "litellm.log", {**clean, **quiet}, output=False)
    try:
        _ready(process, port)
        yield process, port
    finally:
        process.kill()


def _ready(process: Process, port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.alive():
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeError(f"LiteLLM did not start: {process.last_words()}")
