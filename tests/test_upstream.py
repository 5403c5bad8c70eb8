import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from gateway_kit import STREAM, WHOLE, Kit, Upstream, gateway, post, serving, upstream
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from logtune.app.kill_switch import FILE
from logtune.config_gateway import ServeSettings
from logtune.edges.renaming import with_model
from logtune.edges.upstream import HttpBackend, UpstreamCall
from logtune.errors import RequestError
from logtune.records import LogRecord

LATE = "where is my late parcel"


@dataclass
class Chain:
    """A gateway in front of an upstream."""

    kit: Kit
    upstream: Upstream

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return post(self.kit.url, "/v1/chat/completions", body, **headers)

    def record(self) -> LogRecord:
        return next(iter(self.kit.store.wait()))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    yield from _chain(tmp_path, upstream("base", "big"))


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Chain]:
    yield from _chain(tmp_path, upstream("base", "big"), ("late_parcel", LATE))


def _chain(folder: Path, model_server: Upstream, *deploy: tuple[str, str]) -> Iterator[Chain]:
    with serving(model_server) as url, gateway(folder, backend=HttpBackend(f"{url}/v1"), deploy=deploy) as kit:
        yield Chain(kit, model_server)


def question(text: str, **more: object) -> bytes:
    return json.dumps({"model": "big", "messages": [{"role": "user", "content": text}], **more}, indent=3).encode()


def test_bytes_pass_untouched_both_ways(chain: Chain) -> None:
    body = question("hi", top_k=5, guided_choice=["a", "b"], chat_template_kwargs={"x": 1.50})
    status, headers, answer = chain.post(body, traceparent="00-1-2-03", cookie="secret=1")
    assert (status, answer) == (200, WHOLE)
    assert chain.upstream.bodies == [body]
    assert headers["x-request-id"] == "r1"
    record = chain.record()
    assert headers["x-logtune-interaction"] == record.id
    assert record.response == json.loads(WHOLE)
    assert record.request == json.loads(body)
    assert record.usage["total_tokens"] == 4
    assert record.model == "big"


@pytest.mark.parametrize("name", ["big", "lt-old-adapter", "late@0123"])
def test_under_the_kill_switch_no_name_reaches_the_upstream_but_the_base_models(tmp_path: Path, name: str) -> None:
    (tmp_path / FILE).touch()  # nothing is deployed, so the table knows none of these
    for chain in _chain(tmp_path, upstream("base", name)):
        status, headers, _ = chain.post(question("hi", model=name, lora_path=name, adapter_id=name))
        assert (status, headers["x-logtune-adapter"]) == (200, "base")
        (sent,) = map(json.loads, chain.upstream.bodies)
        assert sent == {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
        assert (chain.record().model, chain.record().route_reason) == ("base", "the kill switch is on")


def test_only_harmless_headers_reach_the_upstream(chain: Chain) -> None:
    chain.post(
        question("hi"), authorization="Bearer mine", **{"x-user-id": "u9", "x-trace": "t", "openai-project": "p"}
    )
    (sent,) = chain.upstream.headers
    assert sent["authorization"] == "Bearer mine"
    assert sent["openai-project"] == "p"
    assert not {"x-user-id", "x-trace"} & set(sent)
    assert chain.record().user == "u9"


def test_a_stream_passes_byte_for_byte_and_is_put_together(chain: Chain) -> None:
    status, headers, answer = chain.post(question("hi", stream=True))
    assert (status, answer) == (200, STREAM)
    assert headers["content-type"] == "text/event-stream"
    record = chain.record()
    assert record.response == {
        "id": "chatcmpl-up", "created": 5, "model": "big", "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello", "odd": 1}}
        ],
    }  # fmt: skip
    assert record.error is None


def test_a_routed_request_changes_the_model_and_nothing_else(routed: Chain) -> None:
    adapter = "late_parcel-expert@2"
    routed.upstream.known.add(adapter)
    body = question(LATE, model="base", odd=[1, 2.0])
    routed.post(body)
    assert routed.upstream.bodies == [body.replace(b'"model": "base"', f'"model": "{adapter}"'.encode())]
    assert routed.record().adapter == routed.kit.store.deployments()["late_parcel"].adapter_id
    assert routed.record().request == json.loads(body)


def test_an_adapter_that_the_upstream_does_not_know_falls_back_to_the_base_model(routed: Chain) -> None:
    status, headers, _ = routed.post(question(LATE, model="base"))
    assert (status, headers["x-logtune-adapter"], headers["x-logtune-cluster"]) == (200, "base", "late_parcel")
    assert len(routed.upstream.bodies) == 2
    record = routed.record()
    assert (record.adapter, record.model) == (None, "base")
    assert record.route_reason.startswith("the model server has lost ada-")


