"""What the gate, the live test and the rollback promise, measured: one row a figure, with its aim.

    python benchmarks/proof.py --json OUT [--only KEY ...] [--quick]

`--quick` plays a twentieth of the runs. Rows whose part is not in this tree are left out. The statistical rows take
minutes, those with a gateway about one.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

from logtune.records import Json

PARTS = ("proof_gate", "proof_live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A figure, a number or one by case; what it rests on."""

    value: float | Mapping[str, float] | None
    details: Mapping[str, Json]
    void: str = ""  # why the figure does not count, however good it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure with its aim; of several values the worst counts."""

    key: str
    what: str
    side: Literal["at most", "at least"]
    aim: float
    measure: "Measure"


Measure: TypeAlias = Callable[[bool], Measured]  # True: quickly


def rows() -> Iterator[Row]:
    """All rows that this tree has."""
    for name in PARTS:
        if (Path(__file__).parent / f"{name}.py").exists():
            yield from cast("list[Row]", importlib.import_module(name).ROWS)


def reached(row: Row, value: float | Mapping[str, float] | None) -> bool | None:
    """Whether the aim is reached, by the worst of several values; None: not measured."""
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    if not values or any(item is None for item in values):
        return None
    numbers = cast("list[float]", values)
    return max(numbers) <= row.aim if row.side == "at most" else min(numbers) >= row.aim


def main() -> None:
    """Measure, print a line a row, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result there")
    parser.add_argument("--only", nargs="*", metavar="KEY", help="these rows alone; what OUT holds of others stays")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the runs")
    chosen = parser.parse_args()
    found: dict[str, Json] = _earlier(chosen.json) if chosen.only else {}
    for row in rows():
        if chosen.only and row.key not in chosen.only:
            continue
        began = time.monotonic()
        measured = row.measure(chosen.quick)
        void: dict[str, Json] = {"void": measured.void} if measured.void else {}
        found[row.key] = {
            "value": cast("Json", measured.value), row.side.replace(" ", "_"): row.aim, "what": row.what,
            "reached": False if void else reached(row, measured.value), "seconds": round(time.monotonic() - began, 1),
            "quick": chosen.quick, "details": {**measured.details, **void},
        }  # fmt: skip
        print(f"{row.key}: {json.dumps(measured.value)} ({row.side} {row.aim:g}) {measured.void}".rstrip(), flush=True)
        if chosen.json:
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _earlier(path: Path | None) -> dict[str, Json]:
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


if __name__ == "__main__":
    main()
