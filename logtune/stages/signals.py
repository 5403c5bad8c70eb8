"""Interaction, Feedback* -> Signal*: what users said of an answer: a rating, an edit, a comment, the next turn.

The turn that follows the answer is read too: a correction, a complaint (a pasted traceback is one), the same question
again, an added constraint, doubt, praise. What it is says a `Detection` (stages.detector) where there is one, else its
wording. Each signal has the user's own words as evidence, and as confidence the share of such readings that are right.
What logtune itself put into a prompt is never read.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from logtune.config import SignalSettings
from logtune.ids import identified
from logtune.ports import Detection, Turn
from logtune.prompts import PROMPTS
from logtune.records import Feedback, FollowUp, Interaction, Signal, SignalKind
from logtune.stages.courtesy import IRONIC, Kind, courtesy
from logtune.stages.manner import asks_for_manner
from logtune.stages.pasted import about_pasted
from logtune.stages.stated import stated_answer
from logtune.stages.wording import ASKED, FAMILIES, REASK, Family, content_words

VERSION = "3"
SCANNED = 4000  # characters of a turn that are read
SPAN = 300  # characters of evidence
FEW_MORE = 8  # words beside a question that is asked again
FRAGMENT = 20  # characters of a prompt of ours that give it away


class Reading(NamedTuple):
    """What one text says about an answer."""

    kind: SignalKind
    polarity: float
    confidence: float
    evidence: str
    correction: str | None
    detector: str


# Assumed. For stated answers: of 60 comments of the demo's sample that name one 51 were read right, of 32 others none
# was misread.
RATED, EDITED, SENT_BACK, UNCLEAR = 0.9, 0.95, 0.6, 0.6
POLARITY: Mapping[SignalKind, float] = {
    "reask": -0.7, "correction": -0.8, "complaint": -0.9, "doubt": -0.4, "constraint": -0.5, "praise": 1.0,
}  # fmt: skip
STATED = {"plain": 0.9, "terse": 0.85, "bare": 0.7}
LIKED = 0.6  # that praise in a next turn is meant; assumed
MANNERS = 0.3  # polarity of mere thanks, which are said for bad answers too: with LIKED too little to teach alone


def turns_of(interaction: Interaction) -> list[Turn]:
    """What its user said after the answer, as far as it is for a detector."""
    if _ours(interaction.query):
        return []
    said = [item.text for item in interaction.follow_ups if item.text.strip() and not _ours(item.text)]
    return [Turn(text=text, query=interaction.query, answer=interaction.answer) for text in dict.fromkeys(said)]


def read(
    interaction: Interaction, feedback: Sequence[Feedback], settings: SignalSettings,
    detected: Mapping[str, Detection] | None = None,
) -> tuple[Signal, ...]:  # fmt: skip
    """The signals on one answer, explicit ones first, each at least `settings.min_confidence` sure.

    `detected`: text -> what a detector made of `turns_of`; None: turns are read by their wording.
    """
    if _ours(interaction.query):
        return ()  # a call of ours that came back through another gateway
    found: list[tuple[str | None, Reading]] = []
    for item in _current(feedback):
        found += [(item.id, reading) for reading in _explicit(item, interaction)]
    for follow_up in interaction.follow_ups:
        found += [(None, reading) for reading in _implicit(follow_up, interaction, detected)]
    sure = [(source, reading) for source, reading in found if reading.confidence >= settings.min_confidence]
    return tuple(_signal(interaction, source, reading) for source, reading in sure)


def _signal(interaction: Interaction, feedback_id: str | None, reading: Reading) -> Signal:
    return identified(
        Signal(
            id="", interaction_id=interaction.id, feedback_id=feedback_id, kind=reading.kind, polarity=reading.polarity,
            confidence=reading.confidence, evidence=reading.evidence, correction=reading.correction,
            detector=f"{reading.detector}@{VERSION}",
        )
    )  # fmt: skip


# --- explicit ---


def _current(feedback: Sequence[Feedback]) -> list[Feedback]:
    """Feedback that still holds, by time."""
    replaced = {item.supersedes for item in feedback if item.supersedes}
    return sorted(
        (item for item in feedback if not item.revoked and item.id not in replaced), key=lambda item: (item.at, item.id)
    )


def _explicit(item: Feedback, interaction: Interaction) -> Iterator[Reading]:
    if item.correction and item.correction.strip() and not _ours(item.correction):
        yield _edit(item.correction, interaction.answer, EDITED, "edit")
    if item.value:
        value = max(-1.0, min(1.0, item.value))
        yield Reading("rating", value, RATED, f"rating {value:g}", None, "rating")
    if item.comment and item.comment.strip() and not _ours(item.comment):
        is_answer = item.kind == "correction" and not item.correction
        yield comment(item.comment, interaction.answer, item.value, is_answer)


def _edit(correction: str, answer: str, confidence: float, detector: str) -> Reading:
    """An edit that changes nothing accepts the answer."""
    if _words(correction) == _words(answer):
        return Reading("accept", 0.8, confidence, _span(correction), None, detector)
    return Reading("edit", -1.0, confidence, _span(correction), correction.strip(), detector)


def comment(text: str, answer: str, value: float | None = None, is_answer: bool = False) -> Reading:
    """What a comment says that was given as feedback; `is_answer`: it was given as the right answer."""
    kind_words = courtesy(text).kind
    if kind_words in ("praise", "thanks") and not is_answer and not (value or 0) < 0:
        return _praise(kind_words, text, ASKED, "comment")
    liked, family = value is not None and value > 0, _family(text)
    if not liked and (family is None or family.polarity < 0):
        stated = stated_answer(text, answer, asked=True)
        # bare words are an answer if nothing else, a single one only from somebody who disliked the answer given
        bare = stated is not None and stated.how == "bare"
        if stated is not None and not (bare and (family is not None or not (value or " " in stated.text))):
            return Reading("correction", -1.0, STATED[stated.how], _span(text), stated.text, f"comment.{stated.how}")
        if is_answer and not asks_for_manner(text):
            return Reading("correction", -1.0, STATED["terse"], _span(text), text.strip(), "comment.whole")
    if family is None and not liked and asks_for_manner(text):
        meant = (value or 0) < 0 or "please" in text.casefold()
        return Reading("constraint", -0.5, ASKED if meant else UNCLEAR, _span(text), None, "comment.manner")
    if family is None or (liked and family.polarity < 0):
        return _unclear(text, value)
    sure = max(family.precision, ASKED)
    return Reading(family.kind, family.polarity, sure, _span(text, family), None, f"comment.{family.name}")


def _unclear(text: str, value: float | None) -> Reading:
    """A comment without a word we know: the rating beside it says what it is, else it is more likely a complaint."""
    if value:
        kind: SignalKind = "praise" if value > 0 else "complaint"
        return Reading(kind, 0.5 if value > 0 else -0.9, ASKED, _span(text), None, "comment.other")
    return Reading("complaint", -0.5, UNCLEAR, _span(text), None, "comment.other")


# --- implicit ---


def _implicit(
    follow_up: FollowUp, interaction: Interaction, detected: Mapping[str, Detection] | None
) -> Iterator[Reading]:
    edited = follow_up.edited
    if edited is not None and not _shortened(edited, interaction.answer) and not _ours(edited):
        yield _edit(edited, interaction.answer, SENT_BACK, "sent_back")
    if not follow_up.text.strip() or _ours(follow_up.text):
        return
    if detected is None:
        reading = next_turn(follow_up.text, interaction.query, interaction.answer)
    else:
        reading = detected_turn(follow_up.text, interaction.answer, detected[follow_up.text])
    if reading is not None:
        yield reading


def detected_turn(text: str, answer: str, found: Detection) -> Reading | None:
    """What a detection says about the answer; None: the turn is no feedback."""
    manners = courtesy(text, answer)
    if manners.kind not in ("", "more"):
        return None if manners.kind == "reply" else _praise(manners.kind, text, LIKED, "turn")
    if not found.is_feedback:
        return None
    found_bad = found.kind in ("complaint", "correction")
    stated = stated_answer(text, answer) if found_bad else None
    kind: SignalKind = "correction" if stated is not None else found.kind
    if manners.kind == "more" and found_bad and stated is None:
        follows = _family(manners.rest, answer)
        if follows is None or follows.polarity >= 0:
            return None  # thanks for the answer, and a new matter
        kind = follows.kind
    if found_bad and stated is None and about_pasted(text, answer):
        return None
    liked = kind == "praise"
    praise = found.kinds.get("praise", 0.0)
    sure = found.feedback * (praise if liked else 1 - praise)  # that it is feedback, and with this sign
    polarity = -1.0 if stated is not None else POLARITY[kind]
    right = stated.text if stated is not None else None
    return Reading(kind, polarity, round(sure, 4), _span(text, _telling(text, kind)), right, found.detector)


def _praise(kind: Kind, text: str, sure: float, where: str) -> Reading:
    """What courtesies say that are all of a text."""
    return Reading("praise", 1.0 if kind == "praise" else MANNERS, sure, _span(text), None, f"{where}.{kind}")


def _telling(text: str, kind: SignalKind) -> Family | None:
    """The family whose words in a text may have made it of this kind."""
    fitting = [family for family in FAMILIES if family.pattern.search(text[:SCANNED])]
    return next((family for family in fitting if family.kind == kind), fitting[0] if fitting else None)


def next_turn(text: str, query: str, answer: str) -> Reading | None:
    """What the user's next turn says about the answer; None: nothing."""
    if not text.strip():
        return None
    if _repeats(text, query):
        return _reask("same", text)
    manners = courtesy(text, answer)
    if manners.kind not in ("", "more"):
        return None if manners.kind == "reply" else _praise(manners.kind, text, LIKED, "turn")
    said = manners.rest if manners.kind == "more" else text
    family = None if about_pasted(text, answer) else _family(said, answer)
    if family is None or (family.polarity > 0 and IRONIC.search(said)):
        return _rephrases(text, query)
    stated = stated_answer(text, answer) if family.polarity < 0 and family.kind in ("complaint", "correction") else None
    if stated is None:
        return Reading(family.kind, family.polarity, family.precision, _span(text, family), None, f"turn.{family.name}")
    return Reading("correction", -1.0, family.precision, _span(text, family), stated.text, f"turn.{family.name}")


