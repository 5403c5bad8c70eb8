"""How close answers are to what users wanted, and which are no answers at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.stages.grading import SHORT_WORDS, bleu, chrf, degenerate, grade, normalise, words

LONG = "You can change your PIN at any cash machine, it takes effect at once and costs nothing."
texts = st.text(max_size=80)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Card arrival.", "card_arrival"),
        (' "CARD-ARRIVAL" ', "card arrival"),
        ("**Paris**", "paris"),
        ("`card_arrival`\n", "card  arrival"),
        ("cafe\u0301", "café"),
        ("“北京。”", "北京"),
        ("", " "),
    ],
)
def test_the_same_answer_in_other_clothes(answer, reference):
    assert grade(answer, reference) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("-5", "5"),
        ("it is -5", "5"),
        ("about 3.5", "5"),
        ("3.5", "35"),
        ("a+b", "a-b"),
        ("card_linking", "card_arrival"),
        ("not", "no"),
        ("x²", "x2"),
    ],
)
def test_short_references_are_right_or_wrong(answer, reference):
    assert grade(answer, reference) == 0.0


def test_a_short_reference_among_other_words_gets_part_of_the_credit():
    told = grade("The capital is Paris.", "Paris")
    listed = grade("Paris, London, Rome, Madrid, Vienna, Berlin, Oslo or Lisbon", "Paris")
    assert 0 < listed < told < 1
    assert grade("答案是北京", "北京") > 0
    assert grade("parishes", "paris") == 0
    assert grade("no.", "") == 0


def test_a_long_reference_can_be_nearly_reached():
    near, far = grade(LONG.replace("any", "every"), LONG), grade("Please call us about your card.", LONG)
    assert 1 > near > 0.9
    assert far < 0.4
    assert grade("", LONG) == 0.0


def test_what_the_user_took_out_counts():
    padded = LONG + " Is there anything else that I can help you with today? I am always happy to help."
    assert grade(LONG[:-20], LONG) > grade(padded, LONG)


def test_where_short_ends():
    assert len(words(" ".join(["word"] * SHORT_WORDS))) == SHORT_WORDS
    assert grade("one two three four five six seven nine", "one two three four five six seven eight") == 0.0
    assert grade("one two three four five six seven eight ten", "one two three four five six seven eight nine") > 0.5


@given(answer=texts, reference=texts)
@settings(max_examples=200, deadline=None)
def test_grades_lie_in_0_to_1(answer, reference):
    for measure in (grade, chrf, bleu):
        assert 0 <= measure(answer, reference) <= 1 + 1e-12
    assert grade(reference, reference) == 1.0
    assert (grade(answer, reference) == 1.0) == (normalise(answer) == normalise(reference))


@given(text=texts)
@settings(max_examples=200, deadline=None)
def test_normalising_and_lower_case_do_no_harm(text):
    assert "  " not in normalise(text)
    assert words(text) == [word for part in text.split() for word in words(part)]


def test_chrf_against_its_definition():
    # "ab" and "abc": orders 1 and 2 exist in both; precision 1, 1; recall 2/3, 1/2; F1 of the means 1 and 7/12.
    assert chrf("ab", "abc") == pytest.approx(2 * (7 / 12) / (1 + 7 / 12))
    assert chrf("a b", "ab") == pytest.approx(1.0)
    assert chrf("xyz", "abc") == chrf("", "abc") == 0.0


def test_bleu_against_its_definition():
    # 4 words of 6, all in order: precisions 1, brevity penalty exp(1 - 6/4).
    assert bleu("the cat sat on", "The cat sat on the mat") == pytest.approx(0.60653, abs=1e-5)
    # 2 of 3 words, 1 of 2 pairs, no triple: half a match of 1; no quadruples.
    assert bleu("a b x", "a b c") == pytest.approx((2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))
    assert bleu("dog", "cat") == bleu("", "cat") == bleu("cat", "") == 0.0
    assert bleu(LONG, LONG) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text", ["", "  \n", "yes " * 20, "I am sorry, I can not. " * 5, "好的好的" * 10, "a" * 40, "0000000000" * 4]
)
def test_degenerate_answers(text):
    assert degenerate(text)


@pytest.mark.parametrize(
    "text", ["ok", "👍", LONG, "no no no", "-" * 60 + "\nTotal: 5", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"]
)
def test_answers_that_are_fine(text):
    assert not degenerate(text)
