"""MemoryBench on disk: its records in, answers and summaries in its own format out (arXiv 2510.17281).

    DIR/.../SET/{train,test}         as `datasets` saves them, or train.jsonl and test.jsonl
    OUT/task/TASK/METHOD/predict.json            [{"test_idx", "dataset", "response"}]
    OUT/task/TASK/METHOD/evaluate_details.json   what its own evaluation makes of that; read where it is there

Columns that hold a structure may be encoded as a string of JSON or of Python.
"""

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from logtune.edges.json_lines import Bad, Object, opened, parsed, raw_lines
from logtune.errors import InputError, MissingExtra
from logtune.records import Json, Message

TASKS: Mapping[str, str] = {
    **{f"Locomo-{number}": "Long-Short" for number in range(10)},
    "DialSim-friends": "Long-Short", "DialSim-bigbang": "Long-Short", "DialSim-theoffice": "Long-Short",
    "LexEval-Summarization": "Long-Short", "IdeaBench": "Long-Short", "LimitGen-Syn": "Long-Short",
    "LexEval-Judge": "Long-Long", "WritingBench-Politics&Law": "Long-Long",
    "HelloBench-Academic&Knowledge-Writing": "Long-Long", "WritingBench-Academic&Engineering": "Long-Long",
    "HelloBench-Creative&Design": "Long-Long", "WritingBench-Creative&Design": "Long-Long",
    "JuDGE": "Short-Long", "HelloBench-Academic&Knowledge-QA": "Short-Long", "WritingPrompts": "Short-Long",
    "LexEval-QA": "Short-Short", "JRE-L": "Short-Short", "NFCats": "Short-Short",
}  # fmt: skip
CORPUS = ("Locomo", "DialSim")  # their questions are about long conversations that lie beside the records
SPLITS = ("train", "test")
PREDICT, DETAILS, SUMMARY = "predict.json", "evaluate_details.json", "summary.json"
STRUCTURED = ("input_chat_messages", "info")  # and every column that begins with dialog or implicit_feedback


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record."""

    dataset: str
    test_idx: int
    lang: str
    prompt: tuple[Message, ...]  # the request
    info: Json  # what its own evaluation goes by
    dialog: tuple[Message, ...] = ()  # how a model answered and a simulated user reacted; () in a test split
    actions: tuple[tuple[str, ...], ...] = ()  # of the user after each answer: like, dislike, copy


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSet:
    """One data set."""

    name: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]

    @property
    def task(self) -> str:
        """Its task shape; sets that MemoryBench does not have are a task of their own."""
        return TASKS.get(self.name, "other")


def read(folder: Path, dialog: str = "") -> list[BenchSet]:
    """Every set below `folder`, by name; `dialog`: suffix of the columns dialog_* and implicit_feedback_* to read.

    InputError where there is none, or a record lacks what every record has.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", "name the folder that holds MemoryBench's data sets")
    places = sorted({path.parent for split in SPLITS for path in _splits(folder, split)})
    found = [
        BenchSet(name=place.name, train=_rows(place, "train", dialog), test=_rows(place, "test", dialog))
        for place in places
    ]
    if not found:
        raise InputError(
            f"no data set lies below {folder}", "a set is a folder with train and test, or train.jsonl and test.jsonl"
        )
    return found


def _splits(folder: Path, split: str) -> Iterator[Path]:
    yield from (path.parent for path in folder.rglob("dataset_info.json") if path.parent.name == split)
    yield from folder.rglob(f"{split}.jsonl")


def _rows(place: Path, split: str, dialog: str) -> tuple[Row, ...]:
    lines = place / f"{split}.jsonl"
    if lines.exists():
        raw: Iterable[Object] = _lines(lines)
    elif (place / split).is_dir():
        raw = _saved(place / split)
    else:
        return ()
    return tuple(row_of(item, f"{place.name}/{split}", number, dialog) for number, item in enumerate(raw))


def _lines(path: Path) -> Iterator[Object]:
    with opened(path) as (stream, _):
        for number, line in enumerate(raw_lines(stream), start=1):
            item = line if isinstance(line, Bad) else parsed(line)
            if isinstance(item, Bad):
                raise InputError(f"{path}:{number}: {item.detail}", "a line is one JSON object")
            yield item


def _saved(folder: Path) -> Iterator[Object]:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise MissingExtra("datasets", "train") from error
    try:
        yield from load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be read: {error}", "save it with datasets.save_to_disk") from error


