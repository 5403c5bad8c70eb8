"""Interaction, Signal* -> Rule*: rules from feedback, extracted or distilled; rules predicted without it; rules merged.

With no model, a rule is made of the user's own words. With a teacher, it reads (query, answer, feedback) and writes
short affirmative rules (paper, section 3.1), and predicts from the query alone what it would have done anyway.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from logtune.config import DistillSettings
from logtune.ids import identified
from logtune.ports import Chat, ChatCall, Embedder
from logtune.prompts import CHINESE, language_of, render
from logtune.records import Interaction, Json, Message, Rule, Signal
from logtune.stages.asking import Rules, ask
from logtune.stages.grading import normalise
from logtune.stages.orders import asides, beginning, grounded, repeats, without_asides, without_orders

MOST_DISTILLED = 3  # of one interaction; a reaction seldom asks for more, and small models fill what they are given
RULE_CHARS = 300  # of one rule in a reply: a small model that cannot stop would else leave its JSON open
RULES_TOKENS = 600  # of a reply; five predicted rules of RULE_CHARS with their JSON
SAME_RULE = 0.9  # cosine similarity from which two rules in words say the same; measured on paraphrases of own rules
SPOKEN = frozenset({"complaint", "constraint", "correction", "edit", "doubt"})
LEAST_WORDS = 3
# what a request for a change is made of, in a few languages; without one of these a complaint is only a complaint
HOW = re.compile(
    r"\b(too|only|just give|should|shouldn't|must|instead|rather|without|with(?! me)|please|use|add|leave out|shorter|"
    r"longer|more|less|fewer|need|want|don't|do not|stop \w+ing|bitte|ohne|nur|zu|trop|sans|plus|moins|demasiado|sin)\b"
    r"|不要|请|太|应该|更|只要",
    re.IGNORECASE,
)
WORD = re.compile(rf"[{CHINESE}]|[^\s{CHINESE}]+")  # Chinese has no spaces: a character counts as a word
ANSWER = "Answer: "  # how a rule begins that is a right answer


def extract(interaction: Interaction, signals: Sequence[Signal], settings: DistillSettings) -> list[Rule]:
    """Rules in the user's own words: the answer they gave, else the change they asked for; [] without content."""
    corrected = [s for s in signals if s.correction]
    if corrected:
        best = max(reversed(corrected), key=lambda s: (s.kind == "edit", s.confidence))  # of equals the last
        return [_rule(ANSWER + _shorten(best.correction or "", settings.max_words), interaction, corrected)]
    asked = [
        s for s in signals if s.kind == "constraint" or (s.kind in SPOKEN and s.polarity < 0 and says_how(s.evidence))
    ]
    return [_rule(_shorten(s.evidence, settings.max_words), interaction, [s]) for s in asked]


def says_how(text: str) -> bool:
    """Whether a complaint names what should be different; "that is nonsense" teaches nobody anything."""
    return len(WORD.findall(text)) >= LEAST_WORDS and HOW.search(text) is not None


async def distil(
    interaction: Interaction, signals: Sequence[Signal], teacher: Chat, settings: DistillSettings | None = None
) -> list[Rule]:
    """Rules that a teacher reads out of the feedback; raises ModelError when it gives no valid JSON.

    A bare rating or praise says nothing about how to do better, and costs no call.
    """
    if not any(s.correction or s.kind in SPOKEN or s.kind == "reask" for s in signals):
        return []
    spoken = [s for s in signals if s.evidence]
    query, asked = without_orders(interaction.query)
    answer, said = without_orders(interaction.answer)
    feedback, orders = without_orders("\n".join(_reaction(s) for s in spoken), reaction=True)
    feedback, aside = without_asides(feedback, f"{query}\n{answer}")
    prompt = render("distill", language_of(interaction.query), query=query, answer=answer, feedback=feedback)
    most = (settings or DistillSettings()).max_words
    texts = [as_order(text) for text in await _ask(teacher, prompt, MOST_DISTILLED, "distill")]
    # what neither the request's beginning nor the reaction speaks of may be read, and makes no rule
    strange = (*asides(query, feedback), *asides(answer, f"{feedback}\n{beginning(query)}"))
    cut, material = (*orders, *aside, *asked, *said, *strange), f"{query}\n{answer}"
    kept = [text for text in texts if is_rule(text) and not repeats(text, cut) and grounded(text, feedback, material)]
    short = dict.fromkeys(_shorten(_sentences(text, most), most) for text in kept)
    return [_rule(text, interaction, spoken) for text in short]


SHOULD = re.compile(
    r"^(?:next time,?\s+)?(?:(?:the\s+)?(?:assistant|model|ai|answer)\s+(?:should|must|needs? to)"
    r"|the reaction (?:wants|asks) (?:the answer|for the answer) to)\s+(?!not\b|never\b|be\b)(?:always\s+)?(?=[a-z])",
    re.IGNORECASE,
)


