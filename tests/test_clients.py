"""Clients that people use, against the gateway with a model server behind it: the official one, curl, http.client.

What a client meets before the model server is in test_gateway, what passes unchanged in test_upstream.
"""

import http.client
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import openai
import pytest
from gateway_kit import Kit, gateway, serving
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from logtune.app.asgi import Receive, Request, Scope, Send, respond
from logtune.edges.upstream import HttpBackend
from logtune.records import Json

WEATHER: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
ARGUMENTS = '{"city": "Oslo"}'
ASK = [{"role": "user", "content": "hello"}]
ERRORS: dict[str, tuple[int, type[openai.APIStatusError]]] = {
    "bad": (400, openai.BadRequestError), "who": (401, openai.AuthenticationError),
    "may not": (403, openai.PermissionDeniedError), "conflict": (409, openai.ConflictError),
    "odd": (422, openai.UnprocessableEntityError), "busy": (429, openai.RateLimitError),
    "broken": (500, openai.InternalServerError), "down": (503, openai.InternalServerError),
}  # fmt: skip


class Model:
    """A model server that calls tools, answers in JSON, counts tokens, and fails as it is told."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Json]] = []
        self.stumbles = 0  # requests that are answered with 503 before the next one is served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan here")
        request = Request.of(scope, receive)
        body = json.loads(await request.body(1 << 30) or b"{}")
        self.bodies.append(body)
        said = str(body.get("messages", ASK)[-1].get("content"))
        if self.stumbles:
            self.stumbles -= 1
            await self._refuse(send, 503, [(b"retry-after", b"0")])
        elif said in ERRORS:
            await self._refuse(send, ERRORS[said][0], [])
        elif body.get("stream"):
            await respond(send, 200, b"".join(self._chunks(body)), "text/event-stream")
        else:
            await respond(send, 200, json.dumps(self._whole(body)).encode(), "application/json")

    async def _refuse(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        problem = {"error": {"message": f"told to say {status}", "type": "t", "param": "p", "code": "c"}}
        await respond(send, status, json.dumps(problem).encode(), "application/json", headers)

    def _message(self, body: dict[str, Json]) -> dict[str, Json]:
        messages = json.loads(json.dumps(body["messages"]))
        if messages[-1]["role"] == "tool":
            return {"role": "assistant", "content": f"it is {messages[-1]['content']}"}
        if body.get("tools"):
            function: Json = {"name": "weather", "arguments": ARGUMENTS}
            return {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            }
        text = '{"city": "Oslo", "degrees": 3}' if body.get("response_format") else "hello"
        return {"role": "assistant", "content": text}

    def _whole(self, body: dict[str, Json]) -> dict[str, Json]:
        message = self._message(body)
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        usage: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        choice: Json = {"index": 0, "message": message, "finish_reason": reason}
        return {"id": "chatcmpl-up", "object": "chat.completion", "created": 5, "model": "big", "choices": [choice],
                "usage": usage}  # fmt: skip

    def _chunks(self, body: dict[str, Json]) -> Iterator[bytes]:
        head: dict[str, Json] = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 5, "model": "big"}
        for delta, reason in self._deltas(self._message(body)):
            choice: Json = {"index": 0, "delta": delta, "finish_reason": reason}
            yield b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            usage: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            yield b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _deltas(self, message: dict[str, Json]) -> Iterator[tuple[dict[str, Json], str | None]]:
        yield {"role": "assistant"}, None
        if not message.get("tool_calls"):
            text = str(message["content"])
            yield from (({"content": text[start : start + 4]}, None) for start in range(0, len(text), 4))
            yield {}, "stop"
            return
        function: Json = {"name": "weather", "arguments": ""}
        yield {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}, None
        for start in range(0, len(ARGUMENTS), 5):
            part: Json = {"arguments": ARGUMENTS[start : start + 5]}
            yield {"tool_calls": [{"index": 0, "function": part}]}, None
        yield {}, "tool_calls"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Kit]:
    """A gateway before the model server."""
    with (
        serving(model) as url,
        gateway(tmp_path_factory.mktemp("clients"), backend=HttpBackend(f"{url}/v1")) as running,
    ):
        yield running


@pytest.fixture
def api(kit: Kit) -> Iterator[OpenAI]:
    with OpenAI(base_url=kit.v1, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def later(kit: Kit) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=kit.v1, api_key="none", max_retries=0, timeout=60) as client:
        yield client


class Weather(BaseModel):
    """What structured output is parsed into."""

    city: str
    degrees: int


def answered(kit: Kit, interaction: str) -> dict[str, Json]:
    """The message in the record of an interaction."""
    response = json.loads(json.dumps(kit.store.record(interaction).response))
    message: dict[str, Json] = response["choices"][0]["message"]
    return message


# the official client


def test_a_tool_is_called_and_its_result_answered(kit: Kit, api: OpenAI, model: Model) -> None:
    raw = api.chat.completions.with_raw_response.create(model="base", messages=ASK, tools=[WEATHER], tool_choice="auto")
    choice = raw.parse().choices[0]
    (call,) = choice.message.tool_calls or []
    assert (choice.finish_reason, call.function.name, call.function.arguments) == ("tool_calls", "weather", ARGUMENTS)
    assert model.bodies[-1]["tools"] == [WEATHER]
    assert answered(kit, raw.headers["x-logtune-interaction"])["tool_calls"] == [call.model_dump()]
    result = {"role": "tool", "tool_call_id": call.id, "content": "3 degrees"}
    again = api.chat.completions.create(model="base", messages=[*ASK, choice.message, result], tools=[WEATHER])
    assert again.choices[0].message.content == "it is 3 degrees"


async def test_a_streamed_tool_call_is_put_together(kit: Kit, later: AsyncOpenAI) -> None:
    async with later.chat.completions.stream(model="base", messages=ASK, tools=[WEATHER]) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)
    record = kit.logs()[-1]
    (kept,) = json.loads(json.dumps(answered(kit, record.id)["tool_calls"]))
    assert (kept["id"], kept["function"]) == ("c1", {"name": "weather", "arguments": ARGUMENTS})
    assert json.loads(json.dumps(record.response))["choices"][0]["finish_reason"] == "tool_calls"


def test_structured_output_is_parsed(kit: Kit, api: OpenAI, model: Model) -> None:
    parsed = api.chat.completions.parse(model="base", messages=ASK, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Oslo", degrees=3)
    assert json.loads(json.dumps(model.bodies[-1]["response_format"]))["type"] == "json_schema"
    assert kit.logs()[-1].request["response_format"] == model.bodies[-1]["response_format"]


async def test_structured_output_is_streamed_and_parsed(later: AsyncOpenAI) -> None:
    async with later.chat.completions.stream(model="base", messages=ASK, response_format=Weather) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="Oslo", degrees=3)
    assert kinds.count("content.delta") > 1


def test_a_streaming_response_is_read_line_by_line_and_counts_tokens(kit: Kit, api: OpenAI) -> None:
    with api.chat.completions.with_streaming_response.create(
        model="base", messages=ASK, stream=True, stream_options={"include_usage": True}
    ) as response:
        lines = [line for line in response.iter_lines() if line]
        interaction = response.headers["x-logtune-interaction"]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["usage"]["total_tokens"] == 5
    assert kit.store.record(interaction).usage["total_tokens"] == 5
    assert answered(kit, interaction)["content"] == "hello"


@pytest.mark.parametrize("said", ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model_server_are_the_clients_exceptions(api: OpenAI, said: str, stream: bool) -> None:
    status, kind = ERRORS[said]
    with pytest.raises(kind) as caught:
        api.chat.completions.create(model="base", messages=[{"role": "user", "content": said}], stream=stream)
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, "c", "p")
    assert f"told to say {status}" in str(caught.value)
    assert caught.value.response.headers["x-logtune-interaction"]


def test_the_clients_own_retries_get_through(kit: Kit, model: Model) -> None:
    model.stumbles, before = 2, len(model.bodies)
    with OpenAI(base_url=kit.v1, api_key="none", max_retries=2, timeout=60) as api:
        answer = api.chat.completions.create(model="base", messages=ASK)
    assert (answer.choices[0].message.content, model.stumbles) == ("hello", 0)
    assert len(model.bodies) == before + 3
    errors = [record.error for record in kit.logs()][-3:]
    assert [bool(error) for error in errors] == [True, True, False]


async def test_a_client_that_stops_reading_leaves_a_record(kit: Kit, later: AsyncOpenAI) -> None:
    count = len(kit.logs())
    stream = await later.chat.completions.create(model="base", messages=ASK, stream=True)
    async for _ in stream:
        break
    await stream.close()
    assert len(kit.store.wait(count + 1)) == count + 1


def test_feedback_by_what_the_client_holds(kit: Kit, api: OpenAI) -> None:
    answer = api.chat.completions.create(
        model="base", messages=ASK, user="ann", metadata={"session_id": "s", "trace_id": "t7"}
    )
    said = {"response_id": answer.id, "rating": "up", "user": "ann"}
    assert api.post("/feedback", body=said, cast_to=object)["status"] == "stored"
    assert api.post("/feedback", body={"trace_id": "t7", "comment": "fine"}, cast_to=object)["status"] == "stored"
    assert api.post("/feedback", body={"session": "s", "rating": "up"}, cast_to=object)["status"] == "stored"
    with pytest.raises(openai.BadRequestError) as refused:
        api.post("/feedback", body={"response_id": answer.id, "rating": "meh"}, cast_to=object)
    assert refused.value.param == "rating"


# curl


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("stream", [False, True])
def test_curl(kit: Kit, stream: bool) -> None:
    body = json.dumps({"model": "base", "messages": ASK, "stream": stream})
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--fail-with-body", "--max-time", "60", "--include"]
    sent = ["--header", "content-type: application/json", "--data", body, f"{kit.v1}/chat/completions"]
    done = subprocess.run([*command, *sent], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    head, _, answer = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert "x-logtune-interaction: " in head
    if stream:
        assert answer.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(answer)["choices"][0]["message"]["content"] == "hello"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_feedback_as_in_the_docs(kit: Kit) -> None:
    # without a content type of JSON, as `curl -d` alone sends it
    said = json.dumps({"session": "nobody", "rating": "down", "comment": "that is the old price"})
    done = subprocess.run(["curl", "-sS", f"{kit.v1}/feedback", "-d", said], capture_output=True, text=True, timeout=90)
    assert json.loads(done.stdout)["status"] == "accepted"


# http.client: one connection, several requests, a chunked body


@contextmanager
def connection(kit: Kit) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(kit.url)
    opened = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    try:
        yield opened
    finally:
        opened.close()


def test_one_connection_serves_many_requests_and_a_chunked_body(kit: Kit) -> None:
    body = json.dumps({"model": "base", "messages": ASK}).encode()
    with connection(kit) as opened:
        for sent in (body, iter([body[:7], body[7:]]), body):
            opened.request("POST", "/v1/chat/completions", sent, {"content-type": "application/json"})
            answer = opened.getresponse()
            assert json.loads(answer.read())["choices"][0]["message"]["content"] == "hello"
        opened.request("GET", "/v1/models")
        assert opened.getresponse().status == 200


def test_http_client_reads_a_stream_as_it_comes(kit: Kit) -> None:
    body = json.dumps({"model": "base", "messages": ASK, "stream": True})
    with connection(kit) as opened:
        opened.request("POST", "/v1/chat/completions", body)
        answer = opened.getresponse()
        assert answer.getheader("content-type") == "text/event-stream"
        lines = [line for line in iter(answer.readline, b"") if line.strip()]
    assert lines[-1] == b"data: [DONE]\n"
