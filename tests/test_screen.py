"""The streaming pass: what is found, that processes don't matter, and that copies are found across batches."""

from dataclasses import replace

import pytest

from logtune.app.noise_parameters import noise_model
from logtune.app.sifting import BATCH, CLEAN, item_of, sift
from logtune.config import FilterSettings
from logtune.edges.schema import encode
from logtune.errors import StoreError
from logtune.records import SHADOW, LogRecord
from logtune.stages.screen import Copies, Item, screen

SETTINGS = FilterSettings()
QUERIES = {
    "Where is my new card? It should have come last week.": None,
    "hi": "too_short",
    "x" * 9000: "too_long",
    "<script>alert('x')</script>": "malformed",
    "My card number is 4111 1111 1111 1111, please block it": "personal_data",
    "WINNER!! You have been drawn for a £2000 prize. Txt CLAIM to 87066 now! 150p/msg, 18+ only": "spam",
}


def log(number: int, query: str, answer: str | None = "It is on its way.", user: str = "ada") -> LogRecord:
    return LogRecord(
        id=f"log-{number}", at=float(number), user=user,
        request={"messages": [{"role": "user", "content": query}]},
        response=None if answer is None else {"choices": [{"message": {"role": "assistant", "content": answer}}]},
    )  # fmt: skip


def bodies(logs):
    return [str(encode(item)["body"]) for item in logs]


def test_each_text_is_judged_for_itself():
    items = [Item(str(n), query, "An answer.", "") for n, query in enumerate(QUERIES)]
    found = screen(items, noise_model(), SETTINGS)
    assert [finding and finding.reason for finding in found.findings] == list(QUERIES.values())
    assert found.scores.shape[0] == len(items)


def test_a_language_that_is_not_served_is_named():
    german = Item("1", "Wo ist meine neue Karte und wie kann ich sie aktivieren?", "Hier.", "")
    only_english = SETTINGS.model_copy(update={"languages": ("en",)})
    assert screen([german], noise_model(), SETTINGS).findings == [None]
    (finding,) = screen([german], noise_model(), only_english).findings
    assert finding is not None
    assert (finding.reason, dict(finding.scores)) == ("language_not_served", {"de": 1.0})


def test_near_copies_of_one_user_are_found_across_batches():
    copies, model = Copies(SETTINGS), noise_model()
    first = screen([Item("1", "How long does a transfer to another bank take?", "Two days.", "ada")], model, SETTINGS)
    again = screen(
        [
            Item("2", "How long does a transfer to another bank take??", "Two days.", "ada"),
            Item("3", "How long does a transfer to another bank take?", "Two days.", "bob"),
            Item("4", "How long does a transfer to another bank take?", "Three days.", "ada"),
            Item("5", "How long does a transfer to another bank take?", "Two days.", "ada", "Hello, I have a question"),
            Item("6", "How long does a transfer to another bank take?", "- two DAYS", "ada"),
            Item("7", "How long does a transfer to another bank take?", "Two days.", "Ada"),
        ],
        model,
        SETTINGS,
    )
    assert copies.findings(first) == [None]
    found = [finding and finding.reason for finding in copies.findings(again)]
    assert found == ["near_duplicate", None, None, None, "near_duplicate", None]


def test_the_pass_counts_and_keeps_examples():
    logs = [log(n, query) for n, query in enumerate(QUERIES)] + [log(99, "What is my balance today?", answer=None)]
    found = sift(iter(bodies(logs)), SETTINGS, workers=0)
    assert found.total == len(QUERIES)  # without an answer there is nothing to judge
    assert found.counts[CLEAN] == 1
    assert found.examples["too_short"][0].id == "log-1"
    assert all(len(shown.query) <= 200 for rows in found.examples.values() for shown in rows)


@pytest.mark.parametrize("answer", ["...", "?!"])
def test_an_answer_without_words_may_stand_anywhere(answer):
    logs = [log(1, "Where is my new card, please?"), log(2, "What is my balance today?", answer=answer)]
    assert sift(iter(bodies(logs)), SETTINGS, workers=0).counts == {CLEAN: 2}


def test_an_answer_that_nobody_saw_is_left_out():
    hidden = replace(log(2, "Where is my new card, please?", user="bob"), source=SHADOW)
    assert sift(iter(bodies([log(1, "Where is my new card, please?"), hidden])), SETTINGS, workers=0).total == 1


def test_processes_find_the_same_as_one():
    logs = [log(n, f"{list(QUERIES)[n % 6]} {n % 50}", user=f"u{n % 7}") for n in range(BATCH + 40)]
    alone, shared = (sift(iter(bodies(logs)), SETTINGS, workers) for workers in (0, 2))
    assert (alone.total, alone.counts) == (shared.total, shared.counts)


def test_a_log_without_what_a_log_has_is_named():
    with pytest.raises(StoreError, match="cannot be read"):
        sift(iter(['{"id": "log-1", "at": 1.0}']), SETTINGS, workers=0)


def test_what_nobody_asked_is_no_item():
    assert item_of(log(1, "x", answer=None)) is None
    tool = LogRecord(
        id="t", at=0.0, request={"messages": [{"role": "tool", "content": "42"}]},
        response={"choices": [{"message": {"role": "assistant", "content": "42"}}]},
    )  # fmt: skip
    assert item_of(tool) is None
