"""The demo's sample: messages to Larkwheel, a bike-share that does not exist, and how its riders react to an answer.

`demo_sample.jsonl` (ours, written for this purpose) -> Sample*; a Sample and what the model really said -> LogRecord,
Feedback. The right answer is the name of one of ten desks, which no model can guess: only the riders' words tell it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from logtune.ids import digest
from logtune.records import Feedback, Json, LogRecord, Message

FILE = Path(__file__).with_suffix(".jsonl")
SYSTEM = (
    "You sort customer messages of Larkwheel, a city bike-share. "
    "Answer with the name of the desk that handles the message, nothing else."
)
MAX_TOKENS = 12  # a desk's name has at most four
PRAISED = 4  # every so many right answers get a thumbs-up, the others silence
READING_S = 40.0  # from an answer to the rider's reaction

ReactionKind = Literal["edit", "comment_right", "comment_complain", "thumbs", "reask", "silence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One message of the sample, and what its rider does when the answer is wrong."""

    id: str
    user: str
    session: str
    topic: str | None  # the right desk; None: noise
    noise: str | None  # kind of noise; None: a real message
    text: str
    held_out: bool  # True: never in the log, asked before and after the cycle
    reaction: ReactionKind
    words: str  # the edit, comment, thumb (up or down) or rephrased message
    wrong: bool  # feedback that misleads, on purpose


def load(path: Path = FILE) -> tuple[Sample, ...]:
    """The sample, in the order in which its messages come in."""
    return tuple(_sample(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def _sample(row: Mapping[str, Json]) -> Sample:
    feedback = cast("Mapping[str, str]", row["feedback"] or {"kind": "silence"})
    return Sample(
        id=cast("str", row["id"]), user=cast("str", row["user"]), session=cast("str", row["session"]),
        topic=cast("str | None", row["topic"]), noise=cast("str | None", row["noise"]), text=cast("str", row["text"]),
        held_out=row["split"] == "held_out", reaction=cast("ReactionKind", feedback["kind"]),
        words=feedback.get("text", feedback.get("reask", "")), wrong=bool(feedback.get("wrong", False)),
    )  # fmt: skip


def question(*turns: str) -> tuple[Message, ...]:
    """The conversation so far, rider and model in turns, under the deployment's system prompt."""
    roles = ("user", "assistant")
    said = (Message(role=roles[number % 2], content=text) for number, text in enumerate(turns))
    return (Message(role="system", content=SYSTEM), *said)


def is_right(sample: Sample, answer: str) -> bool:
    """Whether the answer is the desk's name and nothing else."""
    return answer.strip() == sample.topic


def wants_reask(sample: Sample, answer: str) -> bool:
    """Whether the rider asks again in other words."""
    return sample.reaction == "reask" and not is_right(sample, answer)


def body(messages: Sequence[Message]) -> dict[str, Json]:
    """The chat request; greedy, so that it gives the same answer again."""
    return {
        "model": "base", "max_tokens": MAX_TOKENS, "temperature": 0,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
    }  # fmt: skip


def logged(sample: Sample, messages: Sequence[Message], answer: str, at: float, part: int = 1) -> LogRecord:
    """The call as a gateway would have stored it; `part` 2 is the rephrased question of the same session."""
    log_id = f"{sample.id}-{part}" if part > 1 else sample.id
    choice: dict[str, Json] = {
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer},
    }  # fmt: skip
    response: dict[str, Json] = {
        "id": log_id, "object": "chat.completion", "created": int(at), "model": "base", "choices": [choice],
    }  # fmt: skip
    return LogRecord(
        id=log_id, request=body(messages), response=response, at=at, model="base", source="demo",
        user=sample.user, session=sample.session,
    )  # fmt: skip


def reaction(sample: Sample, answer: str, at: float) -> Feedback | None:
    """What the rider says about the answer, as feedback; None: nothing, or asked again instead."""
    right = is_right(sample, answer)
    if right and not sample.wrong:
        praised = int(digest(sample.id), 16) % PRAISED == 0
        return _feedback(sample, at, value=1.0) if praised else None
    if sample.reaction == "edit" and sample.words != answer.strip():
        return _feedback(sample, at, correction=sample.words)
    if sample.reaction in ("comment_right", "comment_complain"):
        return _feedback(sample, at, comment=sample.words)
    return _feedback(sample, at, value=1.0 if sample.words == "up" else -1.0) if sample.reaction == "thumbs" else None


def _feedback(
    sample: Sample, at: float, value: float | None = None, comment: str | None = None, correction: str | None = None
) -> Feedback:
    return Feedback(
        id=f"{sample.id}-feedback", target=sample.id, at=at + READING_S, user=sample.user,
        kind="edit" if correction else "comment" if comment else "rating",
        value=value, comment=comment, correction=correction,
    )  # fmt: skip
