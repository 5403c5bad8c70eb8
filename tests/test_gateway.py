import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from gateway_kit import (
    BrokenEmbedder,
    Kit,
    OddBackend,
    adapter_for,
    cluster_of,
    deploy_expert,
    deployed,
    gateway,
    post,
    until_stored,
)  # fmt: skip
from openai import AsyncOpenAI, OpenAI

from logtune.app.journal import Journal
from logtune.edges.spool_files import SPOOL, waiting
from logtune.edges.store import Store
from logtune.records import Adapter, LogRecord, Message
from logtune.stages.answer import answer
from logtune.testing import MemoryAdapterServer, WordEmbedder

LATE, REFUND = "where is my late parcel", "when do I get my refund"
DEPLOYED = [("late_parcel", LATE), ("refund_status", REFUND)]


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with gateway(tmp_path) as running:
        yield running


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Kit]:
    with gateway(tmp_path, deploy=DEPLOYED) as running:
        yield running


def client(kit: Kit) -> OpenAI:
    return OpenAI(base_url=kit.v1, api_key="none", max_retries=0, timeout=30)


def ask(kit: Kit, text: str, model: str = "base", **more: object) -> tuple[str, dict[str, str]]:
    """The answer and the headers that start with x-logtune."""
    with client(kit) as api:
        raw = api.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            **more,
        )
    headers = {name: value for name, value in raw.headers.items() if name.startswith("x-logtune-")}
    return str(raw.parse().choices[0].message.content), headers


def adapter_of(kit: Kit, cluster: str) -> Adapter:
    """What serves a cluster."""
    (adapter,) = kit.store.load(Adapter, [str(kit.store.deployments()[cluster].adapter_id)])
    return adapter


# answers


def test_a_call_of_the_official_client_is_answered_and_logged(kit: Kit) -> None:
    with client(kit) as api:
        answer = api.chat.completions.create(
            model="base", user="u1", metadata={"session_id": "s1"}, temperature=0,
            messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello there"}],
        )  # fmt: skip
    assert answer.choices[0].message.content == "base: hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 3)
    (record,) = kit.logs()
    assert answer.id == f"chatcmpl-{record.id}"
    assert record.response == answer.model_dump(exclude_unset=True)
    assert record.request["temperature"] == 0
    assert (record.user, record.user_source) == ("u1", "body.user")
    assert (record.session, record.session_source) == ("s1", "metadata.session_id")
    assert record.usage == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    assert record.error is None
    assert record.latency_ms is not None
    assert record.route_reason == "nothing is deployed"


def test_the_answer_names_its_interaction_and_what_answered(kit: Kit) -> None:
    _, headers = ask(kit, "hello")
    (record,) = kit.logs()
    assert headers["x-logtune-interaction"] == record.id
    assert headers["x-logtune-cluster"] == "none"
    assert headers["x-logtune-arm"] == "none"
    assert headers["x-logtune-adapter"] == "base"
    assert float(headers["x-logtune-overhead-ms"]) >= 0


def test_a_stream_gives_every_word_and_its_record_is_put_together(kit: Kit) -> None:
    with client(kit) as api:
        chunks = list(
            api.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "one two three"}], stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "base: one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    (record,) = kit.logs()
    assert record.response is not None
    assert record.response["choices"][0]["message"]["content"] == "base: one two three"
    assert record.response["choices"][0]["finish_reason"] == "stop"
    assert record.response["id"] == chunks[0].id == f"chatcmpl-{record.id}"
    assert record.usage["total_tokens"] == 7
    assert record.error is None


