"""(candidate, prompt) -> answer: how each kind of candidate answers; the same in the gate and in serving.

Base and expert answer in one call. A critic takes three (paper, section 3.5): the base drafts, the critic says what to
change, the base revises.
"""

from collections.abc import Sequence

from logtune.errors import ModelError
from logtune.ports import Chat, ChatCall
from logtune.prompts import language_of, render
from logtune.records import CandidateKind, Message

CRITIQUE_TOKENS = 200
CRITICS = ("critic", "critic_prompt")


async def answer(student: Chat, kind: CandidateKind, model: str, prompt: Sequence[Message], max_tokens: int) -> str:
    """The greedy answer of a candidate; `model`: name of the loaded adapter, "" for the base.

    Raises ModelError when there is none.
    """
    if kind in ("base", "expert"):
        return await _say(student, prompt, max_tokens, model)
    if kind not in CRITICS:
        raise ModelError(f"candidates of kind '{kind}' cannot answer yet", "base, expert and critic can")
    draft = await _say(student, prompt, max_tokens)
    query = prompt[-1].content
    said = await _say(student, critic_prompt(query, draft), CRITIQUE_TOKENS, model)
    if not said.strip():
        return draft  # nothing to change
    revise = render("revise", language_of(query), query=query, answer=draft, rules=said)
    return await _say(student, (*prompt[:-1], Message(role="user", content=revise)), max_tokens)


async def _say(student: Chat, messages: Sequence[Message], max_tokens: int, model: str = "") -> str:
    return (await student.complete(ChatCall(messages=tuple(messages), model=model, max_tokens=max_tokens))).text


def critic_prompt(query: str, draft: str) -> tuple[Message, ...]:
    """What a critic is asked, in training and in serving."""
    return (Message(role="user", content=render("critic", language_of(query), query=query, answer=draft)),)


def critique(rules: Sequence[str]) -> str:
    """What a critic learns to say: the rules, numbered."""
    return "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, start=1))
