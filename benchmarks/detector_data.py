"""Labelled turns for the feedback detector: the bench it is measured on, and what else it is trained on.

Sets of the data folder -> Example*. Nothing of share-alike sets is read. An example's group is its conversation (its
person, where that is known): cross-validation never parts a group.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logtune.ports import Turn

OWN = Path(__file__).with_name("detector_turns.jsonl")  # written for this project
BENCH = "feedback_detector_bench/turns.jsonl.gz"
NONE = "none"
KIND_OF = {  # categories of the bench -> kinds of signals
    "no_feedback": NONE, "repeat_or_rephrase": "reask", "aware_with_correction": "correction",
    "aware_without_correction": "complaint", "clarification_or_doubt": "doubt",
    "constraint_or_change_request": "constraint", "positive": "praise",
}  # fmt: skip
PROMPTED_AGAIN = {"no_feedback": NONE, "error_report": "complaint", "quality_complaint": "constraint"}
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Example:
    """A turn with its label."""

    id: str
    source: str
    group: str
    turn: Turn
    kind: str  # a kind of signal, none, or "" where it is ambiguous
    is_feedback: bool | None  # None: ambiguous
    by_people: bool = False  # who labelled it


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, packed or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def bench(data: Path, path: Path | None = None) -> list[Example]:
    """The turns of the bench, or of another file of its shape; groups are conversations where the data folder says."""
    groups = _groups(data)
    return [_of_bench(row, groups) for row in rows_of(path or data / BENCH)]


def _of_bench(row: dict[str, Any], groups: dict[str, str]) -> Example:
    turn = Turn(text=row["user"], query=row["prev_user"] or "", answer=row["assistant"])
    return Example(
        id=row["id"], source=row["source"], group=groups.get(row["id"], row["id"]), turn=turn,
        kind=KIND_OF.get(row["category"], ""), is_feedback=row["is_feedback"],
        by_people=str(row["label_origin"]).startswith("human"),
    )  # fmt: skip


def _groups(data: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, key in (
        ("realhumaneval_feedback_labels/followups.jsonl", "programmer_id"),
        ("codechat_followups/human_labelled.jsonl", "conversation_id"),
        ("eurtad_feedback/dialogs.jsonl", "id_original"),
    ):
        path = data / name
        rows = rows_of(path) if path.exists() else []
        found |= {row["id"]: f"{row.get('source', name.split('/')[0])}-{row[key]}" for row in rows}
    return found


def more(data: Path, apart_from: Sequence[Example]) -> Iterator[Example]:
    """What is trained on beside the bench; nothing that is in it."""
    known = {_plain(item.turn) for item in apart_from}
    for item in (*_prompted_again(data), *_dialogs(data), *_asked_for(data), *own()):
        if _plain(item.turn) not in known:
            known.add(_plain(item.turn))
            yield item


def _plain(turn: Turn) -> tuple[str, str]:
    return " ".join(turn.text.casefold().split()), " ".join(turn.query.casefold().split())


def own() -> list[Example]:
    """Turns in many languages that were written for this project."""
    return [
        Example(
            id=row["id"], source="own", group=row["id"], kind=row["category"], is_feedback=row["category"] != NONE,
            turn=Turn(text=row["turn"], query=row["query"], answer=row["answer"]), by_people=False,
        )
        for row in rows_of(OWN)
    ]  # fmt: skip


def _prompted_again(data: Path) -> Iterator[Example]:
    """Prompts of WildChat that follow another one, with the reason as a language model sees it."""
    for row in rows_of(data / "codechat_followups" / "gpt_labelled.jsonl.gz"):
        kind = PROMPTED_AGAIN.get(row["suggested_class"])
        if kind is not None:
            turn = Turn(text=row["user"], query=row["prev_user"], answer=None)
            yield Example(
                id=row["id"], source="codechat_model_labelled", group=f"codechat_followups-{row['conversation_id']}",
                turn=turn, kind=kind, is_feedback=kind != NONE,
            )  # fmt: skip


def _dialogs(data: Path, most: int = 300) -> list[Example]:
    """One turn each of dialogs that people marked as free of errors."""
    chosen, found = random.Random(SEED), []
    for row in rows_of(data / "eurtad_feedback" / "dialogs.jsonl"):
        if row["has_feedback"] or row["source"] == "babi":
            continue
        said = row["context"]
        places = [
            at
            for at in range(2, len(said))
            if [m["role"] for m in said[at - 2 : at + 1]] == ["user", "assistant", "user"]
            and said[at]["content"] != said[at - 2]["content"]
        ]
        if places:
            at = chosen.choice(places)
            query, answer, text = (m["content"] for m in said[at - 2 : at + 1])
            found.append(
                Example(
                    id=f"{row['id']}-{at}", source="eurtad_no_error", group=f"{row['source']}-{row['id_original']}",
                    turn=Turn(text=text, query=query, answer=answer), kind=NONE, is_feedback=False, by_people=True,
                )
            )  # fmt: skip
    return chosen.sample(found, min(most, len(found)))


def _asked_for(data: Path, most: int = 150) -> Iterator[Example]:
    """What people wrote who were asked what is wrong with an answer."""
    chosen = random.Random(SEED)
    bad = [
        (row, text)
        for row in rows_of(data / "feedbackqa" / "feedback.jsonl.gz")
        for rating, text in zip(row["ratings"], row["feedback"], strict=True)
        if rating in ("Bad", "Could be Improved") and re.search(r"\w", text)
    ]
    for row, text in chosen.sample(bad, min(most, len(bad))):
        turn = Turn(text=text, query=row["question"], answer=row["answer"])
        yield Example(
            id=row["id"], source="feedbackqa", group=f"feedbackqa-{row['id']}", turn=turn, kind="complaint",
            is_feedback=True, by_people=True,
        )  # fmt: skip
