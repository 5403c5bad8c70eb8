"""How close an answer is to the one the user wanted, and whether it is an answer at all: text in, numbers out."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

SHORT_WORDS = 8  # up to so many words a reference is a name or a value, right or wrong; longer ones can be nearly right
REPEATED = 0.5  # share of repeated 4-grams above which an answer goes round in circles; 0.2% of 5,000 real answers do
REPEAT_WORDS = 12  # shorter answers have too few 4-grams to judge
EDGES = " \t\n\r.,;:!?\"'`*“”‘’«»。，！？；：「」"
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each character counts as a word
WORD = re.compile(  # a CJK character, a number with its sign, a word, a run of one punctuation mark
    rf"[{CJK}]|(?<!\w)[+-]?\d+(?:[.,]\d+)*(?!\w)|[^\W{CJK}]+|(?P<mark>[^\w\s])(?P=mark)*"
)
STUTTER = re.compile(r"(\w)\1{29}")


def normalise(text: str) -> str:
    """Lower case, single spaces, nothing but the text itself (no quotes, no full stop), `a_b` and `a-b` as `a b`.

    Inner punctuation and the signs of numbers stay: 5 is not -5, 3.5 is not 35.
    """
    text = unicodedata.normalize("NFC", text).casefold()
    text = re.sub(r"(?<=\w)_+(?=\w)|(?<=[^\W\d])-(?=[^\W\d])", " ", text)
    return " ".join(text.split()).strip(EDGES)


def words(text: str) -> list[str]:
    """Words, signed numbers, runs of a punctuation mark and single CJK characters, in order."""
    return [match.group() for match in WORD.finditer(text)]


def grade(answer: str, reference: str) -> float:
    """How close an answer is to the one the user wanted: 1 the same after `normalise`, else less; 0 nothing in common.

    References of up to SHORT_WORDS words are right or wrong: an answer that holds the reference among other words gets
    token F1 (Rajpurkar et al. 2016), any other 0. Longer references: `chrf`.
    """
    ours, right = normalise(answer), normalise(reference)
    if ours == right:
        return 1.0
    have, want = words(ours), words(right)
    if len(want) > SHORT_WORDS:
        return min(chrf(ours, right), 0.999)
    held = want and f" {' '.join(want)} " in f" {' '.join(have)} "
    return 2 * len(want) / (len(have) + len(want)) if held else 0.0


def chrf(answer: str, reference: str, orders: int = 6) -> float:
    """Character n-gram F-score, 0..1 (chrF, Popović 2015), without spaces.

    beta 1 rather than the usual 2: what the user took out of an answer counts as much as what he put in.
    """
    ours, right = "".join(answer.split()), "".join(reference.split())
    precisions, recalls = [], []
    for order in range(1, min(orders, len(ours), len(right)) + 1):
        have, want = _grams(ours, order), _grams(right, order)
        matched = (have & want).total()
        precisions.append(matched / have.total())
        recalls.append(matched / want.total())
    total = sum(precisions) + sum(recalls)
    return 2 * sum(precisions) * sum(recalls) / (total * len(precisions)) if total else 0.0


def bleu(answer: str, reference: str) -> float:
    """Sentence BLEU, 0..1 (Papineni et al. 2002); the k-th order without a match counts 1 / 2^k of a match (Chen and
    Cherry 2014, method 3), answers of under 4 words are judged by the orders they have.
    """
    ours, right = words(answer.casefold()), words(reference.casefold())
    if not set(ours) & set(right):
        return 0.0
    logs, share, orders = 0.0, 1.0, min(4, len(ours))
    for order in range(1, orders + 1):
        have = _grams(ours, order)
        matched = float((have & _grams(right, order)).total())
        if not matched:
            share /= 2
            matched = share
        logs += math.log(matched / have.total()) / orders
    return math.exp(min(0.0, 1 - len(right) / len(ours)) + logs)


def _grams(items: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(items[start:] for start in range(order)), strict=False))


@lru_cache(maxsize=2048)  # the gate asks several times of each answer
def degenerate(text: str) -> bool:
    """Empty, one character over and over, or most 4-grams repeated (seq-rep-4, Welleck et al. 2020)."""
    found = words(text)
    if not found or STUTTER.search(text):
        return True
    grams = _grams(found, 4)
    return len(found) >= REPEAT_WORDS and 1 - len(grams) / grams.total() > REPEATED
