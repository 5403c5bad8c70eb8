"""Interaction, Signal* -> Rule*: rules from feedback, extracted or distilled; rules predicted without it; rules merged.

With no model, a rule is made of the user's own words. With a teacher, it reads (query, answer, feedback) and writes
short affirmative rules (paper, section 3.1), and predicts from the query alone what it would have done anyway.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from logtune.config import DistillSettings
from logtune.errors import ModelError
from logtune.ports import Chat, ChatCall, Embedder
from logtune.prompts import language_of, render
from logtune.records import Interaction, Json, Message, Rule, Signal, identified

RULES_SCHEMA: Mapping[str, Json] = {
    "type": "object",
    "properties": {"rules": {"type": "array", "items": {"type": "string"}, "maxItems": 5}},
    "required": ["rules"],
    "additionalProperties": False,
}
QUOTED_QUERIES = 3  # examples a merged rule shows
SAME_RULE = 0.9  # cosine similarity from which two rules in words say the same; measured on paraphrases of own rules
SPOKEN = frozenset({"complaint", "constraint", "correction", "edit", "doubt"})


def extract(interaction: Interaction, signals: Sequence[Signal], settings: DistillSettings) -> list[Rule]:
    """Rules in the user's own words: the answer they gave, else the change they asked for; [] without content."""
    corrected = [s for s in signals if s.correction]
    if corrected:
        best = max(corrected, key=lambda s: (s.kind == "edit", s.confidence))
        answer = _shorten(best.correction or "", settings.max_words)
        return [_rule(f"Answer: {answer}", interaction, corrected)]
    asked = [s for s in signals if s.kind in SPOKEN and s.polarity < 0 and len(s.evidence.split()) > 1]
    return [_rule(_shorten(s.evidence, settings.max_words), interaction, [s]) for s in asked]


async def distil(interaction: Interaction, signals: Sequence[Signal], teacher: Chat) -> list[Rule]:
    """Rules that a teacher reads out of the feedback; raises ModelError when it gives no valid JSON."""
    spoken = [s for s in signals if s.evidence]
    if not spoken:
        return []
    feedback = "\n".join(s.correction and f"{s.evidence}\n(right answer: {s.correction})" or s.evidence for s in spoken)
    language = language_of(interaction.query)
    prompt = render("distill", language, query=interaction.query, answer=interaction.answer, feedback=feedback)
    return [_rule(text, interaction, spoken) for text in await _ask(teacher, prompt)]


async def predict(query: str, teacher: Chat, count: int) -> list[str]:
    """Rules that the teacher would follow without feedback; what the model already knows."""
    return (await _ask(teacher, render("predict", language_of(query), query=query, count=str(count))))[:count]


async def _ask(teacher: Chat, prompt: str) -> list[str]:
    reply = await teacher.complete(
        ChatCall(messages=(Message(role="user", content=prompt),), schema=RULES_SCHEMA, max_tokens=400)
    )
    try:
        rules = json.loads(reply.text)["rules"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the teacher's reply is no valid rules JSON: {reply.text[:200]!r}", "use a larger teacher"
        ) from error
    return [" ".join(str(rule).split()) for rule in rules if str(rule).strip()]


def merge(rules: Sequence[Rule], users: Mapping[str, str], embedder: Embedder) -> list[Rule]:
    """Rules that say the same become one, with all their evidence; `users`: interaction id -> user (or session)."""
    groups: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        groups[" ".join(rule.text.casefold().split())].append(rule)
    merged: list[list[Rule]] = []
    vectors = embedder.embed([group[0].text for group in groups.values()])
    kept: list[int] = []
    for row, group in enumerate(groups.values()):
        # stated answers are exact: "card_arrival" and "card_delivery" are close in meaning and yet two answers
        exact = group[0].text.startswith("Answer: ")
        close = (
            []
            if exact
            else [at for at, i in enumerate(kept) if i >= 0 and float(vectors[i] @ vectors[row]) >= SAME_RULE]
        )
        if close:
            merged[close[0]].extend(group)
        else:
            merged.append(list(group))
            kept.append(-1 if exact else row)
    return [_merged(group, users) for group in merged]


def _merged(group: Sequence[Rule], users: Mapping[str, str]) -> Rule:
    interactions = tuple(dict.fromkeys(i for rule in group for i in rule.interaction_ids))
    return identified(
        Rule(
            id="", text=group[0].text, interaction_ids=interactions,
            signal_ids=tuple(dict.fromkeys(s for rule in group for s in rule.signal_ids)),
            from_feedback=group[0].from_feedback, covered=None,
            distinct_users=len({users.get(i, i) for i in interactions}), merged_from=tuple(rule.id for rule in group),
        )
    )  # fmt: skip


def _rule(text: str, interaction: Interaction, signals: Sequence[Signal]) -> Rule:
    return identified(
        Rule(
            id="", text=text, interaction_ids=(interaction.id,), signal_ids=tuple(s.id for s in signals),
            from_feedback=True, covered=None, distinct_users=1,
        )
    )  # fmt: skip


def _shorten(text: str, max_words: int) -> str:
    words = text.split()
    return " ".join(words[:max_words]) + (" ..." if len(words) > max_words else "")
