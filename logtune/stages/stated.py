"""A user's words about an answer -> the answer that they name as right, if they name one.

"No, this is about card arrival", "should have been 'cash withdrawal', not transfers", "wrong, the answer is 42":
patterns over clauses, the most explicit first. What follows the cue is cut where the clause turns to something else,
and cleaned of quotes, articles and courtesies. Comments that somebody was asked for (`asked`) may be terse: "refund
status please".
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from logtune.stages.manner import LONGEST, names_manner

MANY_WORDS = 40  # of an answer that the user introduces as such
MOST_TERSE = 6  # words of a terse one
FEW_WORDS = 10  # of an answer that is only implied


class Stated(NamedTuple):
    """The right answer in a user's words, and how plainly it was introduced."""

    text: str
    how: Literal["plain", "terse", "bare"]  # "it should be X"; "no, X please"; "X"


WAS = r"(?:\s+(?:is|was|are|were|'s|would be|would have been|should be|should have been|ought to be|must be)|'s)"
SOFT = (
    r"(?:(?:really|actually|clearly|obviously|surely|probably|rather|simply|just|all|more|only|definitely|of course"
    r"|in fact|I think|instead)\s+)*"
)
THING = (
    r"(?:answers?|replies|reply|response|topic|intent|category|class|label|result|output|value|word|name|term|format"
    r"|option|price|cost|amount|fee|rate|total|sum|address|version|"
    r"choice|one|thing|team|desk|department|queue|place|solution|translation|spelling|number|date|code|tag|subject"
    r"|title)"
)
SUBJECT = (
    r"(?:this|that|it|mine|these|which|(?:my|the|this|that) (?:question|message|request|query|issue|problem|case"
    r"|matter|ticket|topic|mail|email|answer|intent|category|label))"
)
MOVE = (
    r"(?:goes|go|belongs|belong|send|sent|give|given|forward|forwarded|route|routed|assign|assigned|hand|handed|move"
    r"|moved|pass|passed|file|filed|land|direct|directed|transfer|put|classif(?:y|ied)|label(?:led|ed)?|tag(?:ged)?"
    r"|mark(?:ed)?|categori[sz]ed?)"
)
ABOUT = (
    r"(?:about|regarding|concerning|related to|relating to|to do with|on the topic of|a question (?:about|on|for)"
    r"|a matter of|a case of|a case for|a problem with|a|an|for|with)"
)

