"""Interaction, Signal -> Decision: what an interaction may teach (a positive example, a rule, nothing), and why.

The text itself is checked first (`textchecks`), then copies, then the distance to what the deployment is for
(`closeness`), and only what is left is judged by the feedback it got. The first reason that applies is the decision's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from logtune.config import FilterSettings
from logtune.ids import identified
from logtune.ports import Vectors
from logtune.records import Decision, Interaction, Signal, Teaches
from logtune.stages.closeness import Cut, Floats, Mask, closeness, cut
from logtune.stages.copies import Copy, copies
from logtune.stages.personal import strong_identifiers
from logtune.stages.redact import placeholders
from logtune.stages.refusals import net, refuses, suspected
from logtune.stages.textchecks import FLAG, Finding, check_form, check_text, class_scores, worst
from logtune.stages.thresholds import ordinary, thresholds

REASONS: Mapping[str, str] = {
    "too_long": "The query or the answer is longer than the configured limit.",
    "malformed": "The query has control characters, is mostly markup or code injection, or holds no words.",
    "too_short": "The query is shorter than the configured limit.",
    "prompt_injection": "The query or the feedback tries to override instructions or to draw out secrets.",
    "jailbreak": "The query tries to talk the model out of its rules.",
    "harmful_request": "The query asks for help with harming somebody or with a crime.",
    "toxic": "The query is abusive, hateful or pornographic.",
    "spam": "The query is advertising.",
    "personal_data": "The query, the answer or the correction holds personal data.",
    "right_refusal": "The user punished a refusal that was right.",
    "punished_refusal": "The user punished a refusal without saying what would have been right.",
    "praised_attack": "The user praised an answer to a query that is probably an attack.",
    "language_not_served": "The query is in a language that this deployment does not serve.",
    "duplicate": "The same user got the same answer to the same query before; the copy with the most feedback is kept.",
    "near_duplicate": "The same user got the same answer to nearly the same query before.",
    "off_topic": "The query is far from what others ask of this deployment.",
    "no_answer": "There is no answer that could be a good example.",
    "high_perplexity_answer": "The answer is no positive example: it is very unlikely under the served model.",
    "no_feedback": "Nobody said anything about the answer.",
    "mixed_feedback": "Praise and complaint balance each other, or mere thanks say too little.",
    "praised": "The user was satisfied: the answer is a positive example.",
    "explicit_correction": "The user corrected the answer: never a positive example, always a source of rules.",
    "unsatisfied": "The user complained, asked again or asked for something else: a source of rules.",
}
# Reasons that say something of the request itself: the user's satisfaction does not count any more.
NOISE_REASONS = frozenset(
    {
        "too_long", "malformed", "too_short", "prompt_injection", "jailbreak", "harmful_request", "toxic", "spam",
        "personal_data", "right_refusal", "praised_attack", "language_not_served", "off_topic",
    }
)  # fmt: skip
ATTACKS = frozenset({"malformed", "prompt_injection", "jailbreak", "harmful_request", "toxic", "spam"})
REFUSED_FOR = ("prompt_injection", "jailbreak", "harmful_request", "toxic")
STRONG = frozenset({"card", "iban", "key"})  # kinds of placeholders that count in a complaint, as what they stand for
CONTEXT = 8  # messages before a query that are looked at
BALANCE = 0.2  # net feedback (polarity times confidence) closer to 0 than this decides nothing
Scores = Mapping[str, Mapping[str, float]]  # text -> class -> 0..1


def decide(
    interactions: Sequence[Interaction],
    signals: Mapping[str, Sequence[Signal]],
    vectors: Vectors,
    answer_nll: Sequence[float | None],
    settings: FilterSettings,
    noise: Scores | None = None,
) -> list[Decision]:
    """One decision for each interaction, in order.

    `signals` is by interaction id; `vectors` (N, D) holds the queries, row i of interactions[i]; `answer_nll` is in
    nats a token, None where it was not measured; `noise` holds the scores of `asked`, None: the lexicon's.
    """
    scored = {text: class_scores(text) for text in asked(interactions)} if noise is None else noise
    settings = fitted(interactions, vectors, scored, settings)
    read = [tuple(signals.get(item.id, ())) for item in interactions]
    openings = _openings(interactions)
    own = [_own_text(item, said, settings, scored) for item, said in zip(interactions, read, strict=True)]
    findings = [_in_its_conversation(own, row, openings) for row in range(len(own))]
    same = copies(interactions, read, vectors, [finding is None for finding in findings], settings)
    close, edge = _off_topic(interactions, vectors, findings, openings, settings)
    decisions = []
    for index, (item, said, nll) in enumerate(zip(interactions, read, answer_nll, strict=True)):
        scores = {"closeness": round(float(close[index]), 4)} if np.isfinite(close[index]) else {}
        finding = findings[index] or _copied(same.get(index)) or _too_far(close[index], edge, scores)
        if finding is not None:
            decisions.append(_decision(item, "nothing", finding.reason, finding.scores))
        else:
            decisions.append(_by_feedback(item, said, nll, scores, settings))
    return decisions


def fitted(
    interactions: Sequence[Interaction], vectors: Vectors, noise: Scores, settings: FilterSettings
) -> FilterSettings:
    """The settings with thresholds for this traffic, where `false_positives` asks for that and there is enough."""
    if not settings.false_positives:
        return settings
    found = thresholds(of_ordinary(interactions, vectors, noise, settings)[0], settings.false_positives)
    return settings if found is None else settings.model_copy(update=found)


def of_ordinary(
    interactions: Sequence[Interaction], vectors: Vectors, noise: Scores, settings: FilterSettings
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """(class -> scores of the queries that others ask alike, class -> scores of all other queries)."""
    owners = [item.user or item.session or item.id for item in interactions]
    usable = np.array([check_form(item.query, item.answer, settings) is None for item in interactions], np.bool_)
    inside = ordinary(vectors, owners, usable)
    names = list(noise[interactions[0].query]) if interactions else []
    table = np.array([[noise[item.query][name] for name in names] for item in interactions], np.float64)
    table = table.reshape(-1, len(names))
    ours, others = (dict(zip(names, table[rows].T, strict=True)) for rows in (inside, usable & ~inside))
    return ours, others


def asked(interactions: Sequence[Interaction]) -> list[str]:
    """Every text of a user that `decide` asks a score of, once: the queries, and what came before them."""
    texts: dict[str, None] = {}
    for item in interactions:
        texts[item.query] = None
        texts |= dict.fromkeys(_said_before(item))
    return list(texts)


def _said_before(item: Interaction) -> list[str]:
    return [message.content for message in item.context[-CONTEXT:] if message.role == "user"]


def _decision(item: Interaction, teaches: Teaches, reason: str, scores: Mapping[str, float]) -> Decision:
    return identified(Decision(id="", interaction_id=item.id, teaches=teaches, reason=reason, scores=dict(scores)))


UNKNOWN = -1


def _openings(interactions: Sequence[Interaction]) -> list[int | None]:
    """The row that opened each row's conversation: None when it did itself, UNKNOWN when its log is not here."""
    first = [next((m.content for m in item.context if m.role == "user"), None) for item in interactions]
    owners = [item.session or item.user for item in interactions]
    rows = {(owners[row], item.query): row for row, item in enumerate(interactions) if first[row] is None}
    return [
        None if text is None else rows.get((owner, text), UNKNOWN) for owner, text in zip(owners, first, strict=True)
    ]


