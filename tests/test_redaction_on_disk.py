"""What users said is nowhere on disk: real processes, every way in, three ways to end, a search through every file."""

import json
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from gateway_kit import WAIT_S, post, serving

from logtune.app.asgi import Receive, Request, Scope, Send
from logtune.edges.pseudonyms import load_key, pseudonym
from logtune.edges.store import Store
from logtune.records import Json

SCRIPT = Path(__file__).parent / "leak_process.py"
CHAT = "/v1/chat/completions"
EMAIL, PHONE, CARD = "zelda.quux@example.org", "+44 7700 900942", "4539 5787 6362 1486"
SAID = (
    f"I am {EMAIL}, {PHONE}, card {CARD}, iban DE89 3704 0044 0532 0130 00, at 203.0.113.77, key sk-proj-Zq7"
    + "Zq7" * 12 + ' and password = "correct-horse-9"'
)  # fmt: skip
# Parts of it that nothing else has; what is cut in half must not stay either.
# Four digits would do too, were it not that ids and times are full of them.
TRACES = (
    "zelda", "quux", "0 900942", "4539 5787", "5787 6362", "6362 1486", "3704 0044", "0044 0532", "0.113.77", "Zq7Zq7",
    "correct-horse",
)  # fmt: skip


@dataclass
class Echo:
    """A model server that repeats what it was told, in the way that the model's name asks for."""

    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request.of(scope, receive)
        if request.path != CHAT:
            await reply(send, 200, b'{"data": []}')
            return
        body = await request.body(1 << 26)
        self.bodies.append(body)
        given = json.loads(body)
        said = str(given["messages"][-1]["content"])
        way = str(given.get("metadata", {}).get("way"))
        if given.get("stream"):
            await self._stream(send, said, way)
        elif way == "refuse":
            await reply(send, 400, json.dumps({"error": {"message": said.replace("@", "\u0040")}}).encode())
        elif way == "escape":
            await reply(send, 500, json.dumps({"error": said}).replace("@", "\\u0040").encode())
        elif way == "html":
            await reply(send, 200, f"<html>{said}</html>".encode(), b"text/html")
        else:
            await reply(send, 200, json.dumps(whole(said)).encode())

    async def _stream(self, send: Send, said: str, way: str) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for start in range(0, len(said), 3):
            piece = said[start : start + 3]
            call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": json.dumps(piece)[1:-1]}}
            delta = {"content": piece, "reasoning_content": piece, "tool_calls": [call]}
            tokens = {"content": [{"token": piece, "bytes": list(piece.encode()), "top_logprobs": []}]}
            choice = {"index": 0, "delta": delta, "logprobs": tokens, "finish_reason": None}
            await send(event({"id": "chatcmpl-up", "choices": [choice]}))
        if way == "garbage":
            await send({"type": "http.response.body", "body": f"data: {{{said}\n\n".encode(), "more_body": True})
        if way == "error":
            await send(event({"error": {"message": said}}))
        if way == "die":
            raise ConnectionResetError("the model server dies")
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def event(value: Json) -> dict[str, object]:
    return {"type": "http.response.body", "body": b"data: " + json.dumps(value).encode() + b"\n\n", "more_body": True}


def whole(said: str) -> dict[str, Json]:
    message: Json = {"role": "assistant", "content": said, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": said, said: 1})}}
    ]}  # fmt: skip
    tokens: Json = {"content": [{"token": word, "logprob": 0.0} for word in said.split()]}
    choice: Json = {"index": 0, "message": message, "logprobs": tokens, "finish_reason": "stop"}
    return {"id": "chatcmpl-up", "model": "big", "choices": [choice], "system_fingerprint": said}


