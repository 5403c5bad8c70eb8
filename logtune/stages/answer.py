"""(candidate, prompt) -> answer: how each kind of candidate answers; the same in the gate and in serving.

Base and expert answer in one call. A critic takes three (paper, section 3.5): the base drafts, the critic says what to
change, the base revises.
"""

from collections.abc import Sequence

from logtune.ports import Chat, ChatCall
from logtune.prompts import language_of, render
from logtune.records import CandidateKind, Message

CRITIQUE_TOKENS = 200


async def answer(
    student: Chat, kind: CandidateKind, model: str, prompt: Sequence[Message], max_tokens: int
) -> str:  # model: name of the loaded adapter, "" for the base
    """The greedy answer of a candidate; raises ModelError when there is none."""
    if kind in ("base", "expert"):
        return (await student.complete(ChatCall(messages=tuple(prompt), model=model, max_tokens=max_tokens))).text
    draft = (await student.complete(ChatCall(messages=tuple(prompt), max_tokens=max_tokens))).text
    query = prompt[-1].content
    asked = critic_prompt(query, draft)
    critique = (await student.complete(ChatCall(messages=asked, model=model, max_tokens=CRITIQUE_TOKENS))).text
    revise = render("revise", language_of(query), query=query, answer=draft, rules=critique)
    system = tuple(m for m in prompt if m.role == "system")
    call = ChatCall(messages=(*system, Message(role="user", content=revise)), max_tokens=max_tokens)
    return (await student.complete(call)).text


def critic_prompt(query: str, draft: str) -> tuple[Message, ...]:
    """What a critic is asked, in training and in serving."""
    return (Message(role="user", content=render("critic", language_of(query), query=query, answer=draft)),)


def critique(rules: Sequence[str]) -> str:
    """What a critic learns to say: the rules, numbered."""
    return "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, start=1))
