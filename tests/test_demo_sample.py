"""The demo's sample is what it says it is, and its riders react as it says."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from logtune.app.demo_sample import FILE, Sample, is_right, load, logged, question, reaction, wants_reask

FIELDS = {"id", "user", "session", "topic", "noise", "text", "split", "feedback"}
NOISE = {
    "too_short", "gibberish", "markup", "spam", "off_topic", "jailbreak", "injection", "rant", "personal_data",
    "duplicate", "pasted_log",
}  # fmt: skip
SHARES = {  # of the 240 real messages of the log
    "edit": 0.35, "comment_right": 0.25, "comment_complain": 0.12, "thumbs": 0.08, "reask": 0.08, "silence": 0.12,
}  # fmt: skip
ROWS = load()
LOG = [row for row in ROWS if not row.held_out]
TOPICS = sorted({row.topic for row in ROWS if row.topic})


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def first(kind: str, *, wrong: bool = False) -> Sample:
    return next(row for row in LOG if row.topic and row.reaction == kind and row.wrong == wrong)


def test_every_line_has_every_field() -> None:
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == FIELDS, row
        assert row["split"] in {"log", "held_out"}, row
        assert (row["feedback"] is None) == (row["split"] == "held_out"), row


def test_every_value_is_valid() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == len({row.session for row in ROWS})
    for row in ROWS:
        assert row.user, row
        assert row.text.strip(), row
        assert (row.topic is None) != (row.noise is None), row
        assert row.noise is None or (row.noise in NOISE and not row.held_out), row
        assert row.reaction in SHARES, row
        assert bool(row.words) == (row.reaction != "silence"), row
        if row.topic and row.reaction == "edit":
            assert row.words in TOPICS, row
            assert (row.words != row.topic) == row.wrong, row
        if row.topic and row.reaction == "comment_right":
            assert row.wrong == (row.topic.replace("-", " ") not in row.words.lower()), row


def test_desks_are_ten_and_evenly_asked_for() -> None:
    assert len(TOPICS) == 10
    assert all(re.fullmatch("[a-z]+-[a-z]+", topic) for topic in TOPICS)
    assert set(Counter(row.topic for row in LOG if row.topic).values()) == {24}
    assert set(Counter(row.topic for row in ROWS if row.held_out).values()) == {8}
    assert sum(row.noise is not None for row in LOG) >= 45


def test_feedback_is_mixed_as_in_the_wild() -> None:
    real = [row for row in LOG if row.topic]
    kinds = Counter(row.reaction for row in real)
    for kind, share in SHARES.items():
        assert abs(kinds[kind] / len(real) - share) < 0.005, kind
    assert 0.03 < sum(row.wrong for row in real) / (len(real) - kinds["silence"]) < 0.05


def test_users_are_many_and_held_out_ones_are_their_own() -> None:
    messages = Counter(row.user for row in ROWS)
    assert 130 <= len(messages) <= 160
    assert sum(count <= 3 for count in messages.values()) > 0.8 * len(messages)
    assert not {row.user for row in LOG} & {row.user for row in ROWS if row.held_out}


def test_messages_are_distinct() -> None:
    """A duplicate repeats an earlier message of its own user; nothing else comes near another text."""
    own = [(row, words(row.text)) for row in ROWS if row.noise != "duplicate"]
    assert len({row.text.casefold() for row, _ in own}) == len(own)
    for (one, its), (other, others) in combinations(own, 2):
        assert likeness(its, others) <= 0.75, (one.text, other.text)
    for place, row in enumerate(ROWS):
        if row.noise == "duplicate":
            assert any(row.user == twin.user and words(row.text) == words(twin.text) for twin in ROWS[:place]), row


def test_held_out_messages_are_not_rewritten_log_messages() -> None:
    seen = [words(row.text) for row in LOG]
    for row in ROWS:
        assert not row.held_out or max(likeness(words(row.text), other) for other in seen) <= 0.6, row.text


@pytest.mark.parametrize("kind", ["edit", "comment_right", "comment_complain", "thumbs"])
def test_a_wrong_answer_gets_the_riders_words(kind: str) -> None:
    row = first(kind)
    said = reaction(row, "I am sorry for your loss", 1000.0)
    assert said is not None
    assert said.target == row.id
    assert said.user == row.user
    assert said.at > 1000.0
    expected = {"edit": said.correction, "thumbs": "down" if said.value == -1.0 else ""}.get(kind, said.comment)
    assert expected == row.words
    assert said.kind == {"edit": "edit", "thumbs": "rating"}.get(kind, "comment")


def test_silence_and_a_second_try_are_no_feedback() -> None:
    assert reaction(first("silence"), "no", 0.0) is None
    row = first("reask")
    assert reaction(row, "no", 0.0) is None
    assert wants_reask(row, "no")
    assert not wants_reask(row, f" {row.topic}\n")


def test_a_right_answer_is_praised_now_and_then() -> None:
    real = [row for row in LOG if row.topic and not row.wrong]
    said = [reaction(row, row.topic or "", 0.0) for row in real]
    praise = [item for item in said if item]
    assert all(item.value == 1.0 for item in praise)
    assert 0.1 < len(praise) / len(real) < 0.4


def test_misleading_feedback_comes_whatever_the_answer() -> None:
    row = first("edit", wrong=True)
    said = reaction(row, row.topic or "", 0.0)
    assert said is not None
    assert said.correction == row.words != row.topic
    assert reaction(row, row.words, 0.0) is None
    praised = reaction(first("thumbs", wrong=True), "I am sorry for your loss", 0.0)
    assert praised is not None
    assert praised.value == 1.0


def test_the_log_holds_the_whole_conversation() -> None:
    row = first("reask")
    record = logged(row, question(row.text, "no", row.words), "still no", 5.0, part=2)
    assert record.id == f"{row.id}-2"
    assert record.session == row.session
    assert record.user == row.user
    messages = record.request["messages"]
    assert isinstance(messages, list)
    assert [item["role"] for item in messages if isinstance(item, dict)] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert json.loads(json.dumps(record.response))["choices"][0]["message"]["content"] == "still no"


def test_right_is_the_desk_and_nothing_else() -> None:
    row = replace(ROWS[0], topic="dock-fault")
    assert is_right(row, "dock-fault\n")
    assert not is_right(row, "The dock-fault desk.")
    assert not is_right(row, "Dock-Fault")
