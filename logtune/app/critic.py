"""A critic in serving: the base model drafts, the critic says what to change, the base model revises.

body of the client -> two calls -> body of the third, whose answer the client gets

The three calls are those of `stages.answer`, with which the gate measured the critic (a test holds them together); the
third keeps every option of the client, streaming included.
"""

from collections.abc import Awaitable, Callable, Mapping

from logtune.app.identity import last_user_text
from logtune.prompts import language_of, render
from logtune.records import Json
from logtune.stages.answer import CRITIQUE_TOKENS, critic_prompt

Ask = Callable[[str, Mapping[str, Json]], Awaitable[Mapping[str, Json]]]  # model name ("": base), body -> completion
WHOLE: Mapping[str, Json] = {"stream": False, "n": 1}


async def revision(ask: Ask, critic: str, body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The body that asks for the revised answer; None without plain text to review. Raises what `ask` raises."""
    query, messages = last_user_text(body), body.get("messages")
    if not query or not isinstance(messages, list) or body.get("tools") or not _ends_with_user(messages):
        return None
    draft = _text(await ask("", {**_without_stream_options(body), **WHOLE}))
    if not draft:
        return None
    prompt: list[Json] = [{"role": message.role, "content": message.content} for message in critic_prompt(query, draft)]
    asked: dict[str, Json] = {"messages": prompt, "max_tokens": CRITIQUE_TOKENS, "temperature": 0, **WHOLE}
    critique = _text(await ask(critic, {"model": critic, **asked}))
    revise = render("revise", language_of(query), query=query, answer=draft, rules=critique)
    system = [message for message in messages if isinstance(message, dict) and message.get("role") == "system"]
    return {**body, "messages": [*system, {"role": "user", "content": revise}]}


def _ends_with_user(messages: list[Json]) -> bool:
    last = messages[-1] if messages else None
    return isinstance(last, dict) and last.get("role") == "user"


def _without_stream_options(body: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in body.items() if name != "stream_options"}


def _text(completion: Mapping[str, Json]) -> str:
    """The text of a completion's first choice; "" when it has none."""
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
