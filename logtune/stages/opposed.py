"""rule, rule -> whether one asks for what the other forbids, by their words alone.

Two rules are opposed when they say the same but for a negation ("use emojis", "no emojis"), ask for opposite ends of
one scale (shorter, more detailed), or for two languages.
"""

import re
from functools import cache

SCALES: tuple[tuple[str, str], ...] = (
    (r"shorter|short|brief|briefly|concise|concisely|less detail|fewer words|kürzer|kurz|更短|简短|简洁",
     r"longer|more details?|detailed|in detail|elaborate|expand|länger|ausführlich\w*|更长|更详细|详细"),
    (r"formal|formally|professional", r"informal|informally|casual|casually|chatty"),
    (r"bullets?|bullet points?|bulleted|as a list|lists", r"prose|paragraphs?|full sentences|flowing text"),
    (r"simple|simply|simpler|plain words|layman\w*", r"technical|in depth|expert level"),
    (r"metric|celsius|kilomet\w+", r"imperial|fahrenheit|miles"),
    (r"code only|only (?:the )?code|just (?:the )?code", r"explain\w*|explanations?"),
)  # fmt: skip
SIDES = tuple(
    tuple(re.compile(rf"(?<!\w)(?:{side})(?!\w)|(?=[一-鿿])(?:{side})", re.IGNORECASE) for side in scale)
    for scale in SCALES
)
LANGUAGES = re.compile(
    r"\bin (english|german|french|spanish|italian|portuguese|dutch|polish|chinese|japanese|korean|arabic|hindi)\b",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:not|no|never|don't|dont|do not|doesn't|without|avoid|stop|shouldn't|must not|leave out|omit|remove)\b"
    r"|\b(?:kein\w*|nicht|ohne)\b|不要|别|不",
    re.IGNORECASE,
)
FILLERS = frozenset(
    (
        "a",
        "an",
        "the",
        "any",
        "always",
        "please",
        "use",
        "using",
        "used",
        "include",
        "including",
        "add",
        "give",
        "with",
        "to",
        "in",
        "of",
        "and",
        "it",
        "is",
        "are",
        "be",
        "do",
        "does",
        "your",
        "you",
        "answer",
        "answers",
        "should",
        "must",
        "mit",
        "bitte",
    )
)
WORD = re.compile(r"[一-鿿]|[^\W_]+")
# complaints of too much ask for less, and so do wishes for not too much
TOO = (
    (re.compile(r"\b(?:(?:not|isn't|never) )?too (?:long|wordy|detailed|verbose)\b", re.IGNORECASE), "shorter"),
    (re.compile(r"\b(?:(?:not|isn't|never) )?too (?:short|brief|terse)\b", re.IGNORECASE), "longer"),
)
NEGATED = 12  # letters before a word in which a negation turns it round
ALIKE = 0.75  # share of the content words in common from which two rules speak of the same


def opposed(first: str, second: str) -> bool:
    """Whether two rules contradict each other; the order makes no difference."""
    return _by_scale(first, second) or _by_language(first, second) or _by_negation(first, second)


def _by_scale(first: str, second: str) -> bool:
    for low, high in SIDES:
        one, other = _side(first, low, high), _side(second, low, high)
        if one and other and one != other:
            return True
    return False


def _side(text: str, low: re.Pattern[str], high: re.Pattern[str]) -> int:
    """-1 the low end, 1 the high end, 0 neither or both."""
    for pattern, meant in TOO:
        text = pattern.sub(meant, text)
    votes = 0
    for end, match in ((-1, low.search(text)), (1, high.search(text))):
        if match is not None:
            votes += -end if NEGATION.search(text[max(0, match.start() - NEGATED) : match.start()]) else end
    return (votes > 0) - (votes < 0)


def _by_language(first: str, second: str) -> bool:
    one, other = ({found.lower() for found in LANGUAGES.findall(text)} for text in (first, second))
    return bool(one and other and not one & other)


def _by_negation(first: str, second: str) -> bool:
    one, other = _content(first), _content(second)
    if not one or not other or _negations(first) % 2 == _negations(second) % 2:
        return False
    return len(one & other) >= ALIKE * len(one | other)


@cache
def _negations(text: str) -> int:
    return len(NEGATION.findall(text))


@cache
def _content(text: str) -> frozenset[str]:
    return frozenset(word for word in WORD.findall(NEGATION.sub(" ", text).lower()) if word not in FILLERS)
