"""Pairs: from what users wrote, from what they named, from a judged teacher."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import Interaction, Message, PairOrigin, Rule, Signal, SignalKind
from logtune.stages.pairs import (
    build,
    confirmed_answers,
    from_users,
    is_short,
    known_answers,
    plain,
    right_answer,
    whole_answers_are_long,
)

KNOWN = {
    "card arrival": "card_arrival", "card not working": "card_not_working", "not working": "not_working", "no": "no",
    "退 款": "退款", "5": "5",
}  # fmt: skip


def interaction(answer: str = "card_arrival", *context: Message, query: str = "where is it") -> Interaction:
    return Interaction(
        id="int-0", log_id="log-0", context=context, query=query, answer=answer, follow_ups=(), feedback_ids=(),
        user="u", session=None, adapter=None, at=0.0,
    )  # fmt: skip


def signal(kind: SignalKind, correction: str | None, confidence: float = 0.9, number: int = 0) -> Signal:
    return Signal(
        id=f"sig-{kind}-{correction}", interaction_id=f"int-{number}", feedback_id="f", kind=kind, polarity=-1.0,
        confidence=confidence, evidence="", correction=correction, detector="test@1",
    )  # fmt: skip


def rule(text: str = "be brief") -> Rule:
    return Rule(
        id=f"rule-{text}", text=text, interaction_ids=("int-0",), signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1,
    )  # fmt: skip


# --- answers that users know ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Card arrival!", "card arrival"),
        (" card_arrival ", "card arrival"),
        ("CARD-ARRIVAL", "card arrival"),
        ("ｃａｒｄ arrival", "card arrival"),
        ("-5", "-5"),
        ("it is 1,000.50%.", "it is 1,000.50%"),
        ("covid-19, card_2", "covid 19 card 2"),
        ("C++, not C#!", "c++ not c#"),
        ("应该是退款", "应 该 是 退 款"),
        ("Straße", "strasse"),
        ("?!", ""),
    ],
)
def test_plain_words(text: str, words: str) -> None:
    assert plain(text) == words


@given(st.text())
def test_plain_words_are_plain(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    assert plain(text).split() == plain(text).split(" ") or not plain(text)


def test_a_short_answer_is_one_that_others_could_give_too() -> None:
    assert is_short("card_arrival")
    assert is_short(" ".join("abcdefghijkl"))
    assert not is_short(" ".join("abcdefghijklm"))
    assert not is_short("?!")
    assert not is_short("这是一个很长的回答因为它解释了所有的事情")


def test_the_form_that_most_edits_gave_is_the_known_one() -> None:
    edits = [signal("edit", form, number=n) for n, form in enumerate(["Card arrival", "card_arrival", "card_arrival "])]
    others = [signal("correction", "card_lost"), signal("edit", " ".join("abcdefghijklm")), signal("edit", None)]
    assert known_answers([*edits, *others], {}, 1) == {"card arrival": "card_arrival"}


@pytest.mark.parametrize(("least", "known"), [(1, True), (2, True), (3, False)])
def test_an_answer_is_known_from_so_many_users(least: int, known: bool) -> None:
    edits = [signal("edit", "x1", number=number) for number in range(4)]
    users = {"int-0": "a", "int-1": "a", "int-2": "a"}  # and the fourth is somebody unnamed
    assert bool(known_answers(edits, users, least)) is known


# --- the right answer ---


@pytest.mark.parametrize(
    ("signals", "right"),
    [
        ([signal("edit", " my own words ")], ("my own words", "edit")),
        ([signal("correction", "card_not_working"), signal("edit", "Mine")], ("Mine", "edit")),
        ([signal("edit", "first"), signal("edit", "last")], ("last", "edit")),
        ([signal("edit", "sure", 0.95), signal("edit", "sent back", 0.6)], ("sure", "edit")),
        ([signal("edit", "unsure", 0.4), signal("correction", "Not working!")], ("not_working", "stated")),
        ([signal("correction", "nothing known"), signal("correction", "no")], ("no", "stated")),
        ([signal("complaint", None)], None),
        ([], None),
    ],
)
def test_the_right_answer(signals: list[Signal], right: tuple[str, PairOrigin] | None) -> None:
    assert right_answer(signals, KNOWN, 0.5, "card_arrival") == right


@pytest.mark.parametrize(
    ("span", "answer"),
    [
        ("Card arrival!", "card_arrival"),
        ("I think it is Card-Not-Working, please", "card_not_working"),  # the longest, not "not working"
        ("应该是退款吧", "退款"),
        ("the wrong one was card arrival, it is not working", "not_working"),  # the given answer is not the right one
        ("card not working or rather 退款", None),  # two answers
        ("it is no problem at all", None),  # "no" is in many sentences
        ("that is 5 of them", None),
        ("a postcard arrival", None),  # whole words
        ("something else", None),
        ("", None),
    ],
)
def test_stated_words_are_mapped_to_the_known_answer(span: str, answer: str | None) -> None:
    found = right_answer([signal("correction", span)], KNOWN, 0.5, "Card arrival" if "wrong" in span else "")
    assert found == (None if answer is None else (answer, "stated"))


def test_words_that_hold_two_known_answers_side_by_side_name_none() -> None:
    known = {"card arrival": "card_arrival", "lost card": "lost_card"}
    assert right_answer([signal("correction", "card arrival or lost card")], known, 0.5) is None


def test_where_no_answer_is_known_the_users_words_are_it() -> None:
    assert right_answer([signal("correction", " It costs 5 euros. ")], {}, 0.5) == ("It costs 5 euros.", "stated")
    assert right_answer([signal("correction", " ".join("abcdefghijklm"))], {}, 0.5) is None


def test_words_of_a_turn_train_once_two_users_said_them_or_one_edited_so() -> None:
    said = [replace(signal("correction", "It costs 5", number=n), feedback_id=None) for n in range(2)]
    assert right_answer(said[:1], {}, 0.5) is None
    assert confirmed_answers(said, {"int-0": "ada", "int-1": "ada"}) == frozenset()
    sure = confirmed_answers(said, {"int-0": "ada", "int-1": "bob"})
    assert right_answer(said[:1], {}, 0.5, confirmed=sure) == ("It costs 5", "stated")
    assert right_answer(said[:1], {"it costs 5": "5"}, 0.5) == ("5", "stated")


def test_a_pair_from_a_user() -> None:
    context = Message(role="system", content="be kind")
    pair = from_users(interaction("no idea", context), [signal("edit", "card_arrival")], [rule()], {}, 0.5)
    assert pair is not None
    assert (pair.chosen, pair.rejected, pair.origin) == ("card_arrival", "no idea", "edit")
    assert (pair.margin, dict(pair.votes), pair.rule_ids) == (None, {}, ("rule-be brief",))
    assert pair.prompt == (context, Message(role="user", content="where is it"))
    assert from_users(interaction(), [], [], {}, 0.5) is None


@pytest.mark.parametrize("chosen", ["card_arrival", " card_arrival\n", "", "  "])
def test_the_same_answer_or_none_makes_no_pair(chosen: str) -> None:
    assert from_users(interaction("card_arrival "), [signal("edit", chosen)], [], {}, 0.5) is None


@given(st.text(max_size=5), st.text(max_size=5))
def test_chosen_never_equals_rejected(chosen: str, rejected: str) -> None:
    pair = build(interaction(), [], chosen, rejected, "edit")
    assert pair is None or (pair.chosen.strip() and pair.rejected.strip() and pair.chosen != pair.rejected)


LONG, SHORT = "SELECT name, age FROM singers WHERE country = 'France' AND age > 20 ORDER BY age", "card_arrival"


@pytest.mark.parametrize(
    ("edited", "praised", "stated", "long"),
    [
        ([LONG] * 3, [], 50, True),
        ([LONG] * 2, [], 0, False),  # two tell nothing
        ([LONG] * 9 + [SHORT], [SHORT] * 9, 50, True),
        ([LONG] * 8 + [SHORT] * 2, [], 0, False),  # a service of both kinds
        ([SHORT] * 3, [LONG] * 50, 1, False),  # what users write tells more than what they praise
        ([], [LONG] * 8, 8, True),
        ([], [LONG] * 8, 9, False),  # praised in error, maybe
        ([], [LONG] * 2, 1, False),
        ([], [SHORT] * 9, 1, False),
        ([], [], 0, False),
    ],
)
def test_a_few_words_are_no_answer_where_whole_ones_are_long(
    edited: list[str], praised: list[str], stated: int, long: bool
) -> None:
    assert whole_answers_are_long(edited, praised, stated) is long
