"""Interaction*, vectors -> which of them repeat another of the same user with the same answer, and of which.

Three ways to be the same: the same words, nearly the same characters (`nearcopies`), or the same meaning (cosine). The
copy with the most feedback is kept. What different people ask alike is no copy: that is what a topic is.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from logtune.config import FilterSettings
from logtune.ports import Vectors
from logtune.records import Interaction, Signal
from logtune.stages import grams
from logtune.stages.nearcopies import HASHES, Signatures, signatures

RECENT = 2000  # copies are looked for among so many earlier queries of the same user with the same answer


class Copy(NamedTuple):
    """Row of the interaction that is kept, and how alike the queries are."""

    kept: int
    exact: bool
    similarity: float


def opening(item: Interaction) -> str:
    """What a conversation began with, "" at its begin: "and in euros?" means another thing in another conversation."""
    return next((message.content for message in item.context if message.role == "user"), "")


def plain(text: str) -> str:
    """The words alone, in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


def copies(
    interactions: Sequence[Interaction],
    said: Sequence[Sequence[Signal]],
    vectors: Vectors,
    candidates: Sequence[bool],
    settings: FilterSettings,
) -> Mapping[int, Copy]:
    """Row -> copy, for every row that repeats another one of `candidates` and is not the best of them."""
    groups: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row, item in enumerate(interactions):
        owner = item.user or item.session
        if owner is not None and candidates[row]:
            groups[owner, plain(item.answer), opening(item)].append(row)
    found: dict[int, Copy] = {}
    for rows in groups.values():
        if len(rows) > 1:
            texts = {row: interactions[row].query for row in rows}
            for same in _alike(rows, texts, vectors, settings):
                best = min(same, key=lambda row: (-len(said[row]), interactions[row].at, interactions[row].id))
                found |= {row: _copy(row, best, texts, vectors) for row in same if row != best}
    return found


def _copy(row: int, kept: int, texts: Mapping[int, str], vectors: Vectors) -> Copy:
    exact = plain(texts[row]) == plain(texts[kept])
    return Copy(kept, exact, 1.0 if exact else round(float(vectors[row] @ vectors[kept]), 4))


def _alike(
    rows: Sequence[int], texts: Mapping[int, str], vectors: Vectors, settings: FilterSettings
) -> list[list[int]]:
    """Groups of at least two rows, each like the group's first."""
    marks = signatures(grams.batch([texts[row] for row in rows]))
    groups: list[list[int]] = []
    leading = np.zeros((len(rows), HASHES), np.uint32)
    for number, row in enumerate(rows):
        first = max(0, len(groups) - RECENT)
        leaders = groups[first:]
        nearest = _nearest(row, marks[number], leaders, leading[first : len(groups)], vectors, settings)
        if nearest is not None:
            leaders[nearest].append(row)
        else:
            leading[len(groups)] = marks[number]
            groups.append([row])
    return [group for group in groups if len(group) > 1]


def _nearest(
    row: int,
    mark: "np.typing.NDArray[np.uint32]",
    leaders: Sequence[Sequence[int]],
    leading: Signatures,
    vectors: Vectors,
    settings: FilterSettings,
) -> int | None:
    """The group whose first row is the closest, by meaning or by characters, if it is close enough."""
    if not leaders:
        return None
    meaning = vectors[[group[0] for group in leaders]] @ vectors[row] / settings.duplicate_similarity
    letters = (leading == mark).mean(axis=1) / max(settings.near_copy, 1e-9)
    close = np.maximum(meaning, letters)
    nearest = int(np.argmax(close))
    return nearest if close[nearest] >= 1 else None
