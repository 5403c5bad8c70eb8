"""The demo's sample is what it says it is, and the demo's path works for real."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import logtune

SAMPLE = Path(logtune.__file__).parent / "app" / "demo_sample.jsonl"
NOISE = {
    "too_short", "gibberish", "markup", "spam", "off_topic", "jailbreak", "injection", "rant", "personal_data", "duplicate",
    "pasted_log",
}  # fmt: skip
FEEDBACK_SHARES = {  # of the 240 real log messages
    "edit": 0.35, "comment_right": 0.25, "comment_complain": 0.12, "thumbs": 0.08, "reask": 0.08, "silence": 0.12,
}  # fmt: skip


def lines() -> list[dict]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def test_sample_fields_are_valid() -> None:
    rows = lines()
    topics = {row["topic"] for row in rows if row["topic"]}
    assert len({row["id"] for row in rows}) == len(rows) == len({row["session"] for row in rows})
    for row in rows:
        assert set(row) == {"id", "user", "session", "topic", "noise", "text", "split", "feedback"}, row
        assert row["user"] and row["text"].strip() and row["split"] in {"log", "held_out"}, row
        assert (row["topic"] is None) != (row["noise"] is None), row
        assert row["noise"] is None or row["noise"] in NOISE, row
        assert (row["feedback"] is None) == (row["split"] == "held_out"), row
        feedback = row["feedback"] or {"kind": "silence"}
        expected = {"kind"} | {"silence": set(), "reask": {"reask"}}.get(feedback["kind"], {"text"})
        assert set(feedback) - {"wrong"} == expected and feedback["kind"] in FEEDBACK_SHARES, row
        if feedback["kind"] == "edit" and row["topic"]:
            assert feedback["text"] in topics and (feedback["text"] != row["topic"]) == feedback.get("wrong", False), row


def test_sample_is_balanced() -> None:
    rows = lines()
    log = [row for row in rows if row["split"] == "log"]
    assert set(Counter(row["topic"] for row in log if row["topic"]).values()) == {24}
    assert set(Counter(row["topic"] for row in rows if row["split"] == "held_out").values()) == {8}
    assert len({row["topic"] for row in rows if row["topic"]}) == 10
    assert sum(row["noise"] is not None for row in log) >= 45
    kinds = Counter(row["feedback"]["kind"] for row in log if row["topic"])
    for kind, share in FEEDBACK_SHARES.items():
        assert abs(kinds[kind] / 240 - share) < 0.005, kind
    wrong = sum(row["feedback"].get("wrong", False) for row in log if row["topic"])
    assert 0.03 < wrong / (240 - kinds["silence"]) < 0.05


def test_sample_users_are_many_and_held_out_ones_are_their_own() -> None:
    rows = lines()
    messages = Counter(row["user"] for row in rows)
    assert 130 <= len(messages) <= 160
    assert sum(count <= 3 for count in messages.values()) > 0.8 * len(messages)
    assert not {row["user"] for row in rows if row["split"] == "log"} & {row["user"] for row in rows if row["split"] == "held_out"}


def test_sample_messages_are_distinct() -> None:
    """A duplicate repeats an earlier message of its own user; nothing else comes near another text."""
    rows = lines()
    own = [row for row in rows if row["noise"] != "duplicate"]
    assert len({" ".join(sorted(words(row["text"]))) or row["text"] for row in own}) == len(own)
    for one, other in combinations(own, 2):
        first, second = words(one["text"]), words(other["text"])
        assert len(first & second) <= 0.75 * len(first | second) or not first | second, (one["text"], other["text"])
    for row in rows:
        if row["noise"] == "duplicate":
            assert any(row["user"] == twin["user"] and words(row["text"]) == words(twin["text"]) for twin in own), row


def test_held_out_words_are_not_those_of_one_log_message() -> None:
    rows = lines()
    log = [words(row["text"]) for row in rows if row["split"] == "log" and row["topic"]]
    for row in (row for row in rows if row["split"] == "held_out"):
        mine = words(row["text"])
        assert max(len(mine & other) / len(mine | other) for other in log) <= 0.6, row["text"]
