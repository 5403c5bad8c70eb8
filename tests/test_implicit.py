"""What users do after an answer without a word: recorded, measured against what they say, never enough alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import Feedback, FollowUp, Interaction, LogRecord, Signal
from logtune.stages.implicit import (
    ASSUMED,
    POLARITY,
    Act,
    acts_of,
    is_act,
    recorded_acts,
    reliability,
    signals_of_acts,
    weighty,
)


def log(name: str, at: float, *texts: str, session: str | None = "s", user: str | None = "ada", answered=True):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    response = {"choices": [{"message": {"role": "assistant", "content": "an answer"}}]} if answered else None
    return LogRecord(
        id=name, request={"messages": messages}, response=response, at=at, session=session, user=user, latency_ms=1000.0
    )


def item(name: str = "int-1", log_id: str = "a", answer: str = "an answer", *followers: str, feedback=()):
    return Interaction(
        id=name, log_id=log_id, context=(), query="q", answer=answer, feedback_ids=tuple(feedback), user="ada",
        follow_ups=tuple(FollowUp(text="t", answer=None, log_id=f) for f in followers), session="s", adapter=None, at=0,
    )  # fmt: skip


def found(items, logs, feedback=()):
    done = acts_of(items, {row.id: row for row in logs}, {row.id: row for row in feedback})
    return {key: {act.kind for act in acts} for key, acts in done.items()}


def said(interaction: str, polarity: float, detector: str = "rating@2") -> Signal:
    return Signal(
        id=f"{interaction}{detector}", interaction_id=interaction, feedback_id=None, kind="rating", polarity=polarity,
        confidence=0.9, evidence="e", correction=None, detector=detector,
    )  # fmt: skip


def test_clicks_are_acts_until_they_are_revoked_or_replaced():
    clicks = [
        Feedback(id="1", target="a", at=1, kind="copy"),
        Feedback(id="2", target="a", at=1, kind="accept", revoked=True),
        Feedback(id="3", target="a", at=1, kind="abandon"),
        Feedback(id="4", target="a", at=2, kind="regenerate", supersedes="3"),
        Feedback(id="5", target="a", at=2, kind="rating", value=1),
    ]
    assert found([item(feedback="12345")], [log("a", 0, "q")], clicks) == {"int-1": {"copy", "regenerate"}}


def test_the_same_request_again_is_a_regeneration():
    assert found([item()], [log("a", 0, "q"), log("b", 60, "q")]) == {"int-1": {"regenerate"}}
    assert found([item()], [log("a", 0, "q"), log("b", 7200, "q")]) == {}
    assert found([item()], [log("a", 0, "q"), log("b", 60, "q", user="bob", session="t")]) == {}


def test_an_edited_request_is_told_from_a_new_conversation():
    first, again = log("a", 0, "hi", "hello", "q"), log("b", 60, "hi", "hello", "q in French")
    assert found([item()], [first, again]) == {"int-1": {"resend"}}
    assert found([item()], [log("a", 0, "q"), log("b", 60, "another question")]) == {}


def test_the_last_answer_of_a_finished_session_may_have_been_given_up():
    logs = [log("a", 0, "q"), log("b", 60, "q", "an answer", "r"), log("z", 9000, "x", session="t")]
    assert found([item("int-1", "a"), item("int-2", "b")], logs) == {"int-2": {"abandon"}}
    assert found([item("int-2", "b")], logs[:2]) == {}  # it may go on


def test_a_turn_that_comes_before_the_answer_can_be_read_is_hasty():
    long = "word " * 120
    logs = [log("a", 0, "q"), log("b", 5, "q", long, "r"), log("c", 60, "q", long, "r")]
    assert found([item("int-1", "a", long, "b")], logs) == {"int-1": {"quick_turn"}}
    assert found([item("int-1", "a", long, "c")], logs[:1] + logs[2:]) == {}
    assert found([item("int-1", "a", "short", "b")], logs) == {}


def test_a_session_is_long_by_what_is_usual_here():
    logs = [log(f"{n}", n, f"q{n}", session=f"s{n}") for n in range(30)]
    many = [log(f"long-{n}", 100 + n, f"l{n}", session="many") for n in range(9)]
    assert found([item("int-1", "long-3")], [*logs, *many]) == {"int-1": {"long_session"}}
    assert found([item("int-1", "long-3")], many) == {}  # nothing to compare with


# --- reliability ---


def measured(acts, signals):
    return {row.kind: row for row in reliability(acts, signals)}


def test_without_explicit_feedback_only_the_assumption_counts():
    row = measured({"a": [Act("copy", "copy")]}, {})["copy"]
    assert (row.seen, row.judged) == (1, 0)
    assert row.weight == pytest.approx(ASSUMED["copy"], abs=0.01)


def test_an_act_that_agrees_gains_weight_and_one_that_does_not_loses_it():
    acts = {f"g{n}": [Act("copy", "copy")] for n in range(60)} | {f"b{n}": [Act("regenerate", "r")] for n in range(60)}
    right = {f"g{n}": [said(f"g{n}", 1)] for n in range(60)} | {f"b{n}": [said(f"b{n}", -1)] for n in range(60)}
    rows = measured(acts, right)
    assert rows["copy"].agreed == rows["copy"].judged == 60
    assert rows["copy"].weight > 0.6
    assert rows["regenerate"].weight > 0.6
    opposite = {key: [said(key, -signals[0].polarity)] for key, signals in right.items()}
    assert measured(acts, opposite)["copy"].weight == 0.0


def test_agreement_by_chance_is_no_evidence():
    """Where nearly all feedback is bad, a bad sign agrees nearly always."""
    signals = {f"i{n}": [said(f"i{n}", -1)] for n in range(200)}
    acts = {f"i{n}": [Act("quick_turn", "q")] for n in range(100)}
    row = measured(acts, signals)["quick_turn"]
    assert row.agreed == row.judged == 100
    assert row.chance > 0.95
    assert row.weight < 0.9
    many = {f"i{n}": [said(f"i{n}", -1)] for n in range(2000)}
    row = measured({key: [Act("quick_turn", "q")] for key in many}, many)["quick_turn"]
    assert row.agreed == row.judged == 2000
    assert row.weight < 0.4


def test_more_agreement_than_chance_gives_is_evidence_where_most_feedback_is_bad():
    """Of 1,000 judged answers 50 were good; what was asked for again were all the bad ones, or any."""
    signals = {f"i{n}": [said(f"i{n}", 1 if n % 20 == 0 else -1)] for n in range(1000)}
    telling = {f"i{n}": [Act("regenerate", "r")] for n in range(1000) if n % 20}
    random = {f"i{n}": [Act("regenerate", "r")] for n in range(500)}
    assert measured(telling, signals)["regenerate"].weight > 0.7
    assert measured(random, signals)["regenerate"].weight < 0.15


def test_acts_do_not_confirm_each_other():
    acts = {"a": [Act("copy", "copy"), Act("accept", "accept")]}
    rows = reliability(acts, {"a": [said("a", 1, "act.copy@1")]})
    assert all(row.judged == 0 for row in rows)


@given(st.lists(st.tuples(st.sampled_from(list(POLARITY)), st.sampled_from([-1.0, 0.0, 1.0])), max_size=40))
def test_reliability_stays_in_its_bounds(cases):
    acts = {f"i{n}": [Act(kind, "x")] for n, (kind, _) in enumerate(cases)}
    for row in reliability(acts, {f"i{n}": [said(f"i{n}", sign)] for n, (_, sign) in enumerate(cases)}):
        assert 0 <= row.agreed <= row.judged <= row.seen
        assert 0 <= row.lower <= row.estimate <= row.upper <= 1
        assert 0 <= row.weight <= 1


# --- signals ---


def test_acts_become_signals_as_sure_as_their_kind_and_back():
    rows = reliability({"int-1": [Act("copy", "copy", "f1")]}, {})
    (signal,) = signals_of_acts(item(), [Act("copy", "copy", "f1")], rows)
    assert (signal.kind, signal.feedback_id, signal.detector) == ("copy", "f1", "act.copy@1")
    assert signal.confidence == rows[0].weight
    assert is_act(signal)
    assert recorded_acts([signal]) == {"int-1": [Act("copy", "copy", "f1")]}


def test_acts_alone_weigh_nothing_and_beside_words_they_count():
    act = said("a", -0.5, "act.regenerate@1")
    assert weighty({"a": [act]}) == {}
    both = [act, said("a", -1)]
    assert weighty({"a": both}) == {"a": both}


def test_an_answer_sent_back_unchanged_is_no_act():
    assert not is_act(said("a", 1, "edit@2"))
