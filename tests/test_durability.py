"""What the gateway does while its store is slow, locked, down or full, and what is left when it is killed."""

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import sample_cycle
from gateway_kit import WAIT_S, Kit, gateway, post, settings, until, until_stored

from logtune.app.cli import main
from logtune.app.doctor import _spool
from logtune.edges.intake import entry
from logtune.edges.spool import Limits, Spool
from logtune.edges.spool_files import waiting
from logtune.edges.store import Store
from logtune.records import Feedback
from logtune.testing import sample_log

CHAT = "/v1/chat/completions"


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with gateway(tmp_path, commit_wait_ms=50.0) as running:
        yield running


def ask(kit: Kit, text: str, *, stream: bool = False) -> tuple[int, dict[str, str], bytes]:
    body = {"model": "base", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return post(kit.url, CHAT, json.dumps(body).encode())


def asked(store: Store) -> list[str]:
    return [record.request["messages"][-1]["content"] for record in store.logs()]  # type: ignore[index,call-overload]


def test_a_locked_database_stalls_no_answer(kit: Kit, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "logtune.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = threading.active_count()
    for number in range(20):
        assert ask(kit, f"question {number}", stream=bool(number % 2))[0] == 200
    status, _, body = post(kit.url, "/v1/feedback", b'{"id": "f", "session": "s", "rating": "up"}')
    assert (status, json.loads(body)["note"]) == (202, "waits until the store answers")
    assert threading.active_count() <= began + 4  # the journal's, and one that looks up the target
    until(lambda: waiting(tmp_path / "spool").records == 21)  # those that lay in a file before are not twice there
    other.execute("COMMIT")
    other.close()
    until_stored(kit, 20)
    assert asked(kit.store) == [f"question {number}" for number in range(20)]
    assert kit.store.count(Feedback) == 1
    until(lambda: waiting(tmp_path / "spool").records == 0)


def test_a_gateway_starts_while_its_database_is_locked(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'logtune.db'}").close()
    other = sqlite3.connect(tmp_path / "logtune.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with gateway(tmp_path, commit_wait_ms=50.0) as kit:
        assert ask(kit, "one")[0] == 200
        other.execute("COMMIT")
        until_stored(kit, 1)
    other.close()


def test_what_the_store_did_not_take_is_stored_after_the_next_start(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        kit.store.broken = True
        assert ask(kit, "one")[0] == 200
    assert waiting(tmp_path / "spool").records == 1
    with gateway(tmp_path) as kit:
        ask(kit, "two")
        until_stored(kit, 2)
        assert asked(kit.store) == ["one", "two"]
    assert not list((tmp_path / "spool").iterdir())


def test_a_full_spool_refuses_before_the_model_is_asked(tmp_path: Path) -> None:
    with gateway(tmp_path, spool_mb=0.02, spool_full="refuse") as kit:  # type: ignore[arg-type]
        kit.store.broken = True
        answers = [ask(kit, f"question {number} " + "word " * 100) for number in range(40)]
        taken = [status for status, _, _ in answers].index(503)
        assert {status for status, _, _ in answers[taken:]} == {503}
        assert len(kit.engine.calls) == taken
        error = json.loads(answers[-1][2])["error"]
        assert (error["code"], error["type"]) == ("records_full", "server_error")
        assert answers[-1][1]["retry-after"] == "5"
        assert json.loads(post(kit.url, "/readyz", b"", "GET")[2])["lost"] == 0
        bodies = [json.dumps({"session": "s", "comment": "word " * 100}).encode() for _ in range(40)]
        said = [post(kit.url, "/v1/feedback", body)[0] for body in bodies]
        assert said == sorted(said)
        assert set(said) == {202, 503}
        taken += said.count(202)
        kit.store.broken = False
        until_stored(kit, 1)
        assert len(kit.logs()) + kit.store.count(Feedback) == taken
        assert ask(kit, "again")[0] == 200


def test_status_and_doctor_tell_what_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = settings(tmp_path, commit_wait_ms=50.0)
    assert _spool(home).state == "ok"
    spool = Spool(tmp_path / "spool", Limits())
    spool.append([entry(sample_log("a", "q", "a"))])
    assert _spool(home).mend == "logtune serve brings them to the store"
    spool.reject(entry(sample_log("b", "q", "a")), "out of range")
    spool.close()
    base = sample_cycle.base_model(tmp_path / "base")
    assert main(["status", "--set", f"store.home={tmp_path}", "--set", f"model.base={base}"]) == 0
    said = capsys.readouterr().out
    assert "1 record waits in the spool" in said
    assert "The store refused 1 record;" in said
    assert "1 record (0.0 MB) for the store, 1 record that it refused" in _spool(home).found


# killed

SERVER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from gateway_kit import ScriptedEngine, settings
    import uvicorn
    from logtune.app.gateway import create
    from logtune.edges.store import Store
    from logtune.edges.upstream import EmbeddedBackend
    from logtune.testing import MemoryAdapterServer, WordEmbedder

    home, server = Path(sys.argv[1]), MemoryAdapterServer()
    store = Store(f"sqlite:///{home / 'logtune.db'}")
    app = create(
        store, EmbeddedBackend(ScriptedEngine(server)), WordEmbedder(), server, settings(home, commit_wait_ms=30.0)
    )
    uvicorn.run(app, fd=int(sys.argv[3]), log_level="critical")
"""


@pytest.mark.slow  # 5 processes that serve under load
def test_kill_9_loses_nothing_while_the_database_comes_and_goes(tmp_path: Path) -> None:
    """Each round: load, the database locked for a moment every now and then, kill -9 at a random moment."""
    luck, seen, feedback, left = random.Random(5), set[str](), set[str](), list[int]()
    Store(f"sqlite:///{tmp_path / 'logtune.db'}").close()
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            here = Path(__file__).parent
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(SERVER), tmp_path, here, str(listening.fileno())],
                pass_fds=[listening.fileno()], cwd=here.parent,
            )  # fmt: skip
            port = listening.getsockname()[1]
        try:
            asyncio.run(_round(port, process, tmp_path, luck.randrange(150, 400), seen, feedback))
        finally:
            process.kill()
            process.wait()
        left.append(waiting(tmp_path / "spool").records)
    assert any(left)  # some kill met records on their way through the spool
    with gateway(tmp_path) as kit:
        while json.loads(post(kit.url, "/readyz", b"", "GET")[2])["waiting"]:
            pass
        assert len(seen) > 500
        assert seen <= {record.id for record in kit.logs()}
        assert feedback <= {item.id for item in kit.store.feedback()}
    assert not list((tmp_path / "spool").iterdir())


async def _round(
    port: int, process: "subprocess.Popen[bytes]", folder: Path, most: int, seen: set[str], feedback: set[str]
) -> None:
    """Talk until `most` answers of this round have arrived whole; then kill the process."""
    before, url = len(seen), f"http://127.0.0.1:{port}"

    async def talk(http: aiohttp.ClientSession, number: int) -> None:
        while True:
            stream = bool(number % 2)
            messages = [{"role": "user", "content": f"client {number} says a few words"}]
            body = {"model": "base", "stream": stream, "messages": messages}
            async with http.post(f"{url}{CHAT}", json=body) as answer:
                name = answer.headers["x-logtune-interaction"]
                await answer.read()  # to its end
                seen.add(name)
            if len(seen) % 10 == 0:
                said = {"id": f"f-{name}", "log_id": name, "rating": "up"}
                async with http.post(f"{url}/v1/feedback", json=said) as answer:
                    await answer.read()
                    feedback.add(f"f-{name}")
            if len(seen) - before >= most:
                os.kill(process.pid, signal.SIGKILL)

    async def lock() -> None:
        with sqlite3.connect(folder / "logtune.db", isolation_level=None, timeout=WAIT_S) as other:
            while True:
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(0.15)
                other.execute("COMMIT")
                await asyncio.sleep(0.05)

    locking = asyncio.create_task(lock())
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as http:
        outcomes = await asyncio.gather(*(talk(http, number) for number in range(8)), return_exceptions=True)
    locking.cancel()
    await asyncio.gather(locking, return_exceptions=True)
    assert all(isinstance(outcome, (aiohttp.ClientError, OSError)) for outcome in outcomes), outcomes
