"""answer -> whether it refuses; and what the feedback on a refusal, or on an attack that was answered, is worth.

Users punish refusals that were right and praise answers that should not have been given. Neither may teach anything:
a model that learns from them loses its manners. Whether a refusal was right is read from the query alone, with a lower
bar than that of the filter: the model saw something in it, and so did the classifier. The classifier knows English
best, so a refusal that is punished teaches nothing at any score unless the user says what would have been right.
"""

import re
from collections.abc import Mapping, Sequence

from logtune.records import Signal

OPENING = 400  # characters of an answer in which it refuses, if it does
_CANNOT = r"(?:can't|cannot|can not|can’t|won't|won’t|will not|must decline|am unable|am not able|are unable|refuse)"
_HELP = (
    r"(?:help|assist|comply|provide|create|write|fulfil|support|engage|discuss|answer|do that|share|give|generate"
    r"|produce|participate|promote|encourage|continue|offer|describe|explain|reveal|disclose|tell)"
)
REFUSAL = re.compile(
    rf"\b(?:i(?:['’]m| am)? ?(?:really |so |very )?(?:sorry|afraid)|sorry|apologi[sz]e)\b"
    rf".{{0,60}}\b(?:{_CANNOT}|unable|not able)\b"
    rf"|\b(?:i|we) {_CANNOT}(?: to)? (?:\w+ ){{0,2}}{_HELP}"
    r"|\bas an? (?:ai|assistant|language model|responsible)\b.{0,80}\b(?:can't|cannot|not able|unable|not appropriate)"
    r"|\bagainst my (?:guidelines|policy|policies|programming|principles)"
    r"|\bnot (?:able|allowed|willing|going) to (?:help|assist|do)"
    r"|\b(?:isn['’]t|is not) something i (?:can|will|could)\b|\bi (?:don['’]t|do not) feel comfortable"
    r"|\bno puedo (?:ayudar|hacer|cumplir|proporcionar|responder)|\blo siento, (?:pero )?no"
    r"|\bje (?:suis désolée?|regrette)\b.{0,60}\b(?:peux|puis) pas\b|\bje ne (?:peux|puis) pas\b"
    r"|\btut (?:es )?mir (?:\w+ )?leid\b.{0,60}\b(?:kann|darf|werde|können|dürfen)\b.{0,40}\b(?:nicht|kein\w*)"
    r"|\b(?:ich kann|kann ich) (?:(?:dir|ihnen|dabei|das|dazu|hier|leider|auf|diese|dieser|frage|anfrage) ){0,4}nicht"
    r"|\bnon posso (?:aiutar|fornire|rispondere)|\bmi dispiace, (?:ma )?non|\b(?:desculpe|lamento).{0,20}não posso"
    r"|извините.{0,20}не могу|я не могу (?:помочь|предоставить|ответить)"
    r"|抱歉.{0,12}(?:不能|无法)|(?:我|本)(?:不能|无法)|申し訳.{0,20}(?:できません|お答え)",
    re.IGNORECASE | re.DOTALL,
)


def refuses(answer: str) -> bool:
    """True where an answer begins by declining what was asked."""
    return REFUSAL.search(answer[:OPENING]) is not None


def suspected(scores: Mapping[str, float], classes: Sequence[str], least: float) -> dict[str, float]:
    """The classes of attack that a query may be of, with their scores."""
    return {name: round(scores[name], 3) for name in classes if least <= scores[name] and least < 1}


def net(said: Sequence[Signal]) -> float:
    """What a user thought of an answer, -1..1 for each reading, weighed by how sure the reading is."""
    return round(sum(signal.polarity * signal.confidence for signal in said), 4)
