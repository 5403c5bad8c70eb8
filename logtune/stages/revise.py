"""Interaction, Rule* -> PreferencePair: a better answer than the one that was given, written and judged by models.

Candidates: the answer rewritten under the rules, the request answered afresh under them (paper, section 3.2), and what
the served model itself says with the rules in its prompt, which it can learn most easily (method, section 3). The judge
compares each with the original; the best is kept where it is better by the margin, a draw never.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from logtune.config import PairSettings
from logtune.ports import Chat, ChatCall
from logtune.prompts import language_of, render
from logtune.records import Interaction, Json, Message, PairOrigin, PreferencePair, Rule
from logtune.stages.judge import Preference, Question, Score, by_scores, pairwise, pointwise
from logtune.stages.pairs import build

ANSWER_TOKENS = 512  # of the replies
WHOLE = frozenset({"stop", "eos_token", "stop_sequence"})  # the last two are what Text Generation Inference says
TEMPERATURE, TOP_P = 1.0, 0.9  # of the samples where several are asked for (paper, section 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """Who writes candidates and who judges them."""

    teacher: Chat
    student: Chat | None = None  # the served model; None: nothing on-policy
    model: str = ""  # the student's adapter that gave the original; "": the base model


@dataclass(frozen=True, slots=True)
class _Candidate:
    origin: PairOrigin
    text: str


async def revise(
    interaction: Interaction, rules: Sequence[Rule], writers: Writers, settings: PairSettings
) -> PreferencePair | None:
    """The judge's best where it beats the original by `settings.margin`, 0..1; else None.

    Raises ModelError when a writer fails or the judge gives no verdict.
    """
    text = "\n".join(f"- {rule.text}" for rule in rules)
    candidates = await _candidates(interaction, text, writers, settings)
    judged = await _judged(interaction, text, candidates, writers.teacher, settings)
    shares = [share for share, _ in judged]
    best = max(range(len(candidates)), key=shares.__getitem__, default=None)
    if best is None or shares[best] <= 0.5 or 2 * shares[best] - 1 < settings.margin:
        return None
    votes: dict[str, float] = {}
    for candidate, share in zip(candidates, shares, strict=True):
        votes[candidate.origin] = max(share, votes.get(candidate.origin, 0.0))
    chosen, disagreement = candidates[best], judged[best][1]
    told: dict[str, Json] = dict(votes) if disagreement is None else {**votes, "disagreement": disagreement}
    return build(interaction, rules, chosen.text, interaction.answer, chosen.origin, shares[best], told)


async def _candidates(
    interaction: Interaction, rules: str, writers: Writers, settings: PairSettings
) -> list[_Candidate]:
    """Answers that could be better: whole, unlike the original and each other."""
    asked = [
        (origin, sample)
        for origin in settings.candidates
        for call in _asked(origin, interaction, rules, writers)
        for sample in _samples(call, settings.samples)
    ]
    replies = await asyncio.gather(*(_writer(origin, writers).complete(call) for origin, call in asked))
    found: dict[str, _Candidate] = {}
    for (origin, _), reply in zip(asked, replies, strict=True):
        text = reply.text.strip()
        if text and text != interaction.answer.strip() and reply.finish_reason in WHOLE:
            found.setdefault(text, _Candidate(origin, text))
    return list(found.values())


def _writer(origin: PairOrigin, writers: Writers) -> Chat:
    return writers.student if origin == "on_policy" and writers.student is not None else writers.teacher


def _asked(origin: PairOrigin, interaction: Interaction, rules: str, writers: Writers) -> list[ChatCall]:
    """The call that makes a candidate of an origin; none where its writer is missing."""
    language = language_of(interaction.query)
    if origin == "revised":
        prompt = render("revise", language, query=interaction.query, answer=interaction.answer, rules=rules)
        return [ChatCall(messages=(Message(role="user", content=prompt),), max_tokens=ANSWER_TOKENS, purpose="revise")]
    if origin == "on_policy" and writers.student is None:
        return []
    system = [m.content for m in interaction.context if m.role == "system"]
    told = Message(role="system", content="\n\n".join([*system, render("afresh", language, rules=rules)]))
    turns = (m for m in interaction.context if m.role != "system")
    messages = (told, *turns, Message(role="user", content=interaction.query))
    model = writers.model if origin == "on_policy" else ""
    return [ChatCall(messages=messages, model=model, max_tokens=ANSWER_TOKENS, purpose=origin)]


def _samples(call: ChatCall, count: int) -> list[ChatCall]:
    if count == 1:
        return [call]
    return [replace(call, temperature=TEMPERATURE, top_p=TOP_P, seed=seed) for seed in range(count)]


async def _judged(
    interaction: Interaction, rules: str, candidates: Sequence[_Candidate], judge: Chat, settings: PairSettings
) -> list[tuple[float, float | None]]:
    """For each candidate its share of 1 over the original, and how far the judge's votes on it disagree, 0..1.

    0.5 is undecided, 0.75 by odds alone where the order swayed it. None for the disagreement of ratings.
    """
    if settings.judge == "pairwise":
        questions = [Question(query=interaction.query, rules=rules, first=candidate.text, second=interaction.answer)
                     for candidate in candidates]  # fmt: skip
        found: list[Preference] = await asyncio.gather(*(pairwise(judge, q, settings.judge_samples) for q in questions))
        return [(preference.share, preference.disagreement) for preference in found]
    texts = [interaction.answer, *(candidate.text for candidate in candidates)] if candidates else []
    scores: list[Score] = await asyncio.gather(
        *(pointwise(judge, interaction.query, rules, text, settings.judge_samples) for text in texts)
    )
    return [(_by_points(score, scores[0]), None) for score in scores[1:]]


def _by_points(candidate: Score, original: Score) -> float:
    """The preference of two ratings, and among several better ones the highest rating first."""
    return 0.5 if by_scores(candidate, original) == 0.5 else 0.5 + (candidate.mean - original.mean) / 18
