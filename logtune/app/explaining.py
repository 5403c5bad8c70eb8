"""Why the filter judged one interaction as it did: the decision, and every score beside its threshold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from logtune.app.noise_reading import noise_reader
from logtune.config import Config
from logtune.edges.store import Store
from logtune.errors import InputError
from logtune.records import Decision, Interaction, LogRecord
from logtune.stages.interactions import answer_text, request_messages
from logtune.stages.languages import language
from logtune.stages.noise import CLASSES
from logtune.stages.personal import personal_data
from logtune.stages.refusals import refuses
from logtune.stages.textchecks import class_scores, malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One interaction, as the filter sees it."""

    id: str
    query: str
    decision: str  # "nothing, off_topic"; "": no cycle has decided
    reason: str
    rests_on: Mapping[str, float]  # the decision's own scores
    scores: Mapping[str, float]  # class -> 0..1
    thresholds: Mapping[str, float]  # of the settings
    words: Mapping[str, str]  # what else was found in the text
    refuses: bool


def explain(store: Store, config: Config, record_id: str, progress: Callable[[str], None]) -> Explanation:
    """InputError where no interaction or log record has this id, or an id that begins so."""
    found = store.get(record_id)
    if isinstance(found, Decision):
        found = store.get(found.interaction_id)
    if isinstance(found, LogRecord):
        inside = [store.get(child) for child in store.children(found.id)]
        found = next((item for item in inside if isinstance(item, Interaction)), found)
    if isinstance(found, Interaction):
        decided = [item for child in store.children(found.id) if isinstance(item := store.get(child), Decision)]
        return _explained(config, found.id, found.query, found.answer, decided[-1] if decided else None, progress)
    if isinstance(found, LogRecord):
        messages = request_messages(found.request)
        query = messages[-1].content if messages else ""
        return _explained(config, found.id, query, answer_text(found.response) or "", None, progress)
    raise InputError(f"no interaction has the id '{record_id}'", "logtune interactions lists them")


def _explained(
    config: Config, record_id: str, query: str, answer: str, decision: Decision | None, progress: Callable[[str], None]
) -> Explanation:
    from logtune.app.build import embedder

    meaning = embedder(config, progress)
    reader = noise_reader(meaning.fingerprint, config.embedder.dtype)
    (scores,) = reader.by_class([query], meaning.embed([query]), meaning.fingerprint)
    said = class_scores(query)
    words = {"language": language(query) or "not told by the words", "malformed": malformed(query) or "no"}
    words["personal data"] = ", ".join(personal_data(query)) or "none"
    words["clues of the lexicon"] = ", ".join(f"{name} {said[name]:.2f}" for name in CLASSES if said[name]) or "none"
    return Explanation(
        id=record_id, query=query, decision=f"{decision.teaches}, {decision.reason}" if decision else "",
        reason=decision.reason if decision else "", rests_on=decision.scores if decision else {},
        scores={name: round(value, 4) for name, value in scores.items()},
        thresholds={name: float(getattr(config.filter, name)) for name in CLASSES}, words=words,
        refuses=refuses(answer),
    )  # fmt: skip