def row_of(item: Mapping[str, object], place: str, number: int = 0, dialog: str = "") -> Row:
    """A record with its encoded columns decoded; InputError names what is missing."""
    cells = {name: decoded(value) if _structured(name) else value for name, value in item.items()}
    suffix = f"_{dialog}" if dialog else ""
    try:
        prompt = cells.get("input_prompt") or cells["input_chat_messages"]
        return Row(
            dataset=str(cells["dataset_name"]), test_idx=int(cast("int", cells["test_idx"])),
            lang=str(cells.get("lang") or "en"), prompt=_messages(prompt), info=cast("Json", cells.get("info")),
            dialog=_messages(cells.get(f"dialog{suffix}") or ()),
            actions=_actions(cells.get(f"implicit_feedback{suffix}") or ()),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{place}, record {number}: {type(error).__name__} {error}",
            "a record has test_idx, dataset_name, input_prompt or input_chat_messages, and dialog",
        ) from error


def _structured(name: str) -> bool:
    return name in STRUCTURED or name.startswith(("dialog", "implicit_feedback"))


def decoded(value: object) -> object:
    """What a string of JSON or of Python literals holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    for read_it in (json.loads, ast.literal_eval):
        try:
            return cast("object", read_it(value))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    turns = cast("Sequence[Mapping[str, object]]", value)
    return tuple(Message(role=str(turn["role"]), content=str(turn["content"])) for turn in turns)


def _actions(value: object) -> tuple[tuple[str, ...], ...]:
    """By round; a round that is not named has none."""
    rounds: dict[int, tuple[str, ...]] = {}
    for number, item in enumerate(cast("Sequence[Mapping[str, object]]", value), start=1):
        said = cast("Sequence[object]", item.get("implicit_actions") or ())
        rounds[int(cast("int", item.get("round", number)))] = tuple(str(action) for action in said)
    return tuple(rounds.get(number, ()) for number in range(1, max(rounds, default=0) + 1))


# --- results ---


def write_answers(folder: Path, answers: Sequence[tuple[Row, str]]) -> Path:
    """`predict.json` of one method, as MemoryBench's evaluation takes it."""
    rows: list[Json] = [{"test_idx": r.test_idx, "dataset": r.dataset, "response": text} for r, text in answers]
    return write(folder / PREDICT, rows)


def read_answers(folder: Path) -> dict[tuple[str, int], str]:
    """(set, test_idx) -> answer of an earlier run; empty where there is none."""
    rows = _document(folder / PREDICT)
    return {(str(row["dataset"]), int(cast("int", row["test_idx"]))): str(row["response"]) for row in rows}


METRICS = ("llm_judge_score", "score", "avg_score", "rougel", "meteor", "f1", "accuracy")  # one number an answer


def read_details(folder: Path) -> dict[str, list[float]] | None:
    """Set -> its scores by MemoryBench's own evaluation, ordered by test_idx; None: it was not run.

    InputError for a set that is scored by several metrics which its evaluation alone can merge.
    """
    rows = _document(folder / DETAILS)
    if not rows:
        return None
    found: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (str(row["dataset"]), int(cast("int", row["test_idx"])))):
        found.setdefault(group_of(str(row["dataset"])), []).append(_score(row, folder / DETAILS))
    return found


def group_of(dataset: str) -> str:
    """Under which name a set is normalised: Locomo's ten are one."""
    return "Locomo" if dataset.startswith("Locomo") else dataset


def _score(row: Mapping[str, Json], path: Path) -> float:
    metrics = cast("Mapping[str, Json]", row.get("metrics") or {})
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    name = next((name for name in METRICS if name in numbers), next(iter(numbers), "") if len(numbers) == 1 else "")
    if not name:
        raise InputError(
            f"{path}: {row['dataset']} {row['test_idx']} has the metrics {', '.join(metrics) or 'none'}",
            f"merge them into one with MemoryBench's own evaluation; known are {', '.join(METRICS)}",
        )
    return float(numbers[name])


def _document(path: Path) -> list[dict[str, Json]]:
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", "remove it; it is made again") from error
    if not isinstance(found, list):
        raise InputError(f"{path} is no list", "remove it; it is made again")
    return cast("list[dict[str, Json]]", found)


def write(path: Path, document: Json) -> Path:
    """The document as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return path
