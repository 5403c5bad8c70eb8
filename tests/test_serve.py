"""The life of the server process: real processes, signals and sockets."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from live_kit import begin, settings

from logtune.app import cli
from logtune.app.commands import serve as command
from logtune.app.console import Console
from logtune.app.kill_switch import FILE, VARIABLE
from logtune.app.workers import FIRST_PAUSE_S, HEALTHY_S, LONGEST_PAUSE_S, Workers, _Slot
from logtune.config import build
from logtune.edges.keyring import Keyring
from logtune.edges.store import Store
from logtune.errors import ConfigError, InputError
from logtune.records import LogRecord

WAIT_S = 60.0  # a hang is a failure, never a slow machine
SCRIPT = Path(__file__).parent / "serve_process.py"
Found = TypeVar("Found")


def until(look: Callable[[], Found]) -> Found:
    """What `look` finds, once it is true."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@dataclass
class Server:
    """A running process."""

    process: subprocess.Popen[str]
    folder: Path
    screen: dict[str, object]

    def get(self, path: str, *, admin: bool = False, **headers: str) -> tuple[int, str]:
        """Status and text of an answer; 0 when nobody answers."""
        url = str(self.screen["admin_url" if admin else "url"])
        try:
            with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self) -> dict[str, object]:
        return dict(json.loads(self.get("/admin/status", admin=True)[1] or "{}"))

    def ask(self, text: str) -> int:
        """The status of a whole answer."""
        with self.asked(text, stream=False) as answer:
            answer.read()
            return answer.status

    @contextmanager
    def asked(self, text: str, *, stream: bool = True) -> Iterator[http.client.HTTPResponse]:
        address = str(self.screen["url"]).removeprefix("http://")
        body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": stream})
        with closing(http.client.HTTPConnection(address, timeout=WAIT_S)) as connection:
            connection.request("POST", "/v1/chat/completions", body)
            with connection.getresponse() as answer:
                yield answer

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def go_on(self) -> None:
        """Let the answers that wait end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        return self.process.wait(WAIT_S)

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "err").read_text().splitlines()]

    def records(self) -> list[LogRecord]:
        with closing(Store(f"sqlite:///{self.folder}/logtune.db")) as store:
            return list(store.logs())

    def draining(self) -> bool:
        return self.get("/readyz", admin=True)[0] == 503

    def refuses(self) -> bool:
        host, port = str(self.screen["url"]).removeprefix("http://").split(":")
        try:
            socket.create_connection((host, int(port)), timeout=WAIT_S).close()
        except ConnectionRefusedError:
            return True
        return False


@contextmanager
def running(folder: Path, *settings: str, **environment: str) -> Iterator[Server]:
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=err, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Server(process, folder, json.loads(line) if line else {})
    finally:
        process.kill()
        process.communicate()


def test_it_says_what_serves_where_and_ends_when_told(tmp_path: Path) -> None:
    with running(tmp_path, 'access_log="on"', "poll_s=3600", "max_header_kb=1") as server:
        assert server.screen["adapters"] == []
        assert server.screen["keys"] == "none"
        assert json.loads(server.get("/healthz")[1]) == {"status": "ok"}
        assert server.ask("hello there") == 200
        assert server.get("/v1/secret?key=hidden")[0] == 404
        assert [server.get(path)[0] for path in ("/metrics", "/admin/status")] == [404, 404]
        assert server.get("/healthz", x="y" * 2000)[0] == 431
        assert server.status()["keys"] == {"needed": False, "active": 0}
        with closing(Store(f"sqlite:///{tmp_path}/logtune.db")) as store:
            Keyring(store).create("somebody", "default")
        assert server.ask("hello") == 200
        server.signal(signal.SIGHUP)  # look now, an hour before the next look
        until(lambda: server.ask("hello") == 401)
        server.signal(signal.SIGINT)
        assert server.end() == 0
        assert server.refuses()
        log = server.log()
        assert [line["message"] for line in log if line["logger"] == "logtune.app.server"] == [
            "serving", "reloading", "stopping", "stopped",
        ]  # fmt: skip
        asked = next(line for line in log if line.get("path") == "/v1/chat/completions")
        assert asked["status"] == 200
        assert asked["interaction"] == server.records()[0].id
        text = (tmp_path / "err").read_text()
        assert "hidden" not in text
        assert "hello" not in text


def test_answers_under_way_finish_while_new_ones_are_turned_away(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.asked("wait") as answer:
        head = answer.readline()
        assert b"first" in head or b"role" in head
        server.signal(signal.SIGTERM)
        until(server.draining)
        until(server.refuses)
        server.go_on()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert server.end() == 0
        (record,) = server.records()
        assert record.error is None


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_load_balancer_has_time_and_a_second_signal_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "drain_s=600") as server, server.asked("wait") as answer:
        answer.readline()
        server.signal(number)
        until(server.draining)
        assert server.get("/readyz")[0] == 503
        assert server.ask("still") == 200
        server.signal(number)
        assert server.end() == 128 + number


def test_answers_that_do_not_end_are_cut_off_and_recorded(tmp_path: Path) -> None:
    with running(tmp_path, "grace_s=0.1") as server, server.asked("wait") as answer:
        answer.readline()
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        (record,) = server.records()
        assert record.error is not None
        assert server.log()[-1]["cut"] == 1


def test_a_client_that_stops_reading_counts_as_gone(tmp_path: Path) -> None:
    with running(tmp_path, "send_timeout_s=0.2") as server, server.asked("flood") as answer:
        (record,) = until(server.records)
        assert record.error == "the client went away"
        metrics = server.get("/metrics", admin=True)[1]
        assert 'logtune_connections_refused_total{reason="not_read"} 1.0' in metrics
        assert "logtune_requests_under_way 0.0" in metrics
        with pytest.raises(ConnectionResetError):
            answer.read()
        assert server.ask("still") == 200


def test_a_failure_at_the_start_is_told(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2", FAIL_AT_START="1") as server:
        assert server.end() == 1
        assert "there is no such model" in (tmp_path / "err").read_text()


# several processes


def pids(server: Server) -> set[int]:
    """Process ids of the workers that answer; asked a few times, since any of them does."""
    return {int(str(status["pid"])) for status in (server.status() for _ in range(12)) if status}


def answered(server: Server) -> float:
    """Chat requests that the metrics of all workers count as answered."""
    page = server.get("/metrics", admin=True)[1]
    found = re.search(r'^logtune_requests_total{endpoint="/v1/chat/completions",status="200"} (\S+)', page, re.M)
    return float(found[1]) if found else 0.0


def test_one_of_two_workers_is_killed_under_load(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2", 'embedded_workers="allow"') as server:
        before = until(lambda: found if len(found := pids(server)) == 2 else None)
        statuses: list[int] = []
        broken: list[OSError | http.client.HTTPException] = []
        enough = threading.Event()

        def load() -> None:
            while not enough.is_set():
                try:
                    statuses.append(server.ask("hello"))
                except (OSError, http.client.HTTPException) as error:  # what the dying one had taken
                    broken.append(error)

        loaders = [threading.Thread(target=load) for _ in range(2)]
        for loader in loaders:
            loader.start()
        until(lambda: len(statuses) > 20)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        asked = len(statuses)
        after = until(lambda: found if len(found := pids(server) - {victim}) == 2 else None)
        until(lambda: len(statuses) > asked + 20)
        enough.set()
        for loader in loaders:
            loader.join()
        assert set(statuses) == {200}
        assert len(broken) <= 2  # one request of each loader at most was with the dead one
        assert after & before == before - {victim}
        counted = until(lambda: number if (number := answered(server)) >= 20 else None)  # told once a second
        assert 20 <= counted <= len(statuses) + 2  # without the dead one's last second
        with server.asked("wait") as answer:
            answer.readline()
            server.signal(signal.SIGTERM)
            until(server.refuses)
            server.go_on()
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert server.end() == 0
        assert len(server.records()) >= len(statuses)
        (died,) = (line for line in server.log() if "died" in str(line["message"]))
        assert (died["pid"], died["code"]) == (victim, -9)


@pytest.mark.slow  # three processes
def test_the_kill_switch_holds_in_every_worker(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2", 'embedded_workers="allow"') as server:
        until(lambda: len(pids(server)) == 2)

        def states() -> dict[object, object]:
            return {status["pid"]: status["killed"] for status in (server.status() for _ in range(12)) if status}

        for on, turn in ((True, (tmp_path / FILE).touch), (False, (tmp_path / FILE).unlink)):
            turn()
            until(lambda on=on: list(states().values()) == [on, on])  # type: ignore[misc]
            assert {server.ask("hello") for _ in range(10)} == {200}
    reasons = [record.route_reason for record in server.records()]
    assert [reason == "the kill switch is on" for reason in reasons] == [True] * 10 + [False] * 10


@pytest.mark.slow  # three processes
def test_workers_end_at_once_when_told_twice(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2") as server, server.asked("wait") as answer:
        answer.readline()
        server.signal(signal.SIGINT)
        until(server.refuses)
        server.signal(signal.SIGINT)
        assert server.end() == 130


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow  # three processes
def test_workers_end_when_their_parent_is_gone(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2") as server:
        workers = until(lambda: found if len(found := pids(server)) == 2 else None)
        server.process.kill()
        server.process.wait()
        until(lambda: not any(alive(pid) for pid in workers))


def test_a_worker_that_dies_young_is_started_again_after_a_while() -> None:
    workers = Workers(work=lambda task: None, count=1, sockets=[], ready=lambda facts: None)
    workers._hear(b'{"adapters": []}\n{"adapters": []}\n')
    slot, pauses = _Slot(), []
    for _ in range(9):
        slot.began = time.monotonic()
        workers._ended(slot, 7, -signal.SIGKILL)
        pauses.append(slot.pause_s)
    assert pauses == [FIRST_PAUSE_S, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert slot.due > time.monotonic() + LONGEST_PAUSE_S / 2
    slot.began = time.monotonic() - HEALTHY_S
    workers._ended(slot, 7, 1)
    assert slot.pause_s == 0


# what is refused before anything is loaded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOGTUNE_ADMIN_TOKEN", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["serve", *arguments]) == 1
    return capsys.readouterr().err


def test_a_taken_port_is_told_before_a_model_is_loaded(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with command.listener("127.0.0.1", 0, "") as taken:
        taken.listen()
        port = taken.getsockname()[1]
        err = refused(capsys, "--port", str(port))
        assert f"cannot listen on 127.0.0.1:{port}" in err
        assert "--port" in err
        err = refused(capsys, "--port", "0", "--set", f"serve.admin_port={port}")
        assert f"cannot listen on 127.0.0.1:{port}" in err
        assert "serve.admin_port" in err
        assert "serve.admin" in err


def test_several_embedded_engines_need_to_be_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "--workers", "3")
    assert "each process would load the model" in err
    assert "serve.embedded_workers" in err
    command.check_workers(build({"serve": {"workers": 3, "embedded_workers": "allow"}}))
    command.check_workers(build({"serve": {"workers": 3}, "model": {"engine": "openai"}}))


def test_a_public_administration_needs_a_token(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = build({"serve": {"admin_host": "0.0.0.0"}}).serve
    assert "LOGTUNE_ADMIN_TOKEN" in refused(capsys, "--set", "serve.admin_host=0.0.0.0")
    monkeypatch.setenv("LOGTUNE_ADMIN_TOKEN", "short")
    with pytest.raises(ConfigError, match="5 characters and needs 16"):
        command.token_of(public)
    monkeypatch.setenv("LOGTUNE_ADMIN_TOKEN", " long-enough-to-be-one ")
    assert command.token_of(public) == "long-enough-to-be-one"
    assert command.token_of(build({"serve": {"admin": "off"}}).serve) == ""


def test_a_public_address_needs_a_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "--host", "0.0.0.0", "--port", "0", "--set", "serve.admin_port=0")
    assert "logtune keys create" in err


# what is said


def lines(*, workers: int = 1, admin: str = "on", token: str = "", adapters: tuple[str, ...] = ()) -> list[str]:
    config = build({
        "model": {"engine": "openai", "url": "https://me:secret@there/v1", "served_name": "big"},
        "store": {"url": "postgresql+psycopg://me:secret@db/logs"},
        "serve": {"port": 0, "admin_port": 0, "admin": admin, "workers": workers},
    })  # fmt: skip
    with command.sockets(config.serve) as (listening, beside):
        serving = command.Serving(Console(False, None), config, listening, beside, token, "2 keys", lambda *_: None)  # type: ignore[arg-type, return-value]
        return [re.sub(r":\d+", ":0", line) for line in serving._lines(adapters)]


def test_the_screen_tells_where_what_and_who_without_secrets() -> None:
    assert lines() == [
        "Serving http://127.0.0.1:0/v1 (Ctrl-C ends it).",
        "  administration  http://127.0.0.1:0 (reading only: no token is set)",
        "  model           big at https://...@there/v1",
        "  adapters        none is deployed: the base model answers",
        "  keys            2 keys",
        "  store           postgresql+psycopg://...@db/logs",
    ]
    more = lines(workers=2, admin="off", adapters=("billing@1", "cards@2"))
    assert more[1] == "  administration  off"
    assert more[3] == "  adapters        billing@1, cards@2"
    assert more[-1] == "  workers         2"
    assert "changes need the token" in lines(token="t" * 16)[1]


def led(home: Path, mode: str, **more: int) -> bool:
    """Whether `serve` starts what leads live tests."""
    url = f"sqlite:///{home / 'logtune.db'}"
    config = build({"experiment": {"mode": mode, **more}, "store": {"url": url, "home": str(home)}})
    serving = command.Serving(Console(False, None), config, None, None, "", "", lambda *_: None)  # type: ignore[arg-type, return-value]
    return serving._leader() is not None


def test_live_tests_that_run_are_led_whatever_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not led(tmp_path, "off")  # it would cost memory for nothing
    assert led(tmp_path, "ab")
    with closing(Store(f"sqlite:///{tmp_path / 'logtune.db'}")) as store:
        begin(store, settings(tmp_path), 1e9)
    for mode in ("off", "shadow", "ab"):
        assert led(tmp_path, mode)
        assert not led(tmp_path, mode, keep_looking=0)
    monkeypatch.setenv(VARIABLE, "1")
    assert not led(tmp_path, "ab")  # the base model answers everything


def test_who_may_ask(home: Path) -> None:
    config = build({"store": {"url": "sqlite:///logtune.db"}})
    say = Console(False, None)
    assert command.check_keys(config, say) == "none: whoever reaches the port may ask"
    with closing(Store("sqlite:///logtune.db")) as store:
        ring = Keyring(store)
        ring.create("a", "default")
        ring.create("b", "other")
        gone, _ = ring.create("c", "third")
        ring.revoke(gone.id)
    assert command.check_keys(config, say) == "2 keys of 2 projects"
    never = build({"store": {"url": "sqlite:///logtune.db"}, "serve": {"keys": "never"}})
    assert command.check_keys(never, say) == "not asked for (serve.keys is never)"


def test_an_address_of_another_machine_is_no_address(home: Path) -> None:
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1"):
        command.listener("192.0.2.1", 0, "hint")
