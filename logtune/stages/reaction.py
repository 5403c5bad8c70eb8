"""Turn, Detection, Chat -> Detection: a language model's word on a turn, weighed with what the small detector found."""

from dataclasses import replace
from typing import Literal

from logtune.ports import Chat, ChatCall, Detection, Turn
from logtune.prompts import VERSION, language_of, render
from logtune.records import Message
from logtune.stages.asking import Reply, ask

READ = 2000  # characters of each text that the model is shown
RIGHT = 0.8  # share of turns that a language model reads right; assumed
MAX_TOKENS = 40
MOST_SURE = 0.99


class Reaction(Reply):
    """What a turn is to the answer before it."""

    kind: Literal["none", "reask", "correction", "complaint", "doubt", "constraint", "praise"]


async def weighed(turn: Turn, found: Detection, chat: Chat) -> Detection:
    """Both readings as one: the odds of the small detector times those of the model; ModelError without a reply."""
    text = render(
        "reaction", language_of(turn.text), query=turn.query[:READ], answer=(turn.answer or "(not known)")[:READ],
        turn=turn.text[:READ],
    )  # fmt: skip
    call = ChatCall(messages=(Message(role="user", content=text),), max_tokens=MAX_TOKENS, purpose="reaction")
    said = (await ask(chat, call, Reaction, "reading of a turn")).kind
    share = min(MOST_SURE, max(1 - MOST_SURE, found.feedback))
    factor = RIGHT / (1 - RIGHT) if said != "none" else (1 - RIGHT) / RIGHT
    odds = share / (1 - share) * factor
    better = replace(
        found, feedback=odds / (1 + odds), is_feedback=odds >= 1, detector=f"{found.detector}+asked-{VERSION}"
    )
    return (
        better if said == "none" else replace(better, kind=said, kinds={**dict.fromkeys(found.kinds, 0.0), said: 1.0})
    )
