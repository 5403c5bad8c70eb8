"""The demo's path: its parts with fakes in a second, the whole with the embedded model (slow)."""

import asyncio
from contextlib import nullcontext
from pathlib import Path

import aiohttp
import pytest

from logtune.app import demo, demo_sample
from logtune.app.asgi import Receive, Scope, Send
from logtune.errors import InputError, ModelError
from logtune.ports import ChatCall
from logtune.testing import ScriptedChat

ROWS = demo_sample.load()
LOG = [row for row in ROWS if not row.held_out]


def silent(line: str) -> None:
    """No progress."""


async def test_a_week_of_logs_from_what_the_model_really_said() -> None:
    chat = ScriptedChat("I am sorry for your loss.")
    logs, feedback = await demo.collect(chat, LOG, 1000.0, silent)
    again = [row for row in LOG if row.reaction == "reask"]
    assert len(logs) == len(LOG) + len(again) == len(chat.calls)
    assert {call.max_tokens for call in chat.calls} == {demo_sample.MAX_TOKENS}
    spoken = {row.id for row in LOG if row.reaction not in ("silence", "reask")}
    assert {item.target for item in feedback} == spoken
    assert all(1000.0 <= log.at < 1000.0 + demo.WEEK_S + demo.AGAIN_S for log in logs)
    assert all(log.source == "demo" and log.adapter is None for log in logs)


async def test_a_right_answer_is_not_corrected() -> None:
    topics = {row.text: row.topic for row in LOG if row.topic}

    def knows(call: ChatCall) -> str:
        return topics.get(call.messages[-1].content, "no idea")

    logs, feedback = await demo.collect(ScriptedChat(knows), LOG, 1000.0, silent)
    noise = {row.id for row in LOG if row.noise or row.wrong}
    assert len(logs) == len(LOG)
    assert all(item.value == 1.0 for item in feedback if item.target not in noise)


async def test_one_failure_ends_the_counting() -> None:
    with pytest.raises(ModelError, match="out of memory"):
        await demo.ask(ScriptedChat(["a", ModelError("out of memory")]), [demo_sample.question("x")] * 2, silent)


def test_settings_live_in_the_demos_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "a folder"
    config = demo.prepare(home, {"train.epochs": 1})
    assert config.train.epochs == 1
    assert config.store.url == f"sqlite:///{home / 'demo.db'}"
    assert config.store.home == str(home / "state")


def test_a_second_run_starts_anew_and_keeps_the_converted_model(tmp_path: Path) -> None:
    config = demo.prepare(tmp_path, {})
    adapters, model = Path(config.store.home, "adapters", "old"), Path(config.store.home, "models", "base")
    for folder in (adapters, model):
        folder.mkdir(parents=True)
    for name in ("demo.db", "demo.db-wal", "report.html", "notes.txt"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    assert demo.prepare(tmp_path, {}) == config
    assert {path.name for path in tmp_path.iterdir()} == {"logtune.toml", "state", "notes.txt"}
    assert model.exists()
    assert not adapters.exists()


def test_somebody_elses_settings_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "logtune.toml"
    file.write_text("[store]\n", encoding="utf-8")
    with pytest.raises(InputError, match="not written by the demo"):
        demo.prepare(tmp_path, {})
    assert file.read_text(encoding="utf-8") == "[store]\n"


class Echo:
    """An ASGI app that remembers its life."""

    def __init__(self, breaks: bool = False) -> None:
        self.life: list[str] = []
        self.breaks = breaks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "lifespan":
            self.life.append(str((await receive())["type"]))
            ends = "failed" if self.breaks else "complete"
            await send({"type": f"{self.life[-1]}.{ends}"})
            if self.life[-1] == "lifespan.shutdown" or self.breaks:
                return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


@pytest.mark.parametrize("problem", [None, asyncio.CancelledError, ModelError])
async def test_the_gateway_listens_on_loopback_and_is_shut_down_whatever_happens(problem: type | None) -> None:
    app = Echo()
    with pytest.raises(problem) if problem else nullcontext():
        async with demo.listening(app) as url, aiohttp.ClientSession() as client:
            assert url.startswith("http://127.0.0.1:")
            async with client.get(url) as reply:
                assert await reply.text() == "here"
            if problem:
                raise problem("stop")
    assert app.life == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_gateway_that_cannot_start_is_a_known_error() -> None:
    with pytest.raises(ModelError, match="did not start"):
        async with demo.listening(Echo(breaks=True)):
            pass