def test_errors_of_the_upstream_pass_unchanged(chain: Chain) -> None:
    status, headers, answer = chain.post(question("busy"))
    assert (status, headers["retry-after"]) == (429, "7")
    assert answer == b'{"error":{"message":"slow down","odd":true}}'
    record = chain.record()
    assert record.response is None
    assert record.error == f"the model server answered 429: {answer.decode()}"


def test_an_unknown_model_is_the_upstreams_business(chain: Chain) -> None:
    with OpenAI(base_url=chain.kit.v1, api_key="x", max_retries=0) as api, pytest.raises(openai.NotFoundError):
        api.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])


def test_an_upstream_that_dies_in_the_middle_of_a_stream_is_an_error_event(chain: Chain) -> None:
    with (
        OpenAI(base_url=chain.kit.v1, api_key="x", max_retries=0) as api,
        pytest.raises(openai.APIError, match="failed"),
    ):
        list(api.chat.completions.create(model="big", messages=[{"role": "user", "content": "cut"}], stream=True))
    record = chain.record()
    assert record.error == "the model server failed (the connection broke off)"
    assert record.response is not None
    assert record.response["choices"][0]["finish_reason"] is None


def test_an_upstream_that_dies_in_the_middle_of_an_answer_is_a_502(chain: Chain) -> None:
    status, _, answer = chain.post(question("cut"))
    assert status == 502
    assert json.loads(answer)["error"]["code"] == "upstream_error"
    assert chain.record().response is None


def test_an_upstream_that_is_not_there_is_a_502_and_models_are_still_listed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with gateway(tmp_path, backend=HttpBackend(f"http://127.0.0.1:{port}/v1")) as kit:
        with OpenAI(base_url=kit.v1, api_key="x", max_retries=0) as api:
            with pytest.raises(openai.InternalServerError) as error:
                api.chat.completions.create(model="big", messages=[{"role": "user", "content": "x"}])
            assert [row.id for row in api.models.list()] == ["base"]
        assert error.value.status_code == 502
        assert kit.store.wait()[0].error == "the model server failed (it takes no connection)"


def test_models_are_the_upstreams_rows_and_the_adapters_it_does_not_list(routed: Chain) -> None:
    with OpenAI(base_url=routed.kit.v1, api_key="x", max_retries=0) as api:
        rows = [row.model_dump() for row in api.models.list()]
    assert rows[0] == {"id": "big", "extra": 1} | {key: rows[0][key] for key in rows[0] if key not in ("id", "extra")}
    assert rows[1]["id"] == "late_parcel-expert@2"
    assert rows[1]["parent"] == "base"


async def test_a_silent_upstream_is_a_504() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = HttpBackend(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", None, ServeSettings(timeout_s=0.05))
        call = UpstreamCall(id="i", body={"model": "m"}, raw=b'{"model": "m"}', model="m", headers={})
        with pytest.raises(RequestError, match=r"sent nothing for 0\.05 s") as error:
            await backend.open(call)
        await backend.close()
    assert error.value.status == 504


async def test_a_configured_key_replaces_the_clients() -> None:
    server = upstream("m")
    with serving(server) as url:
        backend = HttpBackend(f"{url}/v1/", key="ours")
        call = UpstreamCall(
            id="i", model="m", raw=question("hi", model="m"), body={}, headers={"authorization": "Bearer theirs"}
        )  # fmt: skip
        answer = await backend.open(call)
        assert b"".join([chunk async for chunk in answer.chunks]) == WHOLE
        await answer.close()
        await backend.close()
    assert server.headers[0]["authorization"] == "Bearer ours"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("model"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(st.text() | st.just("model"), JSON, max_size=6), st.text(), st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)  # fmt: skip
def test_with_model_changes_the_models_name_alone(
    body: dict[str, object], name: str, indent: int | str | None, ascii_only: bool
) -> None:
    raw = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert json.loads(with_model(raw, name)) == {**body, "model": name}
    assert with_model(raw, name, named="model" in body) == with_model(raw, name)


def test_with_model_keeps_every_other_byte() -> None:
    raw = b' {"a" : 1.0e3,\n"model"\t: "x", "m": {"model": "inner"}, "\\u00e9": "\xc3\xa9", "model":null} '
    assert with_model(raw, "new") == raw.replace(b'"x"', b'"new"').replace(b":null", b':"new"')
    assert with_model(b'{"m": {"model": "in"}, "mode\\u006c": "x"}', "new", named=True) == (
        b'{"m": {"model": "in"}, "mode\\u006c": "new"}'
    )
    assert with_model(b"{ }", "new") == b'{ "model": "new"}'
    assert with_model(b'{"a":1}', "new") == b'{"model": "new", "a":1}'