INSIDE = r"(?:[^,.;:!?]|(?<=\d)[.,](?=\d))"  # a sign of a clause; the comma of 12,50 ends none
OLD = r"\b(?:old|outdated|out of date|previous|former|no longer|not any ?more|used to be|changed)\b"
# Each names the answer as `x`. Plain ones first: they say that what follows is right.
VERDICTS: Sequence[str] = (
    rf"{OLD}.{{0,60}}?[,.;:!–—-]\s*(?:and |but |because )?(?:it|this|that|the \w+)(?:'s| is)\s+{SOFT}(?:now\s+)?"
    rf"(?P<x>{INSIDE}{{1,60}}?)(?:\s+(?:now|nowadays|today|these days|since\b.*))?\s*[.!]*$",
    rf"\b(?:right|correct|proper|expected|actual|true|real|desired|better|good"
    rf"|perfect)\s+{THING}{WAS}\s*[:=]?\s*{SOFT}(?:about\s+|that\s+)?(?P<x>.+)",
    rf"\b(?:right|correct|proper|expected|actual|better)\s+{THING}\s*(?:[:=]|->|→)\s*(?P<x>.+)",
    rf"\b(?:the|its) (?:answer|topic|intent|category|label|class|solution|translation|desk"
    rf"|department){WAS}\s+{SOFT}(?P<x>.+)",
    r"^\W*(?:correct(?:ion)?|answer|expected|solution|should be|right)\s*(?:[:=]|->|→)\s*(?P<x>.+)",
)
BE = (
    rf"\s*(?:'ve|have)?\s+{SOFT}(?:been|be|being|become|say|said|read|answered|answer(?: with)?|reply|replied"
    r"|go(?:ne)? (?:to|with|under|in)|be (?:sent|given|classified|labell?ed|filed|routed|marked|tagged|put|listed)"
    r"(?: (?:as|to|under|in|with))?|have (?:said|answered|replied)|been (?:sent|classified|labell?ed|filed|routed"
    rf"|marked|tagged|put)(?: (?:as|to|under|in|with))?)\s+{SOFT}(?:(?:about|labell?ed|classified|under|as|with)\s+)*"
    r"(?P<x>.+)"
)
OBLIGED = rf"(?<!you )(?<!\bi )(?<!we )(?<!they )\b(?:should|must|ought to|has to|needs? to|supposed to){BE}"
# In a turn that nobody asked for, the subject is the answer or its value, or is left out.
OBLIGED_IN_TURN: Sequence[str] = (
    r"(?:(?:^|[,.;:!]\s+|\s[–—-]\s)\W*(?:(?:and|but|so|no|wrong|nope|because|then)\b\W*)*"
    rf"|\b(?:it|this|that|which)\s+){SOFT}(?:should|ought to|(?:is |was )?supposed to){BE}",
    rf"\b(?:the|your|its|this|that) (?:\w+ )?{THING}\s+{SOFT}(?:should|must|ought to|has to|needs? to){BE}",
)
MEANT: Sequence[str] = (
    r"\b(?:should|must|ought to) (?:have )?(?:go|gone|come|land|landed) (?:to|with|under|in) (?P<x>.+)",
    rf"\b(?:I|we)\s+(?:{SOFT})(?:meant|mean|wanted to (?:ask|know) about|was asking (?:about|for)|were asking about"
    rf"|'m asking (?:about|for)|am asking (?:about|for)|asked (?:about|for)|was talking about|'m talking about"
    rf"|am talking about|talked about|wrote about|was looking for|am looking for|was after)\s+{SOFT}(?!to\b"
    rf"|that\b)(?P<x>.+)",
    rf"\b{SUBJECT}{WAS}?\s+{SOFT}(?:about|regarding|concerning|related to|relating to|to do with|on the topic of"
    rf"|a question (?:about|on)|a matter of|a case of)\s+(?P<x>.+)",
    rf"\b{SUBJECT}\s+(?:concerns|relates to|refers to|means|meant)\s+{SOFT}(?P<x>.+)",
    rf"\b(?:this|that|it)(?:'s| is| was)\s+{SOFT}an?\s+(?P<x>[^,.;:!?]{{2,60}}?)\s+(?:question|issue|matter|request"
    r"|case)\b",
    r"\bnot\s+(?:about\s+)?(?:[^,.;!?]|(?<=\d)[.,](?=\d)){1,60}?,?\s+but\s+(?:rather\s+)?(?:about\s+)?(?P<x>.+)",
    r"(?:\bes geht (?:hier )?um|\brichtig (?:ist|wäre)|\bdie richtige antwort ist|\bil s'agit (?:de|d')"
    r"|\bla bonne réponse est|\bes sobre|\bse trata de|"
    r"\bla respuesta correcta es|\bsi tratta di|\bla risposta (?:corretta|giusta) è|\bа? ?речь (?:идёт|идет) о"
    r"|\bправильный ответ\W+|正确答案是|应该是)\s*(?P<x>.+)",
)  # fmt: skip
PLAIN: Sequence[str] = (*VERDICTS, OBLIGED, *MEANT)
PLAIN_IN_TURN: Sequence[str] = (*VERDICTS, *OBLIGED_IN_TURN, *MEANT)
CONTRAST: Sequence[str] = (
    rf"(?:^|[,:;]\s*|\b(?:is|was|it's|that's|about)\s+)(?P<x>{INSIDE}{{2,80}}?),?\s+(?:instead of|rather than)\s+\S",
    rf"(?:^|[,:;]\s*|\b(?:is|was|it's|that's|about)\s+)(?P<x>{INSIDE}{{2,80}}?),\s+(?:and\s+)?not\s+\S",
)
REFUSE = (
    r"^\W*(?:(?:wrong (?:one|answer|topic|desk|team|place|category|label|again)|no+|nope|nah|wrong|incorrect|false"
    r"|not (?:this (?:desk|team|topic|category|one)|quite|right|correct|true|really|exactly|them|this one|this|that"
    r"|it)|hm+|you (?:mixed it up|got it wrong)|sorry|please)\b[\s,.:;!–—-]*)+"
)
IMPLIED: Sequence[str] = (
    rf"{REFUSE}(?:this|that|it)(?:'s| is| was)\s+{SOFT}(?P<x>.+)",
    rf"{REFUSE}(?:I (?:said|asked|want(?:ed)?|need(?:ed)?)|try|make (?:it|this|that)|use|say)\s+(?:for\s+)?(?P<x>.+)",
)
IMPLIED_IN_TURN: Sequence[str] = (
    rf"{REFUSE}(?:this|that|it)(?:'s| is)\s+{SOFT}(?!(?:for |about )?(?:my|our)\b"
    r"|(?:an? |the )?(?:different|another|other|same|new)\b)(?P<x>.+)",
    rf"{REFUSE}(?:I (?:said|asked)|say)\s+(?:for\s+)?(?P<x>.+)",
)
ASKED: Sequence[str] = (
    rf"\b{MOVE}\b(?:\s+(?:it|this|that|them|me|these|my \w+|over|there))*\s+(?:to|with|under|in|as|into)\s+(?P<x>.+)",
    rf"\b{SUBJECT}{WAS}\s+{SOFT}(?:one\s+)?(?:for|something for|a job for|up to)\s+(?P<x>.+)",
    r"\b(?:is|was|one)\s+(?:meant\s+)?for\s+(?P<x>.+)",
    r"(?P<x>[^,.;:!?]{3,60}?)'s? (?:job|task|business|responsibility)\b",
    r"\b(?:try|ask|contact|use|pick|choose|say|answer|reply|make (?:it|this|that)|call (?:it|this|that)|change (?:it"
    r"|this|that) to|needs?|want|wanted|look for|looking for)\s+(?:(?:with|for)\s+)?(?P<x>.+)",
    rf"\b(?:it|this|that)(?:'s| is| was)\s+{SOFT}(?P<x>.+)",
    rf"{REFUSE}(?P<x>.+)",
    r"^\W*(?:please[, ]+)?(?P<x>[^,.;:!?]{2,60}?),?\s+(?:please|pls|instead|obviously|surely|of course)\W*$",
)
BARE: Sequence[str] = (r"^\W*(?:(?:obviously|surely|clearly|just|simply)[, ]+)*(?P<x>.+)",)
# Where the clause turns away from the answer.
TURN = re.compile(
    r"\s*(?:[.;!?]+(?=\s|$)|\n|\s[–—-]+\s|,\s*(?=(?:not|and not|please|pls|because|since|as|but|so|which|who|thanks"
    r"|thank|obviously|right|ok|okay|you|it|that|this|I|i|he|she|we|they|right\?|no|isn't|instead|rather)\b)"
    r"|\s+(?=(?:because|since|instead of|rather than|but not|and not|not (?:a|an|the|about|this|that|these|those|them"
    r"|it)\b|as (?:I|i|it|the)|so (?:I|please)|which (?:is|was)|is what|that is what)\b)|,?\s+(?:but|and)\s+(?=(?:you"
    r"|it|I|i|the|your|this|that|not)\b)|\s*\()",
)
QUOTED = re.compile(r"[\"“”„«»`]([^\"“”„«»`]{1,200})[\"“”„«»`]|(?<!\w)['‘’]([^'‘’]{1,200})['‘’](?!\w)")
LEAD = re.compile(
    r"^(?:(?:about|the|a|an|your|our|my|one|to|for|under|as|simply|just|labell?ed|called|rather|really|actually"
    r"|probably|like|something (?:like|about|with)|ask|try|use|contact|send (?:it )?to|give (?:it )?to"
    r"|in the category|whoever does|whoever handles)\s+)+",
    re.IGNORECASE,
)
TAIL = re.compile(
    r"(?:[,\s]+(?:please|pls|plz|thanks|thank you|thx|instead|obviously|surely|really|actually|here|now|then|though"
    r"|tho|I think|I guess|i guess|i think|I believe|I'd say|i'd say|"
    r"of course|ok|okay|right|again|for (?:this|that|sure)|too|dude|mate|lol))+\s*$",
    re.IGNORECASE,
)
NOUN = re.compile(
    r"\s+(?:desks?|teams?|departments?|people|folks|guys|lot|category|topic|intent|label|class|question|issue|matter"
    r"|request|problem|section|queue|staff)\s*$",
    re.IGNORECASE,
)
# No answer: what users say of an answer, and changes they ask for. The first list rules out what it begins, the second
# only what consists of its words: "wrong exchange rate" is a topic, "wrong" is a complaint.
BEGINS_NOTHING = re.compile(
    r"^(?:not|n't|more|less|too|so|very|much|able|what|how|when|where|who|whom|if|that|this|these|those|it|them|him"
    r"|her|me|you|there|here|something|someone|anything|nothing|everything|else|again|in|with|without|using|by|at|from"
    r"|on|all|still|also|never|always|being|been|be|help|need|want|sorry|please|i|we|he|she|they|your?|was|is|are|does|do"
    r"|did|can|could|will|would|should|have|has|had|no|none|yes|and|but|or|as|than|of|to|totally|completely|exactly"
    r"|supposed|true that|hm+|seriously|unbelievable|come on|thank(?:s| you)|thx|wow|lol|hello|hi|hey|works?|try|asked?"
    r"|nope|nah|even|honestly|an? (?:bit|little|lot|joke|lie|mistake|shame|problem|mess)|either|due|write|create"
    r"|generate|implement|find"
    r"|(?:old|outdated|previous|former) (?:price|one|version|value|number|date|name|address|rate|fee))\b",
    re.IGNORECASE,
)
SAYS_NOTHING = re.compile(
    r"^(?:(?:wrong|incorrect|right|correct|bad|good|better|worse|best|useless|nonsense|rubbish|garbage|random|silly|stupid"
    r"|ridiculous|terrible|awful|weird|unhelpful|complete|total|shorter|longer|simpler|clearer|faster|easier|quicker"
    r"|different|formal|polite|specific|concise|detailed|fixed|improved|changed|removed|added|done|working|fine|ok|okay"
    r"|nowhere|outdated|missing|broken|false|true|pointless|off|great|perfect|nice|cool|well|ashamed|distinct|written"
    r"|opened|harder|hard|big|huge|serious|known|common|simple|five|two|three|one|desk|team|topic|category|label|answer|place|department|class|intent|thing"
    r"|above|below|deleted|unknown|unclear|obvious|easy|possible|impossible|illegal|enough|allowed|available|ready|mistake|joke"
    r"|person|other|another|reply|response|sentences?|words?|way|ones?|and|or)\W*)+$",
    re.IGNORECASE,
)
# "lost property would know": what the named one does is no part of its name.
DOES = re.compile(
    r"(?<=\w) (?:would|could|can|will|has|have|handles?|sorts?|looks? after|does|knows?|deals?|sorted|to look)\b",
    re.IGNORECASE,
)
# What is to happen to something: "noted that ...", "shipped tomorrow" is no answer.
PREDICATE = re.compile(
    r"^(?:\w+ly\s+)?(?:\w{3,}ed|shown|written|given|sent|done|made|taken|paid|put|seen|kept|told|found|run|built|set"
    r"|known)\s+(?:that|as|to|by|in|on|at|with|without|from|for|before|after|into|within|until|first|again|tomorrow"
    r"|today|now|soon|here|there|instead|immediately|asap|\w+ly)\b|^(?:enough|useful as)\b|^[^.!?]*n['’]t\b"
    r"|^(?:json|xml|html|markdown|csv|yaml|plain text|an? (?:list|table|bullet\w*)(?: \w+)?)\W*$",
    re.IGNORECASE,
)
SPEECH = re.compile(
    r"\b(?:you|your|i|i'm|i've|we|me|is|are|was|were|does|did|do|don't|didn't|doesn't|isn't|wasn't|can't|couldn't"
    r"|won't|what|why|how|who|when|where|wrong|bad|answer|again|sense|useless|help|helpful|understand)\b|n't\b",
    re.IGNORECASE,
)


