"""LogRecord*, Feedback* -> Interaction*: turns of a conversation joined; each answer with its follow-ups.

A later request continues an earlier one when its messages begin with the earlier request's messages and an answer: so
interleaved sessions, several answers to one request and histories edited by the client come apart by content. System
messages don't count for that, as clients put the time of day into them. Clients that send only the last turns, or no
history at all, are joined by their session and time.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from logtune.ids import ANSWER_PREFIX, also_known_as, digest, identified
from logtune.records import Feedback, FollowUp, Interaction, Json, LogRecord, Message

SAME_TALK_S = 30 * 60.0  # a session's next request after a longer pause is a new matter, not a reaction


@dataclass(frozen=True, slots=True)
class _Turn:
    log: LogRecord
    messages: tuple[Message, ...]
    answers: tuple[str, ...]  # every choice's text; the first is the answer

    @property
    def answer(self) -> str | None:
        return self.answers[0] if self.answers else None

    @property
    def is_users(self) -> bool:
        """True when the last message is the user's, and not the output of a tool."""
        return bool(self.messages) and self.messages[-1].role == "user"


def join(logs: Sequence[LogRecord], feedback: Iterable[Feedback]) -> list[Interaction]:
    """One Interaction a log that has an answer and ends with a user message; in the order of `logs` (by time)."""
    turns = [_Turn(log, request_messages(log.request), _answers(log.response)) for log in logs]
    followers = _followers(turns)
    answered = [turn for turn in turns if turn.answer and turn.is_users]
    given = _by_log(feedback, [turn.log for turn in answered])
    return [
        _interaction(turn, followers.get(turn.log.id, {}).values(), given.get(turn.log.id, ())) for turn in answered
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
    return _choice_text(choices[0]) if isinstance(choices, list) and choices else None


def _answers(response: Mapping[str, Json] | None) -> tuple[str, ...]:
    first, choices = answer_text(response), (response or {}).get("choices")
    others = [_choice_text(choice) for choice in choices[1:]] if isinstance(choices, list) else []
    return (first, *(text for text in others if text)) if first else ()


def _choice_text(choice: Json) -> str | None:
    message = choice.get("message") if isinstance(choice, dict) else None
    return (_text(message.get("content")) or None) if isinstance(message, dict) else None


def _text(content: Json) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and _is_text(part.get("type"))]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _is_text(kind: Json) -> bool:
    return kind is None or kind in ("text", "input_text", "output_text")


def _followers(turns: Sequence[_Turn]) -> dict[str, dict[tuple[str, str | None], FollowUp]]:
    """Log id -> what its user said next; the same words said twice (an answer made again) are one follow-up."""
    with_history = {_talk(turn.log) for turn in turns if _last_answer(turn) >= 0}
    by_content: dict[tuple[str, str, str], list[_Turn]] = defaultdict(list)
    last_of: dict[tuple[str | None, str], _Turn] = {}
    found: dict[str, dict[tuple[str, str | None], FollowUp]] = defaultdict(dict)
    for turn in turns:
        talk = _talk(turn.log)
        last = last_of.get(talk) if _place(turn.log) else None
        same = [old for key in _keys(turn.log, _prefix(turn)) for old in by_content.get(key, ())]
        match = _continued(turn, same, last, talk in with_history) if turn.is_users else None
        if match is not None:
            earlier, edited = match
            said = FollowUp(text=turn.messages[-1].content, answer=turn.answer, log_id=turn.log.id, edited=edited)
            found[earlier.log.id].setdefault((said.text, edited), said)
        for key in _keys(turn.log, _digest(turn.messages)):
            by_content[key].append(turn)
        last_of[talk] = turn
    return found


def _place(log: LogRecord) -> str:
    """The session as the client named it; a hash of a conversation's first messages says only that those are equal."""
    return "" if log.session_source == "prefix" else log.session or ""


def _talk(log: LogRecord) -> tuple[str | None, str]:
    """A conversation: session names may be unique for their user alone."""
    return log.user, _place(log)


def _keys(log: LogRecord, content: str) -> list[tuple[str, str, str]]:
    """Where requests with this content are looked for: those of the same user, then those of the same session."""
    names = [("user", log.user), ("session", _place(log))]
    return [(kind, name, content) for kind, name in names if name] or [("", "", content)]