def _reask(how: str, text: str) -> Reading:
    return Reading("reask", -0.7, REASK[how], _span(text), None, f"turn.reask_{how}")


def _repeats(text: str, query: str) -> bool:
    """The same question again, alone or with a few words about it: the words of the query are no complaint then."""
    new, old = _words(text[:SCANNED]), _words(query[:SCANNED])
    if new == old:
        return True
    inside = len(old) >= 3 and f" {' '.join(old)} " in f" {' '.join(new)} "
    return inside and len(new) - len(old) <= FEW_MORE


def _rephrases(text: str, query: str) -> Reading | None:
    """The same question in a longer form, or in nearly the same words."""
    new, old = content_words(text[:SCANNED]), content_words(query[:SCANNED])
    if min(len(new), len(old)) < 2:
        return None
    if len(new & old) >= 0.8 * len(new | old):
        return _reask("same", text)
    if len(old) >= 3 and old <= new:
        return _reask("fuller", text)
    return _reask("rephrased", text) if (len(new) >= 3 and new <= old) or _alike(new, old) >= 0.75 else None


def _alike(new: Iterable[str], old: Iterable[str]) -> float:
    """Similarity 0..1 of two sets of words by their letters, so that misspelt words count."""
    first, second = (" ".join(sorted(words))[:SPAN] for words in (new, old))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


