"""Answers of several methods -> how each did, normalised as MemoryBench does.

Scores are those of MemoryBench's own evaluation where its `evaluate_details.json` lies beside the answers of every
method; its constants then make them comparable with published ones. Else answers are compared with the references that
records hold, and normalised over this run alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeAlias, cast

from logtune.app.reproduce import Answered
from logtune.edges import memorybench as bench
from logtune.edges.memorybench import BenchSet
from logtune.errors import InputError
from logtune.records import Json
from logtune.stages.grading import grade
from logtune.stages.normalised import Constants, Summary, constants_of, summarise

Scores: TypeAlias = dict[str, list[float]]  # set -> score of each answer
OFFICIAL = "MemoryBench's own evaluation"
OWN = "likeness to the reference, 0..1 (chrF; short references are right or wrong)"
REFERENCES = ("golden_answer", "reference", "answer")  # keys of a record's info


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """All methods on one task."""

    task: str
    scored_by: str
    normalised_by: str
    methods: Mapping[str, Summary]
    left_out: Mapping[str, str]  # set -> why it has no score


def summary_of(
    task: str, sets: Sequence[BenchSet], done: Sequence[Answered], constants: Mapping[str, Constants] | None
) -> TaskSummary:
    """The summary of a task, written beside the answers of each method too."""
    details = [bench.read_details(item.folder) for item in done]
    official = [found for found in details if found is not None]
    whole = len(official) == len(done)
    found = official if whole else [own_scores(item.folder, sets) for item in done]
    used = constants if whole and constants is not None else constants_of(found)
    made = {
        item.method: summarise({n: fmean(v) for n, v in scores.items()}, {n: len(v) for n, v in scores.items()}, used)
        for item, scores in zip(done, found, strict=True)
    }
    for item, scores in zip(done, found, strict=True):
        bench.write(item.folder / bench.SUMMARY, as_memorybench(made[item.method], scores, used))
    names = {bench.group_of(item.name) for item in sets}
    why = "MemoryBench's own evaluation must score it" if not whole else "its evaluation or its constants lack it"
    left_out = {name: why for name in sorted(names) if not all(name in scores and name in used for scores in found)}
    return TaskSummary(
        task=task, scored_by=OFFICIAL if whole else OWN, methods=made, left_out=left_out,
        normalised_by="MemoryBench's constants" if used is constants else "all methods of this run",
    )  # fmt: skip


def own_scores(folder: Path, sets: Sequence[BenchSet]) -> Scores:
    """By the references of the records; sets that lack one in a record are left out."""
    known = bench.read_answers(folder)
    found: Scores = {}
    for item in sets:
        references = [_reference(row.info) for row in item.test]
        if all(references):
            answers = (known.get((row.dataset, row.test_idx), "") for row in item.test)
            found[item.name] = [grade(answer, right) for answer, right in zip(answers, references, strict=True)]
    return found


def _reference(info: Json) -> str:
    if not isinstance(info, dict):
        return ""
    return next((text for name in REFERENCES if isinstance(text := info.get(name), str) and text.strip()), "")


def read_constants(path: Path, task: str) -> dict[str, Constants]:
    """The constants of a task in MemoryBench's `final_evaluate_summary_wo_details.json`; InputError where they lack."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["task"][task]["summary"]
        columns = [found[f"dataset_{name}"] for name in ("min", "max", "mu", "sigma")]
        return {
            name: Constants(**{key: float(column[name]) for key, column in zip(FIELDS, columns, strict=True)})
            for name in columns[0]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no constants of the task {task}: {type(error).__name__} {error}",
            "name configs/final_evaluate_summary_wo_details.json of MemoryBench",
        ) from error


FIELDS = ("low", "high", "mean", "deviation")


def as_memorybench(summary: Summary, scores: Scores, constants: Mapping[str, Constants]) -> Json:
    """One method's summary with the keys of MemoryBench's `summary_results`."""
    minmax: dict[str, Json] = {}
    z: dict[str, Json] = {}
    for name, values in scores.items():
        if name in constants:
            scaled = [constants[name].minmax(value) for value in values]
            deviations = [constants[name].z(value) for value in values]
            minmax[name] = [sum(scaled), len(scaled), fmean(scaled)]
            z[name] = [sum(deviations), len(deviations), fmean(deviations)]
    return {
        "summary": {
            "average": summary.average, "weighted_average": summary.weighted_average, "z_score": summary.z_score,
        },
        "average": cast("Json", dict(summary.means)), "minmax_normalized_average": minmax, "z_normalized_average": z,
        "details": cast("Json", scores),
    }  # fmt: skip
