"""Comments that ask how to answer, and comments that name an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.manner import asks_for_manner, names_manner
from logtune.stages.signals import comment
from logtune.stages.stated import stated_answer

ANSWER = "Here is a long answer of many words that nobody asked for in this form."
WISHES = [
    "Summary first please", "the summary at the top, not at the end", "conclusion first",
    "Two sentences, not two pages.",
    "three sentences max please", "in 100 words or less please", "under 80 words", "no more than five bullet points",
    "half as long please", "one short paragraph please", "Begin with a greeting, not with the price.",
    "open with the recommendation", "please finish with a question", "sign off with our company name",
    "the closing line should be 'Kind regards'", "first sentence must be the verdict", "dashes please",
    "a numbered list, not prose", "make it a table with headings, please", "as a bulleted list please",
    "markdown please", "put it in a table", "code only in code blocks", "drop the emojis please", "no, bullets",
    "use simpler words please", "in plain language please", "write it formally", "politely please",
    "cite your sources", "give examples please", "list the steps", "please add units", "show the code",
    "auf Deutsch bitte, always German", "in French please", "German please", "only English please",
    "en español, please",
    "avoid using jargon please", "stop repeating the question", "skip the introduction please",
    "keep it short, not chatty", "step by step please", "more formal language: in a professional tone",
    "lower case please", "explain it in simple words, not in jargon",
]  # fmt: skip
ANSWERS = {
    "refund status please": "refund status", "No, this is about card arrival.": "card arrival",
    "it should be Spanish": "Spanish", "the right answer is 42 pages": "42 pages", "first_line_support please":
    "first_line_support", "No, lost or stolen card": "lost or stolen card", "should have been 'next song'": "next song",
    "I meant start a call": "start a call", "wrong, the answer is 12 points": "12 points",
    "this should go to second line": "second line", "change language please": "change language",
    "restaurant reservation, not book hotel": "restaurant reservation", "it's the first one, Berlin": "Berlin",
    "No, this is about the refund taking too long": "refund taking too long",
    "the right answer is 30 days. You need to check the policy": "30 days",
    "this should go to first line support": "first line support", "it's about the last thing ordered": "last thing",
    "this is about opening an account with a partner": "account with a partner",
    "the correct answer is open account with passport": "open account with passport",
    "should be exchange rate for euros": "exchange rate for euros", "no, exchange fee for euros": "exchange fee",
    "no, change flight to later date please": "change flight to later date",
    "switch account to business please": "switch account to business",
    "remove item from basket please": "remove item from basket",
    "delete account and data please": "delete account and data",
    "stop recurring payment please": "recurring payment", "the right answer is up to 5 pages": "5 pages",
    "the answer is Markdown": "Markdown", "it should be breadth first": "breadth first",
    "the right answer is Safety first": "Safety first", "it should be pay upfront": "pay upfront",
    "this is about translation into Spanish": "translation into Spanish",
    "shopping list update please": "shopping list update", "no, todo list": "todo list",
}  # fmt: skip


@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_for_a_manner_is_no_answer(wish: str) -> None:
    assert stated_answer(wish, ANSWER, asked=True) is None
    said = comment(wish, ANSWER)
    assert said.correction is None
    assert said.polarity < 0, "and it says that something is to change"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_that_is_named_stays_one(text: str) -> None:
    found = stated_answer(text, ANSWER, asked=True)
    assert found is not None
    assert ANSWERS[text] in found.text


def test_what_a_client_sent_as_the_right_answer_is_no_wish_either() -> None:
    assert comment("Code block first please", ANSWER, is_answer=True).correction is None
    assert comment("first line support", ANSWER, is_answer=True).correction == "first line support"


@pytest.mark.parametrize(
    "text", ["The first line made my day", "I paid up front", "The waiting time was too long but fine"]
)
def test_a_remark_is_no_sure_wish(text: str) -> None:
    assert comment(text, ANSWER).confidence < comment("summary first please", ANSWER).confidence


@pytest.mark.parametrize(
    "text", ["first" + " " * 100_000 + "x", "up front" + "!" * 100_000 + "x", "shorter " * 20_000, "in " * 50_000]
)
def test_long_texts_are_read_at_once(text: str) -> None:
    assert not asks_for_manner(text)
    assert asks_for_manner(text[:390]) in (True, False)


@pytest.mark.parametrize("wish", ["summary first please", "open with the recommendation", "bullets please"])
def test_a_wish_without_a_word_of_dislike_asks_for_a_change(wish: str) -> None:
    assert comment(wish, ANSWER).kind == "constraint"


def test_praise_of_a_manner_is_none() -> None:
    assert comment("starts with the code, bullets", ANSWER, value=1.0).polarity > 0


def test_a_language_alone_is_an_answer_only_where_it_is_called_right() -> None:
    assert names_manner("Spanish please", "Spanish", plainly=False)
    assert not names_manner("it should be Spanish", "Spanish", plainly=True)


@given(st.from_regex(r"\A[a-z]{2,9}(_[a-z]{2,9}){1,3}\Z"))
def test_a_label_is_never_a_manner(label: str) -> None:
    assert not names_manner(f"{label} please", label, plainly=False)


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    assert asks_for_manner(text) in (True, False)