def _continued(
    turn: _Turn, same: Sequence[_Turn], last: _Turn | None, with_history: bool
) -> tuple[_Turn, str | None] | None:
    """The turn that this one continues, and that turn's answer as sent back when the client had edited it.

    `same`: earlier turns whose messages this one begins with; `last`: the turn before in the same conversation.
    """
    at, soon = _last_answer(turn), last is not None and _soon(last, turn)
    if at < 0:
        return (last, None) if last is not None and soon and not with_history else None
    sent_back = turn.messages[at].content
    said = next((old for old in reversed(same) if _has_said(old, sent_back) and _of_one_user(old, turn)), None)
    if said is not None:
        return said, None
    if last is not None and soon and _has_said(last, sent_back):
        return last, None  # only the last turns were sent, or an earlier one was edited
    edited = next((old for old in reversed(same) if old.answer and _is_one_talk(old, turn)), None)
    return None if edited is None else (edited, sent_back)


def _soon(old: _Turn, turn: _Turn) -> bool:
    return turn.log.at - old.log.at <= SAME_TALK_S


def _of_one_user(old: _Turn, turn: _Turn) -> bool:
    return old.log.user is None or turn.log.user is None or old.log.user == turn.log.user


def _is_one_talk(old: _Turn, turn: _Turn) -> bool:
    """Sure enough to call another answer in the history an edit, and not the answer to somebody else's same request."""
    named = bool(turn.log.user or _place(turn.log))
    return _of_one_user(old, turn) and _place(old.log) == _place(turn.log) and (named or _soon(old, turn))


def _has_said(turn: _Turn, text: str) -> bool:
    """Clients trim what they send back."""
    return any(answer.split() == text.split() for answer in turn.answers)


def _last_answer(turn: _Turn) -> int:
    """Index of the last assistant message of the request; -1: it has none."""
    return max((i for i, m in enumerate(turn.messages) if m.role == "assistant"), default=-1)


def _prefix(turn: _Turn) -> str:
    """Digest of the messages before the last assistant message."""
    return _digest(turn.messages[: max(_last_answer(turn), 0)])


def _digest(messages: Sequence[Message]) -> str:
    return digest([[m.role, m.content] for m in messages if m.role != "system"])


def _by_log(feedback: Iterable[Feedback], answered: Sequence[LogRecord]) -> dict[str, list[str]]:
    """Log id -> ids of the feedback on it.

    A session or user, and a name that several answers may have (of a trace), stands for its last answer before the
    feedback. What was said by name before the answer was known counts for the first one after it.
    """
    items = sorted(feedback, key=lambda f: (f.at, f.id))
    replaced = {item.supersedes for item in items if item.supersedes}
    ids = {log.id for log in answered}
    of_target: dict[tuple[str, str], list[LogRecord]] = defaultdict(list)
    for log in answered:
        of_target[("session", log.session or "")].append(log)
        of_target[("user", log.user or "")].append(log)
        for name in also_known_as(log):
            of_target[("record", name)].append(log)
    found: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.revoked or item.id in replaced or not item.target:
            continue
        exact = next((name for name in (item.target, item.target.removeprefix(ANSWER_PREFIX)) if name in ids), None)
        if exact is not None and item.target_kind == "record":
            found[exact].append(item.id)
            continue
        rows = of_target.get((item.target_kind, item.target), [])
        earlier = rows[: bisect_right(rows, item.at, key=lambda log: log.at)]
        if not earlier and item.target_kind == "record":
            earlier = rows[:1]
        if earlier:
            # sessions of two users may have one name
            own = (log for log in reversed(earlier) if item.user and log.user == item.user)
            found[next(own, earlier[-1]).id].append(item.id)
    return found


def _interaction(turn: _Turn, followers: Iterable[FollowUp], feedback_ids: Sequence[str]) -> Interaction:
    log = turn.log
    return identified(
        Interaction(
            id="", log_id=log.id, context=turn.messages[:-1], query=turn.messages[-1].content, answer=turn.answer or "",
            follow_ups=tuple(followers), feedback_ids=tuple(feedback_ids), user=log.user, session=log.session,
            adapter=log.adapter, at=log.at,
        )
    )  # fmt: skip
