"""Text of a log -> the same without orders to whoever reads the log; rule -> whether the reaction backs it.

A fence and an instruction keep a good model from obeying what stands in a log; a small one needs help. So what is
plainly addressed to a reader is cut out before a teacher reads it, and a rule that repeats it is dropped. Nothing else
is: "use euros from now on" is what feedback is for.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from logtune.stages.textchecks import FLAG, class_scores

CUT = "[...]"
PARAGRAPH = re.compile(r"(\n\s*\n)")
STEM = 7  # letters by which words are told to be the same
RELATED = 0.2  # share of a paragraph's words by which it belongs to the rest; 98% of real reactions stay whole
FROM_MATERIAL = 0.7  # share of a rule's words in the request and answer from which it only repeats them
EMPTY = frozenset((  # words that many texts share, whatever they are about
    "that", "this", "with", "from", "have", "what", "when", "where", "which", "while", "will", "would", "should",
    "could", "your", "yours", "there", "their", "them", "they", "then", "than", "into", "only", "also", "more",
    "most", "some", "such", "please", "want", "need", "like", "make", "does", "done", "been", "being", "were",
    "here", "about", "after", "before", "write", "give", "show", "list", "print", "code", "answer", "tell",
    "using", "used", "first", "next", "step", "question", "following",
))  # fmt: skip
REPEATED_WORDS = 4  # in a row, of what was cut out, that make a rule a repetition
RARE = re.compile(r"[^\W_]*(?:\d[^\W\d_]|[^\W\d_]\d)\w*|[A-Z]{4,}\w*")  # a coined word: letters with digits, capitals
SENTENCE = re.compile(r"[^\n.!?。！？]+(?:[.!?。！？]+(?=\s|$|[\"'”’)])|[.!?。！？]+|\n|$)\s*|[\n.!?。！？]+\s*")
READERS = r"(?:ai|llm|model|assistant|reader|judge|grader|evaluator|reviewer)"
ADDRESSED = re.compile(
    rf"^\W*(?:to|note to|attention,?|message (?:to|for)|dear|hey|hello)\s+(?:the\s+|all\s+|any\s+)?{READERS}s?\b"
    rf"|\b(?:whoever|anyone who|any {READERS} (?:that|who))\s+(?:reads?|processes|sees|evaluates|judges)\b"
    rf"|\bif you(?:'re| are) (?:an?|the)\s+{READERS}\b"
    rf"|\byou(?:'re| are) (?:now )?(?:an?|the)\s+(?:\w+ )?{READERS}\b"
    r"|(?:致|告诉|请)(?:所有)?(?:模型|助手|评委|读者)|无论谁(?:读|看)",
    re.IGNORECASE,
)
OF_OURS = re.compile(  # an order about rules and verdicts, which the teacher writes and users know nothing of
    r"\b(?:put|write|add|include|insert|append|reply|respond|output|print|return|say|give|rate|choose|prefer|begin"
    r"|start|end|make|set|use)\b[^.!?]{0,60}"
    r"\b(?:(?:each|every|all|your|the) (?:of the )?rules?|(?:one|as an?|as the) rule|as the verdict"
    r"|the better answer)\b"
    r"|(?:写|加入|输出|回复|返回|选择)[^。！？]{0,30}(?:规则|评分|判定)",
    re.IGNORECASE,
)
LASTING = re.compile(  # natural in a reaction, and out of place in what was asked and answered before
    r"\bfrom now on\b|\beverything (?:that )?you (?:write|say)\b"
    r"|\ball (?:of )?your (?:future )?(?:replies|answers|outputs)\b"
    r"|从现在起|以后(?:都|所有)",
    re.IGNORECASE,
)


def without_orders(text: str, *, reaction: bool = False) -> tuple[str, tuple[str, ...]]:
    """The text with CUT in place of orders to its reader, and what was cut; of a reaction less is taken for one.

    Of the first paragraph the sentences with an order are cut; another one goes as a whole, because what stands beside
    an order is no more to be trusted.
    """
    first, *others = PARAGRAPH.split(text)
    known = _attacks(text)  # a sentence has no clue that the whole has not

    def is_order(sentence: str) -> bool:
        return _addressed(sentence, reaction=reaction) or (known and _attacks(sentence))

    sentences = [match.group() for match in SENTENCE.finditer(first)]
    cut = [sentence for sentence in sentences if is_order(sentence)]
    begin = "".join(_gap(sentence) if sentence in cut else sentence for sentence in sentences)
    bad = [part for part in others if any(is_order(match.group()) for match in SENTENCE.finditer(part))]
    rest = (CUT if part in bad else part for part in others)
    return "".join((begin, *rest)), tuple(part.strip() for part in (*cut, *bad))


def _gap(sentence: str) -> str:
    return f"{CUT}\n" if sentence.endswith("\n") else f"{CUT} "


def without_asides(reaction: str, about: str) -> tuple[str, tuple[str, ...]]:
    """A reaction without its asides, and these; `about`: the request and the answer."""
    first, *others = PARAGRAPH.split(reaction)
    cut = asides(reaction, about)
    return "".join((first, *(CUT if part in cut else part for part in others))), cut


def beginning(text: str) -> str:
    """The first paragraph."""
    return PARAGRAPH.split(text)[0]


def asides(text: str, about: str) -> tuple[str, ...]:
    """The paragraphs after the first that have hardly a word in common with it or with what the text is `about`."""
    first, *others = PARAGRAPH.split(text)
    known = content(first) | content(about)
    return tuple(part for part in others if len(content(part) & known) < RELATED * len(content(part)))


def grounded(rule: str, reaction: str, material: str) -> bool:
    """Whether a rule can come from the reaction: it shares a word with it, or says what the rest does not say."""
    words = content(rule)
    return not words or bool(words & content(reaction)) or len(words & content(material)) < FROM_MATERIAL * len(words)


def content(text: str) -> frozenset[str]:
    """The beginnings of the words that carry a text's meaning; Chinese characters one by one."""
    words = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]{4,}|[^\W_]*\d[^\W_]+", text.casefold())
    return frozenset(word[:STEM] for word in words if word not in EMPTY)


def _addressed(sentence: str, *, reaction: bool) -> bool:
    """Whether a sentence tells its reader what to do, rather than the assistant how to answer."""
    if ADDRESSED.search(sentence) or OF_OURS.search(sentence):
        return True
    return not reaction and LASTING.search(sentence) is not None


@lru_cache(maxsize=4096)
def _attacks(text: str) -> bool:
    """Whether the noise filter would call a text an injection or a jailbreak."""
    scores = class_scores(text)
    return max(scores["prompt_injection"], scores["jailbreak"]) >= FLAG


def repeats(rule: str, cut: Sequence[str]) -> bool:
    """Whether a rule holds words in a row, or a coined word, of what was cut out."""
    words = _words(rule)
    runs = {tuple(words[at : at + REPEATED_WORDS]) for at in range(len(words) - REPEATED_WORDS + 1)}
    for text in cut:
        theirs = _words(text)
        if runs & {tuple(theirs[at : at + REPEATED_WORDS]) for at in range(len(theirs) - REPEATED_WORDS + 1)}:
            return True
        if {word.casefold() for word in RARE.findall(text)} & set(words):
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
