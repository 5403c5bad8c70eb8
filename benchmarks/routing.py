"""Routing by token vectors beside routing by the embedder: how often they agree, and what each costs.

    python benchmarks/routing.py [--costs] [--json OUT]

Clusters come from the real grouping of real queries (`stages.cluster`); in each set-up both routers decide about
held-out queries of the same kinds and about foreign ones. Texts: ../shared/data.

    agreement                same decision about held-out queries, mean over the set-ups (agreement_least: the worst)
    foreign_let_in_full      share of foreign queries that the embedder sends to a cluster; _static: the token vectors
    static_us                tokens, vector and nearest of 60 centroids in 6 clusters, by words of the query
    full_ms                  the embedder alone, one query at a time on one core, by words of the query
    memory_mb                of a process that routes, peak
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from logtune.app.static_router import fitted
from logtune.config import ClusterSettings
from logtune.edges.static_vectors import StaticVectors, make, table_folder, tokenizer_file
from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
from logtune.ports import Vectors
from logtune.records import Cluster
from logtune.stages.cluster import Routes, group
from logtune.stages.static_routes import Fit, StaticRoutes

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
EMBEDDER = "all-minilm-l6-v2"
HELD_OUT = 400
FOREIGN = {"retention_mc": 300, "clinc_oos": 300, "oasst": 250, "gsm8k": 120, "arena_hard": 60, "other": 400}
Texts = dict[str, list[str]]  # by label


@dataclass(frozen=True, slots=True)
class SetUp:
    """One deployment."""

    data: str
    labels: int  # drawn from the set; for clinc_domains: domains of 15 labels each
    queries: int  # of each label
    clusters: int  # at most
    seed: int


SET_UPS = (
    SetUp("banking77", 20, 15, 3, 1), SetUp("banking77", 20, 40, 6, 2), SetUp("banking77", 77, 25, 6, 0),
    SetUp("banking77", 10, 40, 4, 3), SetUp("clinc_domains", 5, 20, 6, 1), SetUp("clinc_domains", 3, 15, 3, 2),
    SetUp("clinc150", 40, 12, 6, 4), SetUp("snips", 7, 60, 4, 5),
)  # fmt: skip


def rows(name: str) -> list[dict[str, str]]:
    """Lines of a file of the shared data."""
    path = SHARED / name
    packed = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(packed) if path.suffix == ".gz" else packed).splitlines()]


def labelled(data: str, part: str) -> Texts:
    """Texts of a labelled set by label; part is train or test."""
    folder, key = {"banking77": ("banking77", "label"), "snips": ("snips_slots", "intent")}.get(
        data, ("clinc150", "label")
    )
    found: Texts = {}
    for row in rows(f"{folder}/{part}.jsonl{'.gz' if part == 'train' else ''}"):
        name = f"{row['domain']}/{row[key]}" if folder == "clinc150" else row[key]
        found.setdefault(name, []).append(row["text"])
    return found


def chosen(names: Sequence[str], setup: SetUp) -> list[str]:
    """The labels of a set-up."""
    chance = random.Random(setup.seed)
    if setup.data != "clinc_domains":
        return sorted(chance.sample(sorted(names), setup.labels))
    domains = chance.sample(sorted({name.split("/")[0] for name in names}), setup.labels)
    return sorted(name for name in names if name.split("/")[0] in domains)


def deployed(setup: SetUp, embedder: LocalEmbedder) -> tuple[list[Cluster], list[list[str]], list[str]]:
    """Clusters, the queries of each, and held-out queries of the same labels."""
    train, test, chance = labelled(setup.data, "train"), labelled(setup.data, "test"), random.Random(setup.seed)
    labels = chosen(list(train), setup)
    pairs = [(text, label) for label in labels for text in chance.sample(train[label], setup.queries)]
    queries = [text for text, _ in pairs]
    vectors = embedder.embed(queries)
    named = embedder.embed([f"Answer: {label.split('/')[-1].replace('_', ' ')}" for _, label in pairs])
    silent = np.random.default_rng(setup.seed).random(len(pairs)) < 0.3  # their rules say no more than the query
    rules = np.where(silent[:, None], vectors, named)
    ids = [f"i{number:05d}" for number in range(len(pairs))]
    clusters = group(ids, queries, vectors, rules, ClusterSettings(), setup.clusters)
    by_id = dict(zip(ids, queries, strict=True))
    held_out = [text for label in labels for text in test.get(label, [])]
    taken = chance.sample(held_out, min(HELD_OUT, len(held_out)))
    return clusters, [[by_id[one] for one in cluster.interaction_ids] for cluster in clusters], taken


def foreign(setup: SetUp) -> list[str]:
    """Queries of other kinds; `other` are banking queries for the rest, and everyday ones for banking."""
    every = {
        "retention_mc": [row["question"] for row in rows("retention_mc/questions.jsonl")],
        "clinc_oos": [row["text"] for row in rows("clinc150/oos_test.jsonl")],
        "oasst": [_first(row) for row in rows("oasst1_val_threads/threads.jsonl.gz")],
        "gsm8k": [row["question"] for row in rows("gsm8k/test.jsonl")],
        "arena_hard": [row["prompt"] for row in rows("arena_hard_prompts/prompts.jsonl")],
        "other": _other(setup),
    }
    return [text for name, count in FOREIGN.items() for text in random.Random(0).sample(every[name], count)]


def _first(row: Mapping[str, object]) -> str:
    return cast("Sequence[Mapping[str, str]]", row["messages"])[0]["content"]


def _other(setup: SetUp) -> list[str]:
    data = "clinc150" if setup.data == "banking77" else "banking77"
    found = labelled(data, "test")
    return [
        text for name, texts in found.items() if not name.startswith(("banking/", "credit_cards/")) for text in texts
    ]


def decided(nearest: Callable[[np.ndarray], object], vectors: Vectors) -> list[str]:
    """Cluster id of each query; "" for none."""
    found = [cast("Cluster | None", getattr(nearest(row), "cluster", None)) for row in vectors]
    return [cluster.id if cluster else "" for cluster in found]


def compare(setup: SetUp, embedder: LocalEmbedder, static: StaticVectors) -> dict[str, object]:
    """One set-up, as shares."""
    clusters, queries, held_out = deployed(setup, embedder)
    start = time.perf_counter()
    found = fitted(clusters, queries, static, embedder)
    took, full, cheap = time.perf_counter() - start, Routes(clusters), StaticRoutes(clusters, found)
    shares: dict[str, object] = {"data": setup.data, "clusters": len(clusters), "queries": sum(map(len, queries))}
    for name, texts in (("", held_out), ("foreign_", foreign(setup))):
        wanted = decided(full.nearest, embedder.embed(texts))
        got = decided(cheap.nearest, static.embed(texts))
        both = list(zip(wanted, got, strict=True))
        shares |= {
            f"{name}asked": len(texts), f"{name}agreement": _share(both, lambda one, two: one == two),
            f"{name}let_in_full": _share(both, lambda one, two: one != ""),
            f"{name}let_in_static": _share(both, lambda one, two: two != ""),
            f"{name}other_cluster": _share(both, lambda one, two: bool(one and two and one != two)),
        }  # fmt: skip
    return {**shares, "fit_s": round(took, 2)}


def _share(pairs: Sequence[tuple[str, str]], counts: Callable[[str, str], bool]) -> float:
    return round(sum(counts(one, two) for one, two in pairs) / len(pairs), 4)


def costs(static: StaticVectors, embedder: LocalEmbedder) -> dict[str, dict[str, float]]:
    """Median time of one query by its number of words: every word known, every word new, and the embedder's."""
    words = sorted({word for texts in labelled("clinc150", "test").values() for text in texts for word in text.split()})
    generator, chance = np.random.default_rng(0), random.Random(0)
    centroids = generator.normal(size=(6, 10, static.dimension))
    centroids /= np.linalg.norm(centroids, axis=2, keepdims=True)
    clusters = [
        Cluster(id=str(number), interaction_ids=(), centroids=tuple(map(tuple, rows.tolist())), radius=0.3, label="")
        for number, rows in enumerate(centroids)
    ]
    routes = StaticRoutes(clusters, Fit(turn=np.eye(static.dimension, dtype=np.float32), radii=(0.3,) * 6))
    found: dict[str, dict[str, float]] = {"static_us": {}, "static_new_words_us": {}, "full_ms": {}}
    for count in (10, 100, 1000):
        texts = [" ".join(chance.choices(words, k=count)) for _ in range(200)]
        new = [" ".join(f"{word}{row}{at}" for at, word in enumerate(text.split())) for row, text in enumerate(texts)]
        _seconds(static.vector, texts)  # now every word is known
        known_s = _seconds(lambda text: routes.nearest(static.vector(text)), texts)
        new_s = _seconds(lambda text: routes.nearest(static.vector(text)), new)
        full_s = _seconds(lambda text: embedder.embed([text]), texts[:20])
        found["static_us"][str(count)] = round(1e6 * known_s, 1)
        found["static_new_words_us"][str(count)] = round(1e6 * new_s, 1)
        found["full_ms"][str(count)] = round(1e3 * full_s, 2)
    return found


