"""Train the noise classifiers and write them, with the figures of their model card.

    python scripts/train_filter.py [--vectors CACHE] [--kept DIR] [--measure-only]

Reads ../shared/data and the project's own texts (`filter_data`); writes logtune/parameters/noise.npz. What is printed
comes from models that learned from nothing of the fold, or of the source, that they are measured on.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from filter_data import Text, training
from filter_training import Unseen, embedded, features, learned, lines

from logtune.app.noise_parameters import FILE, save
from logtune.stages.noise import NoiseModel

NAME = "noise-1"


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def flagged(rows: Sequence[Text], caught: Sequence[bool]) -> dict[str, float]:
    """Share that is flagged, by label and source, of the measured rows."""
    groups: dict[str, list[bool]] = {}
    for row, hit in zip(rows, caught, strict=True):
        if row.measured:
            for key in (row.label, f"{row.label} / {row.source}"):
                groups.setdefault(key, []).append(bool(hit))
    return {key: round(float(np.mean(hits)), 4) for key, hits in sorted(groups.items())}


def main() -> None:
    """Measure, train on everything, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, help="file that keeps the embedder's vectors between runs")
    parser.add_argument("--kept", type=Path, help="folder that keeps the odds of finished folds between runs")
    parser.add_argument("--measure-only", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    rows = training()
    say(f"{len(rows)} texts")
    vectors, fingerprint = embedded([row.text for row in rows], arguments.vectors)
    read = features(rows, vectors)
    rungs, figures, unseen = {}, {}, Unseen(rows, read, arguments.kept)
    for name in ("quick", "full"):
        odds = unseen.out_of_fold(name == "full", say)
        line = lines(rows, odds)
        figures[name] = flagged(rows, np.any(odds > line, axis=1).tolist())
        if not arguments.measure_only:
            made = learned(rows, read, name == "full", np.zeros(len(rows), np.bool_))
            rungs[name] = replace(made, bias=made.bias - line)  # 0.5 is the line
    if rungs:
        save(NoiseModel(name=NAME, quick=rungs["quick"], full=rungs["full"], embedder=fingerprint))
        say(f"wrote {FILE}")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
