"""(candidate, prompt) -> answer: how each kind of candidate answers; the same in the gate and in serving.

Base and expert answer in one call, rules in one with a longer prompt. A critic takes three (paper, section 3.5): the
base drafts, the critic says what to change, the base revises; without an adapter the base is its own critic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from logtune.ports import Chat, ChatCall, ChatReply
from logtune.prompts import language_of, render
from logtune.records import CandidateKind, Message
from logtune.stages.prompted import with_rules

CRITIQUE_TOKENS = 200
CRITICS = ("critic", "critic_prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer and what it took."""

    text: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


async def answer(
    student: Chat, kind: CandidateKind, model: str, prompt: Sequence[Message], max_tokens: int,
    rules: Sequence[str] = (),
) -> str:  # fmt: skip
    """The text of `answered`."""
    return (await answered(student, kind, model, prompt, max_tokens, rules)).text


async def answered(
    student: Chat, kind: CandidateKind, model: str, prompt: Sequence[Message], max_tokens: int,
    rules: Sequence[str] = (),
) -> Answered:  # fmt: skip
    """The greedy answer of a candidate; `model`: name of the loaded adapter, "" for the base; `rules`: told by "rules".

    Raises ModelError when there is none.
    """
    if kind not in CRITICS:
        asked = with_rules(prompt, rules) if kind == "rules" else prompt
        return _sum(await _say(student, asked, max_tokens, model))
    draft = await _say(student, prompt, max_tokens)
    query = prompt[-1].content
    said = await _say(student, critic_prompt(query, draft.text), CRITIQUE_TOKENS, model)
    if not said.text.strip():
        return _sum(said, draft)  # nothing to change
    revised = await _say(student, (*prompt[:-1], revise_prompt(query, draft.text, said.text)), max_tokens)
    return _sum(draft, said, revised)


async def _say(student: Chat, messages: Sequence[Message], max_tokens: int, model: str = "") -> ChatReply:
    return await student.complete(ChatCall(messages=tuple(messages), model=model, max_tokens=max_tokens))


def _sum(*replies: ChatReply) -> Answered:
    """The last reply is the answer; all have their costs."""
    return Answered(
        text=replies[-1].text, calls=len(replies), prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
    )  # fmt: skip


def critic_prompt(query: str, draft: str) -> tuple[Message, ...]:
    """What a critic is asked, in training and in serving."""
    return (Message(role="user", content=render("critic", language_of(query), query=query, answer=draft)),)


def revise_prompt(query: str, draft: str, rules: str) -> Message:
    """What takes the place of the user's message when the base revises its draft, in the gate and in serving."""
    return Message(role="user", content=render("revise", language_of(query), query=query, answer=draft, rules=rules))


def critique(rules: Sequence[str]) -> str:
    """What a critic learns to say: the rules, numbered."""
    return "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, start=1))