# what a rule must not speak of: small models write about their task instead of doing it
OF_THE_TASK = re.compile(
    r"\b(?:(?:the|user'?s?) (?:reaction|feedback)|the material|(?:the|this) conversation|no rules?)\b"
    r"|反应|材料|没有规则",
    re.IGNORECASE,
)
LEAST_RULE = 2  # words: "Be brief."


def is_rule(text: str) -> bool:
    """Whether a text can be understood without the log that it came from, and says anything at all."""
    return len(WORD.findall(text)) >= LEAST_RULE and OF_THE_TASK.search(text) is None


def as_order(rule: str) -> str:
    """A rule as an order: "The assistant should name the price" becomes "Name the price"."""
    shorter = SHOULD.sub("", rule)
    return shorter[:1].upper() + shorter[1:]


def _reaction(signal: Signal) -> str:
    if signal.correction and signal.correction not in signal.evidence:
        return f"{signal.evidence}\n(right answer: {signal.correction})"
    return signal.evidence


async def predict(query: str, teacher: Chat, count: int) -> list[str]:
    """Rules that the teacher would follow without feedback; what the model already knows."""
    return await _ask(teacher, render("predict", language_of(query), query=query, count=str(count)), count, "predict")


async def _ask(teacher: Chat, prompt: str, most: int, purpose: str) -> list[str]:
    asked = (Message(role="user", content=prompt),)
    call = ChatCall(messages=asked, schema=_schema(most), max_tokens=RULES_TOKENS, purpose=purpose)
    found = await ask(teacher, call, Rules, "rules JSON")
    texts = [" ".join(rule.split()) for rule in found.rules]
    return list(dict.fromkeys(text for text in texts if text))[:most]


def _schema(most: int) -> Mapping[str, Json]:
    rules: Json = {"type": "array", "items": {"type": "string", "maxLength": RULE_CHARS}, "maxItems": most}
    return {"type": "object", "properties": {"rules": rules}, "required": ["rules"], "additionalProperties": False}


def merge(rules: Sequence[Rule], users: Mapping[str, str], embedder: Embedder) -> list[Rule]:
    """Rules that say the same become one, with all their evidence; `users`: interaction id -> user (or session).

    Right answers are exact: "card_arrival" and "card_delivery" are close in meaning and yet two answers.
    """
    groups: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        exact = rule.text.casefold().startswith(ANSWER.casefold())
        # "Card arrival." and "card_arrival" are one answer
        groups[ANSWER * exact + normalise(rule.text[len(ANSWER) * exact :])].append(rule)
    worded = [name for name in groups if not name.startswith(ANSWER)]
    vectors = embedder.embed([groups[name][0].text for name in worded])
    firsts: list[str] = []  # names of the groups that others join
    of_firsts = np.empty_like(vectors)
    for name, vector in zip(worded, vectors, strict=True):
        closeness = of_firsts[: len(firsts)] @ vector
        if firsts and closeness.max() >= SAME_RULE:
            groups[firsts[int(np.argmax(closeness))]] += groups.pop(name)
        else:
            of_firsts[len(firsts)] = vector
            firsts.append(name)
    return [_merged(group, users) for group in groups.values()]


def _merged(group: Sequence[Rule], users: Mapping[str, str]) -> Rule:
    interactions = tuple(dict.fromkeys(i for rule in group for i in rule.interaction_ids))
    return identified(
        Rule(
            id="", text=Counter(rule.text for rule in group).most_common(1)[0][0], interaction_ids=interactions,
            signal_ids=tuple(dict.fromkeys(s for rule in group for s in rule.signal_ids)),
            from_feedback=any(rule.from_feedback for rule in group), covered=None,
            distinct_users=len({users.get(i, i) for i in interactions}),
            merged_from=tuple(dict.fromkeys(rule.id for rule in group)),
        )
    )  # fmt: skip


def _rule(text: str, interaction: Interaction, signals: Sequence[Signal]) -> Rule:
    return identified(
        Rule(
            id="", text=text, interaction_ids=(interaction.id,), signal_ids=tuple(s.id for s in signals),
            from_feedback=True, covered=None, distinct_users=1,
        )
    )  # fmt: skip


def _sentences(text: str, max_words: int) -> str:
    """As many of the first sentences as have `max_words` together; the whole text where the first alone has more."""
    kept = ""
    for match in re.finditer(r"[^.!?。！？]*(?:[.!?。！？]+(?=\s|$)|[.!?。！？]+|$)", text):
        if len(WORD.findall(kept + match.group())) > max_words:
            break
        kept += match.group()
    return kept.strip() or text


def _shorten(text: str, max_words: int) -> str:
    """The text on one line, cut after `max_words` words."""
    line = " ".join(text.split())
    ends = [word.end() for word in WORD.finditer(line)]
    return line if len(ends) <= max_words else line[: ends[max_words - 1]] + " ..."
