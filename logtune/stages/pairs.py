"""Interaction, Signal*, Rule* -> PreferencePair: a better answer beside the one that was given, and never the same.

From the users themselves: an edited answer, or a right answer named in words (mapped to the exact form in which other
users gave it); `revise` has those that models write. Users err, and some mean to: `trust` says whose words hold.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from logtune.ids import identified
from logtune.prompts import CHINESE
from logtune.records import Interaction, Json, Message, PairOrigin, PreferencePair, Rule, Signal
from logtune.stages.redact import placeholders

LONGEST_STATED_WORDS = 12  # a longer span is an explanation, not an answer
LEAST_INSIDE = 4  # letters of a one-word answer that is looked for inside a sentence: "a" and "no" are in many
CONFIRMED = 2  # users who state the same in turns that nobody asked for, before it may train
LEAST_WHOLE = 3  # answers that tell how long whole ones are here
MOSTLY = 0.9  # of them are long where short ones are none
USERS_OWN = frozenset({"edit", "stated"})  # origins of answers that users wrote
ANSWER_TOKENS = 512  # of the teacher's replies
# numbers keep what changes their value, "c++" its signs, Chinese characters are words
WORD = re.compile(rf"(?<!\w)[+-]?\d+(?:[.,:/]\d+)*%?|[{CHINESE}]|[^\W_{CHINESE}]+[+#]*")


def plain(text: str) -> str:
    """The words of a text: no case, no punctuation, '_' and '-' as spaces; so 'Card arrival!' is 'card_arrival'."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def known_answers(signals: Sequence[Signal], users: Mapping[str, str], min_support: int) -> dict[str, str]:
    """Words -> the exact form in which users edited answers; `users`: interaction id -> user. Most given form wins."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    who: dict[str, set[str]] = defaultdict(set)
    for signal in signals:
        if signal.kind == "edit" and signal.correction and is_short(signal.correction):
            words = plain(signal.correction)
            forms[words][signal.correction.strip()] += 1
            who[words].add(users.get(signal.interaction_id, signal.interaction_id))
    return {words: counts.most_common(1)[0][0] for words, counts in forms.items() if len(who[words]) >= min_support}


def confirmed_answers(signals: Sequence[Signal], users: Mapping[str, str]) -> frozenset[str]:
    """The words that several users gave as an answer, in whatever way."""
    who: dict[str, set[str]] = defaultdict(set)
    for signal in signals:
        if signal.correction:
            who[plain(signal.correction)].add(users.get(signal.interaction_id, signal.interaction_id))
    return frozenset(words for words, names in who.items() if len(names) >= CONFIRMED)


def is_short(answer: str) -> bool:
    """True for an answer of a few words, such as many users could give in the same form."""
    return 0 < len(plain(answer).split()) <= LONGEST_STATED_WORDS


def whole_answers_are_long(edited: Sequence[str], praised: Sequence[str], stated: int) -> bool:
    """Whether a few words are no answer here, as in "use latitude instead" of a query in SQL.

    `edited`: the answers that users wrote, which show what a whole one looks like; where they are too few those that
    were `praised`, which may be praised in error, so they must outnumber the `stated` ones.
    """
    tell = len(edited) >= LEAST_WHOLE
    shown, least = (edited, LEAST_WHOLE) if tell else ([*edited, *praised], max(LEAST_WHOLE, stated))
    return len(shown) >= least and sum(not is_short(answer) for answer in shown) >= MOSTLY * len(shown)


def right_answer(
    signals: Sequence[Signal], known: Mapping[str, str], min_confidence: float, given: str = "",
    confirmed: Collection[str] = (),
) -> tuple[str, PairOrigin] | None:  # fmt: skip
    """The answer that the user gave, and how: their edit, else words that name an answer others have given.

    `given`: the answer they speak of, which is not the right one. `confirmed`: what several users have stated; where no
    answer is known, words from a turn that nobody asked for have to be among it, for they may be about something else.
    """
    usable = [s for s in signals if s.correction and s.confidence >= min_confidence]
    edits = [s for s in usable if s.kind == "edit"]
    if edits:
        best = max(reversed(edits), key=lambda s: s.confidence)  # of equally sure ones the last
        return (best.correction or "").strip(), "edit"
    for signal in usable:
        words = (signal.correction or "").strip()
        stated = _stated(words, known, plain(given))
        asked_for = signal.feedback_id is not None
        if stated is not None and (known or asked_for or plain(words) in confirmed):
            return stated, "stated"
    return None


def _stated(span: str, known: Mapping[str, str], given: str) -> str | None:
    """The known answer that a user's words name; None when they name none or several. With none known, the words."""
    words = plain(span)
    if words in known:
        return known[words]
    if not known:
        return span if is_short(span) else None
    inside = [answer for answer in known if answer != given and _may_hide(answer) and f" {answer} " in f" {words} "]
    # "card not working" holds "not working": the longer one is meant
    longest = [one for one in inside if not any(one != other and f" {one} " in f" {other} " for other in inside)]
    return known[longest[0]] if len(longest) == 1 else None


def _may_hide(answer: str) -> bool:
    return " " in answer or len(answer) >= LEAST_INSIDE


def from_users(
    interaction: Interaction,
    signals: Sequence[Signal],
    rules: Sequence[Rule],
    known: Mapping[str, str],
    min_confidence: float,
    confirmed: Collection[str] = (),
) -> PreferencePair | None:
    """The pair that the user's own words make; None when they name no other answer."""
    found = right_answer(signals, known, min_confidence, interaction.answer, confirmed)
    return None if found is None else build(interaction, rules, found[0], interaction.answer, found[1])


def build(
    interaction: Interaction, rules: Sequence[Rule], chosen: str, rejected: str, origin: PairOrigin,
    margin: float | None = None, votes: Mapping[str, Json] | None = None,
) -> PreferencePair | None:  # fmt: skip
    """A pair; None when an answer is empty, both are the same, or personal data was cut out of the better one."""
    if not chosen.strip() or not rejected.strip() or chosen.strip() == rejected.strip() or placeholders(chosen):
        return None
    return identified(
        PreferencePair(
            id="", interaction_id=interaction.id, rule_ids=tuple(rule.id for rule in rules),
            prompt=(*interaction.context, Message(role="user", content=interaction.query)),
            chosen=chosen, rejected=rejected, origin=origin, margin=margin, votes=votes or {},
        )
    )  # fmt: skip
