"""What holds for every test: no network, no hub, a folder of its own, none of the user's LOGTUNE_ settings."""

import ipaddress
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"  # before any test imports transformers, and for the processes that tests start
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# No time limit for an example (machines differ); on CI the same examples every time.
settings.register_profile("logtune", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("logtune")


# A shell's background jobs ignore Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Guard:
    """An audit hook that refuses connections to other machines, whoever makes them; it cannot be imported away."""

    def __init__(self) -> None:
        self.open = False  # True while a test marked `network` runs

    def __call__(self, event: str, arguments: Sequence[object]) -> None:
        if self.open or event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            return
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = address[0] if isinstance(address, tuple) else address  # a Unix socket's address is its path
        if (event == "socket.getaddrinfo" or isinstance(address, tuple)) and not _is_here(host):
            raise RuntimeError(f"a test reaches for {host!r}: tests stay on this machine (mark: network)")


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost", "0.0.0.0", "::"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Open the guard for a test marked `network` alone."""
    GUARD.open = request.node.get_closest_marker("network") is not None
    yield
    GUARD.open = False


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder for logtune.toml, logtune.db and .logtune, and no LOGTUNE_ variable from outside."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("LOGTUNE_")]:
        monkeypatch.delenv(name)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """--network runs what is marked so."""
    parser.addoption("--network", action="store_true", help="run tests that reach other machines")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine or this run has not."""
    reasons = {"network": None if config.getoption("--network") else "needs --network"}
    if any(item.get_closest_marker("gpu") for item in items):
        reasons["gpu"] = None if _has_gpu() else "no CUDA device"
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
