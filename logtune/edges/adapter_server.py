"""Adapters on a server: bring what is loaded in line with what is wanted; a client for vLLM-style servers.

A new adapter is loaded beside the old ones, proven to be listed and to change what the model says, and only then do
the unwanted ones go. A failure on the way leaves the old ones serving.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import aiohttp

from logtune.errors import ModelError
from logtune.ports import AdapterServer, Chat, ChatCall, Likelihood
from logtune.records import Json, Message

PROBE_TOKENS = 24
LEAST_CHANGE = 1e-3  # nats a token: rounding alone stays below, an adapter that learned anything does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An adapter that shall serve, with a pair of its training on which it must differ from the base model."""

    name: str  # immutable, such as cluster-expert@hash
    path: str
    prompt: tuple[Message, ...]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was done."""

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    unloaded: tuple[str, ...]


def ours(name: str) -> bool:
    """Whether logtune gave the name; other adapters of a shared server are left alone."""
    return "@" in name


async def apply(
    server: AdapterServer, chat: Chat, likelihood: Likelihood | None, wanted: Sequence[Wanted],
    mine: Callable[[str], bool] = ours,
) -> Applied:  # fmt: skip
    """Load and probe what is missing, then unload what is not wanted; ModelError when an adapter fails its probe."""
    before = set(await server.names())
    fresh = [adapter for adapter in wanted if adapter.name not in before]
    for number, adapter in enumerate(fresh):
        try:
            await server.load(adapter.name, adapter.path)
            await probe(server, chat, likelihood, adapter)
        except ModelError:
            for tried in fresh[: number + 1]:
                await server.unload(tried.name)
            raise
    names = {adapter.name for adapter in wanted}
    gone = sorted(name for name in before - names if mine(name))
    for name in gone:
        await server.unload(name)
    return Applied(loaded=tuple(a.name for a in fresh), kept=tuple(sorted(before & names)), unloaded=tuple(gone))


async def probe(server: AdapterServer, chat: Chat, likelihood: Likelihood | None, adapter: Wanted) -> None:
    """Refuse an adapter that is not listed, or with which the model says what it says without."""
    if adapter.name not in await server.names():
        raise ModelError(f"adapter {adapter.name} was loaded and is not listed", "look at the model server's log")
    if likelihood is not None:
        pair = [adapter.prompt], [adapter.answer]
        base, tuned = [await asyncio.to_thread(likelihood.nll, *pair, name) for name in ("", adapter.name)]
        if abs(base[0] - tuned[0]) >= LEAST_CHANGE:
            return
    calls = [ChatCall(messages=adapter.prompt, model=name, max_tokens=PROBE_TOKENS) for name in ("", adapter.name)]
    before, after = [(await chat.complete(call)).text for call in calls]
    if before == after:
        raise ModelError(
            f"adapter {adapter.name} changes nothing: with and without it the answer is {before[:60]!r}",
            "the server may ignore the adapter; check that it was started with LoRA enabled",
        )


class HttpAdapterServer:
    """Runtime LoRA of a vLLM-style server: /v1/load_lora_adapter, /v1/unload_lora_adapter, /v1/models.

    `url` ends in /v1. The server reads adapter folders from its own disk, so it must see the same paths.
    """

    def __init__(self, url: str, api_key_env: str | None = None, timeout_s: float = 120.0) -> None:
        self._url = url.rstrip("/")
        self._key_env = api_key_env
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def load(self, name: str, path: str) -> None:
        """Load a folder under `name`; a listed name again does nothing. ModelError with the server's words."""
        if name in await self.names():
            return
        status, body = await self._call("POST", "load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status >= 400 and "already been loaded" not in body:
            raise ModelError(f"the model server did not load {name} from {path}: {status} {_said(body)}", _hint(body))

    async def unload(self, name: str) -> None:
        """Unload `name`; an unknown one does nothing."""
        if name not in await self.names():
            return
        status, body = await self._call("POST", "unload_lora_adapter", {"lora_name": name})
        if status >= 400 and "cannot be found" not in body:
            raise ModelError(f"the model server did not unload {name}: {status} {_said(body)}", _hint(body))

    async def names(self) -> list[str]:
        """Names of the loaded adapters: the listed models that have a parent."""
        status, body = await self._call("GET", "models", None)
        try:
            models = cast("Sequence[Mapping[str, Json]]", json.loads(body)["data"])
            return sorted(str(model["id"]) for model in models if model.get("parent"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{self._url}/models answered {status} {_said(body)}", "check model.url") from error

    async def _call(self, method: str, path: str, body: Mapping[str, Json] | None) -> tuple[int, str]:
        key = os.environ.get(self._key_env) if self._key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.request(method, f"{self._url}/{path}", json=body, headers=headers) as response,
            ):
                return response.status, await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            what = str(error) or type(error).__name__
            raise ModelError(f"the model server at {self._url} does not answer: {what}", "is it running?") from error


def _said(body: str) -> str:
    """The message in an error body, in any of the shapes servers use."""
    try:
        content = json.loads(body)
    except ValueError:
        return body[:200]
    if isinstance(content, dict):
        inner = content.get("error", content)
        inner = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
        return str(inner)[:200]
    return str(content)[:200]


def _hint(body: str) -> str:
    if _said(body) == "Not Found":
        return "start it with runtime LoRA: vllm serve --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    return "the folder must lie where the server can read it, and its rank within --max-lora-rank"