def test_a_stream_ends_with_done(kit: Kit) -> None:
    body = {"model": "base", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    status, headers, sent = post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-logtune-interaction"] == kit.logs()[0].id
    assert sent.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("first", ["disk", "store"])
def test_the_record_is_safe_before_the_end_of_the_stream_leaves(tmp_path: Path, first: str) -> None:
    messages = [{"role": "user", "content": "a b c"}]
    with gateway(tmp_path, record_first=first) as kit, client(kit) as api:
        if first == "disk":
            kit.store.slow.clear()  # so no commit comes in between
        with api.chat.completions.create(model="base", messages=messages, stream=True) as stream:
            assert "data: [DONE]" in stream.response.iter_lines()
            kept = waiting(tmp_path / SPOOL).records, kit.store.count(LogRecord)
            kit.store.slow.set()
        assert kept == ((1, 0) if first == "disk" else (0, 1))


async def test_32_clients_at_once_each_get_their_own_answer(kit: Kit) -> None:
    async with AsyncOpenAI(base_url=kit.v1, api_key="none", max_retries=0, timeout=60) as api:

        async def one(number: int) -> tuple[str, str]:
            messages = [{"role": "user", "content": f"number {number}"}]
            if number % 2:
                answer = await api.chat.completions.create(model="base", messages=messages)
                return answer.id, str(answer.choices[0].message.content)
            text, answer_id = "", ""
            async for chunk in await api.chat.completions.create(model="base", messages=messages, stream=True):
                text, answer_id = text + (chunk.choices[0].delta.content or ""), chunk.id
            return answer_id, text

        answers = await asyncio.gather(*map(one, range(32)))
    assert [text for _, text in answers] == [f"base: number {number}" for number in range(32)]
    assert {answer_id for answer_id, _ in answers} == {f"chatcmpl-{record.id}" for record in kit.logs()}


def test_several_choices_and_multi_part_text(kit: Kit) -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]
    with client(kit) as api:
        answer = api.chat.completions.create(
            model="base",
            n=3,
            seed=5,
            messages=[{"role": "user", "content": parts}],
        )
        chunks = list(api.chat.completions.create(
            model="base", n=2, stream=True, messages=[{"role": "user", "content": "hi there"}]
        ))  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"base: hi there"}
    assert [call.seed for call in kit.engine.calls[:3]] == [5, 6, 7]
    for index in (0, 1):
        pieces = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert "".join(piece.delta.content or "" for piece in pieces) == "base: hi there"
        assert pieces[-1].finish_reason == "stop"


# routing


def test_a_request_goes_to_the_adapter_of_its_cluster(routed: Kit) -> None:
    adapter = adapter_of(routed, "late_parcel")
    text, headers = ask(routed, LATE)
    assert text == f"{adapter.path}: {LATE}"
    assert headers["x-logtune-adapter"] == adapter.id
    assert headers["x-logtune-cluster"] == "late_parcel"
    (record,) = routed.logs()
    assert (record.adapter, record.cluster, record.model) == (adapter.id, "late_parcel", adapter.path)
    assert record.route_reason == "deployed for late_parcel"
    assert ask(routed, REFUND)[0].startswith("refund_status-expert@2:")


def test_a_request_out_of_distribution_goes_to_the_base_model(routed: Kit) -> None:
    text, headers = ask(routed, "bake bread without yeast")
    assert text == "base: bake bread without yeast"
    assert headers["x-logtune-cluster"] == "none"
    (record,) = routed.logs()
    assert (record.adapter, record.cluster, record.route_reason) == (None, None, "out of distribution")


def test_streams_are_routed_too(routed: Kit) -> None:
    with client(routed) as api:
        chunks = list(api.chat.completions.create(
            model="base", messages=[{"role": "user", "content": LATE}], stream=True
        ))  # fmt: skip
    assert chunks[0].model == adapter_of(routed, "late_parcel").path
    assert routed.logs()[0].adapter == adapter_of(routed, "late_parcel").id


def test_an_adapter_may_be_asked_for_by_its_name_or_id(routed: Kit) -> None:
    adapter = adapter_of(routed, "refund_status")
    for model in (adapter.id, adapter.path):
        text, headers = ask(routed, LATE, model=model)
        assert text.startswith(adapter.path)
        assert headers["x-logtune-adapter"] == adapter.id
    for record in routed.logs():
        assert (record.adapter, record.cluster) == (adapter.id, None)
        assert record.route_reason == "the request names its model"


async def test_a_critic_serves_as_the_gate_measured_it(tmp_path: Path) -> None:
    cluster = cluster_of("late_parcel", LATE)
    critic = adapter_for(cluster, kind="critic")
    with gateway(tmp_path) as kit:
        deployed(kit.store, cluster, critic, at=1.0)
        wait_for(kit, LATE, lambda text: "critic@2" in text)
        text, headers = ask(kit, LATE, max_tokens=500)
        with client(kit) as api:
            chunks = list(api.chat.completions.create(
                model="base", messages=[{"role": "user", "content": LATE}], stream=True, max_tokens=500,
                stream_options={"include_usage": True},
            ))  # fmt: skip
        expected = await answer(kit.engine, "critic", critic.path, [Message(role="user", content=LATE)], 500)
        record = kit.store.record(headers["x-logtune-interaction"])
    assert text == expected
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert headers["x-logtune-adapter"] == critic.id == record.adapter
    assert record.request["messages"] == [{"role": "user", "content": LATE}]


