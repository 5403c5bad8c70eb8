"""POST /v1/completions: the bytes pass both ways, it is recorded like a chat, and never routed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_kit import Kit, gateway, post
from openai import OpenAI
from test_passthrough import STREAMED, Chain, chunk, recording, says, whole

from logtune.edges.sse import StreamAssembler
from logtune.edges.upstream import HttpBackend
from logtune.records import Adapter, Json
from logtune.stages.redact import KINDS, Redactor

PATH = "/v1/completions"
PROMPT = "where is my late parcel"
ANSWER = (
    b'{ "id":"cmpl-1" ,"object":"text_completion","created":5,"model":"base","choices":[ {"index":0,"text":" a+b\\n",'
    b'"logprobs":{"tokens":[" a","+b"],"token_logprobs":[-1.0E-5,null]},"finish_reason":"stop","stop_reason":null} ],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"odd":1.50}\n'
)


def event(text: str, finish_reason: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "base", "choices": [choice]}
    return b"data: " + json.dumps(head).encode() + b"\n\n"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with recording(says(whole(ANSWER))) as recorder, gateway(tmp_path, backend=HttpBackend(recorder.url)) as kit:
        yield Chain(kit, recorder)


def ask(kit: Kit, body: bytes) -> tuple[int, dict[str, str], bytes]:
    return post(kit.url, PATH, body)


def test_bytes_pass_both_ways_and_are_recorded(chain: Chain) -> None:
    sent = b'{ "model":"base", "prompt" : ["def f(a, b):\\u00e9"], "suffix":"x","echo":false, "top_k":5, "user":"ann" }'
    status, headers, answer = ask(chain.kit, sent)
    (asked,) = chain.recorder.asked
    assert (asked.line, asked.body) == ("POST /v1/completions HTTP/1.1", sent)
    assert (status, answer) == (200, ANSWER)
    record = chain.record(headers)
    assert record.request == json.loads(sent)
    assert record.response == json.loads(ANSWER)
    assert (record.user, record.session, record.adapter, record.cluster) == ("ann", None, None, None)
    assert record.route_reason == "a text completion is not routed"
    assert record.usage["total_tokens"] == 5


def test_a_stream_passes_chunk_by_chunk_and_is_put_together(chain: Chain) -> None:
    sent = event(" a") + event("+b", index=1) + event("b", "stop") + event("", "length", 1) + b"data: [DONE]\n\n"
    chain.answering(says(STREAMED + chunk(sent[:90]) + chunk(sent[90:]) + b"0\r\n\r\n"))
    status, headers, answer = ask(chain.kit, json.dumps({"model": "base", "prompt": "x", "stream": True}).encode())
    record = chain.record(headers)
    assert (status, answer) == (200, sent)
    assert record.error is None
    choices = record.response["choices"]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [(" ab", "stop"), ("+b", "length")]
    assert record.response["object"] == "text_completion"
    assert "message" not in choices[0]


def test_the_official_client_gets_its_text(chain: Chain) -> None:
    with OpenAI(base_url=chain.kit.v1, api_key="x") as api:
        assert api.completions.create(model="base", prompt="x").choices[0].text == " a+b\n"


def test_errors_pass_unchanged(chain: Chain) -> None:
    chain.answering(says(whole(b'{"detail":"no"}', "429 Too Many Requests", retry_after="7")))
    status, headers, answer = ask(chain.kit, b'{"model": "base", "prompt": "x"}')
    assert (status, headers["retry-after"], answer) == (429, "7", b'{"detail":"no"}')
    assert "answered 429" in chain.record(headers).error


def test_an_adapter_answers_by_name_alone(tmp_path: Path) -> None:
    with (
        recording(says(whole(ANSWER))) as recorder,
        gateway(tmp_path, backend=HttpBackend(recorder.url), deploy=[("late_parcel", PROMPT)]) as kit,
    ):
        adapter = deployed_in(kit)
        for model in ("base", adapter.id):
            assert ask(kit, json.dumps({"model": model, "prompt": PROMPT}).encode())[0] == 200
        assert [json.loads(asked.body)["model"] for asked in recorder.asked[-2:]] == ["base", adapter.path]


def deployed_in(kit: Kit) -> Adapter:
    (found,) = kit.store.deployments().values()
    return kit.store.load(Adapter, [str(found.adapter_id)])[0]


def test_the_embedded_engine_says_that_it_needs_a_model_server(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=[("late_parcel", PROMPT)]) as kit:
        adapter = deployed_in(kit)
        for model in ("base", adapter.id):
            status, headers, answer = ask(kit, json.dumps({"model": model, "prompt": "x"}).encode())
            assert (status, json.loads(answer)["error"]["code"]) == (404, "unknown_url")
            assert "needs a model server" in kit.store.record(headers["x-logtune-interaction"]).error
        assert adapter.path in kit.gateway.lanes()["default"].router.table.live()  # it is not lost


def test_what_is_personal_in_a_prompt_is_cut_out(chain: Chain) -> None:
    said = b'{"choices":[{"text":"write to ann@example.com","logprobs":{"tokens":["ann@exa","mple.com"]}}]}'
    chain.answering(says(whole(said)))
    _, headers, answer = ask(chain.kit, b'{"model": "base", "prompt": "mail bob@example.com"}')
    assert answer == said
    record = chain.record(headers)
    assert record.request["prompt"] == "mail [email]"
    assert record.response["choices"] == [{"text": "write to [email]", "logprobs": None}]


@pytest.mark.parametrize("prompt", [[15496, 995], [[15496], [995]]])
def test_a_prompt_in_numbers_of_tokens_is_not_kept(prompt: Json) -> None:
    assert Redactor(kinds=KINDS).redacted({"prompt": prompt, "n": 1}) == {"prompt": None, "n": 1}
    assert Redactor(kinds=frozenset(), files=False).redacted({"prompt": prompt}) == {"prompt": prompt}


def test_a_stream_of_both_kinds_is_no_failure() -> None:
    seen = StreamAssembler()
    seen.feed(event("a") + b'data: {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}\n\n')
    assert seen.completion() is not None
