"""The gate: who is held out, who wins a case, who has a vote, and how often a null candidate passes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.config import EvaluateSettings, build
from logtune.errors import InputError
from logtune.records import Interaction, Json
from logtune.stages.evaluate import (
    Case,
    Guard,
    choose,
    compare,
    degeneration,
    flaw,
    score,
    selection_grades,
    selection_score,
    tally,
    too_few,
)
from logtune.stages.held_out import Split, split

GATE = EvaluateSettings()
UNO = build({"preset": "uno"}).evaluate


def interaction(number: int, user: str | None = None, session: str | None = None) -> Interaction:
    return Interaction(
        id=f"int-{number}", log_id=f"log-{number}", context=(), query="where is it", answer="no idea", follow_ups=(),
        feedback_ids=(), user=user, session=session, adapter=None, at=float(number),
    )  # fmt: skip


def case(number: int = 0, **fields) -> Case:
    given_fields = {
        "interaction_id": f"int-{number}", "user": None, "prompt": (), "reference": "card_arrival",
        "baseline_answer": "I don't know.", "candidate_answer": "card_arrival",
    }  # fmt: skip
    return Case(**{**given_fields, **fields})


def judged(scores, users=None) -> list[Case]:
    """Cases on which a judge gave these scores."""
    return [
        case(
            number,
            judged=float(value),
            reference=None,
            user=users[number] if users else None,
            baseline_answer="the first of two answers",
            candidate_answer="the second of two answers",
        )
        for number, value in enumerate(scores)
    ]


def gate(cases, gate_settings: EvaluateSettings = GATE, guards=()):
    return compare(
        cases, cluster_id="clu-1", candidate="expert", adapter_id="ada-1", baseline="base", settings=gate_settings,
        guards=guards,
    )  # fmt: skip


def numbers(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


# split


@given(
    owners=st.lists(
        st.tuples(st.sampled_from([None, "a", "b", "c", "d", ""]), st.sampled_from([None, "s", "t"])), max_size=40
    ),
    salt=st.text(max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_nobody_is_on_two_sides_and_only_torn_conversations_are_left_out(owners, salt):
    items = [interaction(number, user, session) for number, (user, session) in enumerate(owners)]
    parts = split(items, EvaluateSettings(selection_share=0.3, confirmation_share=0.3), salt)
    sides = (parts.train, parts.selection, parts.confirmation)
    kept = [item.id for side in sides for item in side]
    assert len(set(kept)) == len(kept)
    left_out = [item for item in items if item.id not in kept]
    assert all(item.session for item in left_out)
    for session in {item.session for item in left_out}:
        users = {item.user or None for item in items if item.session == session}
        assert None in users
        assert len(users) == 2
    units = [{item.user or (item.session and f"s-{item.session}") or item.id for item in side} for side in sides]
    assert sum(map(len, units)) == len(set.union(*units))


def sides_of(parts: Split) -> dict[str | None, str]:
    return {item.user: side for side in ("train", "selection", "confirmation") for item in getattr(parts, side)}


def test_a_user_stays_on_his_side_whoever_else_comes():
    items = [interaction(number, f"u{number % 200}") for number in range(600)]
    early, late = sides_of(split(items[:150], GATE, "x")), sides_of(split(items[::-1], GATE, "x"))
    assert all(late[user] == side for user, side in early.items())
    assert sides_of(split(items, GATE, "y")) != late
    shares = np.mean([[side == name for name in ("selection", "confirmation")] for side in late.values()], axis=0)
    assert np.abs(shares - [GATE.selection_share, GATE.confirmation_share]).max() < 0.08


def test_a_conversation_that_began_before_its_user_was_known_is_on_one_side_alone():
    torn = 0
    for number in range(200):
        items = [interaction(0, None, f"s{number}"), interaction(1, f"u{number}", f"s{number}")]
        parts = split(items, EvaluateSettings(selection_share=0.3, confirmation_share=0.3), "x")
        held = (*parts.selection, *parts.confirmation)
        assert not (parts.train and held)
        assert not (parts.selection and parts.confirmation)
        torn += len(parts.train) + len(held) == 1
    assert 80 < torn < 170
    shared = [interaction(n, f"u{n}" if n else None, "default") for n in range(50)]  # no session of one person
    parts = split(shared, GATE, "x")
    assert len(parts.train) + len(parts.selection) + len(parts.confirmation) == 50


def test_a_changed_share_moves_users_to_or_from_train_alone():
    items = [interaction(number, f"u{number}") for number in range(400)]
    before = sides_of(split(items, GATE, "x"))
    after = sides_of(split(items, EvaluateSettings(confirmation_share=0.3), "x"))
    moved = {(before[user], after[user]) for user in before if before[user] != after[user]}
    assert moved == {("train", "confirmation")}


def test_the_paper_has_no_selection_split():
    parts = split([interaction(number) for number in range(300)], UNO, "x")
    assert parts.selection == ()
    assert 35 < len(parts.confirmation) < 85


# score: who wins a case


def test_the_answer_closer_to_the_users_own_wins():
    assert score(case(), GATE) == 1.0
    assert score(case(baseline_answer="Card arrival", candidate_answer="card_linking"), GATE) == 0.0
    assert score(case(baseline_answer="Card arrival"), GATE) == 0.5
    assert score(case(baseline_answer="card_linking", candidate_answer="lost_card"), GATE) == 0.5


def test_without_a_reference_nobody_can_say():
    for reference in (None, "", "  "):
        assert score(case(reference=reference), GATE) is None


def test_users_have_the_last_word_and_a_judge_where_they_said_nothing():
    assert score(case(judged=0.2), GATE) == 1.0
    assert score(case(judged=0.2, reference=None), GATE) == 0.0
    assert score(case(judged=1.0, reference=None), GATE) == 1.0
    assert score(case(judged=0.5, reference=None), GATE) == 0.5


def test_an_unchanged_answer_is_a_tie_even_if_it_is_bad():
    assert score(case(baseline_answer="", candidate_answer=" "), GATE) == 0.5


def test_a_short_right_answer_is_not_too_short():
    talk = "Thank you for your message! " * 3 + "Your card is on its way, I would say: " + "please wait a while " * 2
    assert flaw(case(baseline_answer=talk * 3), GATE) is None
    assert score(case(baseline_answer=talk * 3), GATE) == 1.0
    assert flaw(case(baseline_answer=talk * 3), UNO) == "short"
    wanted = "Your card was sent on Monday and takes up to five working days, you can follow it in the app."
    assert flaw(case(reference=wanted, candidate_answer="card"), GATE) == "short"
    assert flaw(case(reference=None, judged=1.0, baseline_answer=wanted, candidate_answer="card"), GATE) == "short"


def test_degenerate_answers_lose_unless_the_user_wanted_just_that():
    loop = "well well well well " * 10
    assert flaw(case(candidate_answer=loop), GATE) == "degenerate"
    assert flaw(case(candidate_answer=""), GATE) == "degenerate"
    assert score(case(reference=loop, candidate_answer=loop), GATE) == 1.0
    assert flaw(case(reference=None, judged=1.0, candidate_answer=loop, baseline_answer=loop + "no"), UNO) is None


def test_the_paper_asks_for_some_likeness_to_the_baseline():
    other = case(
        baseline_answer="Please reset your password in the app", candidate_answer="Bananas grow on warm islands"
    )
    assert flaw(other, UNO) == "unlike"
    assert flaw(replace(other, candidate_answer="Please reset the password in our app"), UNO) is None
    assert flaw(other, GATE) is None


# tally: who has a vote


def test_a_user_has_one_vote():
    votes = tally(judged([1, 1, 1, 1, 0, 0.5], ["loud", "loud", "loud", "loud", "quiet", None]), GATE)
    assert (votes.wins, votes.ties, votes.losses, votes.cases, votes.unscored) == (1, 1, 1, 6, 0)
    assert votes.win_rate == 0.5
    mixed = tally(judged([1, 0, 1, 1, 0], ["a", "a", "b", "b", "b"]), GATE)
    assert (mixed.wins, mixed.ties, mixed.losses) == (1, 1, 0)


def test_the_paper_counts_each_case():
    assert tally(judged([1, 1, 1, 0], ["loud"] * 4), UNO).wins == 3


def test_what_cannot_be_judged_has_no_vote():
    votes = tally([case(0, reference=None), case(1)], GATE)
    assert (votes.votes, votes.unscored) == (1, 1)
    assert tally([], GATE).win_rate is None


# choose


def graded(*right: int, voters: int = 20) -> list[dict[str, float]]:
    """A checkpoint each; the first so many voters find it right."""
    return [{f"u{number}": float(number < count) for number in range(voters)} for count in right]


def test_the_best_checkpoint_or_a_later_one_that_is_as_good():
    assert choose(graded(2, 10, 14, 13, 12)) == 4  # two more of twenty are luck
    assert choose(graded(2, 10, 14, 11)) == 2  # three are not: p = 1/8
    assert choose(graded(2, 14, 14, 6)) == 2
    assert choose(graded(6, 6, 1, 7, voters=7)) == 3


def test_strictly_the_best_checkpoint_the_earliest_of_equals():
    assert choose(graded(2, 14, 14, 13), strict=True) == 1


def test_checkpoints_without_a_grade():
    nothing: dict[str, float] = {}
    assert choose([nothing, {"u": 0.0}, nothing]) == 1
    assert choose([nothing, nothing, nothing]) == 2
    with pytest.raises(InputError, match="no checkpoint"):
        choose([])


def test_selection_score_is_the_mean_grade_a_user():
    cases = [
        case(0, user="a"),
        case(1, user="a"),
        case(2, user="b", candidate_answer="lost_card"),
        case(3, reference=None),
    ]
    assert selection_score(selection_grades(cases, GATE)) == 0.5
    assert selection_score(selection_grades([case(0, judged=1.0, candidate_answer="")], GATE)) == 0.0
    assert selection_score(selection_grades([case(0, reference=None)], GATE)) is None


# compare


def test_a_clear_win_passes():
    found = gate([case(number) for number in range(20)])
    assert (found.outcome, found.cases, found.wins, found.ties, found.win_rate) == ("passed", 20, 20, 0, 1.0)
    assert found.lower is not None
    assert found.lower > 0.5
    assert found.upper == 1.0
    assert found.interaction_ids == tuple(f"int-{number}" for number in range(20))
    assert found.reason == "won 20, tied 0 and lost 0 of 20 votes: win rate 100%, 95% interval 83% to 100%"
    assert found.id.startswith("eval-")
    assert found == gate([case(number) for number in range(20)])


def test_too_few_votes_name_the_logs_it_takes():
    found = gate([case(number, user="a") for number in range(30)])
    assert (found.outcome, found.cases, found.wins) == ("not_enough_data", 1, 1)
    assert found.reason.startswith(
        "1 vote on held-out answers, at least 8 are needed: about 1100 more logs with a known"
    )
    assert numbers(found.guards["answers"])["scored"] == 30
    nothing = gate([case(0, reference=None)])
    assert (nothing.outcome, nothing.cases, nothing.win_rate, nothing.lower) == ("not_enough_data", 0, None, None)
    assert "0 votes" in nothing.reason
    assert gate([], UNO).outcome == "not_enough_data"


def test_a_gain_that_chance_can_do_waits_for_more_logs():
    found = gate(judged([1] * 12 + [0] * 8))
    assert found.outcome == "not_enough_data"
    assert "which chance alone can do; if it is real, about" in found.reason
    assert "more logs with a known right answer would prove it" in found.reason
    tiny = gate(judged([1] * 10_010 + [0] * 9_990), EvaluateSettings(min_win_rate=0.5))
    assert "too small to prove" in tiny.reason


def test_no_better_and_worse_fail():
    assert "below the least win rate of 53%" in gate(judged([1] * 10 + [0] * 10)).reason
    worse = gate(judged([1] * 2 + [0] * 18))
    assert worse.outcome == "failed"
    assert "worse than the baseline" in worse.reason


def test_better_by_less_than_it_must_be_fails():
    found = gate(judged([1] * 8 + [0.5] * 192))
    assert found.lower is not None
    assert found.lower > 0.5
    assert found.outcome == "failed"


def test_the_papers_rule_needs_the_win_rate_alone():
    assert gate(judged([1, 1, 0]), UNO).outcome == "passed"
    assert gate(judged([1, 0]), UNO).outcome == "failed"


def looping(count, cases):
    loop = "again and again and " * 8
    return [case(number, candidate_answer=loop if number < count else "card_arrival") for number in range(cases)]


def test_degeneration_is_a_guard_with_a_margin():
    cases = looping(6, 30)
    found = gate(cases)
    assert found.outcome == "failed"
    assert "empty or repeating answers: 20%, baseline 0%" in found.reason
    assert numbers(found.guards["degenerate"])["passed"] is False
    assert numbers(found.guards["answers"])["lost_unread"] == {"degenerate": 6}
    loop = cases[0].candidate_answer
    both = [replace(each, baseline_answer=loop) if number < 6 else each for number, each in enumerate(cases)]
    assert degeneration(both, GATE).passed
    assert gate(both).outcome == "passed"


@pytest.mark.parametrize(("count", "cases", "passed"), [(1, 16, True), (2, 16, True), (5, 16, False), (3, 30, True)])
def test_a_few_loops_of_a_few_answers_prove_nothing_yet(count, cases, passed):
    assert degeneration(looping(count, cases), GATE).passed == passed


def test_guards_measured_elsewhere_count_too():
    forgot = Guard(name="retention", passed=False, value=-4.0, limit=-1.0, reason="retention fell by 4.0 points")
    found = gate([case(number) for number in range(20)], guards=[forgot])
    assert found.outcome == "failed"
    assert "retention fell by 4.0 points" in found.reason
    assert numbers(found.guards["retention"])["value"] == -4.0
    kept = replace(forgot, passed=True)
    assert gate([case(number) for number in range(20)], guards=[kept]).outcome == "passed"


def test_what_can_never_be_decided_is_known_before_training():
    assert too_few(8, 8, GATE) is None
    assert too_few(1, 1, UNO) is None
    assert "4 votes" in (too_few(4, 4, EvaluateSettings(min_cases=1)) or "")  # not even 4 wins of 4 are significant
    assert too_few(5, 5, EvaluateSettings(min_cases=1)) is None
    assert too_few(4, 4, EvaluateSettings(min_cases=1, confidence=0.9)) is None


# how often a null candidate passes


def pick_and_confirm(rng, votes: int, gate_settings: EvaluateSettings, checkpoints: int = 8) -> bool:
    """Eight null checkpoints: the best on the selection split is tested on the confirmation split."""
    drawn = rng.choice([1, 0.5, 0], size=(checkpoints, votes), p=[0.35, 0.3, 0.35])
    picked = choose([{str(voter): float(grade) for voter, grade in enumerate(row)} for row in drawn])
    assert 0 <= picked < checkpoints
    scores = rng.choice([1, 0.5, 0], size=votes, p=[0.35, 0.3, 0.35])
    return gate(judged(scores), gate_settings).outcome == "passed"


@pytest.mark.parametrize("votes", [8, 20, 40, 100])
def test_a_null_candidate_picked_best_of_eight_rarely_passes(votes):
    rng = np.random.default_rng(votes)
    passed = np.mean([pick_and_confirm(rng, votes, GATE) for _ in range(300)])
    assert passed <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300)


def test_the_papers_rule_lets_many_null_candidates_pass():
    rng = np.random.default_rng(0)
    passed = np.mean([pick_and_confirm(rng, 40, UNO) for _ in range(300)])
    assert passed > 0.2  # before the best of 8 is even picked on the same cases


def test_users_of_one_mind_do_not_make_a_null_candidate_pass():
    """Each of 10 users likes or dislikes the candidate on all of his 12 cases: 120 cases are worth 10 votes."""
    rng = np.random.default_rng(1)
    users = [f"u{number // 12}" for number in range(120)]
    passed = {"user": 0, "case": 0}
    for _ in range(100):
        scores = np.repeat(rng.integers(0, 2, 10), 12)
        for unit in ("user", "case"):
            passed[unit] += gate(judged(scores, users), GATE.model_copy(update={"unit": unit})).outcome == "passed"
    assert passed["user"] <= 100 * 0.08
    assert passed["case"] > 100 * 0.2


def test_too_little_power_is_known_before_training():
    demanding = EvaluateSettings(min_power=0.9)
    assert too_few(8, 8, GATE) is None
    told = too_few(8, 8, demanding)
    assert told is not None
    assert "at least 13 are needed" in told
    assert too_few(13, 13, demanding) is None


@given(st.integers(8, 60), st.floats(0, 1))
def test_the_more_votes_can_only_tie_the_more_it_takes(votes, tie_share):
    good = EvaluateSettings(min_power=0.8)
    if too_few(votes, votes, good, tie_share) is None:
        assert votes * (1 - tie_share) > 4  # fewer wins than five prove nothing, whatever the ties


def test_where_all_liked_what_they_were_answered_nothing_can_be_won():
    told = too_few(30, 30, GATE, tie_share=1.0)
    assert told is not None
    assert told.startswith("30 votes on held-out answers, 100% of users who liked what they were answered")
    assert "more logs" not in told  # no number of them would do
