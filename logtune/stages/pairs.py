"""Interaction, Signal*, Rule* -> PreferencePair: a better answer beside the one that was given; chosen never equals rejected.

From the users themselves: an edited answer, or a right answer named in words (mapped to the exact form in which other
users gave it). With a teacher: the answer revised under the rules, or the request answered afresh under them, kept when
the judge prefers it to the original in both orders (paper, section 3.2; method, section 3).
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

from logtune.errors import ModelError
from logtune.ports import Chat, ChatCall
from logtune.prompts import language_of, render
from logtune.records import Interaction, Json, Message, PairOrigin, PreferencePair, Rule, Signal, identified

VERDICT_SCHEMA: Mapping[str, Json] = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
LONGEST_STATED_WORDS = 12  # a longer span is an explanation, not an answer


def plain(text: str) -> str:
    """The words of a text: no case, no punctuation, '_' and '-' as spaces; so 'Card arrival!' is 'card_arrival'."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


def known_answers(signals: Sequence[Signal], users: Mapping[str, str], min_support: int) -> dict[str, str]:
    """Words -> the exact form in which users edited answers; `users`: interaction id -> user. Most given form wins."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    who: dict[str, set[str]] = defaultdict(set)
    for signal in signals:
        if signal.kind == "edit" and signal.correction and len(signal.correction.split()) <= LONGEST_STATED_WORDS:
            forms[plain(signal.correction)][signal.correction.strip()] += 1
            who[plain(signal.correction)].add(users.get(signal.interaction_id, signal.interaction_id))
    return {
        words: counts.most_common(1)[0][0]
        for words, counts in forms.items()
        if len(who[words]) >= min_support and words
    }


def right_answer(
    signals: Sequence[Signal], known: Mapping[str, str], min_confidence: float
) -> tuple[str, PairOrigin] | None:
    """The answer that the user gave, and how: their edit, else words that name an answer others have given."""
    usable = [s for s in signals if s.correction and s.confidence >= min_confidence]
    edits = [s for s in usable if s.kind == "edit"]
    if edits:
        return (edits[-1].correction or "").strip(), "edit"
    for signal in usable:
        words = plain(signal.correction or "")
        if words in known:
            return known[words], "stated"
        inside = [answer for answer in known if f" {answer} " in f" {words} "]
        if inside:
            return known[max(inside, key=len)], "stated"
        if not known and len(words.split()) <= LONGEST_STATED_WORDS:
            return (signal.correction or "").strip(), "stated"
    return None


def from_users(
    interaction: Interaction,
    signals: Sequence[Signal],
    rules: Sequence[Rule],
    known: Mapping[str, str],
    min_confidence: float,
) -> PreferencePair | None:
    """The pair that the user's own words make; None when they name no other answer."""
    found = right_answer(signals, known, min_confidence)
    return None if found is None else build(interaction, rules, found[0], interaction.answer, found[1])


def build(
    interaction: Interaction, rules: Sequence[Rule], chosen: str, rejected: str, origin: PairOrigin,
    margin: float | None = None, votes: Mapping[str, Json] | None = None,
) -> PreferencePair | None:  # fmt: skip
    """A pair; None when an answer is empty or both are the same."""
    if not chosen.strip() or not rejected.strip() or chosen.strip() == rejected.strip():
        return None
    return identified(
        PreferencePair(
            id="", interaction_id=interaction.id, rule_ids=tuple(rule.id for rule in rules),
            prompt=(*interaction.context, Message(role="user", content=interaction.query)),
            chosen=chosen, rejected=rejected, origin=origin, margin=margin, votes=votes or {},
        )
    )  # fmt: skip


async def revise(
    interaction: Interaction, rules: Sequence[Rule], teacher: Chat, margin: float
) -> PreferencePair | None:
    """The judge's best of revised and answered afresh, where it beats the original by `margin`; else None."""
    text = "\n".join(f"- {rule.text}" for rule in rules)
    language = language_of(interaction.query)
    prompt = render("revise", language, query=interaction.query, answer=interaction.answer, rules=text)
    revised = (await teacher.complete(ChatCall(messages=(Message(role="user", content=prompt),), max_tokens=512))).text
    system = Message(
        role="system", content="\n".join([*(m.content for m in interaction.context if m.role == "system"), text])
    )
    turns = tuple(m for m in interaction.context if m.role != "system")
    asked = ChatCall(messages=(system, *turns, Message(role="user", content=interaction.query)), max_tokens=512)
    candidates = {"revised": revised, "afresh": (await teacher.complete(asked)).text}
    votes = {origin: await _preference(interaction, text, answer, teacher) for origin, answer in candidates.items()}
    best = max(votes, key=lambda origin: votes[origin])
    if votes[best] <= 0.5 + margin / 2:
        return None
    shares = cast("Mapping[str, Json]", votes)
    return build(
        interaction, rules, candidates[best], interaction.answer, cast("PairOrigin", best), votes[best], shares
    )


async def _preference(interaction: Interaction, rules: str, answer: str, teacher: Chat) -> float:
    """Share of 1 for `answer` over the original, both orders: 1 preferred twice, 0.5 undecided or swayed by the order."""
    points = 0.0
    for ours, first, second in (("A", answer, interaction.answer), ("B", interaction.answer, answer)):
        prompt = render(
            "judge", language_of(interaction.query), query=interaction.query, rules=rules, first=first, second=second
        )
        call = ChatCall(messages=(Message(role="user", content=prompt),), schema=VERDICT_SCHEMA, max_tokens=20)
        reply = await teacher.complete(call)
        try:
            verdict = json.loads(reply.text)["better"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"the judge's reply is no verdict: {reply.text[:200]!r}", "use a larger teacher"
            ) from error
        points += 0.25 if verdict == "tie" else 0.5 * (verdict == ours)
    return points