# --- shared ---


def _family(text: str, answer: str = "") -> Family | None:
    """The first family whose pattern is in the text; a "no" to a question of the answer's is no feedback."""
    words, head = len(text.split()), text[:SCANNED]
    fitting = [family for family in FAMILIES if words <= family.longest]
    if answer.rstrip().endswith("?"):
        fitting = [family for family in fitting if family.name != "refusing"]
    return next((family for family in fitting if family.pattern.search(head)), None)


def _span(text: str, family: Family | None = None) -> str:
    """The user's own words: the whole text when it is short, else the part around what gave it away."""
    stripped = text.strip()
    if len(stripped) <= SPAN:
        return stripped
    match = family.pattern.search(stripped[:SCANNED]) if family is not None else None
    start = max(0, (match.start() if match else 0) - SPAN // 3)
    return stripped[start : start + SPAN].strip()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _shortened(edited: str, answer: str) -> bool:
    """Clients cut histories: an answer sent back in part, or not at all, is no edit."""
    return " ".join(_words(edited)) in " ".join(_words(answer))


def _ours(text: str) -> bool:
    """True when the text holds words of a prompt that logtune wrote."""
    return any(fragment in text for fragment in _fragments())


@cache
def _fragments() -> frozenset[str]:
    fixed = {part.strip() for template in PROMPTS.values() for part in re.split(r"\$\w+|\n", template)}
    return frozenset(part for part in fixed if len(part) >= FRAGMENT)
