"""Train the feedback detector on the shared data and write it where the package reads it.

    python benchmarks/train_detector.py --data ../shared/data [--fast] [--out FILE]

The slope, offset and threshold are fitted to outputs for turns of conversations that were held out of training; then
one network is trained on everything. Takes two minutes of a core, most of it in the embedder.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from detector_data import bench, more
from detector_fit import Course, calibrate, fit, joined_tables, load_embedder, out_of_fold, table, vectors_of

from logtune import detecting
from logtune.ids import digest

VERSION = "1"


def main() -> None:
    """Train, calibrate, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--fast", action="store_true", help="over the small copy of the embedder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="foldings that the calibration rests on")
    given = parser.parse_args()
    out = given.out or (detecting.PACKAGED_FAST if given.fast else detecting.PACKAGED)
    embedder, course = load_embedder(given.fast), Course()
    every = bench(given.data)
    clear = [item for item in every if item.is_feedback is not None]
    extra = list(more(given.data, every))
    rows, extra_rows = (table(items, vectors_of(items, embedder)) for items in (clear, extra))
    runs = [out_of_fold((clear, rows), (extra, extra_rows), course, seed)[0] for seed in range(given.repeats)]
    learned = fit(joined_tables(rows, extra_rows), course, VERSION, embedder.fingerprint)
    learned = calibrate(np.concatenate([run[:, 0] for run in runs]), np.tile(rows.feedback, given.repeats), learned)
    learned = replace(learned, version=f"{VERSION}.{digest(learned.weights.tolist(), 6)}")
    detecting.save(learned, out)
    print(f"{out}: {learned.name}, {out.stat().st_size / 1e3:.0f} kB")
    print(
        f"{len(clear)} turns of the bench and {len(extra)} more; slope {learned.slope:.3f}, offset {learned.offset:.3f}"
    )
    print(f"threshold {learned.threshold}")


if __name__ == "__main__":
    main()
