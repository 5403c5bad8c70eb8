"""An OpenAI chat request body as a ChatCall for the embedded engine, and its replies as OpenAI objects.

body -> ChatRequest -> (ChatReply | pieces) -> chat.completion | chat.completion.chunk

What the embedded engine cannot do is refused by name: an answer that silently ignores `tools` is worse than none.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.errors import RequestError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Json, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_CHOICES = 16
MOST_STOPS = 16

# Fields that would change the answer, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Json, ...]] = {
    "tools": (None, []), "functions": (None, []), "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"), "logprobs": (None, False), "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}), "modalities": (None, ["text"]), "audio": (None,),
    "presence_penalty": (None, 0), "frequency_penalty": (None, 0), "logit_bias": (None, {}),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What a body asks of the embedded engine: one call a choice, and how the answer is sent."""

    calls: tuple[ChatCall, ...]  # of length n
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The fields that all objects of one answer share."""

    id: str
    created: int  # seconds since 1970
    model: str


def chat_request(body: Mapping[str, Json], model: str, default_tokens: int) -> ChatRequest:
    """Read `body`; `model` is the engine's name for it. RequestError 400 names the field that cannot be served."""
    for name, neutral in NEUTRAL.items():
        if body.get(name) not in neutral:
            what = f"the embedded engine does not support '{name}'"
            raise RequestError(what, param=name, code="unsupported_parameter")
    options = body.get("stream_options")
    first = ChatCall(
        messages=_messages(body.get("messages")), model=model, max_tokens=_max_tokens(body, default_tokens),
        temperature=_number(body, "temperature", 0.0, 2.0, 0.0), top_p=_number(body, "top_p", 0.0, 1.0, 1.0),
        seed=_integer(body, "seed", -(2**63), 2**63 - 1, int.from_bytes(os.urandom(4))), stop=_stop(body.get("stop")),
    )  # fmt: skip
    choices = range(_integer(body, "n", 1, MOST_CHOICES, 1))
    return ChatRequest(
        calls=tuple(replace(first, seed=first.seed + number) for number in choices),
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def completion(head: Heading, replies: Sequence[ChatReply]) -> dict[str, Json]:
    """A chat.completion with one choice a reply."""
    choices: list[Json] = [
        {
            "index": index, "message": {"role": "assistant", "content": reply.text, "refusal": None},
            "logprobs": None, "finish_reason": reply.finish_reason,
        }
        for index, reply in enumerate(replies)
    ]  # fmt: skip
    counts = usage(replies[0].prompt_tokens, sum(reply.completion_tokens for reply in replies))
    return {**_head(head, "chat.completion"), "choices": choices, "usage": counts}


def chunk(head: Heading, index: int, delta: Mapping[str, Json], finish_reason: str | None = None) -> dict[str, Json]:
    """A chat.completion.chunk with one piece of choice `index`."""
    choice: Json = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
    return {**_head(head, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(head: Heading, counts: dict[str, Json]) -> dict[str, Json]:
    """The chunk without choices that stream_options.include_usage asks for."""
    return {**_head(head, "chat.completion.chunk"), "choices": [], "usage": counts}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Json]:
    """Token counts; the prompt counts once for all choices."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _head(head: Heading, kind: str) -> dict[str, Json]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


def _shown(value: Json) -> str:
    return repr(value)[:80]


def _messages(value: Json) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RequestError("'messages' must be a list of at least one message", param="messages")
    return tuple(_message(item, f"messages[{number}]") for number, item in enumerate(value))


def _message(value: Json, where: str) -> Message:
    if not isinstance(value, dict):
        raise RequestError(f"'{where}' must be an object", param=where)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES or value.get("tool_calls"):
        allowed = ", ".join(ROLES)
        raise RequestError(f"'{where}.role' is {_shown(role)}; the embedded engine takes {allowed} without tool calls",
                           param=f"{where}.role")  # fmt: skip
    if value.get("content") is None and role != "assistant":
        raise RequestError(f"'{where}.content' is missing", param=f"{where}.content")
    return Message(role=ROLES[role], content=_text(value.get("content"), f"{where}.content"))


def _text(content: Json, where: str) -> str:
    if content is None or isinstance(content, str):
        return (content or "").encode("utf-8", "replace").decode()  # a lone surrogate is no text to a tokenizer
    if not isinstance(content, list):
        raise RequestError(f"'{where}' must be a string or a list of parts", param=where)
    return "\n".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: Json, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind != "text":
        raise RequestError(f"'{where}' is of type {_shown(kind)}; the embedded engine reads text alone", param=where)
    if not isinstance(text, str):
        raise RequestError(f"'{where}.text' must be a text", param=f"{where}.text")
    return _text(text, where)


def _stop(value: Json) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if items is None:
        return ()
    texts = [item for item in items if isinstance(item, str) and item] if isinstance(items, list) else []
    if not isinstance(items, list) or len(texts) < len(items) or len(texts) > MOST_STOPS:
        raise RequestError(f"'stop' must be a text or a list of at most {MOST_STOPS} texts", param="stop")
    return tuple(texts)


def _max_tokens(body: Mapping[str, Json], default: int) -> int:
    newer = _integer(body, "max_completion_tokens", 1, 2**31, 0)
    older = _integer(body, "max_tokens", 1, 2**31, default)
    return newer or older


def _integer(body: Mapping[str, Json], name: str, low: int, high: int, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # in JSON 9.0 and 9 are the same number
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"'{name}' is {_shown(value)}; it must be an integer from {low} to {high}", param=name)
    return value


def _number(body: Mapping[str, Json], name: str, low: float, high: float, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(f"'{name}' is {_shown(value)}; it must be a number from {low:g} to {high:g}", param=name)
    return float(value)


def _flag(body: Mapping[str, Json], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"'{name}' is {_shown(value)}; it must be true or false", param=name)
    return bool(value)
