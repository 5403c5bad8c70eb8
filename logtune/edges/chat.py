"""A chat model behind an OpenAI-compatible endpoint: calls under way at once up to a limit, typed failures, retries."""

import asyncio
import json
import math
import os
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from logtune.edges.pacing import Pace, RepeatBudget
from logtune.errors import AnswerRefused, CallRejected, ConfigError, ModelError, NoAnswer
from logtune.ports import ChatCall, ChatReply
from logtune.records import Json

if TYPE_CHECKING:
    import aiohttp

TRIES = 4
TOP = 20  # likeliest tokens that are asked for where words are weighed; more than 20 is refused by some
FIRST_WAIT_S = 0.5  # doubled after each try
LONGEST_WAIT_S = 60.0  # a server that asks for more is tried again all the same
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # answers that may be better next time
BUSY = frozenset({429, 503, 529})  # answers that ask for fewer calls
HINTS = {
    401: "check the key and the setting api_key_env",
    403: "check the key and the setting api_key_env",
    404: "check the url (with /v1) and the model's name",
}


class Again(Protocol):
    """Asked before a failed call is made again; may raise, and then it is not."""

    def __call__(self, call: ChatCall, *, free: bool) -> None:
        """`free`: the server never took it up."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    """What calls of one event loop share."""

    session: "aiohttp.ClientSession"
    pace: Pace
    repeats: RepeatBudget
    holder: AsyncGenerator["aiohttp.ClientSession", None]  # closes the session when the loop ends


class HttpChat:
    """Calls `POST {url}/chat/completions`. Connections are kept for the event loop's life and closed with it."""

    def __init__(
        self, url: str, model: str, *, api_key_env: str | None = None, max_concurrency: int = 8,
        timeout_s: float = 60.0, first_wait_s: float = FIRST_WAIT_S, again: Again | None = None,
        extra_body: Mapping[str, Json] | None = None,
    ) -> None:  # fmt: skip
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._headers = _headers(api_key_env)
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._first_wait_s = first_wait_s
        self._again = again
        self._extra_body = dict(extra_body or {})
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._weighs = True  # until the endpoint refuses to tell how likely tokens are

    async def complete(self, call: ChatCall) -> ChatReply:
        """The model's answer; raises ModelError with the endpoint's words, at once or after TRIES failed tries."""
        weighs = bool(call.weighed) and self._weighs
        try:
            return await self._complete(call if weighs else replace(call, weighed=()))
        except _Refused:
            if not weighs:
                raise
            reply = await self._complete(replace(call, weighed=()))
            self._weighs = False  # that was what it refused
            return reply

    async def _complete(self, call: ChatCall) -> ChatReply:
        import aiohttp

        line, body, tried, since = await self._line(), self._body(call), 0, 0
        while True:
            tried += 1
            try:
                async with line.pace.place() as since:
                    reply = await self._once(line.session, body, call.weighed)
            except aiohttp.InvalidURL as error:
                raise CallRejected(f"{self._url} is no URL", "set the url to http://HOST:PORT/v1") from error
            except (aiohttp.ClientError, TimeoutError, _PassingError) as error:
                if isinstance(error, _PassingError) and error.status in BUSY:
                    line.pace.busy(since)
                if tried == TRIES or not line.repeats.take():
                    raise self._gave_up(error, tried) from error
                if self._again is not None:
                    self._again(call, free=_free(error))
                await asyncio.sleep(self._wait_s(tried, error))
            else:
                line.pace.answered()
                line.repeats.answered()
                return reply

    async def close(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.holder.aclose()

    async def _line(self) -> _Line:
        loop = asyncio.get_running_loop()
        for ended in [known for known in self._lines if known.is_closed()]:
            del self._lines[ended]
        if loop not in self._lines:
            # an async generator is closed by the loop when it ends (asyncio.run, uvicorn and pytest do so)
            holder = _held_session(self._headers)
            session = await anext(holder)
            self._lines.setdefault(loop, _Line(session, Pace(self._max_concurrency), RepeatBudget(), holder))
        return self._lines[loop]

    async def _once(
        self, session: "aiohttp.ClientSession", body: Mapping[str, Json], weighed: Collection[str]
    ) -> ChatReply:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with session.post(self._url, json=body, timeout=timeout) as response:
            text = await response.text(errors="replace")
            if response.status in PASSING:
                said = f"status {response.status}: {text[:200]}"
                raise _PassingError(said, response.status, response.headers.get("Retry-After"))
            if response.status != 200:
                raise _Refused(
                    f"{self._url} refused the call with status {response.status}: {text[:300]}",
                    HINTS.get(response.status, "check the model's name and its context length"),
                )
            return _reply(text, weighed)

    def _gave_up(self, error: Exception, tried: int) -> ModelError:
        said = f"{type(error).__name__.lstrip('_')} {error}".strip()
        counted = f"{tried} tries" if tried == TRIES else f"{tried} tries, and too many others failed to try it again"
        kind = CallRejected if _free(error) else NoAnswer
        return kind(f"{self._url} gave no answer in {counted}: {said}", "check that the server runs, and its timeout_s")

    def _wait_s(self, tried: int, error: Exception) -> float:
        asked = error.wait_s if isinstance(error, _PassingError) else 0.0
        return min(max(asked, self._first_wait_s * 2.0 ** (tried - 1)), LONGEST_WAIT_S)

    def _body(self, call: ChatCall) -> dict[str, Json]:
        body: dict[str, Json] = {
            "model": self._model if call.model in ("", "base") else call.model, "max_tokens": call.max_tokens,
            "temperature": call.temperature, "top_p": call.top_p, "seed": call.seed,
            "messages": [{"role": m.role, "content": m.content} for m in call.messages],
        }  # fmt: skip
        if call.stop:
            body["stop"] = list(call.stop)
        if call.weighed:
            body |= {"logprobs": True, "top_logprobs": TOP}
        if call.schema is not None:
            schema: dict[str, Json] = {"name": "reply", "schema": dict(call.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {**body, **self._extra_body}


class _Refused(CallRejected):
    """The server has read the call and will not answer it."""


class _PassingError(Exception):
    """The server was busy or failed for the moment; `wait_s` is how long it asks to be left alone."""

    def __init__(self, what: str, status: int, retry_after: str | None = None) -> None:
        super().__init__(what)
        self.status = status
        number = (retry_after or "").strip()
        self.wait_s = float(number) if number.replace(".", "", 1).isdecimal() else 0.0  # a date is not read


def _free(error: Exception) -> bool:
    """Whether the server never took the call up, so that nothing is on the bill."""
    import aiohttp

    return isinstance(error, _PassingError | aiohttp.ClientConnectorError)


async def _held_session(headers: Mapping[str, str]) -> AsyncGenerator["aiohttp.ClientSession", None]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)  # the limit is ours
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield session


def _headers(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(
            f"the environment variable {api_key_env} is empty", f"export {api_key_env}=..., or unset api_key_env"
        )
    return {"Authorization": f"Bearer {key}"}


def _reply(text: str, weighed: Collection[str] = ()) -> ChatReply:
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ModelError(
            f"the reply is no chat completion: {text[:200]}", "check that the url ends with /v1"
        ) from error
    if not isinstance(content, str) and isinstance(choice["message"].get("refusal"), str):
        raise AnswerRefused(
            f"the model refused to answer: {choice['message']['refusal'][:200]}", "leave it, or ask another"
        )
    if not isinstance(content, str):
        raise ModelError(f"the reply has no text: {text[:200]}", "check the model's settings")
    usage = body.get("usage")
    counts = cast("Mapping[str, Json]", usage) if isinstance(usage, dict) else {}
    return ChatReply(
        text=content, finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=_count(counts.get("prompt_tokens")), completion_tokens=_count(counts.get("completion_tokens")),
        odds=_odds(choice.get("logprobs"), weighed) if weighed else None,
    )  # fmt: skip


def _odds(told: Json, weighed: Collection[str]) -> Mapping[str, float] | None:
    """How likely each word was at the last token that says one of them; None where that is not told.

    `told`: as OpenAI's chat completions have it, {content: [{token, logprob, top_logprobs: [{token, logprob}]}]}.
    """
    try:
        # the last one: an answer in prose may have an article before its verdict
        for said in reversed(cast("dict[str, list[dict[str, Any]]]", told)["content"]):
            if _word(said["token"]) in weighed:
                found = dict.fromkeys(weighed, 0.0)
                likely = {other["token"]: float(other["logprob"]) for other in (*said["top_logprobs"], said)}
                for token, logprob in likely.items():
                    if _word(token) in found:
                        found[_word(token)] += math.exp(logprob)
                return found
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None  # some servers have the field and nothing, or something else, in it
    return None


def _word(token: str) -> str:
    return token.strip(" \n\"'{}:,")


def _count(value: Json) -> int:
    return value if isinstance(value, int) else 0
