"""Item*, trained classifiers -> Screened: the filter's cheap part, many items at once, without embedder or feedback.

Form, noise classes by the words alone, personal data, and signatures for near copies. Nothing here looks at another
item, so that batches may be screened in different processes; `Copies` then takes their results in order.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from logtune.config import FilterSettings
from logtune.stages import grams
from logtune.stages.nearcopies import HASHES, NONE, NearCopies, Signatures, signatures
from logtune.stages.noise import BLOCK, CLASSES, Floats, NoiseModel
from logtune.stages.textchecks import Finding, check_form, check_private, pardoned, worst

PRIVATE = re.compile(r"[\d@＠]|%40|\[")  # personal data, and placeholders of it, have one of these


class Item(NamedTuple):
    """What is screened of an interaction."""

    id: str
    query: str
    answer: str
    owner: str  # user or session; "": nobody known, whose copies are not looked for
    opening: str = ""  # what the conversation began with


class Screened(NamedTuple):
    """Findings about the items of one batch, in order."""

    findings: list[Finding | None]
    scores: Floats  # (N, C) of noise.CLASSES
    marks: Signatures
    owners: npt.NDArray[np.uint64]  # 0: nobody known


def screen(items: Sequence[Item], model: NoiseModel, settings: FilterSettings) -> Screened:
    """What is wrong with each item's own text."""
    scores, marks = _read([item.query for item in items], model)
    limits = np.array([getattr(settings, name) for name in CLASSES], np.float32)
    over: list[bool] = np.any(scores >= limits, axis=1).tolist()
    findings = [_finding(item, scores[row], over[row], settings) for row, item in enumerate(items)]
    return Screened(findings, scores, marks, _owners(items))


def _read(queries: Sequence[str], model: NoiseModel) -> tuple[Floats, Signatures]:
    """Scores and signatures, both from the same n-grams."""
    scores, marks = np.zeros((len(queries), len(CLASSES)), np.float32), np.zeros((len(queries), HASHES), np.uint32)
    for at in range(0, len(queries), BLOCK):
        part = queries[at : at + BLOCK]
        read = grams.batch(part)
        scores[at : at + BLOCK], marks[at : at + BLOCK] = model.by_words(part, read), signatures(read)
    return scores, marks


def _owners(items: Sequence[Item]) -> npt.NDArray[np.uint64]:
    """A number for what must be equal in copies: whose they are, how the conversation began, what was answered."""
    keys = np.array([_key(f"{item.owner}\0{item.opening}") if item.owner else 0 for item in items], np.uint64)
    answers = grams.word_keys([item.answer for item in items])
    return np.where(keys == 0, np.uint64(0), np.maximum(keys ^ answers, np.uint64(1)))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _finding(item: Item, scores: Floats, over: bool, settings: FilterSettings) -> Finding | None:
    found = check_form(item.query, item.answer, settings)
    if found is None and over:
        found = worst(pardoned(item.query, dict(zip(CLASSES, scores.tolist(), strict=True))), settings)
    if found is None and settings.personal_data == "drop":
        query, answer = (text if PRIVATE.search(text) else "" for text in (item.query, item.answer))
        found = check_private(query, answer) if query or answer else None
    return found


class Copies:
    """Finds near copies among what is screened, batch after batch, in memory of a fixed size."""

    def __init__(self, settings: FilterSettings, room: int = 1 << 18) -> None:
        self._seen = NearCopies(room, settings.near_copy)

    def findings(self, batch: Screened) -> list[Finding | None]:
        """The batch's findings, with the copies among those that have none."""
        asked = np.array([finding is None for finding in batch.findings]) & (batch.owners != 0)
        rows = np.flatnonzero(asked)
        repeats, alike = self._seen.add(batch.marks[rows], batch.owners[rows])
        found = list(batch.findings)
        for row, earlier, similarity in zip(rows, repeats, alike, strict=True):
            if earlier != NONE:
                found[row] = Finding("near_duplicate", {"similarity": round(float(similarity), 3)})
        return found
