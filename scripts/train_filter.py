"""Train the noise classifiers and write them, with the figures of their model card.

    python scripts/train_filter.py [--vectors CACHE] [--kept DIR] [--measure-only]

Reads ../shared/data and the project's own texts (`filter_data`); writes noise.npz and noise_encoder.npz in
logtune/parameters. What is printed comes from models that learned from nothing of the fold that they are measured on.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import filter_encoder as encoder
import numpy as np
from filter_data import Text, training
from filter_training import Floats, Unseen, drawn, embedded, features, learned, networks

from logtune.app.noise_parameters import FILE, TUNING_FILE, save, save_tuning
from logtune.stages.noise import NoiseModel, Rung

NAME, TUNING_NAME = "noise-1", "tuned-1"


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
    read, states = features(rows, vectors), encoder.lower([row.text for row in rows])
    kinds = networks(rows, read) | {"tuned": encoder.tuned(rows, states, say)}
    found = drawn(Unseen(rows, kinds, arguments.kept), say)
    figures = {name: flagged(rows, np.any(got.odds > got.line, axis=1).tolist()) for name, got in found.items()}
    print(json.dumps(figures, indent=1))
    if arguments.measure_only:
        return
    none = np.zeros(len(rows), np.bool_)
    rungs = {name: with_line(learned(rows, read, name == "full", none), found[name].line) for name in ("quick", "full")}
    save(NoiseModel(name=NAME, quick=rungs["quick"], full=rungs["full"], embedder=fingerprint))
    net = encoder.learned(rows, states, none, say)
    save_tuning(encoder.as_tuning(net, TUNING_NAME, fingerprint, found["tuned"].line))
    say(f"wrote {FILE} and {TUNING_FILE}")


def with_line(rung: Rung, line: Floats) -> Rung:
    """The rung whose score is 0.5 on the line."""
    return replace(rung, bias=rung.bias - line)


if __name__ == "__main__":
    main()