def stated_answer(text: str, answer: str, asked: bool = False) -> Stated | None:
    """The answer that `text` names as right, or None; never the `answer` itself.

    `asked`: the text is a comment on the answer, so that a bare "exchange rate" is an answer and no new question. In
    a turn that nobody asked for, questions, wishes and what is to be done are none.
    """
    if not text.strip() or len(text) > LONGEST:
        return None
    one_line = re.sub(r"[ \t]+", " ", text.strip())
    found = _stated(one_line, answer, asked) or (_terse(one_line, answer) if asked else None)
    return None if found and names_manner(one_line, found.text, plainly=found.how == "plain") else found


def seems_stated(text: str, answer: str) -> bool:
    """Whether a turn is worded as if it named an answer, questions and wishes too: what the detector learned from."""
    fits = bool(text.strip()) and len(text) <= LONGEST
    return fits and _stated(re.sub(r"[ \t]+", " ", text.strip()), answer, loose=True, contrast=False) is not None


def _stated(text: str, answer: str, loose: bool, contrast: bool = True) -> Stated | None:
    plain = PLAIN if loose else PLAIN_IN_TURN
    refused = re.match(REFUSE, text, re.IGNORECASE) is not None
    for span in _spans(text, (*plain, *CONTRAST) if (loose and contrast) or refused else plain, loose):
        found = _clean(span, answer, MANY_WORDS)
        if found:
            return Stated(found, "plain")
    for span in _spans(text, IMPLIED if loose else IMPLIED_IN_TURN, loose):
        found = _clean(span, answer, FEW_WORDS)
        if found and not SPEECH.search(found):
            return Stated(found, "terse")
    return None


