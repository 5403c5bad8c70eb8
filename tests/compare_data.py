"""Small folders of the shape that `benchmarks/compare_streams.py` reads, of our own words."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

WORDS = ("card", "transfer", "top up", "rate", "recipe", "trip", "song", "movie")
ATTACKS = ("jailbreak", "prompt_injection", "harmful_request", "toxic", "spam", "malformed", "pii")
INTENTS = (
    "AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook", "SearchCreativeWork",
    "SearchScreeningEvent",
)  # fmt: skip
OPENINGS = ("Write python code for", "Compose a poem on", "Give me tips on", "Explain the history of")


def write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def banking(data: Path) -> None:
    folder = data / "weekly_stream_banking77"
    topics = {1: ("card_lost", "card_late"), 2: ("transfer_failed", "transfer_late")}
    stream = [
        {
            "id": f"wk{week}-{n}", "week": week, "text": f"message {n} of week {week}", "noise": None,
            "gold_intent": topics[week][n % 2], "origin": "", "new_this_week": True,
        }
        for week in topics
        for n in range(12)
    ]  # fmt: skip
    bad = {"text": "buy cheap watches now", "gold_intent": None, "noise": "spam", "origin": "", "new_this_week": False}
    write(folder / "stream.jsonl", [*stream, *({"id": f"wk{w}-x", "week": w, **bad} for w in topics)])
    tests = [
        {"id": f"te-{label}-{n}", "text": f"test {n} on {label.split('_')[0]}", "label": label, "week": week}
        for week, labels in topics.items()
        for label in labels
        for n in range(15)
    ]
    write(folder / "test.jsonl", tests)


def clinc(data: Path) -> None:
    folder = data / "clinc150"
    domains = {f"domain{d}": [f"topic_{d}{i}" for i in range(3)] for d in range(6)}
    folder.mkdir(parents=True)
    (folder / "domains.json").write_text(json.dumps(domains))
    for name, count in (("train.jsonl.gz", 66), ("test.jsonl", 8)):
        write(folder / name, (
            {"id": f"{name[:2]}-{label}-{n}", "text": f"{name[:2]} request {n} on {WORDS[int(label[-1])]} {label[-2]}",
             "label": label, "domain": domain}
            for domain, labels in domains.items() for label in labels for n in range(count)
        ))  # fmt: skip
    for name in ("oos_train.jsonl", "oos_val.jsonl"):
        write(folder / name, ({"id": f"{name}-{n}", "text": f"unheard of {name} {n}"} for n in range(60)))


def snips(data: Path) -> None:
    folder = data / "snips_slots"
    for name, count in (("train.jsonl.gz", 150), ("test.jsonl", 30)):
        write(folder / name, (
            {"id": f"{name[:2]}-{intent}-{n}", "text": f"{name[:2]} please {n}", "intent": intent,
             "target_json": json.dumps({"intent": intent, "number": str(n)})}
            for intent in INTENTS for n in range(count)
        ))  # fmt: skip


def noise(data: Path) -> None:
    write(data / "filter_bench" / "dev.jsonl.gz", (
        {"id": f"{label}-{n}", "text": f"{label} number {n}", "label": label, "is_noise": True, "source": "ours"}
        for label in ATTACKS for n in range(20)
    ))  # fmt: skip


def prompts(data: Path) -> None:
    asked = [f"{OPENINGS[n % 4]} subject {n}" for n in range(560)]
    write(data / "arena_hard_prompts" / "prompts.jsonl", ({"id": f"a{n}", "prompt": t} for n, t in enumerate(asked)))
    write(data / "mt_bench_questions" / "question.jsonl", [{"question_id": 81, "turns": ["Draft a letter", "Shorter"]}])
    thread = {"id": "t", "lang": "en", "messages": [{"role": "user", "content": "What is a balance sheet?"}]}
    write(data / "oasst1_val_threads" / "threads.jsonl.gz", [thread, {**thread, "id": "u", "lang": "es"}])
    root = {"message_id": "m", "lang": "en", "text": "Who was Ada Lovelace?"}
    write(data / "oasst2_trees" / "trees.jsonl.gz", [{"message_tree_id": "m", "prompt": root}])


def everything(data: Path) -> Path:
    for part in (banking, clinc, snips, noise, prompts):
        part(data)
    return data
