"""(query, answer, turn) -> numbers that tell a reaction to the answer from a new matter, with names; no model.

They are read by the classifier of `stages.detector`: how the turn is worded (the families of `wording`), how far it
repeats query or answer, whether it is code or an error message, whom it speaks of, its length, signs and script.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from logtune.ports import Turn
from logtune.stages.stated import seems_stated
from logtune.stages.wording import ERROR, FAMILIES, content_words

READ = 4000  # characters of each text that are looked at
SCRIPTS = ("CJK", "CYRILLIC", "HIRAGANA", "HANGUL", "ARABIC")
FEW = 12  # words of a turn that is short enough to be a reaction alone


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.MULTILINE)


# What a pattern is found in: the turn itself, its first words, its first or last sign.
TURN_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "asks": _pattern(r"\?"),
    "asks_at_end": _pattern(r"\?[\s\"')]*\Z"),
    "exclaims": _pattern(r"!"),
    "trails_off": _pattern(r"\.\.\.|…"),
    "quotes": _pattern(r"[\"“”«»`]|(?<!\w)'[^']+'"),
    "how_to": _pattern(
        r"^\W*(?:how (?:do|to|can|would|could|should)|what(?:'s| is| are)|is there|can (?:i|we)|whats)\b"
    ),
    "why": _pattern(r"\bwhy\b|\bpourquoi\b|\bwarum\b|\bpor qué\b|为什么|почему"),
    "asks_you": _pattern(r"^\W*(?:can|could|would|will|are|do|did|were|have) (?:you|u)\b"),
    "commands": _pattern(
        r"^\W*(?:please )?(?:write|create|make|give|show|add|generate|implement|explain|tell|list|find|convert|use"
        r"|build|"
        r"provide|describe|translate|summari[sz]e|design|define|calculate|compute|return|print|sort|get|check)\b"
    ),
    "fixes": _pattern(
        r"\b(?:fix|correct|repair|debug|solve|redo|regenerate|try (?:it )?again|rewrite|revise"
        r"|update|modify|chang(?:e|ing))\b"
    ),
    "continues": _pattern(
        r"^\W*(?:continues?|go on|next|more|keep going|and then|carry on|proceed|продолжи\w*|继续)\W*\Z"
    ),
    "thanks": _pattern(r"\b(?:thanks?|thank you|thx|ty)\b|谢谢|спасибо|merci|gracias|danke|obrigad"),
    "agrees": _pattern(
        r"^\W*(?:yes|yeah|yep|yup|ok(?:ay)?|sure|right|true|cool|great|nice|oh|wow|me too|haha\w*|lol)\b"
    ),
    "denies": _pattern(r"^\W*(?:no+|nope|nah|not)\b"),
    "begins_but": _pattern(r"^\W*(?:but|however|still|yet|actually|wait|hmm*|instead|sorry)\b"),
    "begins_and": _pattern(r"^\W*(?:and|also|now|then|so|next|ok(?:ay)?,? (?:now|so))\b"),
    "negates": _pattern(r"\b(?:not|never|no|none|nothing|cannot|without)\b|n'?t\b|\b(?:nicht|pas|не|нет)\b|[不没]"),
    "still": _pattern(r"\b(?:still|again|keeps?|same|always|yet)\b|\bencore\b|\bimmer noch\b|\bопять\b|[仍还]"),
    "wrong": _pattern(
        r"\b(?:wrong|incorrect|mistakes?|errors?|bugs?|fail\w*|issues?|problem|invalid|false|broken|missing)\b"
    ),
    "you": _pattern(r"\b(?:you|your|you're|u|ur)\b|[你您]|\b(?:ты|вы)\b"),
    "your_work": _pattern(
        r"\byour? (?:\w+ )?(?:code|answer|solution|response|function|output|example|reply|did|said|gave"
        r"|forgot|missed)\b"
    ),
    "i": _pattern(r"\b(?:i|i'm|im|my|me|mine|we|our)\b"),
    "points": _pattern(r"\b(?:this|that|it|its|these|those|them|above|previous|the code|the function)\b"),
    "should": _pattern(r"\b(?:should|must|needs? to|supposed|expect\w*|ought|has to|have to|require\w*)\b"),
    "wants": _pattern(r"\b(?:i|we) (?:just |only |really )?(?:want|need|would like|meant?|asked|said|don'?t)\b"),
    "confused": _pattern(
        r"\b(?:what (?:do|does|did|are|is|was) (?:you|that|this|it)|mean\b|understand|confus\w+|sense|talking about|"
        r"clarify|which one|are you sure)\b"
    ),
    "explains_please": _pattern(r"\b(?:explain|elaborate|why or why not|simpl\w+|easier|clearer|in detail)\b"),
    "example": _pattern(r"\b(?:for example|example|e\.g\.|for instance|such as|like this)\b"),
    "compares": _pattern(r"\b(?:instead|rather|than|other|another|different|alternative|better|shorter|faster)\b"),
    "restricts": _pattern(r"\b(?:only|just|without|using|except|at least|at most|exactly|in (?:one|1) line)\b"),
    "means": _pattern(r"->|=>|==|\breturns?\b|\bevaluates?\b|\boutputs?\b|\bgives?\b"),
    "error_type": re.compile(r"\b[A-Z]\w*(?:Error|Exception|Warning)\b"),
    "trace": _pattern(r"Traceback|^\s*File \"|^\s+at [\w.$<]+|\bline \d+|:\d+:\d+"),
    "asserts": _pattern(r"\bassert\w*\b"),
    "fence": re.compile(r"```"),
    "code": re.compile(
        r"^\s*(?:def|class|import|from \w+ import|for .*:|if .*:|return\b|#include|public|private|var|let|const"
        r"|function|SELECT|<\w+|\w+\s*=\s*\S|\w+\(.*\)\s*;?$|print\()|[{};]\s*$",
        re.MULTILINE,
    ),
    "call": re.compile(r"\b\w+\([^)]*\)"),
    "numbers": re.compile(r"\d"),
    "lower_start": re.compile(r"\A\W*[a-z]"),
    "capitals": re.compile(r"\b[A-Z]{4,}\b"),
    "path": re.compile(r"[A-Za-z]:\\|(?:/\w+){2,}|https?://"),
}
ANSWER_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "answer_asks": _pattern(r"\?[\s\"')]*\Z"),
    "answer_apologises": _pattern(
        r"\b(?:apologi[sz]e\w*|apologies|sorry|my mistake|you(?:'re| are) (?:right|correct))\b"
    ),
    "answer_unable": _pattern(r"\b(?:cannot|can't|unable|not able|don't have|no matches|not find|as an ai)\b"),
    "answer_code": re.compile(r"```"),
}
QUERY_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "query_asks": _pattern(r"\?"),
    "query_code": TURN_PATTERNS["code"],
    "query_error": ERROR,
    "query_complains": next(family.pattern for family in FAMILIES if family.name == "negative"),
}


def _similarity(turn: Turn) -> dict[str, float]:
    text, query, answer = (part[:READ] for part in (turn.text, turn.query, turn.answer or ""))
    new, old, said = content_words(text), content_words(query), content_words(answer)
    fresh, known = _letters(text), _letters(query)
    same_start = _common_start(text.casefold(), query.casefold())
    return {
        "same_words": _jaccard(new, old),
        "of_query": _share(new, old),
        "in_turn": _share(old, new),
        "of_answer": _share(new, said),
        "answer_of_query": _share(old, said),
        "new_words": math.log1p(len(new - old - said)),
        "same_letters": _jaccard(fresh, known),
        "letters_of_query": _share(fresh, known),
        "letters_in_turn": _share(known, fresh),
        "same_start": same_start / max(1, min(len(text), len(query))),
        "query_inside": float(bool(query.strip()) and query.strip().casefold() in text.casefold()),
        "turn_inside": float(bool(text.strip()) and text.strip().casefold() in query.casefold()),
        "turn_in_answer": float(bool(text.strip()) and text.strip().casefold() in answer.casefold()),
    }


def _letters(text: str) -> frozenset[str]:
    plain = " ".join(re.findall(r"\w+", text[: READ // 4].casefold()))
    return frozenset(plain[at : at + 3] for at in range(max(1, len(plain) - 2)))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(1, len(first | second))


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part & whole) / max(1, len(part))


def _common_start(first: str, second: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _wording(turn: Turn) -> dict[str, float]:
    text = turn.text[:READ]
    words = len(text.split())
    hits = {
        f"family_{family.name}": float(bool(words <= family.longest and family.pattern.search(text)))
        for family in FAMILIES
    }
    if (turn.answer or "").rstrip().endswith("?"):
        hits["family_refusing"] = 0.0
    any_hit = max(hits.values())
    states = float(seems_stated(text, turn.answer or ""))
    return hits | {"family_any": any_hit, "families": sum(hits.values()), "states": states}


def _shape(turn: Turn) -> dict[str, float]:
    text = turn.text[:READ]
    lines = [line for line in text.splitlines() if line.strip()]
    code = sum(bool(TURN_PATTERNS["code"].search(line)) for line in lines) / max(1, len(lines))
    words, asked, said = (len(part.split()) for part in (text, turn.query[:READ], (turn.answer or "")[:READ]))
    letters = [sign for sign in text if sign.isalpha()]
    foreign = sum(not sign.isascii() for sign in letters) / max(1, len(letters))
    return {
        "words": math.log1p(words), "query_words": math.log1p(asked), "answer_words": math.log1p(said),
        "longer": math.log1p(words) - math.log1p(asked), "lines": math.log1p(len(lines)), "one_word": float(words <= 1),
        "few_words": float(words <= 4), "short": float(words <= FEW), "code_share": code,
        "no_answer": float(turn.answer is None), "foreign": foreign,
    }  # fmt: skip


def _scripts(turn: Turn) -> dict[str, float]:
    names = [unicodedata.name(sign, "") for sign in turn.text[:200] if not sign.isascii() and sign.isalpha()]
    return {f"script_{name.lower()}": float(any(found.startswith(name) for found in names)) for name in SCRIPTS}


def _found(patterns: Mapping[str, re.Pattern[str]], text: str) -> dict[str, float]:
    return {name: float(pattern.search(text) is not None) for name, pattern in patterns.items()}


GROUPS: tuple[Callable[[Turn], dict[str, float]], ...] = (
    _wording,
    _similarity,
    _shape,
    _scripts,
    lambda turn: _found(TURN_PATTERNS, turn.text[:READ]),
    lambda turn: _found(ANSWER_PATTERNS, (turn.answer or "")[-READ:]),
    lambda turn: _found(QUERY_PATTERNS, turn.query[:READ]),
)


def features(turn: Turn) -> dict[str, float]:
    """Name -> value, in a fixed order; every value is finite."""
    found: dict[str, float] = {}
    for group in GROUPS:
        found |= group(turn)
    return found
