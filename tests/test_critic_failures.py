"""A critic that fails in serving costs the client nothing: the draft answers, and its own refusals pass."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_kit import WAIT_S, Kit, ScriptedEngine, adapter_for, cluster_of, deployed, gateway, post
from openai import OpenAI
from test_passthrough import STREAMED, Asked, Chain, Script, chunk, completion, recording, whole

from logtune.edges.sse import StreamAssembler
from logtune.edges.upstream import EmbeddedBackend, HttpBackend
from logtune.errors import RequestError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Adapter
from logtune.testing import MemoryAdapterServer

LATE = "where is my late parcel"
CRITIC: Adapter = adapter_for(cluster_of("late_parcel", LATE), kind="critic")
DRAFT, REVISED = completion(), completion('{"role": "assistant", "content": "better"}')
TOO_LONG = whole(b'{"error": {"message": "the context is too long", "code": 400}}', "400 Bad Request")
CUT = whole(DRAFT)[:-9]


def step(asked: Asked) -> str:
    """Which of the three calls it is."""
    body = json.loads(asked.body)
    if body["model"] == CRITIC.path:
        return "critic"
    return "draft" if body["messages"][-1]["content"] == LATE else "revise"


def steps(**answers: bytes) -> Script:
    """Answers each call with these bytes; after CUT the connection breaks off."""
    given = {"draft": whole(DRAFT, x_request_id="r-1"), "critic": whole(completion()), "revise": whole(REVISED)}

    def script(connection: socket.socket, asked: Asked) -> bool:
        answer = (given | answers)[step(asked)]
        connection.sendall(answer)
        return answer is not CUT

    return script


@contextmanager
def reviewed(folder: Path, script: Script) -> Iterator[Chain]:
    """A gateway whose one cluster a critic serves."""
    with (
        recording(script) as recorder,
        gateway(folder, backend=HttpBackend(recorder.url)) as kit,
    ):
        serve_critic(kit)
        recorder.asked.clear()
        yield Chain(kit, recorder)


def serve_critic(kit: Kit) -> None:
    deployed(kit.store, cluster_of("late_parcel", LATE), CRITIC, at=1.0)
    end = time.monotonic() + WAIT_S
    while not serves(kit):
        assert time.monotonic() < end, kit.gateway.lanes()["default"].router.table.problems()
        time.sleep(0.01)


def serves(kit: Kit) -> bool:
    return CRITIC.path in kit.gateway.lanes()["default"].router.table.live()


def body(**more: object) -> bytes:
    return json.dumps({"model": "base", "messages": [{"role": "user", "content": LATE}], **more}).encode()


FAILURES = {
    "a gateway timeout": ({"critic": whole(b"", "504 Gateway Timeout")}, 2, "the critic failed: the model server"),
    "a critic's prompt that is too long": ({"critic": TOO_LONG}, 2, "the model server answered 400"),
    "a critic that breaks off": ({"critic": CUT}, 2, "the critic failed: the model server failed"),
    "a critic that says no JSON": ({"critic": whole(b"<html>")}, 2, "the critic failed: the model server answered 200"),
    "a revision that is too long": ({"revise": TOO_LONG}, 3, "the revision failed: the model server answered 400"),
    "a revision that takes too long": ({"revise": whole(b"", "504 Gateway Timeout")}, 3, "the revision failed"),
    "a model that is gone by then": ({"revise": whole(b"", "404 Not Found")}, 3, "the revision failed"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_when_the_critic_s_way_breaks_off_the_draft_answers(tmp_path: Path, name: str) -> None:
    answers, calls, reason = FAILURES[name]
    with reviewed(tmp_path, steps(**answers)) as chain:
        status, headers, answer = chain.post(body())
        record = chain.record(headers)
        assert (status, answer) == (200, DRAFT)
        assert len(chain.recorder.asked) == calls
        assert serves(chain.kit)
    assert (headers["x-request-id"], headers["x-logtune-adapter"]) == ("r-1", "base")
    assert (record.adapter, record.arm, record.model, record.error) == (None, "candidate", "base", None)
    assert reason in record.route_reason
    assert "too long" not in record.route_reason  # a server's own words may repeat the user's
    assert "draft" not in record.usage
    assert record.usage["total_tokens"] == 4 * (calls - 1)


def test_a_draft_is_streamed_to_a_client_that_asked_for_a_stream(tmp_path: Path) -> None:
    with reviewed(tmp_path, steps(critic=TOO_LONG)) as chain, OpenAI(base_url=chain.kit.v1, api_key="x") as api:
        messages = [{"role": "user", "content": LATE}]
        found = list(api.chat.completions.create(
            model="base", messages=messages, stream=True, stream_options={"include_usage": True},
        ))  # fmt: skip
        status, headers, raw = chain.post(body(stream=True))
        record = chain.record(headers)
        assert [step(asked) for asked in chain.recorder.asked] == 2 * ["draft", "critic"]
    assert "".join(part.choices[0].delta.content or "" for part in found if part.choices) == "hello"
    assert [part.choices[0].finish_reason for part in found if part.choices] == [None, "stop"]
    assert found[-1].usage.total_tokens == 4
    assert found[-1].choices == []
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assembled = StreamAssembler()
    assembled.feed(raw)
    assert assembled.problem() is None
    assert assembled.done
    assert record.response["choices"][0]["message"]["content"] == "hello"
    assert (record.error, record.adapter) == (None, None)


def test_several_choices_are_asked_of_the_base_model(tmp_path: Path) -> None:
    with reviewed(tmp_path, steps(critic=TOO_LONG)) as chain:
        status, headers, _ = chain.post(body(n=2))
        asked = [json.loads(asked.body).get("n") for asked in chain.recorder.asked]
        record = chain.record(headers)
    assert (status, asked) == (200, [1, 1, 2])
    assert record.usage["calls"] == 2
    assert "draft" not in record.usage


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_base_model_refuses_to_draft_passes_as_it_came(tmp_path: Path, streamed: bool) -> None:
    busy = b'{"error":{"message":"slow down","odd":true}}'
    refused = whole(busy, "429 Too Many Requests", retry_after="7")
    with reviewed(tmp_path, steps(draft=refused)) as chain:
        status, headers, answer = chain.post(body(stream=streamed))
        record = chain.record(headers)
        assert len(chain.recorder.asked) == 1
    assert (status, answer, headers["retry-after"]) == (429, busy, "7")
    assert (record.adapter, record.route_reason) == (None, "the base model gave no draft")
    assert "slow down" in record.error


def test_a_model_server_that_is_gone_is_told_as_without_a_critic(tmp_path: Path) -> None:
    with reviewed(tmp_path, steps(draft=CUT)) as chain:
        status, headers, answer = chain.post(body())
        record = chain.record(headers)
    assert (status, json.loads(answer)["error"]["code"]) == (502, "upstream_error")
    assert record.adapter is None


def test_a_revision_is_streamed_as_before(tmp_path: Path) -> None:
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"better"},"finish_reason":"stop"}]}\n\n'
    stream = STREAMED + chunk(event) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    with reviewed(tmp_path, steps(revise=stream)) as chain:
        status, headers, answer = chain.post(body(stream=True))
    assert (status, answer) == (200, event + b"data: [DONE]\n\n")
    assert headers["x-logtune-adapter"] == CRITIC.id


def test_a_server_that_has_lost_the_critic_s_adapter_loads_it_again(tmp_path: Path) -> None:
    gone = whole(b'{"error":{"message":"no such model"}}', "404 Not Found")
    with reviewed(tmp_path, steps(critic=gone)) as chain:
        status, headers, answer = chain.post(body())
        record = chain.record(headers)
    assert (status, answer) == (200, DRAFT)
    assert record.route_reason == f"the model server has lost {CRITIC.id}"


class NoCritic(ScriptedEngine):
    """An engine whose critic fails."""

    async def complete(self, call: ChatCall) -> ChatReply:
        if call.model == CRITIC.path:
            raise RequestError("the engine fell over", 500)
        return await super().complete(call)


def test_the_embedded_engine_s_critic_may_fail_too(tmp_path: Path) -> None:
    server = MemoryAdapterServer()
    with gateway(tmp_path, backend=EmbeddedBackend(NoCritic(server)), server=server) as kit:
        serve_critic(kit)
        status, headers, answer = post(kit.url, "/v1/chat/completions", body())
        record = kit.store.record(headers["x-logtune-interaction"])
    assert (status, json.loads(answer)["choices"][0]["message"]["content"]) == (200, f"base: {LATE}")
    assert record.route_reason == "the critic failed: the engine fell over"
