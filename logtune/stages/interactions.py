"""LogRecord*, Feedback* -> Interaction*: turns of a conversation joined; each answer with its follow-ups.

A later request continues an earlier one when its messages begin with the earlier request's messages and an answer: so
interleaved sessions, several answers to one request and histories edited by the client come apart by content. Clients
that send no history are joined by their session id and time.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from logtune.records import Feedback, FollowUp, Interaction, Json, LogRecord, Message, digest, identified

SAME_TALK_S = 30 * 60.0  # a session's next request after a longer pause is a new matter, not a reaction


@dataclass(frozen=True, slots=True)
class _Turn:
    log: LogRecord
    messages: tuple[Message, ...]
    answer: str | None


def join(logs: Sequence[LogRecord], feedback: Iterable[Feedback]) -> list[Interaction]:
    """One Interaction a log that has an answer and ends with a user message; in the order of `logs` (by time)."""
    turns = [_Turn(log, request_messages(log.request), answer_text(log.response)) for log in logs]
    followers = _followers(turns)
    given = _by_log(feedback, logs)
    return [
        _interaction(turn, followers.get(turn.log.id, ()), given.get(turn.log.id, ()))
        for turn in turns
        if turn.answer and turn.messages and turn.messages[-1].role == "user"
    ]


def request_messages(request: Mapping[str, Json]) -> tuple[Message, ...]:
    """The messages of an OpenAI chat request; of multi-part contents the text parts."""
    found = request.get("messages")
    items = found if isinstance(found, list) else []
    return tuple(
        Message(role=str(m.get("role", "")), content=_text(m.get("content"))) for m in items if isinstance(m, dict)
    )


def answer_text(response: Mapping[str, Json] | None) -> str | None:
    """The text of a response's first choice; None when there is no answer."""
    choices = (response or {}).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return (_text(message.get("content")) or None) if isinstance(message, dict) else None


def _text(content: Json) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _followers(turns: Sequence[_Turn]) -> dict[str, list[FollowUp]]:
    """Log id -> what its user said next."""
    by_prefix: dict[tuple[str, str], list[_Turn]] = defaultdict(list)
    last_of_session: dict[str, _Turn] = {}
    found: dict[str, list[FollowUp]] = defaultdict(list)
    for turn in turns:
        who = turn.log.session or turn.log.user or ""
        match = _continued(turn, by_prefix.get((who, _prefix(turn)), ()), last_of_session.get(turn.log.session or ""))
        if match is not None and turn.messages:
            earlier, edited = match
            found[earlier.log.id].append(
                FollowUp(text=turn.messages[-1].content, answer=turn.answer, log_id=turn.log.id, edited=edited)
            )
        by_prefix[(who, _digest(turn.messages))].append(turn)
        if turn.log.session:
            last_of_session[turn.log.session] = turn
    return found


def _continued(turn: _Turn, same: Sequence[_Turn], last: _Turn | None) -> tuple[_Turn, str | None] | None:
    """The turn that this one continues, and that turn's answer as sent back when the client had edited it."""
    sent_back = next((m.content for m in reversed(turn.messages) if m.role == "assistant"), None)
    if sent_back is not None:
        exact = [earlier for earlier in same if earlier.answer == sent_back]
        if exact:
            return exact[-1], None
        return (same[-1], sent_back) if same and same[-1].answer else None
    if last is None or turn.log.at - last.log.at > SAME_TALK_S or _is_history(last):
        return None
    return last, None


def _is_history(turn: _Turn) -> bool:
    return any(m.role == "assistant" for m in turn.messages)


def _prefix(turn: _Turn) -> str:
    """Digest of the messages before the last assistant message."""
    ends = [i for i, m in enumerate(turn.messages) if m.role == "assistant"]
    return _digest(turn.messages[: ends[-1]]) if ends else ""


def _digest(messages: Sequence[Message]) -> str:
    return digest([[m.role, m.content] for m in messages])


def _by_log(feedback: Iterable[Feedback], logs: Sequence[LogRecord]) -> dict[str, list[str]]:
    """Log id -> ids of the feedback on it. Feedback on a session or user counts for its last answer before it."""
    of_session: dict[tuple[str, str], list[LogRecord]] = defaultdict(list)
    for log in logs:
        of_session[("session", log.session or "")].append(log)
        of_session[("user", log.user or "")].append(log)
    found: dict[str, list[str]] = defaultdict(list)
    for item in sorted(feedback, key=lambda f: (f.at, f.id)):
        if item.revoked:
            continue
        if item.target_kind == "record":
            found[item.target].append(item.id)
            continue
        earlier = [log for log in of_session.get((item.target_kind, item.target), ()) if log.at <= item.at]
        if earlier:
            found[earlier[-1].id].append(item.id)
    return found


def _interaction(turn: _Turn, followers: Sequence[FollowUp], feedback_ids: Sequence[str]) -> Interaction:
    log = turn.log
    return identified(
        Interaction(
            id="", log_id=log.id, context=turn.messages[:-1], query=turn.messages[-1].content, answer=turn.answer or "",
            follow_ups=tuple(followers), feedback_ids=tuple(feedback_ids), user=log.user, session=log.session,
            adapter=log.adapter, at=log.at,
        )
    )  # fmt: skip
