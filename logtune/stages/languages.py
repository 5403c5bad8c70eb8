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
SCRIPTS = (
    ("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7af\u1100-\u11ff"), ("zh", "\u4e00-\u9fff"), ("ru", "\u0400-\u04ff"),
    ("ar", "\u0600-\u06ff"), ("he", "\u0590-\u05ff"), ("hi", "\u0900-\u097f"), ("el", "\u0370-\u03ff"),
    ("th", "\u0e00-\u0e7f"), ("bn", "\u0980-\u09ff"), ("ta", "\u0b80-\u0bff"),
)  # fmt: skip
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
                return name
    return _by_words([word.lower() for word in WORD.findall(read)])


@cache
def _members(members: str) -> re.Pattern[str]:
    return re.compile(f"[{members}]")


@cache
def _frequent() -> dict[str, frozenset[str]]:
    return {name: frozenset(words.split()) for name, words in LATIN.items()}


def _by_words(words: list[str]) -> str:
    found = sorted(((sum(word in known for word in words), name) for name, known in _frequent().items()), reverse=True)
    (most, name), (next_most, _) = found[0], found[1]
    return name if most >= LEAST and most - next_most >= LEAST else ""