def _in_its_conversation(own: Sequence[Finding | None], row: int, openings: Sequence[int | None]) -> Finding | None:
    """In a conversation a short turn is natural, and what it began as noise stays noise."""
    finding, opening = own[row], openings[row]
    if opening is None or (finding is not None and finding.reason != "too_short"):
        return finding
    return own[opening] if opening != UNKNOWN else None


def _own_text(item: Interaction, said: Sequence[Signal], settings: FilterSettings, noise: Scores) -> Finding | None:
    """What is wrong with the query, the answer, what led to them, or the words of the feedback."""
    found = check_text(item.query, item.answer, settings, noise[item.query]) or _feedback_text(said, settings)
    if found is not None and found.reason not in REFUSED_FOR:
        return found
    suspect = suspected(noise[item.query], REFUSED_FOR, settings.suspect)
    heard, declined = net(said), refuses(item.answer)
    if suspect and heard < 0 and declined:
        return Finding("right_refusal", {**suspect, "feedback": heard})
    if found is None and suspect and heard > 0 and not declined:
        return Finding("praised_attack", {**suspect, "feedback": heard})
    return found or _led_to(item, settings, noise)


def _led_to(item: Interaction, settings: FilterSettings, noise: Scores) -> Finding | None:
    """An attack in an earlier turn of the same conversation: what follows it is an answer to it still."""
    for text in _said_before(item):
        finding = worst(noise[text], settings)
        if finding is not None and finding.reason in REFUSED_FOR:
            return Finding(finding.reason, {**finding.scores, "earlier_turn": 1.0})
    return None


