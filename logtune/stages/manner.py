"""A user's words about an answer -> whether they ask for a change of it: of its manner (length, form, opening,
language, tone), or of what is in it ("replace the name with the id").

"Code block first please" and "refund status please" are worded alike, and only one of them is an answer: to learn the
other one as such would teach a model to say "code block first".
"""

import re

LONGEST = 400  # characters of a comment that is read for what it asks or names; longer ones explain
PARTS = r"(?:words?|sentences?|lines?|paragraphs?|characters?|bullets?|bullet points?)"
COUNTED = rf"(?:{PARTS}|points|steps|items|pages?)"
FEW = r"(?:\d+|an?|one|two|three|four|five|six|ten|twenty|fifty|a hundred|half)"
MOST = (
    r"(?:at most|at least|no more than|not more than|no longer than|no fewer than|max(?:imum)?(?: of)?|under|below"
    r"|fewer than|less than|more than|up to|within|only|just|limit\w*(?: \w+)? to|keep \w+ to)"
)
FORMS = (
    r"(?:examples?|sources?|references?|units?|lists?|headings?|headers?|titles?|summar(?:y|ies)|conclusions?"
    r"|introductions?|disclaimers?|jargon|emojis?|bullets?|bullet points?)"
)
OBJECTS = rf"(?:{FORMS}|{COUNTED}|answers?|repl(?:y|ies)|responses?|links?|code)"
LED = r"(?:(?:it|them|me|us|this|that|the|an?|your|some|more|fewer|only|all|any|in|real|concrete|simple|good)\s+)*"
PLEASE = r"^\W*(?:please\s+)?"
OBLIGED = r"(?:should|must|has to|have to|needs? to|ought to)"
LANGUAGES = (
    r"(?:English|Spanish|German|French|Italian|Portuguese|Dutch|Polish|Russian|Ukrainian|Turkish|Arabic|Hebrew|Hindi"
    r"|Chinese|Mandarin|Japanese|Korean|Swedish|Danish|Norwegian|Finnish|Greek|Czech|Hungarian|Romanian|Vietnamese"
    r"|Thai|Indonesian|español|castellano|Deutsch|français|italiano|português)"
)
# What asks for a change whatever it is worded as, "it should be" too.
SURELY: tuple[str, ...] = (
    rf"\b{MOST}\s+{FEW}\s+(?:\w+\s+)?{PARTS}\b",
    rf"(?:^|[.,;:!]\s*|\b(?:{OBLIGED}|please|not|to|and)\s+)(?:start|begin|open|lead|end|close|finish|conclude"
    r"|sign off)\b(?:\s+[\w'’]+){0,4}?\s+with\b",
    rf"\b(?:first|last|opening|closing|final)\s+(?:word|line|sentence|paragraph)s?\s+{OBLIGED}\b",
    rf"{PLEASE}(?:make sure|ensure|be sure|assure|remember to|do not forget to|take care)\b",
    r"\b(?:in|to|for|of)\s+(?:the\s+)?(?:(?:first|second|third|last)\s+)?steps?\b(?:\s+\d+)?",
)
MANNERS: tuple[str, ...] = (
    # length
    rf"\b{MOST}\s+{FEW}\s+(?:\w+\s+)?{COUNTED}\b",
    rf"\b{FEW}\s+(?:\w+\s+)?{COUNTED}\b(?:\s+(?:is|are))?\s+(?:at most|at least|max(?:imum)?|or (?:less|fewer|more|so)"
    r"|tops|only|long|enough|each|will do)\b",
    rf"{PLEASE}{FEW}\s+{PARTS},\s+not\b|\b{FEW} (?:short|brief|concise|crisp) {COUNTED}\b",
    r"\b(?:short|brief|long|simple|concise|clear|terse|crisp)er\b(?:\W*$|\W*(?:answers?|please|pls|next time)\b)",
    r"(?:^|[.,;:!]\s*|\b(?:far|way|much)\s+)too (?:long|short|wordy|verbose)\b",
    r"\b(?:half as long|in (?:more |less )?detail|step by step|to the point)\b",
    # opening and ending
    r"\b(?:at|on) the (?:very )?(?:top|beginning|start|end|bottom)\W*$",
    r"\b(?:code(?: ?blocks?)?|summary|conclusion|answer|result|verdict|recommendation|examples?|table|list|numbers?"
    r"|key points?)\s+(?:first|up ?front)\b",
    # form
    r"\b(?:bullets?|bulleted|bullet points?|numbered|dashes|hyphens|asterisks|markdown|code ?blocks?|prose|emojis?"
    r"|exclamation (?:marks?|points?|signs?)|(?:in )?(?:bold|italics|all caps|lower ?case|upper ?case)|line breaks?"
    r"|(?:as|in|into|with) (?:an? )?(?:\w+ )?(?:lists?|tables?|headings?|paragraphs?|sections?))\b",
    # what is done to answers
    rf"{PLEASE}(?:add|include|give|show|write|put|number|list|cite|mention|format|wrap|explain|split|group|name|drop"
    rf"|skip|omit|cut|spare)\s+{LED}{OBJECTS}\b",
    rf"{PLEASE}(?:use|need|want|avoid|leave out|no more|stop)\s+(?:using\s+)?{LED}{FORMS}\b",
    rf"{PLEASE}use (?:simpler|fewer|shorter|easier|plainer|other) words\b",
    rf"{PLEASE}(?:stop|avoid|quit)\s+(?:apologi[sz]|repeat|say|start|end|writ|add|giv|begin|mention|explain|ask)ing\b",
    rf"{PLEASE}(?:in|into) (?:simple|plain|other|few|fewer) words\b|\bexplain (?:it|this|that) in \w+ words\b",
    r"\bkeep (?:it|this|that|them|(?:the|your) \w+) (?:short|brief|simple|under|below|to|concise|formal|casual)\b",
    # tone
    r"\b(?:apologi[sz]\w*|apolog(?:y|ies)|politely|formally|casually|concisely|briefly|in (?:an? )?(?:plain|simple"
    r"|formal|casual|friendly|professional|neutral) (?:words|language|tone|style|english))\b",
    rf"{PLEASE}leave out\b",
    # language
    rf"\b(?:in|into|always|only|en|auf|em|por)\s+(?:plain |simple |proper )?{LANGUAGES}\b",
    # what is in an answer
    r"(?:^|[.;,:]\s*|\b(?:to|and|please|should|must|be|you|just|then|in)\s+)(?:replace|swap|switch|exchange|substitute"
    r"|supplant|supersede|change|alter|convert|rename)d?\b[^.;!?]{2,80}?\s(?:with|by|in place of)\s",
    rf"{PLEASE}(?:remove|delete|omit|eliminate|erase|get rid of)\b[^.;!?]{{0,80}}?(?:[\"“”]|\b(?:condition|clause|part"
    r"|column|phrase|word|sentence|line|section)\b)",
    r"\b(?:you|it|we)\s+(?:just |only |also )?(?:need|have|ought)s? to\s+(?!be\b|say\b|go\b)\w+\b",
)
SURE = re.compile("|".join(SURELY), re.IGNORECASE)
MANNER = re.compile("|".join((*SURELY, *MANNERS)), re.IGNORECASE)
A_LANGUAGE = re.compile(rf"^\W*{LANGUAGES}\W*$", re.IGNORECASE)
A_NAME = re.compile(r"^\w+_\w+$")  # snake_case, as labels are written; nobody words a wish like that
CALLED_RIGHT = re.compile(
    r"\b(?:should|must|ought|is|was|were|are|answer|topic|about|regarding|meant|mean|asking|asked|belongs?|goes)\b|'s\b|"
    r"[:=]",
    re.IGNORECASE,
)


def asks_for_manner(text: str) -> bool:
    """Whether a comment asks for a change of an answer."""
    return len(text) <= LONGEST and MANNER.search(text) is not None


def names_manner(text: str, named: str, *, plainly: bool) -> bool:
    """Whether what a comment would name as the right answer is a wish; `plainly`: it says that it is right.

    "It should be Spanish" names an answer, "Spanish please" wishes for one in Spanish.
    """
    if A_NAME.match(named):
        return False
    if plainly and CALLED_RIGHT.search(text[: text.find(named)] if named in text else text):
        return SURE.search(text) is not None
    return asks_for_manner(text) or A_LANGUAGE.match(named) is not None
