"""Parts of the filter's benchmark that train nothing: off topic by own traffic alone, personal data, a stream."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filter_data import read
from filter_training import embedded

from logtune.app.noise_reading import noise_reader
from logtune.config import FilterSettings
from logtune.records import Interaction, Json
from logtune.stages import filter as filtering
from logtune.stages.closeness import closeness
from logtune.stages.personal import cards, emails, ibans, ips, number_runs, phones

Say = Callable[[str], None]
OWN_TRAFFIC, HELD_OUT = 2000, 1000  # banking questions that are known, and others that set the cut
BANKING = ("banking", "credit_cards")  # domains of clinc150 that a bank is rightly asked about
FALSE = 0.02
KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
}


def off_topic(cache: Path | None, foreign: Sequence[str] = ()) -> dict[str, Json]:
    """One class: the cut is the 2% quantile of unseen banking questions' closeness to known ones."""
    draw = np.random.default_rng(0)
    own = [str(row["text"]) for row in read("banking77/train.jsonl")]
    picked = [own[i] for i in draw.permutation(len(own))[: OWN_TRAFFIC + HELD_OUT]]
    test = [str(row["text"]) for row in read("banking77/test.jsonl")]
    kinds = {"given": list(foreign)} if foreign else _foreign(draw)
    texts = [*picked, *test, *(text for group in kinds.values() for text in group)]
    vectors, _ = embedded(texts, cache)
    trusted = np.arange(len(texts)) < OWN_TRAFFIC
    close = closeness(vectors, [str(n) for n in range(len(texts))], trusted)
    below = float(np.quantile(close[OWN_TRAFFIC : len(picked)], FALSE))
    at, shares = len(picked) + len(test), dict[str, Json]()
    hits = close[at:] < below
    for name, group in kinds.items():
        shares[name] = round(float((close[at : at + len(group)] < below).mean()), 4)
        at += len(group)
    return {
        "off_topic_recall": round(float(hits.mean()), 4), "off_topic_recall_by_kind": shares,
        "off_topic_false_positives": round(float((close[len(picked) : len(picked) + len(test)] < below).mean()), 4),
    }  # fmt: skip


def _foreign(draw: np.random.Generator) -> dict[str, list[str]]:
    clinc = [str(row["text"]) for row in read("clinc150/test.jsonl") if row["domain"] not in BANKING]
    strange = [str(row["text"]) for row in read("clinc150/oos_test.jsonl")]
    chats = [
        str(message["content"])
        for row in read("oasst1_val_threads/threads.jsonl") if row.get("lang") == "en"
        for message in row["messages"][:1]
    ]  # fmt: skip
    return {
        "clinc150, other domains": [clinc[i] for i in draw.permutation(len(clinc))[:600]],
        "clinc150, out of scope": strange, "oasst1, openings": chats,
    }  # fmt: skip


# --- personal data ---


def pii() -> dict[str, Json]:
    """F1 over exact spans of five kinds; by kind too."""
    right, found, wanted = (dict.fromkeys(KINDS.values(), 0) for _ in range(3))
    for row in read("presidio_pii/samples.jsonl"):
        text = str(row["text"])
        gold = {(KINDS[s["type"]], s["start"], s["end"]) for s in row["spans"] if s["type"] in KINDS}
        got = set(_spans(text))
        for kind in KINDS.values():
            mine, theirs = {s for s in got if s[0] == kind}, {s for s in gold if s[0] == kind}
            right[kind] += len(mine & theirs)
            found[kind] += len(mine)
            wanted[kind] += len(theirs)
    by_kind: dict[str, Json] = {kind: _f1(right[kind], found[kind], wanted[kind]) for kind in right}
    return {"pii_f1": _f1(sum(right.values()), sum(found.values()), sum(wanted.values())), "pii_f1_by_kind": by_kind}


def _spans(text: str) -> list[tuple[str, int, int]]:
    runs = number_runs(text)
    places = {
        "email": emails(text), "phone": phones(text, runs), "card": cards(text, runs), "iban": ibans(text, runs),
        "ip": ips(text, runs),
    }  # fmt: skip
    return [(kind, start, end) for kind, spans in places.items() for start, end in spans]


def _f1(right: int, found: int, wanted: int) -> float | None:
    """None: the set has no span of the kind."""
    return round(2 * right / (found + wanted), 4) if wanted else None


# --- the weekly stream ---


def weekly(say: Say, cache: Path | None) -> dict[str, Json]:
    """The filter's own decisions about the whole labelled stream, as the last week's cycle makes them."""
    rows = read("weekly_stream_banking77/stream.jsonl")
    items = [_interaction(row, number) for number, row in enumerate(rows)]
    texts = filtering.asked(items)
    meaning, fingerprint = embedded(texts, cache)
    scores = dict(zip(texts, noise_reader(fingerprint, "auto").by_class(texts, meaning, fingerprint), strict=True))
    row_of = {text: row for row, text in enumerate(texts)}
    vectors = meaning[[row_of[item.query] for item in items]]
    decisions = filtering.decide(items, {}, vectors, [None] * len(items), FilterSettings(), scores)
    dropped: dict[bool, list[bool]] = {True: [], False: []}
    reasons: dict[str, int] = {}
    for row, decision in zip(rows, decisions, strict=True):
        bad, noisy = decision.reason in filtering.NOISE_REASONS, row["noise"] is not None
        dropped[noisy].append(bad)
        reasons[decision.reason] = reasons.get(decision.reason, 0) + 1
        if bad != noisy:
            say(f"{row['noise'] or 'clean'}, yet {decision.reason}: {row['text'][:100]}")
    return {
        "weekly_noise_dropped": round(float(np.mean(dropped[True])), 4),
        "weekly_clean_dropped": round(float(np.mean(dropped[False])), 4),
        "weekly_reasons": dict(sorted(reasons.items())),
    }


def _interaction(row: Mapping[str, Any], number: int) -> Interaction:
    return Interaction(
        id=f"int-{row['id']}", log_id=f"log-{row['id']}", context=(), query=str(row["text"]), answer="card_arrival",
        follow_ups=(), feedback_ids=(), user=f"user-{row['id']}", session=None, adapter=None, at=float(number),
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"weekly": weekly(print, None)}, indent=1))
