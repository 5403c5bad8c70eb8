"""How many logs a second the filter reads: the streaming pass, and the full reading with the packaged embedder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from filter_data import read

from logtune.app.noise_parameters import noise_model
from logtune.app.noise_reading import noise_reader
from logtune.app.sifting import sift
from logtune.config import FilterSettings
from logtune.edges.schema import encode
from logtune.edges.vectors import LocalEmbedder
from logtune.edges.weights import embedder_model
from logtune.ports import NoiseReader
from logtune.records import Json, LogRecord
from logtune.stages.screen import Item, screen

Say = Callable[[str], None]
LOGS = 300_000  # of the streaming pass: what is read is millions, so that starting the processes should not count
USERS = 20_000
EMBEDDED = 1500  # texts of the full reading
CHUNK = 250


def measured(say: Say) -> dict[str, Json]:
    """Records a second by the wall clock; and the processor's own time, which a busy machine does not change."""
    queries = _queries()
    bodies = list(_bodies(queries, LOGS))
    started = time.perf_counter()
    found = sift(iter(bodies), FilterSettings())
    seconds = time.perf_counter() - started
    say(f"streamed {found.total} logs in {seconds:.1f} s: {found.counts}")
    started_cpu = time.process_time()
    sift(iter(bodies[:20_000]), FilterSettings(), 0)
    each = (time.process_time() - started_cpu) / 20_000
    return {
        "records_per_s": round(found.total / seconds), "records_logs": found.total,
        "records_mean_chars": round(float(np.mean([len(query) for query in queries])), 1),
        "records_cpu_us": round(each * 1e6, 1), "records_load": round(os.getloadavg()[0], 1),
    } | _embedded(queries, say)  # fmt: skip


def _queries() -> list[str]:
    """Real questions of users: to a bank, to an assistant, in chats, about code."""
    texts = [str(row["text"]) for row in (*read("banking77/train.jsonl"), *read("clinc150/train.jsonl"))]
    for name in ("oasst1_val_threads/threads.jsonl", "realhumaneval_chat/conversations.jsonl"):
        texts += [str(m["content"]) for row in read(name) for m in row["messages"] if m["role"] == "user"]
    return texts


def _bodies(queries: Sequence[str], count: int) -> Iterator[str]:
    """Encoded logs; every query comes back, from another user most of the time."""
    draw = np.random.default_rng(0)
    which, users = draw.integers(0, len(queries), count), draw.integers(0, USERS, count)
    for number in range(count):
        answer = f"Thank you. {queries[(number * 7919) % len(queries)][:160]} This is what we can do for you."
        log = LogRecord(
            id=f"log-{number:09d}", at=float(number), user=f"user-{users[number]}",
            request={"model": "base", "messages": [{"role": "user", "content": queries[which[number]]}]},
            response={"choices": [{"message": {"role": "assistant", "content": answer}}]},
        )  # fmt: skip
        yield str(encode(log)["body"])


# --- with the embedder ---

_held: list[tuple[LocalEmbedder, NoiseReader]] = []


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    embedder = LocalEmbedder(embedder_model("all-minilm-l6-v2"), dtype="auto")
    _held.append((embedder, noise_reader(embedder.fingerprint, "auto")))
    _full(["the first text takes longer"])


def _full(texts: Sequence[str]) -> int:
    embedder, reader = _held[0]
    reader.by_class(texts, embedder.embed(texts), embedder.fingerprint)
    return len(screen([Item("", text, "An answer.", "") for text in texts], noise_model(), FilterSettings()).findings)


def _embedded(queries: Sequence[str], say: Say) -> dict[str, Json]:
    draw = np.random.default_rng(1)
    texts = [queries[i] for i in draw.permutation(len(queries))[:EMBEDDED]]
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, get_context("spawn"), _start) as pool:
        list(pool.map(_full, [["warm"]] * workers))
        started = time.perf_counter()
        done = sum(pool.map(_full, [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]))
        seconds = time.perf_counter() - started
    say(f"{done} texts read in full in {seconds:.1f} s")
    return {"records_per_s_embedded": round(done / seconds, 1), "records_load_embedded": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    print(json.dumps(measured(print), indent=1))
