"""A critic in serving: the base model drafts, the critic says what to change, the base model revises.

body of the client -> two calls -> body of the third, whose answer the client gets

The three calls are those of `stages.answer`, with which the gate measured the critic (a test holds them together); the
third keeps every option of the client, streaming included. What they take together is in the record, beside what the
draft alone took: that is what a single call would have cost.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from logtune.app.identity import last_user_text
from logtune.edges.sse import DONE, event
from logtune.records import Json
from logtune.stages.answer import CRITIQUE_TOKENS, critic_prompt, revise_prompt

Ask = Callable[[str, Mapping[str, Json]], Awaitable[Mapping[str, Json]]]  # model name ("": base), body -> completion
WHOLE: Mapping[str, Json] = {"stream": False, "n": 1}
TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class Part:
    """A call on the way to an answer."""

    usage: Mapping[str, Json]
    latency_ms: float


async def revision(ask: Ask, critic: str, body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The body that asks for the revised answer; None without plain text to review. Raises what `ask` raises.

    A critic with nothing to say leaves the request as it came: greedy, its answer is the draft.
    """
    query, messages = last_user_text(body), body.get("messages")
    if not query or not isinstance(messages, list) or body.get("tools") or body.get("functions"):
        return None
    last = messages[-1]
    if not isinstance(last, dict) or not _plain(last):
        return None
    draft = _text(await ask("", {**_without_stream_options(body), **WHOLE}))
    if not draft:
        return None
    prompt: list[Json] = [{"role": message.role, "content": message.content} for message in critic_prompt(query, draft)]
    asked: dict[str, Json] = {"messages": prompt, "max_tokens": CRITIQUE_TOKENS, "temperature": 0, **WHOLE}
    critique = _text(await ask(critic, {"model": critic, **asked}))
    if not critique.strip():
        return dict(body)
    revised: Json = {**last, "content": revise_prompt(query, draft, critique).content}
    return {**body, "messages": [*messages[:-1], revised]}


def drafted(completion: Mapping[str, Json], *, include_usage: bool) -> bytes:
    """A draft as the events of a stream, for a client that asked for one."""
    found = completion.get("choices")
    choices = [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []
    blank: dict[str, Json] = {"usage": None} if include_usage else {}
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    said: list[Json] = [_piece(choice, choice.get("message") or {}, {"finish_reason": None}) for choice in choices]
    ended: list[Json] = [_piece(choice, {}, {"logprobs": None}) for choice in choices]
    events: list[dict[str, Json]] = [{**head, "choices": said, **blank}, {**head, "choices": ended, **blank}]
    if include_usage:
        events.append({**head, "choices": [], "usage": completion.get("usage")})
    return b"".join([*map(event, events), DONE])


def _piece(choice: Mapping[str, Json], delta: Json, fields: Mapping[str, Json]) -> Json:
    return {name: value for name, value in choice.items() if name != "message"} | {"delta": delta, **fields}


def usage_of(parts: Sequence[Part], last: Json, *, reviewed: bool = True) -> dict[str, Json]:
    """The usage of an answer: that of its last call; of several calls their sum, with `calls`.

    `reviewed`: the first of them made the draft of this answer, whose own is told too.

    `uncounted`: calls whose tokens the model server did not say, such as a stream without include_usage.
    """
    final = last if isinstance(last, dict) else {}
    if not parts:
        return dict(final)
    known = [usage for usage in (*(part.usage for part in parts), final) if usage]
    total: dict[str, Json] = {name: sum(_count(usage, name) for usage in known) for name in TOKENS}
    draft: Json = {**{name: _count(parts[0].usage, name) for name in TOKENS}, "latency_ms": parts[0].latency_ms}
    told: dict[str, Json] = {"draft": draft} if reviewed else {}
    calls = len(parts) + 1
    uncounted: dict[str, Json] = {"uncounted": calls - len(known)} if len(known) < calls else {}
    return {**total, "calls": calls, **uncounted, **told}


def _count(usage: Mapping[str, Json], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


def _plain(message: Mapping[str, Json]) -> bool:
    """Whether a message is a user's, of text alone."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return message.get("role") == "user" and all(isinstance(p, dict) and p.get("type") == "text" for p in parts)


def _without_stream_options(body: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in body.items() if name != "stream_options"}


def _text(completion: Mapping[str, Json]) -> str:
    """The text of a completion's first choice; "" when it has none."""
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
