"""JSON lines of people's preferences -> HumanChoice: what a judge is compared with.

A line: {"instruction": ..., "output_1": ..., "output_2": ..., "preferred": 1, 2 or 0 for a tie}, with "input" where the
instruction works on a text. That is the form of LLMBar, PandaLM and many sets after them. "model_1" and "model_2" may
name who wrote the answers, by which a judge's liking for its own is measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from logtune.edges.json_lines import Bad, opened, parsed, raw_lines
from logtune.errors import InputError
from logtune.records import Json

PREFERENCE: Mapping[Json, float] = {1: 1.0, 2: 0.0, 0: 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanChoice:
    """Two answers to one request, and which one people prefer."""

    query: str
    first: str
    second: str
    preferred: float  # 1 the first, 0 the second, 0.5 a tie
    writers: tuple[str, str] = ("", "")  # models that wrote them; "": unknown, or a person


def read_choices(path: Path) -> Iterator[HumanChoice]:
    """The choices in a file; InputError names the line that is none."""
    with opened(path) as (_, stream):
        for number, raw in enumerate(raw_lines(stream), start=1):
            line = parsed(raw) if not isinstance(raw, Bad) else raw
            if isinstance(line, Bad):
                raise InputError(f"{path}, line {number}: {line.detail or line.reason}", EXAMPLE)
            yield _choice(line, f"{path}, line {number}")


EXAMPLE = 'a line is {"instruction": "...", "output_1": "...", "output_2": "...", "preferred": 1}'


def _choice(line: Mapping[str, Json], where: str) -> HumanChoice:
    asked = [line[name] for name in ("instruction", "query") if isinstance(line.get(name), str)]
    first, second, preferred = line.get("output_1"), line.get("output_2"), line.get("preferred")
    known = isinstance(preferred, int) and not isinstance(preferred, bool) and preferred in PREFERENCE
    if not asked or not isinstance(first, str) or not isinstance(second, str) or not known:
        raise InputError(f"{where} is no preference: it has {', '.join(line) or 'no fields'}", EXAMPLE)
    given = line.get("input")
    query = f"{asked[0]}\n\n{given}" if isinstance(given, str) and given.strip() else str(asked[0])
    one, other = (str(line.get(name) or "") for name in ("model_1", "model_2"))
    return HumanChoice(query=query, first=first, second=second, preferred=PREFERENCE[preferred], writers=(one, other))