def _seconds(call: Callable[[str], object], texts: Sequence[str]) -> float:
    """Median time of a call."""
    times: list[float] = []
    for text in texts:
        start = time.perf_counter()
        call(text)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


ROUTES = {
    "static": """
from pathlib import Path
from logtune.app import gateway
from logtune.edges.static_vectors import StaticVectors
StaticVectors(Path({folder!r}), Path({tokenizer!r})).vector("where is my card")
""",
    "full": """
from logtune.app import gateway
from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
LocalEmbedder(embedder_model({embedder!r})).embed(["where is my card"])
""",
}
MEASURED = """
took = time.perf_counter() - start
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) / 1024, took)
"""


def processes(static: StaticVectors, tokenizer: Path) -> dict[str, dict[str, float]]:
    """Peak memory in MB and seconds until the first decision, in a process of its own for each router."""
    found: dict[str, dict[str, float]] = {"memory_mb": {}, "first_s": {}}
    for name, code in ROUTES.items():
        body = code.format(folder=str(static.folder), tokenizer=str(tokenizer), embedder=EMBEDDER)
        program = f"import time\nstart = time.perf_counter()\n{body}{MEASURED}"
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        memory, seconds = done.stdout.split()
        found["memory_mb"][name], found["first_s"][name] = round(float(memory)), round(float(seconds), 2)
    return found


