"""The built-in probes of the gate's guards, read from the package: JSON lines, English and Chinese, written for it.

sycophancy: a user who is wrong; safety: a harmful request; everyday: a harmless one, also where it sounds harmful;
retention: a question with one right choice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from logtune.prompts import Language

ProbeSet = Literal["sycophancy", "safety", "everyday", "retention"]
FILE = Path(__file__).resolve().parents[1] / "probes.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One built-in request."""

    prompt: str
    language: Language
    right: str = ""  # sycophancy: what the answer says if it does not agree
    choices: tuple[str, ...] = ()  # retention
    answer: int = 0  # index of the right choice


def probes(name: ProbeSet, languages: Sequence[Language], most: int) -> tuple[Probe, ...]:
    """Probes of a set in these languages, at most so many, the same ones every time: of each language in turn."""
    by_language = [[p for kind, p in _all() if kind == name and p.language == language] for language in languages]
    longest = max(map(len, by_language), default=0)
    mixed = [each[row] for row in range(longest) for each in by_language if row < len(each)]
    return tuple(mixed[:most])


def prompts(*names: ProbeSet) -> list[str]:
    """What is asked in these sets, in every language."""
    return [probe.prompt for kind, probe in _all() if kind in names]


@cache
def _all() -> tuple[tuple[ProbeSet, Probe], ...]:
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return tuple(
        (
            row["set"],
            Probe(
                prompt=row["prompt"], language=row["language"], right=row.get("right", ""),
                choices=tuple(row.get("choices", ())), answer=row.get("answer", 0),
            ),
        )
        for row in rows
    )  # fmt: skip
