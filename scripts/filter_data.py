"""The texts that the noise classifiers learn from, with their class, their source and their group.

../shared/data, `filter_texts` -> Text*. Texts of a group (near copies of one another, or of one kind of attack) never
stand on both sides of a split. No set under a share-alike licence is read.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filter_texts
import numpy as np

from logtune.stages import grams, nearcopies
from logtune.stages.noise import CLASSES

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
OWN = "own"  # source of the project's own texts
BENIGN = ("benign", "benign_hard", "benign_other_language")
CLASS_OF = {"prompt_injection_indirect": "prompt_injection"}
ALIKE = 0.5  # share of common 5-grams from which on two texts are of one group
NUMBER = re.compile(r"[-_]?\d+$")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of the training or of the benchmark."""

    id: str
    text: str
    label: str  # one of noise.CLASSES, or of BENIGN
    source: str
    measured: bool  # of filter_bench: figures are about these
    group: int = 0


def read(name: str) -> list[dict[str, Any]]:
    """The records of a JSONL file below ../shared/data, packed or not."""
    path = SHARED / name
    return [json.loads(line) for line in opened(path if path.exists() else path.with_name(path.name + ".gz"))]


def opened(path: Path) -> Iterator[str]:
    """The lines of a text file, packed or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from lines


def bench(records: Sequence[dict[str, Any]]) -> list[Text]:
    """Records in the form of filter_bench."""
    return [_text(r, str(r["text"]), str(r["label"]), str(r["source"]), measured=True) for r in records]


def training() -> list[Text]:
    """filter_bench and everything that is learned from beside it; each text once, with its group."""
    rows = [*bench(read("filter_bench/dev.jsonl.gz")), *_others(), *own()]
    kept = {row.text.strip().lower(): row for row in reversed(rows) if row.text.strip()}
    return grouped(list(reversed(kept.values())))


def own() -> list[Text]:
    """The project's own texts."""
    return [
        Text(f"own/{n}", text, CLASS_OF.get(label, label), OWN, False)
        for n, (text, label) in enumerate(filter_texts.texts())
    ]


def _text(record: dict[str, Any], text: str, label: str, source: str, measured: bool = False) -> Text:
    name = str(record.get("id") or record.get("message_id"))
    return Text(name if "/" in name else f"{source}/{name}", text, CLASS_OF.get(label, label), source, measured)


def _others() -> Iterator[Text]:
    yield from _attacks()
    yield from _benign()
    yield from _conversations()


def _attacks() -> Iterator[Text]:
    for file, source, label in (
        ("jailbreakbench/jailbreak_prompts.jsonl", "jailbreakbench", "jailbreak"),
        ("jailbreakbench/behaviors.jsonl", "jailbreakbench", "harmful_request"),
        ("inthewild_jailbreaks/prompts.jsonl", "inthewild_jailbreaks", "jailbreak"),
        ("cyberseceval_prompt_injection/injections.jsonl", "cyberseceval_prompt_injection", "prompt_injection"),
        ("cyberseceval_prompt_injection/benign_cyber_frr.jsonl", "cyberseceval_frr", "benign_hard"),
        ("bipia_attacks/attacks.jsonl", "bipia_attacks", "prompt_injection"),
    ):
        yield from (_text(r, str(r["text"]), label, source) for r in read(file))
    for r in read("xstest/prompts.jsonl"):
        yield _text(r, str(r["text"]), "benign_hard" if r["label"] == "safe" else "harmful_request", "xstest")


def _benign() -> Iterator[Text]:
    draw = random.Random(7)
    for file, source, field, most in (
        ("arena_hard_prompts/prompts.jsonl", "arena_hard_prompts", "prompt", 1000),
        ("banking77/train.jsonl", "banking77", "text", 1000),
        ("clinc150/train.jsonl", "clinc150", "text", 1000),
        ("snips_slots/train.jsonl", "snips_slots", "text", 500),
        ("feedbackqa/feedback.jsonl", "feedbackqa", "question", 600),
        ("human_pref_pairs/llmbar.jsonl", "llmbar", "instruction", 400),
    ):
        found = read(file)
        for r in draw.sample(found, min(most, len(found))):
            yield _text(r, str(r[field]), "benign", source)


def _conversations() -> Iterator[Text]:
    for file, source in (
        ("oasst1_val_threads/threads.jsonl", "oasst1_val_threads"),
        ("realhumaneval_chat/conversations.jsonl", "realhumaneval_chat"),
    ):
        for r in read(file):
            label = "benign" if r.get("lang", "en") == "en" else "benign_other_language"
            for message in r["messages"]:
                if message["role"] == "user":
                    yield _text(r, str(message["content"]), label, source)
    for r in (*read("codechat_followups/gpt_labelled.jsonl"), *read("codechat_followups/human_labelled.jsonl")):
        for field in ("prev_user", "user"):
            yield _text(r, str(r[field]), _by_script(str(r[field])), "codechat_followups")
    for r in read("oasst2_trees/messages.jsonl"):
        judged = r.get("labels") or {}
        if r["role"] == "prompter" and (judged.get("toxicity") or 0) < 0.2 and (judged.get("spam") or 0) < 0.3:
            yield _text(
                r, str(r["text"]), "benign" if r["lang"] == "en" else "benign_other_language", "oasst2_trees",
            )  # fmt: skip


def _by_script(text: str) -> str:
    foreign = sum(ord(char) > 0x24F for char in text)
    return "benign_other_language" if foreign * 3 > len(text) else "benign"


# --- groups ---


def grouped(rows: Sequence[Text]) -> list[Text]:
    """The rows with the number of their group: near copies, and attacks that their source puts in one category."""
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for one, other in (*_near(rows), *_same_category(rows)):
        parents[root(one)] = root(other)
    return [replace(row, group=root(number)) for number, row in enumerate(rows)]


def _near(rows: Sequence[Text]) -> Iterator[tuple[int, int]]:
    found = np.concatenate([
        nearcopies.signatures(grams.batch([row.text for row in rows[at : at + 256]]))
        for at in range(0, len(rows), 256)
    ])  # fmt: skip
    for start in range(0, nearcopies.HASHES, 2):
        first: dict[bytes, int] = {}
        for number, key in enumerate(map(bytes, np.ascontiguousarray(found[:, start : start + 2]))):
            seen = first.setdefault(key, number)
            if seen != number and float((found[seen] == found[number]).mean()) >= ALIKE:
                yield number, seen


def _same_category(rows: Sequence[Text]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row.source == "bipia_attacks":
            yield number, first.setdefault(NUMBER.sub("", row.id), number)


def columns(rows: Sequence[Text]) -> "np.typing.NDArray[np.float32]":
    """(N, C): 1 where a row is of the class."""
    return np.array([[float(row.label == name) for name in CLASSES] for row in rows], np.float32)
