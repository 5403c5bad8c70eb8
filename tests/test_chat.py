"""The client of an OpenAI-compatible endpoint, against a real server on this machine."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from logtune.edges.chat import LONGEST_WAIT_S, TOP, TRIES, HttpChat, _PassingError
from logtune.edges.replies import Meter, MeteredChat
from logtune.errors import AnswerRefused, BudgetSpent, CallRejected, ConfigError, ModelError, NoAnswer
from logtune.ports import ChatCall, ChatReply, Spent
from logtune.records import Json, Message

CALL = ChatCall(messages=(Message(role="user", content="hi"),))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def completion(text: Json = "hello", **fields: Json) -> dict[str, Json]:
    choice: Json = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **fields}


class Server:
    """Says its replies in order, the last one for ever; `asked` are the bodies, `seen` the headers and connections."""

    def __init__(self, *replies: web.Response | Handler | dict[str, Json]) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Json]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[tuple[str, int]] = set()
        self.now = self.most = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        number = len(self.asked)
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            reply = self.replies[min(number, len(self.replies) - 1)]
            if isinstance(reply, dict):
                return web.json_response(reply)
            if isinstance(reply, web.Response):
                return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
            return await reply(request)
        finally:
            self.now -= 1

    def chat(self, **fields) -> HttpChat:
        return HttpChat(self.url, "teacher", **{"first_wait_s": 0.0, **fields})


@asynccontextmanager
async def serving(*replies: web.Response | Handler | dict[str, Json]) -> AsyncIterator[Server]:
    server, app = Server(*replies), web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def status(code: int, text: str = "busy", **headers: str) -> web.Response:
    return web.Response(status=code, text=text, headers={name.replace("_", "-"): it for name, it in headers.items()})


# --- what is asked and answered ---


async def test_an_answer() -> None:
    async with serving(completion()) as server:
        reply = await server.chat().complete(CALL)
    assert reply == ChatReply(text="hello", finish_reason="stop", prompt_tokens=3, completion_tokens=2)
    assert server.asked == [
        {
            "model": "teacher", "max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "seed": 0,
            "messages": [{"role": "user", "content": "hi"}],
        }
    ]  # fmt: skip
    assert "Authorization" not in server.headers[0]


def token(text: str, *likely: tuple[str, float]) -> dict[str, Json]:
    """A token of an answer as OpenAI tells it, with the likeliest at its place."""
    top: Json = [{"token": name, "logprob": math.log(chance)} for name, chance in likely]
    return {"token": text, "logprob": math.log(dict(likely).get(text, 0.5)), "top_logprobs": top}


WEIGHED = replace(CALL, weighed=("A", "B"))


async def test_how_likely_words_were_is_read_where_one_was_said() -> None:
    content: Json = [
        token('{"', ('{"', 0.9), ("A", 0.1)),
        token(' "A', (' "A', 0.5), ("A", 0.1), ("B", 0.3), (" tie", 0.05)),
        token('"}', ('"}', 0.9)),
    ]
    said = completion('{"better": "A"}')
    said["choices"][0]["logprobs"] = {"content": content}  # type: ignore[index,call-overload]
    async with serving(said) as server:
        reply = await server.chat().complete(WEIGHED)
    assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, TOP)
    assert reply.odds == pytest.approx({"A": 0.6, "B": 0.3})


@pytest.mark.parametrize(
    "told", [None, {}, {"content": None}, {"content": []}, {"content": [{}]}, {"content": [{"token": 5}]}, [], "no",
             {"content": [{"token": "A", "logprob": "x", "top_logprobs": []}]}, {"content": [token("C", ("A", 0.5))]}]
)  # fmt: skip
async def test_a_server_that_tells_no_odds_answers_all_the_same(told: Json) -> None:
    said = completion("A")
    said["choices"][0]["logprobs"] = told  # type: ignore[index,call-overload]
    async with serving(said) as server:
        reply = await server.chat().complete(WEIGHED)
    assert (reply.text, reply.odds) == ("A", None)


async def test_a_server_that_refuses_to_tell_odds_is_not_asked_for_them_again() -> None:
    async with serving(status(400, "logprobs are not supported"), completion("A")) as server:
        chat = server.chat()
        assert [(await chat.complete(WEIGHED)).text for _ in range(2)] == ["A", "A"]
    assert ["logprobs" in body for body in server.asked] == [True, False, False]


async def test_calls_under_way_while_odds_are_refused_are_all_answered() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(0.2 * ("logprobs" in body and body["seed"]))
        refused = web.Response(status=400, text="logprobs are not supported")
        return refused if "logprobs" in body else web.json_response(completion("A"))

    async with serving(answer) as server:
        chat = server.chat()
        replies = await asyncio.gather(*(chat.complete(replace(WEIGHED, seed=seed)) for seed in (0, 1)))
    assert [reply.text for reply in replies] == ["A", "A"]


async def test_a_call_that_is_refused_for_another_reason_keeps_it() -> None:
    async with serving(status(400, "no such model")) as server:
        chat = server.chat()
        for _ in range(2):
            with pytest.raises(CallRejected, match="no such model"):
                await chat.complete(WEIGHED)
    assert ["logprobs" in body for body in server.asked] == [True, False, True, False]


async def test_all_that_a_call_may_ask() -> None:
    schema: dict[str, Json] = {"type": "object"}
    messages = (Message(role="system", content="你好"), Message(role="user", content="hi\u2028"))
    call = ChatCall(
        messages=messages, model="adapter@1", max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=("\n",),
        schema=schema,
    )  # fmt: skip
    async with serving(completion()) as server:
        await server.chat().complete(call)
    (body,) = server.asked
    assert body["messages"] == [{"role": "system", "content": "你好"}, {"role": "user", "content": "hi\u2028"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("adapter@1", 7, 0.5, 0.9)
    assert (body["seed"], body["stop"]) == (3, ["\n"])
    assert body["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True},
    }  # fmt: skip


async def test_what_a_server_wants_besides_is_in_every_call() -> None:
    async with serving(completion()) as server:
        thinks_not: dict[str, Json] = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 1}
        await server.chat(extra_body=thinks_not).complete(CALL)
    (body,) = server.asked
    assert (body["chat_template_kwargs"], body["top_k"]) == ({"enable_thinking": False}, 1)
    assert body["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", ["", "base"])
async def test_the_base_model_has_the_servers_name(name: str) -> None:
    async with serving(completion()) as server:
        await server.chat().complete(ChatCall(messages=CALL.messages, model=name))
    assert server.asked[0]["model"] == "teacher"


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    async with serving(status(500, "no secret here")) as server:
        with pytest.raises(ModelError) as found:
            await server.chat(api_key_env="TEACHER_KEY").complete(CALL)
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "Bearer" not in str(found.value)


def test_a_missing_key_is_told_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "")
    with pytest.raises(ConfigError, match="TEACHER_KEY is empty"):
        HttpChat("http://127.0.0.1:1/v1", "teacher", api_key_env="TEACHER_KEY")


async def test_a_slash_at_the_end_of_the_url_is_no_other_url() -> None:
    async with serving(completion()) as server:
        assert (await HttpChat(f"{server.url}/", "teacher").complete(CALL)).text == "hello"


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({"usage": None}, ChatReply(text="x")),
        ({"usage": "none"}, ChatReply(text="x")),
        ({"usage": {"prompt_tokens": None, "completion_tokens": "2"}}, ChatReply(text="x")),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": None}], "usage": {}}, ChatReply(text="x")),
        (
            {"choices": [{"message": {"content": "x"}, "finish_reason": "length"}], "usage": {}},
            ChatReply(text="x", finish_reason="length"),
        ),
    ],
)
async def test_servers_leave_things_out(fields: dict[str, Json], reply: ChatReply) -> None:
    async with serving(completion("x", **fields)) as server:
        assert await server.chat().complete(CALL) == reply


# --- failures ---


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_a_busy_server_is_asked_again(code: int) -> None:
    async with serving(status(code), completion()) as server:
        assert (await server.chat().complete(CALL)).text == "hello"
    assert len(server.asked) == 2
    assert server.asked[0] == server.asked[1]


async def test_a_server_that_keeps_failing_is_given_up_with_its_words() -> None:
    async with serving(status(500, "out of memory")) as server:
        with pytest.raises(ModelError, match=r"no answer in 4 tries: PassingError status 500: out of memory"):
            await server.chat().complete(CALL)
    assert len(server.asked) == TRIES == 4


@pytest.mark.parametrize(
    ("code", "hint"), [(400, "context length"), (401, "key"), (403, "key"), (404, "url"), (422, "model's name")]
)
async def test_a_refusal_is_told_at_once(code: int, hint: str) -> None:
    async with serving(status(code, "no such thing")) as server:
        with pytest.raises(ModelError, match=f"refused the call with status {code}: no such thing") as found:
            await server.chat().complete(CALL)
    assert len(server.asked) == 1
    assert hint in found.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "<html>hello</html>",
        "",
        "[1]",
        "null",
        "{}",
        '{"choices": []}',
        '{"choices": {}}',
        '{"choices": ["x"]}',
        '{"choices": [{"text": "legacy"}]}',
        '{"choices": [{"message": null}]}',
        "[" * 100_000,
    ],
)
async def test_what_is_no_completion_is_told_at_once(text: str) -> None:
    async with serving(status(200, text)) as server:
        with pytest.raises(ModelError, match="no chat completion") as found:
            await server.chat().complete(CALL)
    assert len(server.asked) == 1
    assert len(found.value.what) < 300


@pytest.mark.parametrize("content", [None, ["x"], {"text": "x"}])
async def test_an_answer_without_text_is_told(content: Json) -> None:
    async with serving(completion(content)) as server:
        with pytest.raises(ModelError, match="has no text"):
            await server.chat().complete(CALL)


async def test_bytes_that_are_no_utf8_are_an_answer_all_the_same() -> None:
    body = json.dumps(completion("caf?")).encode().replace(b"?", b"\xe9")
    async with serving(web.Response(body=body, content_type="application/json", charset="utf-8")) as server:
        assert (await server.chat().complete(CALL)).text == "caf\ufffd"


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ModelError, match="no answer in 4 tries: ClientConnectorError"):
            await HttpChat(url, "teacher", first_wait_s=0.0).complete(CALL)


@pytest.mark.parametrize("url", ["", "no url", "http://"])
async def test_a_url_that_is_none_is_not_tried_again(url: str) -> None:
    with pytest.raises(ModelError, match="is no URL") as found:
        await HttpChat(url, "teacher", first_wait_s=3600.0).complete(CALL)
    assert "/v1" in found.value.hint


# what failures are, and cost


async def test_what_a_model_will_not_answer_is_a_refusal() -> None:
    reply = completion(None)
    reply["choices"][0]["message"]["refusal"] = "I can't help with that."  # type: ignore[index,call-overload]
    async with serving(reply) as server:
        with pytest.raises(AnswerRefused, match="refused to answer: I can't help with that"):
            await server.chat().complete(CALL)


def metered(server: Server, meter: Meter, **fields: float) -> MeteredChat:
    return MeteredChat(server.chat(again=meter.again, **fields), meter)


PRICES = {"prompt_price": 1e6, "completion_price": 1e6}  # one a token: CALL costs 2 + 256 at most


async def test_every_try_counts_and_what_was_not_taken_up_is_free() -> None:
    meter = Meter(**PRICES)
    async with serving(status(503), status(429), completion()) as server:
        await metered(server, meter).complete(CALL)
    assert meter.total == Spent(calls=3, failed=2, prompt_tokens=3, completion_tokens=2, cost=5)


async def test_tries_stop_at_the_budget() -> None:
    meter = Meter(max_calls=2)
    async with serving(status(503)) as server:
        with pytest.raises(BudgetSpent):
            await metered(server, meter).complete(CALL)
    assert len(server.asked) == meter.total.calls == 2


async def test_a_call_that_ran_out_of_time_may_have_cost_all_that_it_could() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    meter = Meter(**PRICES)
    async with serving(silent) as server:
        with pytest.raises(NoAnswer):
            await metered(server, meter, timeout_s=0.05).complete(CALL)
    assert meter.total == Spent(calls=TRIES, failed=TRIES, cost=TRIES * (2 + 256))


@pytest.mark.parametrize("code", [401, 503])
async def test_a_call_that_was_rejected_costs_nothing(code: int) -> None:
    meter = Meter(**PRICES)
    async with serving(status(code)) as server:
        with pytest.raises(CallRejected):
            await metered(server, meter).complete(CALL)
    assert meter.total.cost == 0


async def test_a_server_that_counts_no_tokens_is_charged_for_all_that_it_may_have_made() -> None:
    meter = Meter(**PRICES, max_cost=600)
    async with serving(completion(usage=None)) as server:
        for _ in range(2):
            await metered(server, meter).complete(CALL)
        with pytest.raises(BudgetSpent):
            await metered(server, meter).complete(CALL)
    assert meter.total.cost == 2 * (2 + 256)


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices":')
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(break_off, completion()) as server:
        assert (await server.chat().complete(CALL)).text == "hello"


async def test_a_server_that_says_nothing_runs_out_of_time() -> None:
    never = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async with serving(silent) as server:
        with pytest.raises(ModelError, match="no answer in 4 tries: TimeoutError") as found:
            await server.chat(timeout_s=0.05).complete(CALL)
        assert "timeout_s" in found.value.hint
        assert len(server.asked) == TRIES
        never.set()


@pytest.mark.parametrize(
    ("tried", "asked", "wait_s"),
    [(1, None, 0.5), (2, None, 1.0), (3, None, 2.0), (1, "3", 3.0), (1, " 0.7 ", 0.7), (3, "1", 2.0), (1, "1e9", 0.5),
     (1, "Wed, 21 Oct 2026 07:28:00 GMT", 0.5), (1, "99999", LONGEST_WAIT_S), (1, "-5", 0.5)],
)  # fmt: skip
def test_waits_are_doubled_and_no_shorter_than_the_server_asks(tried: int, asked: str | None, wait_s: float) -> None:
    chat = HttpChat("http://127.0.0.1:1/v1", "teacher")
    assert chat._wait_s(tried, _PassingError("busy", 429, asked)) == wait_s


async def test_the_servers_wish_is_read_from_its_answer() -> None:
    async with serving(status(429, Retry_After="0.01"), completion()) as server:
        assert (await server.chat().complete(CALL)).text == "hello"


# --- many calls ---


@pytest.mark.parametrize("most", [1, 3])
async def test_so_many_calls_are_under_way_and_no_more(most: int) -> None:
    gate, full = asyncio.Event(), asyncio.Event()
    server: Server

    async def wait(request: web.Request) -> web.StreamResponse:
        if server.now == most:
            full.set()
        await gate.wait()
        return web.json_response(completion())

    async with serving(wait) as server:
        chat = server.chat(max_concurrency=most)
        calls = [asyncio.create_task(chat.complete(CALL)) for _ in range(2 * most + 1)]
        await full.wait()  # all places are taken at the same time
        gate.set()
        assert {reply.text for reply in await asyncio.gather(*calls)} == {"hello"}
    assert server.most == most
    assert len(server.asked) == 2 * most + 1


async def test_a_failed_call_gives_its_place_back() -> None:
    async with serving(status(400), status(400), completion()) as server:
        chat = server.chat(max_concurrency=1)
        for _ in range(2):
            with pytest.raises(ModelError):
                await chat.complete(CALL)
        assert (await chat.complete(CALL)).text == "hello"


async def test_the_connection_is_kept_between_calls() -> None:
    async with serving(completion()) as server:
        chat = server.chat()
        for _ in range(3):
            await chat.complete(CALL)
        assert len(server.connections) == 1
        await chat.close()
        await chat.close()
        await chat.complete(CALL)
        assert len(server.connections) == 2


def test_each_event_loop_has_its_own_connections_and_closes_them() -> None:
    """An unclosed session would warn, and warnings are errors; so would a semaphore of another loop."""
    seen: list[object] = []

    async def cycle(chats: list[HttpChat]) -> None:
        async with serving(completion()) as server:
            chat = chats[0] if chats else server.chat(max_concurrency=1)
            chat._url = f"{server.url}/chat/completions"
            chats[:] = [chat]
            await asyncio.gather(*(chat.complete(CALL) for _ in range(3)))
            seen.append(chat._lines[asyncio.get_running_loop()].session)
            assert len(chat._lines) == 1  # those of ended loops are forgotten

    chats: list[HttpChat] = []
    for _ in range(3):
        asyncio.run(cycle(chats))
    assert len({id(session) for session in seen}) == 3
    assert all(getattr(session, "closed", False) for session in seen)
