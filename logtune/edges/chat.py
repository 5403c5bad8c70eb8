"""A chat model behind an OpenAI-compatible endpoint: calls under way at once up to a limit, typed failures, retries."""

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from logtune.errors import ConfigError, ModelError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Json

if TYPE_CHECKING:
    import aiohttp

TRIES = 4
FIRST_WAIT_S = 0.5  # doubled after each try
PASSING = frozenset({408, 429, 500, 502, 503, 504})  # answers that may be better next time


class HttpChat:
    """Calls `POST {url}/chat/completions`; a session a call's event loop, closed with it."""

    def __init__(
        self, url: str, model: str, *, api_key_env: str | None = None, max_concurrency: int = 8, timeout_s: float = 60.0
    ) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._headers = _headers(api_key_env)
        self._limit = asyncio.Semaphore(max_concurrency)
        self._timeout_s = timeout_s

    async def complete(self, call: ChatCall) -> ChatReply:
        """The model's answer; raises ModelError with the endpoint's words after TRIES failed tries."""
        import aiohttp

        body = self._body(call)
        async with self._limit, aiohttp.ClientSession(headers=self._headers) as session:
            for tried in range(1, TRIES + 1):
                try:
                    return await self._once(session, body)
                except (aiohttp.ClientConnectionError, TimeoutError, _PassingError) as error:
                    if tried == TRIES:
                        raise ModelError(
                            f"{self._url} gave no answer in {TRIES} tries: {type(error).__name__} {error}",
                            "check that the server runs, and teacher.timeout_s",
                        ) from error
                    await asyncio.sleep(FIRST_WAIT_S * 2 ** (tried - 1))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, session: "aiohttp.ClientSession", body: Mapping[str, Json]) -> ChatReply:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with session.post(self._url, json=body, timeout=timeout) as response:
            text = await response.text()
            if response.status in PASSING:
                raise _PassingError(f"status {response.status}: {text[:200]}")
            if response.status != 200:
                raise ModelError(
                    f"{self._url} refused the call with status {response.status}: {text[:300]}",
                    "check the model's name",
                )
            return _reply(cast("Mapping[str, Json]", await response.json()))

    def _body(self, call: ChatCall) -> dict[str, Json]:
        body: dict[str, Json] = {
            "model": call.model or self._model, "max_tokens": call.max_tokens, "temperature": call.temperature,
            "top_p": call.top_p, "seed": call.seed,
            "messages": [{"role": m.role, "content": m.content} for m in call.messages],
        }  # fmt: skip
        if call.stop:
            body["stop"] = list(call.stop)
        if call.schema is not None:
            schema: dict[str, Json] = {"name": "reply", "schema": dict(call.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class _PassingError(Exception):
    """The server was busy or failed for the moment."""


def _headers(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(
            f"the environment variable {api_key_env} is empty", f"export {api_key_env}=..., or unset api_key_env"
        )
    return {"Authorization": f"Bearer {key}"}


def _reply(body: Mapping[str, Json]) -> ChatReply:
    try:
        choice = cast("list[dict[str, Json]]", body["choices"])[0]
        content = cast("dict[str, Json]", choice["message"])["content"]
        usage = cast("dict[str, int]", body.get("usage") or {})
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"the reply is no chat completion: {str(body)[:200]}", "check that the url ends with /v1"
        ) from error
    if not isinstance(content, str):
        raise ModelError(f"the reply has no text: {str(body)[:200]}", "check the model's settings")
    return ChatReply(
        text=content, finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=usage.get("prompt_tokens", 0), completion_tokens=usage.get("completion_tokens", 0),
    )  # fmt: skip
