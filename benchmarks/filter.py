"""The noise filter on real texts: what it catches, what it drops by mistake, and how fast it is.

    python benchmarks/filter.py [--eval FILE] [--vectors CACHE] [--kept DIR] [--skip NAME]... [--json OUT]

Texts: ../shared/data/filter_bench. Every figure about classes comes from models that learned from no text of the fold
(groups of near copies, and attacks of one category, are never split) or of the source they are measured on. With --eval
another file of the same shape is scored by the shipped classifiers, and nothing is trained.

    recall                       share of a class's texts that are called noise of any class, by class and by source
    recall_own_class             the same, under the right name
    false_positives              share of benign texts that are called noise, by kind and by source
    *_untuned                    the same by the full reading without the tuned embedder
    *_quick                      the same by the words alone, without the embedder
    leave_source_out_recall      recall on a source that was never trained on, mean over the adversarial sources
    off_topic_recall             share of other people's questions found off topic by a banking deployment that knows
                                 nothing but its own traffic, where 2% of unseen banking questions are
    pii_f1                       spans of e-mail, phone, card, IBAN and IP in presidio_pii
    weekly_noise_dropped         labelled noise of the weekly stream that the filter drops, in the last week's cycle
    weekly_clean_dropped         clean requests that it drops too
    records_per_s                the streaming pass with near copies, all cores, logs as the store holds them
    records_per_s_embedded       the full reading with the packaged embedder, all cores
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import filter_data as data
import filter_encoder as encoder
import filter_speed as speed
import filter_topics as topics
import filter_training as training
from filter_data import SHARED, Text

from logtune.app.noise_parameters import noise_model
from logtune.app.noise_reading import noise_reader
from logtune.records import Json
from logtune.stages.noise import CLASSES, Floats
from logtune.stages.textchecks import malformed

Row = dict[str, Json]
AIMS = {
    "recall": 0.90, "benign": 0.02, "benign_hard": 0.08, "benign_other_language": 0.02, "off_topic_recall": 0.90,
    "leave_source_out_recall": 0.75, "pii_f1": 0.95, "records_per_s": 20_000, "records_per_s_embedded": 300,
}  # fmt: skip


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def tables(rows: Sequence[Text], named: Sequence[str | None], suffix: str = "") -> Row:
    """recall, recall_own_class and false_positives of measured rows; `named`: the class each was called, or None."""
    shares: dict[str, dict[str, list[float]]] = {"recall": {}, "recall_own_class": {}, "false_positives": {}}
    for row, name in zip(rows, named, strict=True):
        keys = (row.label, f"{row.label} / {row.source}")
        for key in keys if row.measured else ():
            if row.label in data.BENIGN:
                shares["false_positives"].setdefault(key, []).append(name is not None)
            elif row.label in CLASSES or row.label == "malformed":
                shares["recall"].setdefault(key, []).append(name is not None)
                shares["recall_own_class"].setdefault(key, []).append(name == row.label)
    return {
        table + suffix: {key: round(float(np.mean(hits)), 4) for key, hits in sorted(groups.items())}
        for table, groups in shares.items()
    }


def called(rows: Sequence[Text], odds: Floats, line: Floats) -> list[str | None]:
    """The class that each row is called: the farthest above its line, or malformed; None: no noise."""
    names: list[str | None] = []
    for row, over in zip(rows, odds - line, strict=True):
        best = int(np.argmax(over))
        names.append("malformed" if malformed(row.text) else CLASSES[best] if over[best] > 0 else None)
    return names


def out_of_fold(vectors: Path | None, kept: Path | None) -> Row:
    """Both rungs by cross-validation, then each adversarial source left out of the full one."""
    rows = data.training()
    say(f"{len(rows)} texts, {sum(row.measured for row in rows)} of them measured")
    read = training.features(rows, training.embedded([row.text for row in rows], vectors)[0])
    tuned = encoder.tuned(rows, encoder.lower([row.text for row in rows]), say)
    unseen = training.Unseen(rows, training.networks(rows, read) | {"tuned": tuned}, kept)
    drawn = training.drawn(unseen, say)
    found: Row = {}
    for suffix, name in (("_quick", "quick"), ("_untuned", "full"), ("", "tuned")):
        found |= tables(rows, called(rows, drawn[name].odds, drawn[name].line), suffix)

    def score(source: str) -> "tuple[training.Mask, Floats]":
        measured, full = unseen.without_source("full", source)
        tuned = unseen.without_source("tuned", source)[1]
        return measured, training.asked_in_doubt(full - drawn["full"].line, tuned, drawn["tuned"].line)

    return found | left_out(rows, score, drawn["tuned"].line)


def left_out(
    rows: Sequence[Text],
    score: Callable[[str], tuple["np.typing.NDArray[np.bool_]", Floats]],
    line: Floats,
) -> Row:
    """Recall on each adversarial source by a model that saw nothing of it."""
    shares: dict[str, float] = {}
    for source in sorted({row.source for row in rows if row.measured and row.label in CLASSES}):
        chosen, odds = score(source)
        texts = [row for row, inside in zip(rows, chosen, strict=True) if inside]
        hits = [
            name is not None for row, name in zip(texts, called(texts, odds, line), strict=True) if row.label in CLASSES
        ]
        shares[source] = round(float(np.mean(hits)), 4)
        say(f"without {source}: {shares[source]:.1%}")
    return {
        "leave_source_out_recall": round(float(np.mean(list(shares.values()))), 4),
        "leave_source_out": cast("Row", shares),
    }  # fmt: skip


def shipped(path: Path, vectors: Path | None) -> Row:
    """The shipped classifiers on a file of the shape of filter_bench."""
    records = [json.loads(line) for line in data.opened(path)]
    rows = data.bench(records)
    meaning, fingerprint = training.embedded([row.text for row in rows], vectors)
    model, reader = noise_model(), noise_reader(fingerprint, "auto")
    texts = [row.text for row in rows]
    found: Row = {"records": len(rows), "model": reader.name}
    read = {"_quick": model.by_class(texts, None, ""), "_untuned": model.by_class(texts, meaning, fingerprint)}
    for suffix, scores in (read | {"": reader.by_class(texts, meaning, fingerprint)}).items():
        table = np.array([[row[name] for name in CLASSES] for row in scores], np.float32)
        found |= tables(rows, called(rows, table, np.full(len(CLASSES), 0.5, np.float32)), suffix)
    return found


PARTS: Mapping[str, Callable[[Path | None, Path | None], Row]] = {
    "classes": out_of_fold,
    "topics": lambda vectors, kept: topics.off_topic(vectors),
    "pii": lambda vectors, kept: topics.pii(),
    "weekly": lambda vectors, kept: topics.weekly(say, vectors),
    "speed": lambda vectors, kept: speed.measured(say),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval", type=Path, help="score this file with the shipped classifiers; nothing is trained")
    parser.add_argument("--vectors", type=Path, help="file that keeps the embedder's vectors between runs")
    parser.add_argument("--kept", type=Path, help="folder that keeps the odds of finished folds and sources")
    parser.add_argument("--skip", action="append", default=[], choices=PARTS, help="leave a part out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not SHARED.exists():
        raise SystemExit(f"{SHARED} is not there")
    found: Row = {}
    for name, part in PARTS.items():
        if name in arguments.skip:
            continue
        if name == "classes" and arguments.eval:
            found |= shipped(arguments.eval, arguments.vectors)
        else:
            found |= part(arguments.vectors, arguments.kept)
    document = json.dumps({"aims": AIMS} | found, indent=1)
    print(document)
    if arguments.json:
        arguments.json.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
