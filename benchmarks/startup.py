"""How long `logtune --help` takes: a fresh process each time, median of several, first run left out.

python benchmarks/startup.py [--runs N] [--json OUT]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "cycle_help": ["cycle", "--help"],
    "rules_help": ["rules", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "logtune.app.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, float] = {}
    for name, arguments in COMMANDS.items():
        seconds(arguments)  # fills the caches
        times = [seconds(arguments) for _ in range(options.runs)]
        found[f"{name}_seconds"] = round(statistics.median(times), 4)
        print(f"logtune {' '.join(arguments):<14} median {found[f'{name}_seconds']:.3f} s, fastest {min(times):.3f} s")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**found, "runs": options.runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