def conversation() -> list[dict[str, str]]:
    said = ["Hello", "Hi!", LATE]
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said, strict=True)]


def test_what_three_calls_take_is_recorded_beside_the_one_call_of_the_draft(tmp_path: Path) -> None:
    cluster = cluster_of("late_parcel", LATE)
    with gateway(tmp_path) as kit:
        deployed(kit.store, cluster, adapter_for(cluster, kind="critic"), at=1.0)
        wait_for(kit, LATE, lambda text: "critic@2" in text)
        kit.engine.calls.clear()
        with client(kit) as api:
            whole = api.chat.completions.with_raw_response.create(model="base", messages=conversation())
            list(api.chat.completions.create(model="base", messages=conversation(), stream=True))
        draft, critic, revised = kit.engine.calls[:3]
        record = kit.store.record(whole.headers["x-logtune-interaction"])
        *_, streamed = kit.logs()
    assert whole.headers["x-logtune-calls"] == "3"
    assert [call.model for call in (draft, critic, revised)] == ["base", "late_parcel-critic@2", "base"]
    assert revised.messages[:2] == draft.messages[:2]  # the conversation before the query is kept, as in the gate
    words = [sum(len(m.content.split()) for m in call.messages) for call in (draft, critic, revised)]
    assert record.usage["prompt_tokens"] == sum(words)
    assert record.usage["calls"] == 3
    assert record.usage["draft"]["prompt_tokens"] == words[0]
    assert 0 < record.usage["draft"]["latency_ms"] < record.latency_ms
    assert whole.parse().usage.prompt_tokens == words[2]
    assert (streamed.usage["calls"], streamed.usage["uncounted"]) == (3, 1)
    assert streamed.usage["prompt_tokens"] == sum(words[:2])


def test_one_call_is_recorded_as_the_model_server_counts_it(routed: Kit) -> None:
    _, headers = ask(routed, LATE)
    assert "x-logtune-calls" not in headers
    assert "calls" not in routed.store.record(headers["x-logtune-interaction"]).usage


def test_a_critic_leaves_alone_what_it_was_not_made_for(tmp_path: Path) -> None:
    cluster = cluster_of("late_parcel", LATE)
    with gateway(tmp_path) as kit:
        deployed(kit.store, cluster, adapter_for(cluster, kind="critic"), at=1.0)
        wait_for(kit, LATE, lambda text: "critic@2" in text)
        with client(kit) as api:
            api.chat.completions.create(model="base", messages=[
                {"role": "user", "content": LATE}, {"role": "assistant", "content": "so"},
            ])  # fmt: skip
        *_, record = kit.logs()
    assert (record.adapter, record.route_reason) == (None, "a critic reviews plain text alone")


def test_models_lists_the_base_model_and_the_adapters_with_their_parent(routed: Kit) -> None:
    adapters = {adapter_of(routed, name).path for name, _ in DEPLOYED}
    with client(routed) as api:
        rows = {row.id: row.model_dump() for row in api.models.list()}
        assert set(rows) == {"base", *adapters}
        assert rows["base"]["parent"] is None
        assert {rows[name]["parent"] for name in adapters} == {"base"}
        assert api.models.retrieve("base").id == "base"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            api.models.retrieve("gpt-9")


def test_an_adapter_that_does_not_load_leaves_its_cluster_to_the_base_model(tmp_path: Path) -> None:
    broken = adapter_for(cluster_of("late_parcel", LATE)).path
    with gateway(tmp_path, deploy=DEPLOYED, server=MemoryAdapterServer(broken=[broken])) as kit:
        assert ask(kit, LATE)[0] == f"base: {LATE}"
        assert ask(kit, REFUND)[0].startswith("refund_status-expert@2")
        record = kit.logs()[0]
        listed = json.loads(get(kit, "/v1/models")[2])["data"]
    assert (record.adapter, record.cluster) == (None, "late_parcel")
    assert "could not be loaded" in record.route_reason
    assert broken not in {row["id"] for row in listed}


