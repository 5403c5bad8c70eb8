"""What the base model knows without being taught: its own answers, where nobody else's tell.

cycle, Interaction* -> answers      what it knew beforehand, of requests that another base model answered
request, better answer -> gives     whether it says just that by itself, so that it is no lesson
"""

import asyncio
from collections.abc import Sequence

from logtune.errors import LogtuneError, RequestError
from logtune.ports import Chat
from logtune.records import Interaction, Message, PreferencePair
from logtune.runner import Cycle
from logtune.stages import answer
from logtune.stages import pairs as pairing
from logtune.stages.grading import grade
from logtune.views import max_tokens, prompt_of

ENOUGH_TOKENS, TOKENS_A_WORD = 16, 4  # beyond a short answer, so that one which goes on is seen to do so


def earlier(cycle: Cycle, items: Sequence[Interaction]) -> list[Interaction]:
    """Those that were answered while another model was the base."""
    return [item for item in items if item.at < cycle.base_since]


async def base_answer(cycle: Cycle, item: Interaction) -> str:
    """What the base model answers now; raises ModelError when it does not."""
    return await answer.answer(cycle.tools.student, "base", "", prompt_of(item), max_tokens(cycle, item))


async def answers(cycle: Cycle, items: Sequence[Interaction]) -> dict[str, str]:
    """Interaction id -> what the base model answers now; "" where it cannot, so that it is taken to know nothing."""

    async def ask(item: Interaction) -> str:
        try:
            return await base_answer(cycle, item)
        except LogtuneError as error:
            cycle.progress(f"gap: the base model does not answer {item.id}: {error.what}")
            return ""

    texts = await asyncio.gather(*(ask(item) for item in items))
    return {item.id: text for item, text in zip(items, texts, strict=True)}


async def gives(student: Chat, prompt: Sequence[Message], better: str, longest: int) -> bool:
    """Whether the base model gives the better answer by itself; one of many words never matches."""
    if not pairing.is_short(better):
        return False
    limit = min(longest, ENOUGH_TOKENS + TOKENS_A_WORD * len(better.split()))
    return grade(await answer.answer(student, "base", "", prompt, limit), better) == 1.0


async def knows(student: Chat, pairs: Sequence[PreferencePair], longest: int) -> dict[str, bool]:
    """Pair id -> whether the base model gives its better answer by itself; asked outside of a cycle, all at once."""

    async def ask(pair: PreferencePair) -> bool:
        try:
            return await gives(student, pair.prompt, pair.chosen, longest)
        except RequestError:  # longer than its context: what it cannot read it does not know
            return False

    found = await asyncio.gather(*(ask(pair) for pair in pairs))
    return {pair.id: known for pair, known in zip(pairs, found, strict=True)}