def _terse(text: str, answer: str) -> Stated | None:
    how: Literal["terse", "bare"]
    sentences = [part for part in re.split(r"(?<=[.!?;])\s+|\s[–—-]\s", text) if part.strip()]
    for how, patterns in (("terse", ASKED), ("bare", BARE)):
        for span in (span for part in (text, *sentences) for span in _spans(part, patterns)):
            found = _clean(DOES.split(span, maxsplit=1)[0], answer, FEW_WORDS)
            alone = how == "terse" or 3 * len(found or "") > len(text)  # a bare answer is much of what was said
            if found and alone and len(found.split()) <= MOST_TERSE and not SPEECH.search(found):
                return Stated(found, how)
    return None


def _spans(text: str, patterns: Sequence[str], asked: bool = True) -> Iterator[str]:
    for pattern in patterns:
        match = re.search(pattern, text, re.IGNORECASE)
        if match is not None and (asked or not _says_no_answer(text[match.start("x") :])):
            yield match["x"]


def _says_no_answer(span: str) -> bool:
    """A turn's question, or what is to be done."""
    end = re.search(r"[.!?](?=\s|$)", span)
    return PREDICATE.match(span) is not None or (end is not None and end.group() == "?")


def _clean(span: str, answer: str, longest: int) -> str | None:
    """The span up to where the clause turns, without quotes and courtesies; None when nothing telling is left."""
    quoted = QUOTED.search(span)
    if quoted is not None and quoted.start() <= 20:
        found = (quoted[1] or quoted[2]).strip()
    else:
        found = TURN.split(span, maxsplit=1)[0]
        found = LEAD.sub("", TAIL.sub("", found.strip(" \t\"'“”‘’`.,;:!?-–—*")))
        found = NOUN.sub("", TAIL.sub("", found)).strip(" \t\"'“”‘’`.,;:!?-–—*")
        if BEGINS_NOTHING.match(found):
            return None
    words = re.findall(r"\w+", found.lower())
    says_nothing = not words or SAYS_NOTHING.match(found) is not None or words == re.findall(r"\w+", answer.lower())
    return None if says_nothing or len(found.split()) > longest else found
