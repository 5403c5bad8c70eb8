"""A candidate without an adapter: the cluster's rules are added to the prompt as a system message.

body of the client, rules -> body for the model server

The words are those of `stages.prompted`, with which the gate measured the candidate (a test holds them together). Only
the model server sees the added text. The record keeps the body of the client, so no later cycle can take what we said
for what a user said.
"""

from collections.abc import Mapping

from logtune.app.identity import last_user_text
from logtune.records import Json
from logtune.stages.prompted import SYSTEM, told


def with_rules(body: Mapping[str, Json], rules: tuple[str, ...]) -> dict[str, Json]:
    """The body with the rules at the end of its system message, or as a system message of their own that comes first.

    Everything else stays, streaming and tools too.
    """
    messages = body.get("messages")
    if not rules or not isinstance(messages, list):
        return dict(body)
    text = told(last_user_text(body), rules)
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") in SYSTEM:
            longer: Json = {**message, "content": _appended(message.get("content"), text)}
            return {**body, "messages": [*messages[:number], longer, *messages[number + 1 :]]}
    return {**body, "messages": [{"role": "system", "content": text}, *messages]}


def _appended(content: Json, text: str) -> Json:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{content}\n\n{text}" if content else text
