"""Runtime LoRA of a model server in another process: a client for vLLM, SGLang, and what speaks their language.

name, folder -> POST load_lora_adapter        GET models -> names        training prompt -> whether the adapter works
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import aiohttp

from logtune.edges.weights import fingerprint_of, identities
from logtune.errors import ModelError
from logtune.records import Json, Message

LIST_S, PROBE_S = 10.0, 120.0
PROBE_TOKENS, TOP = 8, 5
# Mean difference of the likeliest tokens' log-probabilities, nats. Two runs of one model differ by rounding when they
# share a batch with others, so a difference must also be NOISE times what the base model differs from itself.
LEAST_CHANGE, NOISE = 5e-3, 3.0


def ours(name: str) -> bool:
    """Whether logtune gave the name; other adapters of a shared server are left alone."""
    return "@" in name


@dataclass(frozen=True, slots=True)
class Greedy:
    """What a model says greedily, and the likeliest tokens of each place by log-probability where the server tells."""

    text: str
    tokens: tuple[str, ...]
    likeliest: tuple[Mapping[str, float], ...]

    def distance(self, other: "Greedy") -> float:
        """The largest difference of a place, up to the first where the words part: what follows answers other words."""
        found = float(self.text != other.text and not (self.likeliest and other.likeliest))
        for ours, theirs, one, two in zip(self.likeliest, other.likeliest, self.tokens, other.tokens, strict=False):
            common = ours.keys() & theirs.keys()
            gaps = [abs(ours[token] - theirs[token]) for token in common]
            found = max(found, sum(gaps) / len(gaps) if gaps else float("inf"))
            if one != two:
                break
        return found


class HttpAdapterServer:
    """Runtime LoRA over HTTP: /v1/load_lora_adapter, /v1/unload_lora_adapter, /v1/models.

    `url` ends in /v1; SGLang has the first two paths beside /v1, and they are found there. `base` is the base model's
    name, `model` what `model.base` says of it, `extra_body` what a probe asks besides. The server reads adapter folders
    from its own disk, so it must see the same paths.
    """

    def __init__(
        self, url: str, api_key_env: str | None = None, timeout_s: float = 120.0, base: str = "base", model: str = "",
        extra_body: Mapping[str, Json] | None = None,
    ) -> None:  # fmt: skip
        self._url = url.rstrip("/")
        self._key_env = api_key_env
        self._timeout_s = timeout_s
        self._base = base
        self._model = model
        self._extra_body = dict(extra_body or {})

    async def load(self, name: str, path: str) -> None:
        """Load a folder under `name`; a listed name again does nothing. ModelError with the server's words.

        One that was trained on another base model is refused: layers of the same shape would take it all the same.
        """
        listed, root = await self._listed()
        if reason := await asyncio.to_thread(misfit, Path(path), self._model, root):
            raise ModelError(f"adapter {name} {reason}", "logtune rebase trains its lessons again on the new one")
        if name in listed:
            return
        status, body = await self._change("load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status >= 400 and "already been loaded" not in body:
            raise ModelError(f"the model server did not load {name} from {path}: {status} {_said(body)}", _hint(body))

    async def unload(self, name: str) -> None:
        """Unload `name`; an unknown one does nothing."""
        if name not in await self.names():
            return
        status, body = await self._change("unload_lora_adapter", {"lora_name": name})
        if status >= 400 and "cannot be found" not in body:
            raise ModelError(f"the model server did not unload {name}: {status} {_said(body)}", _hint(body))

    async def names(self) -> list[str]:
        """Names of the loaded adapters: the listed models that have a parent."""
        return (await self._listed())[0]

    async def root(self) -> str:
        """The folder or hub id that the server says its base model comes from; "" where it does not say."""
        return (await self._listed())[1]

    async def _listed(self) -> tuple[list[str], str]:
        """Names of the adapters, and the root of the base model."""
        status, body = await self._call("GET", f"{self._url}/models", None, LIST_S)
        try:
            models = cast("Sequence[Mapping[str, Json]]", json.loads(body)["data"])
            roots = [str(model.get("root") or "") for model in models if model["id"] == self._base]
            return sorted(str(model["id"]) for model in models if model.get("parent")), next(iter(roots), "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{self._url}/models answered {status} {_said(body)}", "check model.url") from error

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        """Whether the greedy answer differs, in its words or its log-probabilities; `answer` is not needed here."""
        base, tuned, again = [await self._greedy(model, prompt) for model in (self._base, name, self._base)]
        noise = base.distance(again)
        return base.distance(tuned) > max(LEAST_CHANGE, NOISE * noise)

    async def _greedy(self, model: str, prompt: Sequence[Message]) -> Greedy:
        messages: list[Json] = [{"role": message.role, "content": message.content} for message in prompt]
        asked: dict[str, Json] = {
            "model": model, "messages": messages, "max_tokens": PROBE_TOKENS, "temperature": 0, "seed": 0,
            **self._extra_body,
        }  # fmt: skip
        url = f"{self._url}/chat/completions"
        status, body = await self._call("POST", url, {**asked, "logprobs": True, "top_logprobs": TOP}, PROBE_S)
        if status == 400:  # it tells no log-probabilities, and the words must do
            status, body = await self._call("POST", url, asked, PROBE_S)
        try:
            return _greedy(json.loads(body)["choices"][0])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            what = f"{model} did not answer a training prompt: {status} {_said(body)}"
            raise ModelError(what, "look at the model server's log") from error

    async def _change(self, path: str, body: Mapping[str, Json]) -> tuple[int, str]:
        """POST to `path` below /v1, and where there is no such path, beside it."""
        status, said = await self._call("POST", f"{self._url}/{path}", body, self._timeout_s)
        if _no_path(status, said) and self._url.endswith("/v1"):
            status, said = await self._call("POST", f"{self._url.removesuffix('/v1')}/{path}", body, self._timeout_s)
        if _no_path(status, said):
            raise ModelError(f"the model server at {self._url} has no runtime LoRA: {status} {_said(said)}", NO_LORA)
        return status, said

    async def _call(self, method: str, url: str, body: Mapping[str, Json] | None, timeout_s: float) -> tuple[int, str]:
        key = os.environ.get(self._key_env) if self._key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
                session.request(method, url, json=body, headers=headers) as response,
            ):
                return response.status, await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            what = str(error) or type(error).__name__
            raise ModelError(f"the model server at {self._url} does not answer: {what}", "is it running?") from error


def misfit(adapter: Path, model: str, root: str) -> str:
    """Why an adapter's folder does not belong to the base model that is served; "": it does, or nobody can tell.

    `model`: as in `model.base`; `root`: where the server says it has it from. Only what lies on this disk can tell.
    """
    try:
        trained_on = str(json.loads((adapter / "logtune.json").read_bytes())["base"])
    except (OSError, ValueError, KeyError, TypeError):  # a folder that only the server sees
        return ""
    wanted = fingerprint_of(model) if model and trained_on else None
    if wanted is not None and trained_on not in {wanted, *identities(Path(model).expanduser())}:
        return f"was trained on {trained_on}, and model.base is {wanted}"
    served = identities(Path(root)) if root and trained_on else frozenset()
    if served and trained_on not in served:
        return f"was trained on {trained_on}, and the model server serves {root}"
    return ""


def _greedy(choice: Mapping[str, Mapping[str, Json]]) -> Greedy:
    told = choice.get("logprobs") or {}
    rows = cast("Sequence[Mapping[str, Json]]", told.get("content") or [])
    return Greedy(str(choice["message"]["content"] or ""), tuple(str(r["token"]) for r in rows), tuple(map(_top, rows)))


def _top(row: Mapping[str, Json]) -> dict[str, float]:
    """Log-probabilities by token, of the one that was said too."""
    told = cast("Sequence[Mapping[str, Json]]", row.get("top_logprobs") or [])
    return {str(other["token"]): float(cast("float", other["logprob"])) for other in (*told, row)}


NO_PATH = ("not found", "file not found", "404 page not found", "404: not found")  # an adapter's has more words
NO_LORA = "start it with runtime LoRA: vllm serve --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


def _no_path(status: int, body: str) -> bool:
    return status == 405 or (status == 404 and _said(body).strip().casefold() in NO_PATH)


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
    if "rank" in body:
        return "start the server with a larger --max-lora-rank"
    return "the folder must lie where the server can read it"
