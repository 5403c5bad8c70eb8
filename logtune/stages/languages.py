"""text -> the language it is in, by its script and its most frequent words; "" where that cannot be said.

Enough to tell whether a deployment serves a language; a short text in Latin letters, or code, has none.
"""

import re
from functools import cache

LATIN = {
    "en": "the and is to of in that it you for what how do my i can are with this have was not on me your please a",
    "de": "der die das und ist nicht ich wie was kann mein eine ein zu mit für auf wir sie den dem es bitte von",
    "fr": "le la les et est je pas que une des pour mon comment vous dans qui sur avec ce il du quel puis ma au",
    "es": "el la los las y es no que una para mi como por con se en del cuál puedo qué cómo está un lo su",
    "pt": "o os as e é não que uma para meu como por com se em do da minha posso você um no na está eu",
    "it": "il lo gli e è non che una per mio come con di del della posso un sono la mi ho in cosa nel",
    "nl": "de het een en is niet ik hoe wat kan mijn van voor met op je zijn naar dat er te maar ook",
    "pl": "i w nie na jest to się jak czy z do mój moja mogę co że dla o po jest już proszę",
    "tr": "ve bir bu ne için nasıl mi ben değil var ile çok daha benim mı olarak ama kadar",
    "sv": "och är det att en jag inte som på för med hur kan min ett av har vad till den",
}
# Their neighbours, which are asked only where a text has words that none of the above has.
NEIGHBOURS = {
    "ca": "el la els les i és no que una per a amb meu meva com vull puc em al i què quin aquest aquesta del compte",
    "ro": "și în la cu nu este sunt care pentru o un mea meu cum ce din pe se să pot am că de",
    "cs": "a je na se v že to z do jak co mi můj pro nebo jsem není jako od mohu účet",
    "da": "og det er at en jeg ikke på til for med hvordan kan min et af har hvad der den",
    "no": "og det er at en jeg ikke på til for med hvordan kan min et av har hva som den",
}
SCRIPTS = (
    ("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7af\u1100-\u11ff"), ("zh", "\u4e00-\u9fff"), ("ru", "\u0400-\u04ff"),
    ("ar", "\u0600-\u06ff"), ("he", "\u0590-\u05ff"), ("hi", "\u0900-\u097f"), ("el", "\u0370-\u03ff"),
    ("th", "\u0e00-\u0e7f"), ("bn", "\u0980-\u09ff"), ("ta", "\u0b80-\u0bff"),
)  # fmt: skip
# Letters that only some languages of a script have, the first that are found; "": one of several without a list.
MARKED = {
    "ru": (("be", "ўЎ"), ("kk", "әғқңөұүһӘҒҚҢӨҰҮҺ"), ("", "ђѓјљњћќџѕЂЃЈЉЊЋЌЏЅ"), ("uk", "іїєґІЇЄҐ")),
    "ar": (("ur", "ٹڈڑںےہ"), ("", "ڕڵێۆټډړښځۍېەۇۈ"), ("fa", "پچژگیک")),
}
# A text in Cyrillic letters with one of these, and none of the Russian ones, may be Bulgarian.
BULGARIAN = re.compile(r"\b(?:ще|съм|какво|къде|мога|това|тази|моята|искам|сметка(?:та)?)\b")
RUSSIAN = re.compile(r"[ыэёЫЭЁ]")
SHARE = 0.3  # of the letters: a script with fewer is quoted, not spoken
READ = 2000  # characters
LEAST = 2  # frequent words that name a language, and its lead over the next
WORD = re.compile(r"[^\W\d_]+")


def language(text: str) -> str:
    """ISO 639-1 code; "" where it cannot be told."""
    read = text[:READ]
    if not read.isascii():
        letters = sum(map(str.isalpha, read))
        for name, members in SCRIPTS:
            if len(_members(members).findall(read)) > SHARE * max(letters, 1):
                return _marked(name, read)
    return _by_words([word.lower() for word in WORD.findall(read)])


def _marked(name: str, text: str) -> str:
    """Which of the languages of a script, by letters that the others lack."""
    for other, letters in MARKED.get(name, ()):
        if any(letter in text for letter in letters):
            return other
    if name == "ru" and not RUSSIAN.search(text) and BULGARIAN.search(text.lower()):
        return ""
    return name


@cache
def _members(members: str) -> re.Pattern[str]:
    return re.compile(f"[{members}]")


@cache
def _frequent() -> dict[str, frozenset[str]]:
    return {name: frozenset(words.split()) for name, words in LATIN.items()}


@cache
def _neighbours() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Frequent words, and those among them that no language of LATIN has."""
    listed = {name: frozenset(words.split()) for name, words in NEIGHBOURS.items()}
    return {name: (words, words.difference(*_frequent().values())) for name, words in listed.items()}


def _by_words(words: list[str]) -> str:
    said = set(words)
    near = {name: known for name, (known, own) in _neighbours().items() if len(said & own) >= LEAST}
    asked = _frequent() | near
    found = sorted(((sum(word in known for word in words), name) for name, known in asked.items()), reverse=True)
    (most, name), (next_most, _) = found[0], found[1]
    return name if most >= LEAST and most - next_most >= LEAST else ""