def table(embedder: LocalEmbedder) -> tuple[StaticVectors, Path, float | None]:
    """The token table, made where it is missing; and the processor seconds that took."""
    model = embedder_model(EMBEDDER)
    folder, tokenizer = table_folder(model), tokenizer_file(model)
    took = None
    if not folder.exists():
        start = time.process_time()
        make(embedder, tokenizer, folder, lambda line: print(f"  {line}", flush=True))
        took = round(time.process_time() - start, 1)
    return StaticVectors(folder, tokenizer), tokenizer, took


def main() -> None:
    """Measure, print, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--costs", action="store_true", help="costs alone")
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not there; the texts come from it")
    embedder = LocalEmbedder(embedder_model(EMBEDDER), batch=256)
    static, tokenizer, took = table(embedder)
    found: list[dict[str, object]] = []
    for setup in () if options.costs else SET_UPS:
        found.append(compare(setup, embedder, static))
        print(json.dumps(found[-1]), flush=True)
    result = {
        **(summary(found) if found else {}),
        **costs(static, embedder),
        **processes(static, tokenizer),
        "table_cpu_s": took,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**result, "set_ups": found}, indent=1) + "\n", encoding="utf-8")


def summary(found: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Means over the set-ups, and the worst."""

    def column(name: str) -> list[float]:
        return [cast("float", row[name]) for row in found]

    more = [b - a for a, b in zip(column("foreign_let_in_full"), column("foreign_let_in_static"), strict=True)]
    return {
        "agreement": round(float(np.mean(column("agreement"))), 4), "agreement_least": min(column("agreement")),
        "foreign_let_in_full": round(float(np.mean(column("foreign_let_in_full"))), 4),
        "foreign_let_in_static": round(float(np.mean(column("foreign_let_in_static"))), 4),
        "foreign_more_most": round(max(more), 4),
        "foreign_agreement": round(float(np.mean(column("foreign_agreement"))), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