def test_an_embedder_that_fails_sends_everything_to_the_base_model(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=DEPLOYED, embedder=BrokenEmbedder()) as kit:
        assert ask(kit, LATE)[0] == f"base: {LATE}"
        assert kit.logs()[0].route_reason == "routing failed: RuntimeError: no vectors today"


def test_vectors_of_another_size_send_everything_to_the_base_model(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=DEPLOYED, embedder=WordEmbedder(size=32)) as kit:
        assert ask(kit, LATE)[0] == f"base: {LATE}"
        assert kit.logs()[0].route_reason == "no deployed cluster was made with this embedder"


def test_an_adapter_that_the_server_has_lost_is_loaded_again(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=DEPLOYED, poll_s=3600) as kit:
        kit.server.loaded.clear()
        assert ask(kit, LATE)[0] == f"base: {LATE}"
        record = kit.logs()[0]
        assert record.route_reason == f"the model server has lost {adapter_of(kit, 'late_parcel').id}"
        assert "late_parcel-expert@2" not in json.loads(get(kit, "/readyz")[2])["adapters"]
    with gateway(tmp_path, deploy=DEPLOYED) as kit:
        kit.server.loaded.clear()
        assert any(get(kit, "/healthz")[0] == 200 and len(kit.server.loaded) == 2 for _ in range(1000))
        wait_for(kit, LATE, lambda text: text.startswith("late_parcel-expert@2"))
        assert "the model server has lost" not in kit.logs()[-1].route_reason


def test_a_new_deployment_is_followed_and_the_old_adapter_is_unloaded(routed: Kit) -> None:
    new = deploy_expert(routed.store, "late_parcel", LATE, at=2.0, rank=4).path
    wait_for(routed, LATE, lambda text: text == f"{new}: {LATE}")
    assert ("load", new) in routed.server.events
    deployed(routed.store, cluster_of("late_parcel", LATE), None, at=3.0)
    wait_for(routed, LATE, lambda text: text == f"base: {LATE}")
    assert any(
        get(routed, "/healthz")[0] == 200 and set(routed.server.loaded) == {"refund_status-expert@2"}
        for _ in range(1000)
    )


def wait_for(kit: Kit, text: str, wanted: Callable[[str], bool]) -> None:
    """Ask until the routing table has been refreshed."""
    assert any(wanted(ask(kit, text, max_tokens=500)[0]) for _ in range(1000))


