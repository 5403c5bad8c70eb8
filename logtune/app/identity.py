"""Who is asking, and in which conversation.

request body, headers -> Identity, with the place each was read from

Order: the body, because the application put it there for this call; then headers, which proxies and chat front ends
add; for the session at last a hash of the conversation's first messages, which all its turns share.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from logtune.records import Json, digest

LONGEST = 256  # characters of a user or session name
USER_HEADERS = ("x-user-id", "x-openwebui-user-id", "helicone-user-id", "x-litellm-end-user-id")
SESSION_HEADERS = (
    "x-session-id", "x-openwebui-chat-id", "helicone-session-id", "x-conversation-id", "x-chat-id", "session-id",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user and a session as the client named them; a source is "" where there is none."""

    user: str | None
    user_source: str
    session: str | None
    session_source: str


def identify(body: Mapping[str, Json], headers: Mapping[str, str]) -> Identity:
    """User and session of a chat request; `headers` has lower-case names."""
    metadata = body.get("metadata")
    fields = metadata if isinstance(metadata, dict) else {}
    user, user_source = _first(
        [("body.user", body.get("user")), ("metadata.user_id", fields.get("user_id"))]
        + [(name, headers.get(name)) for name in USER_HEADERS]
    )
    session, session_source = _first(
        [("metadata.session_id", fields.get("session_id"))] + [(name, headers.get(name)) for name in SESSION_HEADERS]
    )
    if session is None:
        session, session_source = _prefix(body.get("messages"), user)
    return Identity(user=user, user_source=user_source, session=session, session_source=session_source)


def _first(places: list[tuple[str, Json]]) -> tuple[str | None, str]:
    for source, value in places:
        name = _name(value)
        if name:
            return name, source
    return None, ""


def _name(value: Json) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return "".join(filter(str.isprintable, str(value))).strip()[:LONGEST]


def _prefix(messages: Json, user: str | None) -> tuple[str | None, str]:
    """Everything up to the first user message: the same for every turn of a conversation."""
    if not isinstance(messages, list):
        return None, ""
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return f"prefix-{digest([user, messages[: number + 1]])}", "prefix"
    return None, ""


def last_user_text(body: Mapping[str, Json]) -> str:
    """The text of the last user message; "" when there is none."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def text_of(content: Json) -> str:
    """A message's text: a string, or the text parts of a list joined by newlines."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text")) for part in parts if isinstance(part, dict) and part.get("type") == "text")
