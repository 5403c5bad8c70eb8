"""What users thought of an answer: ratings, edits, comments, and the turn that followed."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune import prompts
from logtune.config import SignalSettings
from logtune.records import Feedback, FollowUp, Interaction
from logtune.stages.signals import comment, next_turn, read
from logtune.stages.stated import stated_answer

DATA = Path(__file__).parents[2] / "shared" / "data"
ANYTHING = SignalSettings(min_confidence=0.0)
SETTINGS = SignalSettings()

TRACEBACK = """Errors:Traceback (most recent call last):
  File "main.py", line 8, in <module>
    print(total([1, 2]))
NameError: name 'reduce' is not defined"""


def asked(
    *turns: str, answer: str = "The answer is 41.", query: str = "What is six times seven?", edited: str | None = None
):
    followed = tuple(FollowUp(text=text, answer=None, log_id=f"log-{text[:9]}", edited=edited) for text in turns)
    return Interaction(
        id="int-1", log_id="log-1", context=(), query=query, answer=answer, follow_ups=followed, feedback_ids=(),
        user="ada", session="s", adapter=None, at=1.0,
    )  # fmt: skip


def said(name: str = "f1", at: float = 2.0, **fields: object) -> Feedback:
    return Feedback(id=name, target="log-1", at=at, **fields)


def one(signals):
    assert len(signals) == 1
    return signals[0]


# --- the stated answer ---

PLAIN = [
    ("No, this is about card arrival", "card arrival"),
    ("it should be refund status", "refund status"),
    ("It should be about refund status.", "refund status"),
    ("wrong, the answer is 42", "42"),
    ("The right answer would be 3.14!", "3.14"),
    ("I meant the square root", "square root"),
    ("should have been 'cash withdrawal', not transfers", "cash withdrawal"),
    ("No. It's not about exchange rate but about top up failed.", "top up failed"),
    ("That is wrong. The correct topic is pending transfer, please.", "pending transfer"),
    ("correct answer: lost or stolen card", "lost or stolen card"),
    ("Not card arrival but card delivery estimate.", "card delivery estimate"),
    ("I asked about exchange charge because I was abroad", "exchange charge"),
    ("My question was about top up limits!", "top up limits"),
    ('It should say "Paris, France" instead of Lyon', "Paris, France"),
    ("it should be labelled as pending top up", "pending top up"),
    ("This should go to the billing desk.", "billing"),
    ("Wrong topic: this is about a transfer not received by recipient.", "transfer not received by recipient"),
    ("Nein, es geht um die Kartensperrung", "die Kartensperrung"),
    ("la respuesta correcta es Madrid", "Madrid"),
]
TERSE = [
    ("transfer timing, not card arrival", "transfer timing"),
    ("no, top up reverted", "top up reverted"),
    ("billing please", "billing"),
    ("Please send this to the returns team", "returns"),
    ("hm, try the gift cards", "gift cards"),
    ("Lost property would know", "Lost property"),
    ("exchange rate", "exchange rate"),
]
NOTHING = [
    "that is not right", "this is wrong", "No!", "it should be shorter", "should be more formal",
    "it should be in python",
    "I meant to ask something else", "this is not what I asked for", "It is useless", "the answer is wrong",
    "your answer is too long", "you should be ashamed", "thanks, that is right", "not helpful at all",
    "please be more polite", "this is a stupid question",
    "that's not an answer", "I don't understand", "what is this supposed to be", "", "   ", "?!",
]  # fmt: skip


VALUES = [
    ("not 10.50 but 12.50", "12.50"),
    ("that's the old price, it's 12.50 now", "12.50"),
    ("That's outdated. It is 12,50 euros now!", "12,50 euros"),
    ("Die richtige Antwort ist 12,50 Euro.", "12,50 Euro"),
    ("the price should be 1.234,56", "1.234,56"),
    ("No, it's red", "red"),
]
NO_ANSWERS = [
    "no, I want a refund", "my order must be shipped tomorrow", "It should be noted that I am in Austria.",
    "Which answer should be marked as correct?", "No, it was my mistake", "should it be 12.50?",
    "I think it should be 12.50?", "no, it's for my wife", "The result should be sorted by date",
    "the output must be JSON", "my card needs to be blocked", "No, it's not about money but my card doesn't work",
    "nope, it's a different error now: KeyError 'a'", "That should be enough for today.",
    "My invoice should be 20 euros",
    "The answer is probably that my card has expired, what should I do?", "the right answer was deleted",
    "no, use the csv module",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_a_turn_with_a_question_a_wish_or_what_is_to_be_done_names_no_answer(text):
    assert stated_answer(text, "It costs 10.50.") is None


@pytest.mark.parametrize("text", ["sehr gut", "C'est parfait", "I love it", "good", "👍", "that's the old price"])
def test_a_comment_of_a_few_words_is_no_right_answer(text):
    assert comment(text, "It costs 10.50.").correction is None


@pytest.mark.parametrize(("text", "answer"), [*PLAIN, *VALUES])  # a decimal is taken whole, of two the newest one
@pytest.mark.parametrize("as_comment", [True, False])
def test_a_right_answer_named_in_words_is_taken_out_clean(text, answer, as_comment):
    found = stated_answer(text, "It costs 10.50.", as_comment)
    assert found is not None
    assert found.text == answer


@pytest.mark.parametrize(("text", "answer"), TERSE)
def test_a_comment_may_be_terse(text, answer):
    found = stated_answer(text, "x", asked=True)
    assert found is not None
    assert found.text == answer
    assert comment(text, "x", -1.0).correction == answer


@pytest.mark.parametrize("text", NOTHING)
def test_a_mere_complaint_names_no_answer(text):
    assert stated_answer(text, "x", asked=True) is None


def test_the_answer_that_was_given_is_not_the_right_one():
    assert stated_answer("this is about card arrival", "Card arrival.", asked=True) is None


# --- explicit feedback ---


def test_a_rating_is_clipped_and_nothing_is_made_of_zero():
    good, bad = read(asked(), [said("a", value=7.0), said("b", value=-1.0), said("c", value=0.0)], SETTINGS)
    assert (good.kind, good.polarity, good.feedback_id) == ("rating", 1.0, "a")
    assert (bad.polarity, bad.evidence) == (-1.0, "rating -1")


def test_an_edit_is_the_right_answer_and_one_that_changes_nothing_accepts():
    edit = one(read(asked(), [said(kind="edit", correction=" 42 ")], SETTINGS))
    assert (edit.kind, edit.correction, edit.polarity) == ("edit", "42", -1.0)
    same = one(read(asked(), [said(kind="edit", correction="the answer is 41")], SETTINGS))
    assert (same.kind, same.correction) == ("accept", None)
    assert same.polarity > 0


def test_revoked_and_superseded_feedback_is_not_read():
    given_ = [said("a", value=-1.0), said("b", value=1.0, supersedes="a"), said("c", comment="bad", revoked=True)]
    assert [signal.feedback_id for signal in read(asked(), given_, SETTINGS)] == ["b"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Wrong again. Honestly.", "complaint"),
        ("that does not make sense", "complaint"),
        ("are you sure?", "doubt"),
        ("shorter please, in one line", "constraint"),
        ("thanks, perfect", "praise"),
        ("zzz", "complaint"),
        ("quite a story, that one of yours, and so on", "complaint"),
    ],
)
def test_a_comment_is_read_for_what_it_is(text, kind):
    signal = one(read(asked(), [said(kind="comment", comment=text)], SETTINGS))
    assert (signal.kind, signal.evidence) == (kind, text)


def test_a_comment_beside_a_thumbs_up_is_no_complaint():
    both = read(asked(), [said(value=1.0, comment="hmm ok this one")], SETTINGS)
    assert [signal.kind for signal in both] == ["rating", "praise"]
    assert all(signal.polarity > 0 for signal in both)


def test_a_comment_given_as_the_right_answer_is_taken_whole():
    signal = one(read(asked(), [said(kind="correction", comment="What I would say: it depends.")], SETTINGS))
    assert (signal.kind, signal.correction) == ("correction", "What I would say: it depends.")


def test_a_click_says_nothing_by_itself():
    clicks = [said("a", kind="copy"), said("b", kind="regenerate"), said("c", kind="accept"), said("d", kind="abandon")]
    assert read(asked(), clicks, ANYTHING) == ()


# --- the next turn ---


@pytest.mark.parametrize(
    ("turn", "kind", "correction"),
    [
        (TRACEBACK, "complaint", None),
        ("that doesn't work", "complaint", None),
        ("No, it should be 42", "correction", "42"),
        ("i mean the square root", "correction", "square root"),
        ("nope", "complaint", None),
        ("不对", "complaint", None),
        ("das ist falsch, nein", "complaint", None),
        ("in python pls", "constraint", None),
        ("do it in 1 line", "constraint", None),
        ("are you sure?", "doubt", None),
        ("what do you mean", "doubt", None),
        ("What is six times seven?", "reask", None),
        ("I asked: what is six times seven??", "reask", None),
        ("great, thanks", "praise", None),
        ("merci !", "praise", None),
    ],
)
def test_the_next_turn_is_read(turn, kind, correction):
    signal = one(read(asked(turn), [], SETTINGS))
    assert (signal.kind, signal.correction, signal.feedback_id) == (kind, correction, None)
    assert signal.evidence in turn
    assert 0.5 <= signal.confidence <= 1
    assert (signal.polarity > 0) == (kind == "praise")
    assert signal.detector.startswith("turn.")


@pytest.mark.parametrize("turn", ["How do I open a savings account?", "list the planets", "", "  "])
def test_a_new_matter_is_no_feedback(turn):
    assert read(asked(turn), [], ANYTHING) == ()


def test_a_question_asked_again_is_no_complaint_for_the_words_it_has_itself():
    reading = next_turn("My card is not working, as I said", "my card is not working", "OK.")
    assert reading is not None
    assert (reading.kind, reading.correction) == ("reask", None)


def test_asked_again_in_other_words_is_less_sure():
    query = "How do I block a stolen card?"
    fuller = next_turn("how to block a card that was stolen from my bag in Spain", query, "OK.")
    alike = next_turn("block the stolen cart", query, "OK.")
    same = next_turn("block stolen cards", query, "OK.")
    assert fuller is not None
    assert alike is not None
    assert same is not None
    assert same.confidence > SETTINGS.min_confidence > fuller.confidence > alike.confidence


def test_no_to_a_question_is_an_answer_to_it():
    assert next_turn("no, by train", "Get me to Paris", "Do you want to fly?") is None
    assert next_turn("no, by train", "Get me to Paris", "You fly at nine.") is not None


def test_every_turn_that_followed_is_read_and_all_ids_differ():
    signals = read(asked("nope", "that doesn't work"), [said(value=-1.0)], SETTINGS)
    assert [signal.kind for signal in signals] == ["rating", "complaint", "complaint"]
    assert len({signal.id for signal in signals}) == 3


def test_an_answer_sent_back_changed_is_an_edit_but_a_cut_one_is_not():
    edit = one(read(asked("and minus two?", edited="The answer is 42."), [], SETTINGS))
    assert (edit.kind, edit.correction) == ("edit", "The answer is 42.")
    assert read(asked("and minus two?", edited="The answer is"), [], SETTINGS) == ()


def test_readings_below_the_least_confidence_are_left_out():
    assert read(asked("are you sure?"), [said(value=-1.0)], SignalSettings(min_confidence=0.95)) == ()


def test_long_evidence_is_cut_around_what_gave_it_away():
    signal = one(read(asked("x = 1\n" * 400 + TRACEBACK), [], SETTINGS))
    assert len(signal.evidence) <= 300
    assert "Traceback" in signal.evidence


@pytest.mark.parametrize("name", ["critic", "revise", "distill"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_logtune_put_into_a_prompt_is_never_read(name, language):
    values = {"query": "q", "answer": "that is wrong", "rules": "No, it should be 42", "feedback": "it should be 42"}
    ours = prompts.render(name, language, **values)
    assert read(asked(ours), [said(comment=ours)], ANYTHING) == ()


# --- any input, and the figures ---


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_read_without_an_exception(text, query, answer):
    found = read(asked(text, answer=answer, query=query, edited=text), [said(comment=text, correction=text)], ANYTHING)
    assert all(0 <= signal.confidence <= 1 and -1 <= signal.polarity <= 1 for signal in found)
    assert read(asked(text, answer=answer, query=query), [], ANYTHING) == read(
        asked(text, answer=answer, query=query), [], ANYTHING
    )


def rows(*parts: str) -> list[dict[str, object]]:
    file = DATA.joinpath(*parts)
    if not file.exists():
        pytest.skip(f"{file} is not on this machine")
    lines = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.split("\n") if line]


def test_naughty_strings_in_every_field():
    for row in rows("naughty_strings", "strings.jsonl"):
        text = str(row["text"])
        for signal in read(
            asked(text, query=text, answer=text), [said(comment=text, correction=text, value=-1.0)], ANYTHING
        ):
            assert signal.id


def test_feedback_among_real_turns_is_found_well_above_a_keyword_search():
    labelled = [row for row in rows("feedback_detector_bench", "turns.jsonl.gz") if row["is_feedback"] is not None]
    turns = [asked(row["user"], query=row["prev_user"] or "", answer=row["assistant"] or "") for row in labelled]
    hits = [(row["is_feedback"], bool(read(turn, [], SETTINGS))) for row, turn in zip(labelled, turns, strict=True)]
    right = sum(is_feedback and found for is_feedback, found in hits)
    precision, recall = right / sum(found for _, found in hits), right / sum(is_feedback for is_feedback, _ in hits)
    assert precision > 0.82  # measured 0.87 and 0.66; a keyword search has 0.81 and 0.37
    assert recall > 0.62