# refusals


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"model": "base", "messages": [', 400, "not valid JSON"),
        (b'{"model": "base", "temperature": NaN}', 400, "not valid JSON"),
        (b"[1, 2]", 400, "not an object"),
        (b'{"model": "\xff"}', 400, "not UTF-8"),
        (b'{"model": 5}', 400, "'model' must be a text"),
        (b'{"model": "base"}', 400, "'messages' must be"),
        (b'{"model": "base", "messages": "hi"}', 400, "'messages' must be"),
        (b'{"model": "base", "messages": [7]}', 400, "messages[0]"),
        (b'{"model": "base", "messages": [{"role": "judge", "content": "x"}]}', 400, "messages[0].role"),
        (b'{"model": "base", "messages": [{"role": "user"}]}', 400, "messages[0].content"),
        (b'{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}', 404, "gpt-9"),
        (b"[" * 100_000, 400, "not valid JSON"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_an_error_in_openais_shape(kit: Kit, body: bytes, status: int, said: str) -> None:
    got, _, answer = post(kit.url, "/v1/chat/completions", body)
    error = json.loads(answer)["error"]
    assert got == status
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert get(kit, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": "high"}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_what_the_embedded_engine_cannot_do_is_named(kit: Kit, more: dict[str, object], param: str) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}], **more}
    status, _, answer = post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
    assert status == 400
    assert json.loads(answer)["error"]["param"] == param


def test_the_official_client_raises_its_own_errors(kit: Kit) -> None:
    messages = [{"role": "user", "content": "x"}]
    with client(kit) as api:
        with pytest.raises(openai.NotFoundError) as unknown:
            api.chat.completions.create(model="gpt-9", messages=messages)
        with pytest.raises(openai.BadRequestError) as tools:
            api.chat.completions.create(
                model="base", messages=messages, tools=[{"type": "function", "function": {"name": "f"}}]
            )  # fmt: skip
        with pytest.raises(openai.InternalServerError):
            api.chat.completions.create(model="base", messages=[{"role": "user", "content": "FAIL"}])
    assert unknown.value.code == "model_not_found"
    assert tools.value.param == "tools"
    assert [record.error for record in kit.logs()][-1] == "the engine fell over"
    assert all(record.response is None for record in kit.logs())


def test_a_body_above_the_limit_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, max_body_mb=0.5) as kit:
        status, _, answer = post(kit.url, "/v1/chat/completions", b" " * (1 << 20))
        assert status == 413
        assert json.loads(answer)["error"]["code"] == "request_too_large"
        assert post(kit.url, "/v1/feedback", b" " * (1 << 20))[0] == 413
        assert ask(kit, "still here")[0] == "base: still here"


def test_paths_and_methods(kit: Kit) -> None:
    assert post(kit.url, "/v1/embeddings", b"{}")[0] == 404
    assert json.loads(get(kit, "/")[2])["error"]["code"] == "unknown_url"
    status, headers, _ = get(kit, "/v1/chat/completions")
    assert (status, headers["allow"]) == (405, "POST, OPTIONS")
    assert post(kit.url, "/v1/models", b"", "OPTIONS")[:1] == (204,)
    status, headers, body = post(kit.url, "/v1/models", b"", "HEAD")
    assert (status, body, headers["content-type"]) == (200, b"", "application/json")
    assert json.loads(get(kit, "/healthz")[2]) == {"status": "ok"}
    ready = json.loads(get(kit, "/readyz")[2])
    assert (ready["status"], ready["store"], ready["waiting"]) == ("ready", "ok", 0)


def get(kit: Kit, path: str) -> tuple[int, dict[str, str], bytes]:
    return post(kit.url, path, b"", "GET")


# what must not be lost


def test_a_failure_in_the_middle_of_a_stream_is_an_error_event(kit: Kit) -> None:
    with client(kit) as api, pytest.raises(openai.APIError, match="fell over"):
        list(api.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "now CRASH"}], stream=True
        ))  # fmt: skip
    (record,) = kit.logs()
    assert record.error == "the engine fell over"
    assert record.response is not None
    assert record.response["choices"][0]["message"]["content"] == "base: now"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_stops_the_engine_and_is_logged(kit: Kit, streamed: bool) -> None:
    body = json.dumps({"model": "base", "stream": streamed, "messages": [{"role": "user", "content": "please HANG"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    parts = urlsplit(kit.url)
    with socket.create_connection((str(parts.hostname), parts.port)) as connection:
        connection.sendall((head + body).encode())
        assert kit.engine.hanging.wait(30)
        if streamed:
            assert b"200 OK" in connection.recv(1 << 16)
    (record,) = kit.store.wait()
    assert record.error == "the client went away"
    assert kit.engine.cancelled.wait(30)
    if streamed:
        assert record.response is not None
        assert record.response["choices"][0] == {
            "index": 0, "finish_reason": None,
            "message": {"role": "assistant", "content": "base: please"},
        }  # fmt: skip
    else:
        assert record.response is None


def test_serving_goes_on_while_the_store_fails_and_the_records_come_later(kit: Kit) -> None:
    kit.store.broken = True
    assert ask(kit, "one")[0] == "base: one"
    assert ask(kit, "two")[0] == "base: two"
    status, _, body = get(kit, "/readyz")
    assert status == 503
    assert (json.loads(body)["store"], json.loads(body)["waiting"]) == ("the disk is full", 2)
    kit.store.broken = False
    ask(kit, "three")
    until_stored(kit, 3)
    assert [record.request["messages"][0]["content"] for record in kit.logs()] == ["one", "two", "three"]
    assert any(get(kit, "/readyz")[0] == 200 for _ in range(1000))  # once the journal has heard of it


def test_a_graceful_stop_writes_what_was_waiting(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        kit.store.broken = True
        ask(kit, "one")
        kit.store.broken = False
    again = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    assert again.count(LogRecord) == 1
    again.close()


def test_a_store_that_fails_leaves_the_routing_table_in_place(routed: Kit) -> None:
    routed.store.broken = True
    for _ in range(20):  # several looks at the store
        assert ask(routed, LATE)[0].startswith("late_parcel-expert@2")
    assert post(routed.url, "/v1/feedback", b'{"session": "s", "rating": "up"}')[0] == 202


def test_a_gateway_starts_while_its_store_fails(tmp_path: Path) -> None:
    with gateway(tmp_path, broken=True, deploy=DEPLOYED) as kit:
        assert ask(kit, LATE)[0] == f"base: {LATE}"
        kit.store.broken = False
        wait_for(kit, LATE, lambda text: text.startswith("late_parcel-expert@2"))


def test_what_nobody_foresaw_is_a_500_and_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
    with gateway(tmp_path, backend=OddBackend()) as kit:
        status, _, answer = post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
        assert (status, json.loads(answer)["error"]["type"]) == (500, "server_error")
        with pytest.raises(http.client.IncompleteRead):  # an answer under way breaks off where all can see it
            post(kit.url, "/v1/chat/completions", json.dumps({**body, "stream": True}).encode())
        records = kit.store.wait(2)
    assert [record.error for record in records] == ["the gateway stopped: KeyError"] * 2
    assert records[1].response is not None
    assert "/v1/chat/completions failed" in caplog.text


def test_a_client_that_leaves_during_its_request_costs_nothing(kit: Kit) -> None:
    parts = urlsplit(kit.url)
    with socket.create_connection((str(parts.hostname), parts.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert ask(kit, "still here")[0] == "base: still here"
    assert len(kit.logs()) == 1


def test_strange_text_is_answered_and_stored(kit: Kit) -> None:
    odd = '"a\\ud800b\\u0000c \u4f60\u597d"'
    body = f'{{"model": "base", "user": "x\\u0007y", "messages": [{{"role": "user", "content": {odd}}}]}}'.encode()
    status, _, answer = post(kit.url, "/v1/chat/completions", body)
    assert status == 200
    (record,) = kit.logs()
    assert record.request["messages"][0]["content"] == json.loads(odd)
    assert record.user == "xy"
    assert "\u4f60\u597d" in json.loads(answer)["choices"][0]["message"]["content"]


SERVER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from gateway_kit import ScriptedEngine, settings
    import uvicorn
    from logtune.app.gateway import create
    from logtune.edges.store import Store
    from logtune.edges.upstream import EmbeddedBackend
    from logtune.testing import MemoryAdapterServer, WordEmbedder, WordEmbedder

    home, server = Path(sys.argv[1]), MemoryAdapterServer()
    store = Store(f"sqlite:///{home / 'logtune.db'}")
    app = create(store, EmbeddedBackend(ScriptedEngine(server)), WordEmbedder(), server, settings(home))
    uvicorn.run(app, fd=int(sys.argv[3]), log_level="critical")
"""


def test_kill_9_loses_no_answer_whose_end_the_client_saw(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path), here, str(listening.fileno())],
        pass_fds=[listening.fileno()], cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    port = listening.getsockname()[1]
    listening.close()  # the server has its own hold on it
    try:
        seen = asyncio.run(_talk_until_killed(port, process))
    finally:
        process.kill()
        process.wait()
    store = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    asyncio.run(_begin_and_end(Journal(store, folder=tmp_path / SPOOL)))  # what the next gateway does
    stored = {record.id for record in store.logs()}
    store.close()
    assert len(seen) >= 60
    assert seen <= stored


async def _begin_and_end(journal: Journal) -> None:
    await journal.start()
    await journal.close()


async def _talk_until_killed(port: int, process: "subprocess.Popen[bytes]") -> set[str]:
    """Ids of the answers that arrived whole; the server is killed in the middle of the load."""
    seen: set[str] = set()

    async def talk(api: AsyncOpenAI, name: int) -> None:
        while True:
            messages = [{"role": "user", "content": f"client {name} says a few words"}]
            stream = await api.chat.completions.create(model="base", messages=messages, stream=bool(name % 2))
            last = [chunk async for chunk in stream][-1].id if name % 2 else stream.id
            seen.add(last.removeprefix("chatcmpl-"))
            if len(seen) == 60:
                os.kill(process.pid, signal.SIGKILL)

    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=30) as api:
        outcomes = await asyncio.gather(*(talk(api, name) for name in range(8)), return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    return seen