def _feedback_text(said: Sequence[Signal], settings: FilterSettings) -> Finding | None:
    """Feedback is trained on too: injections in a complaint, and everything that is noise in a correction."""
    for signal in said:
        for text, classes in ((signal.evidence, REFUSED_FOR[:2]), (signal.correction or "", REFUSED_FOR)):
            scores = class_scores(text)
            worst = max(classes, key=scores.__getitem__)
            if scores[worst] >= FLAG:
                return Finding(worst, {f"feedback_{worst}": round(scores[worst], 3)})
        private = _private_feedback(signal) if settings.personal_data == "drop" else {}
        if private:
            return Finding("personal_data", {f"feedback_{kind}": float(count) for kind, count in private.items()})
    return None


def _private_feedback(signal: Signal) -> dict[str, int]:
    """Identifiers in the user's words, and what was cut out of a correction, which would be learned as it stands."""
    correction = signal.correction or ""
    for text in (signal.evidence, correction):
        found = strong_identifiers(text)
        if found:
            return {kind: len(spans) for kind, spans in found.items()}
    cut_out = {kind: count for kind, count in placeholders(signal.evidence).items() if kind in STRONG}
    return placeholders(correction) or cut_out


def _copied(copy: Copy | None) -> Finding | None:
    if copy is None:
        return None
    return Finding("duplicate" if copy.exact else "near_duplicate", {"similarity": copy.similarity})


# --- off topic ---


def _off_topic(
    interactions: Sequence[Interaction],
    vectors: Vectors,
    findings: Sequence[Finding | None],
    openings: Sequence[int | None],
    settings: FilterSettings,
) -> tuple[Floats, Cut | None]:
    """Closeness of each row, and where off topic begins (None: too few logs to say).

    A turn inside a conversation ("and in euros?") is as close as what opened it, if that is closer.
    """
    if len(interactions) < settings.off_topic_min_logs or settings.off_topic == "off":
        return np.full(len(interactions), np.nan), None
    owners = [item.user or item.session or item.id for item in interactions]
    opens = np.array([opening is None for opening in openings])
    trusted = opens & np.array([finding is None for finding in findings])
    attacks = opens & np.array([finding is not None and finding.reason in ATTACKS for finding in findings])
    close = closeness(vectors, owners, trusted)
    edge = cut(close[_distinct(interactions, trusted)], close[attacks], settings)
    for row, opening in enumerate(openings):
        if opening is not None:
            close[row] = np.nan if opening == UNKNOWN else np.fmax(close[row], close[opening])
    return close, edge


def _distinct(interactions: Sequence[Interaction], trusted: Mask) -> list[int]:
    """The trusted rows, each text once: half the traffic may be five buttons, which bound nothing."""
    texts = {" ".join(interactions[row].query.casefold().split()): int(row) for row in np.flatnonzero(trusted)[::-1]}
    return list(texts.values())


def _too_far(close: float, edge: Cut | None, scores: Mapping[str, float]) -> Finding | None:
    if edge is None or not close < edge.below:
        return None
    return Finding("off_topic", {**scores, "cut": round(edge.below, 4), "typical": round(edge.typical, 4)})


# --- feedback ---


def _by_feedback(
    item: Interaction, said: Sequence[Signal], nll: float | None, scores: Mapping[str, float], settings: FilterSettings
) -> Decision:
    """What an interaction that is no noise may teach."""
    balance = net(said)
    heard = {"feedback": balance} if said else {}
    measured = {} if nll is None else {"answer_nll": round(nll, 4)}
    unlikely = nll is not None and nll > settings.max_answer_nll
    teaches, reason = _lesson(said, balance, item.answer, unlikely)
    return _decision(item, teaches, reason, {**scores, **heard, **measured})


def _lesson(said: Sequence[Signal], balance: float, answer: str, unlikely: bool) -> tuple[Teaches, str]:
    corrected = any(s.polarity < 0 and (s.kind in ("edit", "correction") or s.correction) for s in said)
    if balance < 0 and refuses(answer) and not any(s.correction for s in said):
        return "nothing", "punished_refusal"  # no score tells in every language whether it was right
    if corrected or (said and balance <= -BALANCE):
        return "rule", "explicit_correction" if corrected else "unsatisfied"
    if unlikely:
        return "nothing", "high_perplexity_answer"
    if not said:
        return "nothing", "no_feedback"
    if balance < BALANCE:
        return "nothing", "mixed_feedback"
    return ("positive", "praised") if answer.strip() else ("nothing", "no_answer")
