"""The gateway benchmark's own parts: its load is an open loop, its mock speaks OpenAI's HTTP, its rows add up."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from gateway_bench import added
from gateway_load import Load, Result, Spec, payload, question
from gateway_mock import WORDS, Connection, Server

TEXTS = ["where is my card?", "what is the rate?"]


@asynccontextmanager
async def mock() -> AsyncIterator[tuple[Server, int]]:
    server = Server(0.0, 0.0)
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0)
    yield server, listening.sockets[0].getsockname()[1]
    listening.close()


async def load(spec: Spec) -> Result:
    return await Load(spec, [payload(spec, TEXTS, number) for number in range(spec.count)]).run()


@pytest.mark.parametrize("stream", ["none", "all", "half"])
@pytest.mark.parametrize("rate", [0.0, 2000.0])
async def test_every_answer_of_a_phase_is_timed(stream: str, rate: float) -> None:
    async with mock() as (server, port):
        result = await load(Spec(port=port, texts="", rate=rate, count=40, stream=stream))
    assert (result.answered, server.answered, result.errors) == (40, 40, {})
    assert len(result.latencies_ms) == 40
    assert len(result.first_ms) == {"none": 0, "all": 40, "half": 20}[stream]
    assert all(latency > 0 for latency in result.latencies_ms)


async def test_an_unknown_model_is_an_error_of_the_phase() -> None:
    async with mock() as (server, port):
        result = await load(Spec(port=port, texts="", rate=0.0, count=3, model="gone"))
    assert (result.answered, server.failures) == (0, 3)
    assert result.errors == {"http/1.1 404 not found": 3}


async def test_nobody_there_at_the_start_ends_the_phase() -> None:
    async with mock() as (_, port):
        pass
    with pytest.raises(OSError, match="Connect call failed"):
        await load(Spec(port=port, texts="", rate=1000.0, count=3))


def test_no_question_is_asked_twice() -> None:
    asked = [question(TEXTS, number) for number in range(2000)]
    assert len(set(asked)) == 2000


def test_a_request_is_a_whole_chat() -> None:
    spec = Spec(port=1, texts="", rate=1.0, count=1, stream="all", key="k")
    head, body = payload(spec, TEXTS, 1).split(b"\r\n\r\n")
    chat = json.loads(body)
    assert f"content-length: {len(body)}".encode() in head
    assert b"authorization: Bearer k" in head
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "user"]
    assert (chat["stream"], chat["messages"][-1]["content"]) == (True, TEXTS[1])
    assert len(WORDS) > 300


def test_what_is_added_is_the_median_of_the_rounds() -> None:
    rows = [
        {"phase": "json", "rate": 500.0, "target": target, "latency_p50_ms": value}
        for target, values in {"upstream": (10.0, 10.0, 10.5), "gateway": (11.0, 30.0, 11.0)}.items()
        for value in values
    ]
    found = added(rows, "json", 500, "latency_p50_ms")
    assert found == {"median": 1.0, "rounds": [1.0, 20.0, 0.5]}
