"""How well feedback is told from new matters in the turns after answers.

    python benchmarks/signals.py --json OUT [--data DIR] [--eval FILE] [--throughput N]

Without --eval: out-of-fold figures on feedback_detector_bench. Networks are trained without the conversations (the
persons, where they are known) they are asked about, several times with other folds; slope, offset and threshold of a
fold come from the other folds. With --eval: the shipped parameters on another file of the same shape, no training.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detector_data import Example, bench, more
from detector_fit import Course, f1, load_embedder, nested_shares, out_of_fold, predict, table, vectors_of

from logtune import detecting
from logtune.ports import Embedder, Turn
from logtune.stages.detector import KINDS, calibrated
from logtune.stages.signals import next_turn

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BINS = 10
TARGETS = {"f1_human": 0.80, "f1_all": 0.78, "ece": 0.05}
KEYWORDS = re.compile(
    r"\b(?:wrong|incorrect|not (?:right|correct|what|true|working)|does(?: no|n'?)t|did(?: no|n'?)t|errors?|fail\w*"
    r"|exception|traceback|assert|still|i mean|i meant|i said|i want|should|instead|without|again|are you sure"
    r"|what (?:do you mean|are you talking)|makes? (?:any )?sense|understand|fix|in python)\b|^\W*(?:no|nope|but)\b",
    re.IGNORECASE,
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--eval", type=Path, help="another file of the same shape: shipped parameters, no training")
    parser.add_argument("--repeats", type=int, default=3, help="foldings, of which the mean is told")
    parser.add_argument("--throughput", type=int, default=2000, help="turns of the stream whose pace is measured")
    given = parser.parse_args()
    every = bench(given.data, given.eval)
    clear = [item for item in every if item.is_feedback is not None]
    found: dict[str, Any] = {}
    for fast in (False, True):
        embedder = load_embedder(fast)
        part = shipped(clear, embedder, fast) if given.eval else cross_validated(clear, every, given, embedder)
        found |= {"fast": part} if fast else part
    found["baselines"] = baselines(clear)
    if given.throughput:
        found |= paces(clear, given.throughput)
    tell(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def cross_validated(
    clear: Sequence[Example], every: Sequence[Example], given: argparse.Namespace, embedder: Embedder
) -> dict[str, Any]:  # fmt: skip
    """Figures for turns of conversations that were not trained on, the mean of several foldings."""
    extra = list(more(given.data, every))
    rows, extra_rows = (table(items, vectors_of(items, embedder)) for items in (clear, extra))
    learned, runs = detecting.load(), []
    for seed in range(given.repeats):
        output, where = out_of_fold((clear, rows), (extra, extra_rows), Course(), seed)
        shares, decided = nested_shares(output[:, 0], where, rows.feedback, learned)
        runs.append(figures(clear, shares, decided, output[:, 1:]))
    return {"mode": "out_of_fold", "repeats": given.repeats, **mean(runs)}


def shipped(clear: Sequence[Example], embedder: Embedder, fast: bool) -> dict[str, Any]:
    """Figures of the shipped parameters."""
    learned = detecting.load(detecting.PACKAGED_FAST if fast else detecting.PACKAGED)
    output = predict(table(clear, vectors_of(clear, embedder)), learned)
    shares = calibrated(output[:, 0], learned)
    return {
        "mode": "shipped",
        "detector": learned.name,
        **figures(clear, shares, shares >= learned.threshold, output[:, 1:]),
    }


def figures(items: Sequence[Example], shares: Floats, decided: Bools, kinds: Floats) -> dict[str, Any]:
    """Of all, of the part labelled by people, by source and by kind."""
    truth = np.array([bool(item.is_feedback) for item in items])
    human = np.array([item.by_people for item in items])
    sources = np.array([item.source for item in items])
    guessed = np.array(KINDS)[kinds.argmax(axis=1)]
    labels = np.array([item.kind for item in items])
    with_kind = truth & np.isin(labels, KINDS)
    return {
        "f1_human": f1(truth[human], decided[human]), "f1_all": f1(truth, decided), "ece": ece(truth, shares),
        "ece_human": ece(truth[human], shares[human]),
        "human": part(truth[human], decided[human], shares[human]), "all": part(truth, decided, shares),
        "by_source": {name: part(truth[sources == name], decided[sources == name], shares[sources == name])
                      for name in sorted(set(sources.tolist()))},
        "by_kind": {name: _of_kind(name, labels, decided, guessed) for name in sorted(set(labels.tolist()))},
        "kind_accuracy": float((guessed[with_kind] == labels[with_kind]).mean()) if with_kind.any() else None,
    }  # fmt: skip


def _of_kind(
    name: str, labels: npt.NDArray[np.str_], decided: Bools, guessed: npt.NDArray[np.str_]
) -> dict[str, float]:
    own = labels == name
    shown = decided & (guessed == name)
    return {
        "turns": int(own.sum()), "taken_for_feedback": float(decided[own].mean()),
        "kind_recall": float((shown & own).sum() / max(1, own.sum())),
        "kind_precision": float((shown & own).sum() / max(1, shown.sum())),
    }  # fmt: skip


def part(truth: Bools, decided: Bools, shares: Floats) -> dict[str, float | None]:
    """Precision, recall, F1, and the area under the curve where both classes occur."""
    right = int((truth & decided).sum())
    return {
        "turns": len(truth), "feedback": int(truth.sum()), "precision": right / max(1, int(decided.sum())),
        "recall": right / max(1, int(truth.sum())), "f1": f1(truth, decided), "auc": auc(truth, shares),
    }  # fmt: skip


def auc(truth: Bools, shares: Floats) -> float | None:
    """How often feedback has the higher share of two turns; None where one class is missing."""
    good, bad = shares[truth], shares[~truth]
    if not len(good) or not len(bad):
        return None
    return float((good[:, None] > bad[None]).mean() + (good[:, None] == bad[None]).mean() / 2)


def ece(truth: Bools, shares: Floats) -> float:
    """Expected calibration error: mean distance of share and truth over ten bins of equal width."""
    bins = np.minimum((shares * BINS).astype(int), BINS - 1)
    gaps = [abs(shares[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())]
    return float(sum(gaps))


def mean(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each number, at every depth."""
    found: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs]
        found[name] = mean(values) if isinstance(first, dict) else None if first is None else float(np.mean(values))
    return found