async def reply(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Run:
    """A gateway process in a folder of its own."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def chat(self, body: Json, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return post(self.url, CHAT, json.dumps(body).encode(), **headers)

    def end(self, sent: signal.Signals) -> None:
        self.process.send_signal(sent)
        self.process.wait(WAIT_S)

    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder}/logtune.db")


@contextmanager
def running(folder: Path, url: str, redact: Json) -> Iterator[Run]:
    folder.mkdir(exist_ok=True)
    with (folder / "stderr.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(SCRIPT), str(folder), url, json.dumps(redact)], cwd=folder,
            stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=allow_core_dumps,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            started = process.stdout.readline()
            assert started, (folder / "stderr.log").read_text()
            yield Run(process, json.loads(started)["url"], folder)
        finally:
            process.kill()
            process.communicate()


def allow_core_dumps() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


def say_it_everywhere(run: Run) -> None:
    """Every way in which words of a user reach the gateway."""
    user: Json = {"role": "user", "content": SAID}
    parts: Json = [
        {"type": "text", "text": SAID},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ"}},
    ]
    base: dict[str, Json] = {"model": "big", "messages": [user], "user": EMAIL}
    headers = {"x-session-id": PHONE, "x-openwebui-user-email": EMAIL, "cookie": SAID, "x-request-id": EMAIL,
               "traceparent": EMAIL, "helicone-session-id": EMAIL}  # fmt: skip
    tool: Json = {"type": "function", "function": {"name": "f", "description": SAID, "parameters": {"enum": [SAID]}}}
    answer = run.chat({**base, "tools": [tool], "metadata": {"user_id": EMAIL, SAID: SAID}, SAID: SAID}, **headers)
    assert answer[0] == 200
    run.chat({**base, "messages": [{"role": "system", "content": SAID}, {"role": "user", "content": parts}]})
    run.chat({**base, "messages": [{"role": "tool", "content": json.dumps({"x": SAID})}, {"role": SAID}, SAID, user]})
    for way in ("refuse", "escape", "html", "plain", "die", "garbage", "error"):
        for stream in (False, True):
            try:
                run.chat({**base, "stream": stream, "logprobs": True, "metadata": {"way": way}})
            except OSError:
                assert way == "die"
    run.chat({**base, "model": EMAIL, "messages": [user, {"role": "user", "content": f"BUG {SAID}"}]})
    run.chat({**base, "stream": True, "messages": [{"role": "user", "content": f"BUG {SAID}"}]})
    odd_bodies = (json.dumps(base)[:-5], f'"{SAID}"', f'{{"model": ["{EMAIL}"]}}', json.dumps(base) + "\udc80", SAID)
    for body in odd_bodies:
        assert post(run.url, CHAT, body.encode("utf-8", "surrogateescape"))[0] >= 400
    for path in (
        f"/{quote(SAID)}",
        f"/v1/models/{quote(SAID)}",
        f"/v1/models?api_key={quote(SAID)}",
        f"{CHAT}/{EMAIL}",
    ):
        post(run.url, path, b"", "GET")
    raw_bytes(run.url, f"GET {SAID} HTTP/9.9\r\n\r\n")
    raw_bytes(run.url, f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n{json.dumps(base)}")
    feedback(run, answer[1]["x-logtune-interaction"])


def feedback(run: Run, record: str) -> None:
    for body in (
        {"target": record, "comment": SAID, "id": EMAIL, "user": EMAIL}, {"target": EMAIL, "correction": SAID},
        {"session": PHONE, "rating": "up"}, {"user": EMAIL, "rating": "up"}, {"target": record, "rating": SAID},
        {"target": record, "source": SAID[:200], "name": EMAIL, "supersedes": EMAIL, "rating": 1,
         "metadata": {SAID: SAID}},
        {SAID: 1},
    ):  # fmt: skip
        post(run.url, "/v1/feedback", json.dumps(body).encode(), **{"x-user-id": EMAIL})


def raw_bytes(url: str, text: str) -> None:
    with socket.create_connection((str(urlsplit(url).hostname), urlsplit(url).port or 0), WAIT_S) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def leaks(folder: Path) -> list[str]:
    """What is found of it, and in which files; escapes are read too."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for trace in TRACES:
            forms = {trace, quote(trace), trace.replace(" ", "+")}
            found += [f"{path.name}: {form}" for form in forms if form.encode() in content]
    return found


ALL: Json = {}
NOTHING: Json = {"kinds": [], "files": "keep"}


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Echo, str]]:
    app = Echo()
    with serving(app) as url:
        yield app, f"{url}/v1"


def test_nothing_of_what_was_said_is_on_disk_after_a_life_in_order(echo: tuple[Echo, str], tmp_path: Path) -> None:
    server, url = echo
    with running(tmp_path / "home", url, ALL) as run:
        say_it_everywhere(run)
        assert leaks(run.folder) == []
        run.end(signal.SIGTERM)
        assert run.process.returncode == 0
    assert leaks(run.folder) == []
    store = run.store()
    records, said = list(store.logs()), list(store.feedback())
    store.close()
    assert len(records) > 15
    assert any(SAID.encode() in json.loads(body)["messages"][-1]["content"].encode() for body in server.bodies[:1])
    assert {record.user for record in records} == {pseudonym(load_key(run.folder), EMAIL)}
    assert pseudonym(load_key(run.folder), PHONE) in {record.session for record in records}
    assert {item.target for item in said if item.target_kind == "user"} == {records[0].user}
    assert any("[card]" in json.dumps(dict(record.response or {})) for record in records)


def test_the_model_reads_the_bytes_as_they_came(echo: tuple[Echo, str], tmp_path: Path) -> None:
    server, url = echo
    body = json.dumps(
        {"model": "big", "messages": [{"role": "user", "content": SAID}], "user": EMAIL}, indent=3
    ).encode()
    with running(tmp_path / "home", url, ALL) as run:
        status, _, answer = post(run.url, CHAT, body)
    assert (status, server.bodies[-1]) == (200, body)
    assert json.loads(answer)["choices"][0]["message"]["content"] == SAID


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGABRT])
def test_nothing_of_what_was_said_is_on_disk_after_a_crash(
    echo: tuple[Echo, str], tmp_path: Path, sent: signal.Signals
) -> None:
    with running(tmp_path / "home", echo[1], ALL) as run:
        run.chat({"model": "big", "messages": [{"role": "user", "content": SAID}], "user": EMAIL})
        with sqlite3.connect(run.folder / "logtune.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")  # records go to the spool
            run.chat({"model": "big", "messages": [{"role": "user", "content": SAID}], "user": EMAIL})
            feedback(run, EMAIL)
            run.end(sent)
        other.close()
    assert any(path.stat().st_size for path in (run.folder / "spool").glob("*.spool"))
    assert not list(run.folder.glob("core*"))
    assert leaks(run.folder) == []


def test_the_search_finds_what_is_not_redacted(echo: tuple[Echo, str], tmp_path: Path) -> None:
    with running(tmp_path / "home", echo[1], NOTHING) as run:
        run.chat({"model": "big", "messages": [{"role": "user", "content": SAID}], "user": EMAIL})
        run.end(signal.SIGTERM)
    assert {found.rpartition(": ")[2] for found in leaks(run.folder)} >= set(TRACES)
    store = run.store()
    assert [record.user for record in store.logs()] == [EMAIL]
    store.close()
