"""A user's words about an answer -> whether they ask for a change of it: of its manner (length, form, opening,
language, tone), or of what is in it ("replace the name with the id").

"Code block first please" and "refund status please" are worded alike, and only one of them is an answer: to learn the
other one as such would teach a model to say "code block first".
"""

import re

PARTS = r"(?:words?|sentences?|lines?|paragraphs?|characters?|bullets?|bullet points?|points|steps|items|pages?)"
FEW = r"(?:\d+|an?|one|two|three|four|five|six|ten|twenty|fifty|a hundred|half)"
OBJECTS = (
    rf"(?:{PARTS}|answers?|repl(?:y|ies)|responses?|examples?|sources?|references?|links?|units?|code|lists?|headings?"
    r"|headers?|titles?|summar(?:y|ies)|conclusions?|introductions?|disclaimers?|jargon|emojis?)"
)
LANGUAGES = (
    r"(?:English|Spanish|German|French|Italian|Portuguese|Dutch|Polish|Russian|Ukrainian|Turkish|Arabic|Hebrew|Hindi"
    r"|Chinese|Mandarin|Japanese|Korean|Swedish|Danish|Norwegian|Finnish|Greek|Czech|Hungarian|Romanian|Vietnamese"
    r"|Thai|Indonesian|español|castellano|Deutsch|français|italiano|português)"
)
ASKS: tuple[str, ...] = (
    # length
    rf"\b(?:at most|at least|no more than|not more than|no longer than|no fewer than|max(?:imum)?(?: of)?|under|below"
    r"|fewer than|less than|more than|up to|within|only|just|limit\w*(?: \w+)? to|keep \w+ to)"
    rf"\s+{FEW}\s+(?:\w+\s+)?{PARTS}\b",
    rf"\b{FEW}\s+(?:\w+\s+)?{PARTS}\b(?:\s+(?:is|are))?\s+(?:at most|at least|max(?:imum)?|or (?:less|fewer|more|so)"
    r"|tops|only|long|enough|each|will do)\b",
    r"\b(?:short|brief|long|simple|concise|clear|terse|crisp)er\b(?=\W*$|.*\b(?:answers?|please|pls|next time)\b)",
    rf"\b{FEW} (?:short|brief|concise|crisp) {PARTS}\b",
    r"\b(?:too (?:long|short|wordy|verbose)|half as long|in (?:more |less )?detail|step by step|to the point)\b",
    # opening and ending
    r"\b(?:start|begin|open|lead|end|close|finish|conclude|sign off)(?:s|ing)?\b(?:\s+[\w'’]+){0,4}?\s+with\b",
    r"\b(?:first|last|opening|closing|final|very first|very last)\s+(?:word|line|sentence|paragraph|thing)s?\b",
    r"\b(?:at|on) the (?:very )?(?:top|beginning|start|end|bottom)\W*$",
    r"\b(?:up ?front|(?<!the )first)\W*(?:please)?\W*$",
    # form
    r"\b(?:bullets?|bulleted|bullet points?|numbered|dashes|hyphens|asterisks|markdown|code ?blocks?|prose|emojis?"
    r"|exclamation (?:marks?|points?|signs?)|(?:in )?(?:bold|italics|all caps|lower ?case|upper ?case)|line breaks?"
    r"|(?:as|in|into|with) (?:an? )?(?:\w+ )?(?:lists?|tables?|headings?|paragraphs?|sections?))\b",
    # what is done to answers
    rf"^\W*(?:please\s+)?(?:use|add|include|give|show|write|put|number|list|cite|mention|format|wrap|explain|split|group"
    rf"|name|need|want|drop|skip|omit|cut|spare)\s+(?:(?:it|them|me|us|this|that|the|an?|your|some|more|fewer|only|all|any"
    rf"|in|real|concrete|simple|good)\s+)*{OBJECTS}\b",
    r"\bkeep (?:it|this|that|them|(?:the|your) \w+) (?:short|brief|simple|under|below|to|concise|formal|casual)\b",
    r"^\W*(?:please\s+)?(?:stop|avoid|quit|leave out|no more)\s+(?:\w+ing\b|the\b|any\b)",
    # tone
    r"\b(?:apologi[sz]\w*|apolog(?:y|ies)|politely|formally|casually|concisely|briefly|in (?:an? )?(?:plain|simple"
    r"|formal|casual|friendly|professional|neutral) (?:words|language|tone|style|english))\b",
    # language
    rf"\b(?:in|into|always|only|en|auf|em|por)\s+(?:plain |simple |proper )?{LANGUAGES}\b",
)  # fmt: skip
CHANGES: tuple[str, ...] = (
    r"(?:^|[.;,:]\s*|\b(?:to|and|please|should|must|be|you|just|then|in)\s+)(?:replace|swap|switch|exchange|substitute"
    r"|supplant|supersede|change|alter|convert|rename)d?\b[^.;!?]{2,80}?\s(?:with|by|for|to|into|from|in place of)\s",
    r"^\W*(?:please\s+)?(?:make sure|ensure|be sure|assure|remember to|do not forget to|take care)\b",
    r"\b(?:in|to|for|of)\s+(?:the\s+)?(?:(?:first|second|third|last|step)\s+)?steps?\b(?:\s+\d+)?",
    r"^\W*(?:please\s+)?(?:remove|delete|omit|eliminate|erase|get rid of)\b(?=.*(?:[\"“”]|\b(?:from|in|and|condition"
    r"|clause|part|column|phrase|line|word|sentence|section)\b))",
    r"\b(?:you|it|we)\s+(?:just |only |also )?(?:need|have|ought)s? to\s+(?!be\b|say\b|go\b)\w+\b",
)
MANNER = re.compile("|".join((*ASKS, *CHANGES)), re.IGNORECASE)
A_LANGUAGE = re.compile(rf"^\W*{LANGUAGES}\W*$", re.IGNORECASE)
A_NAME = re.compile(r"^\w+_\w+$")  # snake_case, as labels are written; nobody words a wish like that


def asks_for_manner(text: str) -> bool:
    """Whether a comment asks for a change of an answer."""
    return MANNER.search(text) is not None


def names_manner(text: str, named: str, *, plainly: bool) -> bool:
    """Whether what a comment would name as the right answer is a manner; `plainly`: it says that it is right.

    "It should be Spanish" names an answer, "Spanish please" wishes for one in Spanish.
    """
    if A_NAME.match(named):
        return False
    return asks_for_manner(text) or (not plainly and A_LANGUAGE.match(named) is not None)