def baselines(items: Sequence[Example]) -> dict[str, Any]:
    """What words alone find."""
    truth = np.array([bool(item.is_feedback) for item in items])
    human = np.array([item.by_people for item in items])
    ways = {
        "keywords": [bool(KEYWORDS.search(item.turn.text)) for item in items],
        "wording": [next_turn(item.turn.text, item.turn.query, item.turn.answer or "") is not None for item in items],
    }
    return {
        name: {"f1_human": f1(truth[human], np.array(hits)[human]), "f1_all": f1(truth, np.array(hits))}
        for name, hits in ways.items()
    }


def paces(items: Sequence[Example], count: int) -> dict[str, Any]:
    """Turns a second through embedder and detector: on all cores, by the clock, and by processor time of one core."""
    cores = os.cpu_count() or 1
    found: dict[str, Any] = {"cores": cores}
    for name, make, turns in (("exact", exact, count // 10), ("fast", fast, count)):
        detector = make()
        began, used = time.perf_counter(), time.process_time()
        for _ in detecting.stream(_stream(items, turns), detector):
            pass
        one_core = turns / (time.process_time() - used)
        found[f"records_per_s_{name}"] = turns / (time.perf_counter() - began)
        found[f"records_per_cpu_s_{name}"] = one_core
    began = time.perf_counter()
    done = sum(1 for _ in detecting.stream_on(_stream(items, 4 * count), fast, cores))
    return found | {"records_per_s_embedded": done / (time.perf_counter() - began)}


def exact() -> detecting.SmallDetector:
    """The detector over the embedder."""
    return detecting.SmallDetector(load_embedder(), detecting.load())


def fast() -> detecting.SmallDetector:
    """The detector over the small copy of the embedder."""
    return detecting.SmallDetector(load_embedder(fast=True), detecting.load(detecting.PACKAGED_FAST))


def _stream(items: Sequence[Example], count: int) -> Iterator[Turn]:
    """Turns that are all different, so that nothing is remembered."""
    for number in range(count):
        turn = items[number % len(items)].turn
        yield Turn(text=f"{turn.text} {number}", query=f"{number} {turn.query}", answer=turn.answer)


def tell(found: Mapping[str, Any]) -> None:
    """The figures, readable."""
    for name, aim in TARGETS.items():
        print(f"{name:10} {found[name]:.3f}  (aim {'at most' if name == 'ece' else 'at least'} {aim})")
    for name, row in found["baselines"].items():
        print(f"baseline {name}: F1 {row['f1_human']:.3f} human, {row['f1_all']:.3f} all")
    for name, row in {"human": found["human"], "all": found["all"], **found["by_source"]}.items():
        area = "" if row["auc"] is None else f"  AUC {row['auc']:.3f}"
        print(
            f"{name:18} n {row['turns']:5.0f}  P {row['precision']:.3f}  R {row['recall']:.3f} F1 {row['f1']:.3f}{area}"
        )
    for name, row in found["by_kind"].items():
        print(f"{name:12} n {row['turns']:4.0f}  taken for feedback {row['taken_for_feedback']:.3f}  "
              f"as this kind: P {row['kind_precision']:.3f} R {row['kind_recall']:.3f}")  # fmt: skip
    quick = found["fast"]
    print(f"over the small copy: F1 {quick['f1_human']:.3f} human, {quick['f1_all']:.3f} all, ECE {quick['ece']:.3f}")
    for name in sorted(name for name in found if name.startswith("records_per")):
        print(f"{name}: {found[name]:.0f}")


if __name__ == "__main__":
    main()
