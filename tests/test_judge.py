"""Judges that like the first, the longer or the better answer, and what calibration makes of each."""

import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.errors import ModelError
from logtune.ports import ChatCall, ChatReply
from logtune.stages.judge import (
    SURE,
    Calibration,
    Preference,
    Question,
    Score,
    Trial,
    _of_both,
    _Verdict,
    by_scores,
    calibrate,
    pairwise,
    pointwise,
)  # fmt: skip
from logtune.testing import ScriptedChat

QUESTION = Question(
    query="Which is the capital of France?", rules="- Name the city.", first="Paris", second="It depends."
)


def shown(call: ChatCall) -> tuple[str, str]:
    """The answers that a call shows as A and B."""
    found = re.search(r"\nA: (.*)\n\nB: (.*)\n</", call.messages[-1].content, re.DOTALL)
    assert found
    return found[1], found[2]


def judge(better: Callable[[str, str], str]) -> ScriptedChat:
    return ScriptedChat(lambda call: f'{{"better": "{better(*shown(call))}"}}')


def preference(share: float, flips: int = 0) -> Preference:
    return Preference(share=share, votes=(share, share), flips=flips, samples=1)


def trial(human: float, judged: float, lengths: tuple[int, int] = (10, 10), **fields: object) -> Trial:
    return Trial(human=human, judged=preference(judged, int(judged == 0.5)), lengths=lengths, **fields)


async def test_a_judge_that_knows_prefers_the_same_in_both_orders() -> None:
    chat = judge(lambda a, b: "A" if a == "Paris" else "B")
    found = await pairwise(chat, QUESTION)
    assert found == Preference(share=1.0, votes=(1.0, 1.0), flips=0, samples=1)
    assert found.disagreement == 0
    assert [shown(call) for call in chat.calls] == [("Paris", "It depends."), ("It depends.", "Paris")]


async def test_a_judge_that_likes_what_comes_first_decides_nothing() -> None:
    found = await pairwise(judge(lambda a, b: "A"), QUESTION, samples=3)
    assert (found.share, found.flips, found.samples, len(found.votes)) == (0.5, 3, 3, 6)
    assert found.disagreement == 1


def weighing(odds_of_a: Callable[[str], float | None], says: str = "A") -> ScriptedChat:
    """A judge that says the same whatever is shown, and how likely A was to B, by the answer shown as A."""

    def reply(call: ChatCall) -> ChatReply:
        odds = odds_of_a(shown(call)[0])
        told = None if odds is None else {"A": odds / (1 + odds), "B": 1 / (1 + odds)}
        assert call.weighed == ("A", "B")
        return ChatReply(text=f'{{"better": "{says}"}}', odds=told)

    return ScriptedChat(reply)


@pytest.mark.parametrize(("paris", "depends", "share"), [(9.0, 3.0, 0.75), (3.0, 9.0, 0.25), (5.0, 5.0, 0.5)])
async def test_where_the_order_decides_the_odds_tell(paris: float, depends: float, share: float) -> None:
    found = await pairwise(weighing(lambda a: paris if a == "Paris" else depends), QUESTION)
    assert (found.share, found.votes, found.flips, found.disagreement) == (share, (1.0, 0.0), 1, 1)


@pytest.mark.parametrize("factor", [1.01, 1.01**-1])
async def test_odds_that_hardly_differ_tell_nothing(factor: float) -> None:
    odds = math.exp(2 * SURE * factor)
    found = await pairwise(weighing(lambda a: odds if a == "Paris" else 1.0), QUESTION)
    assert found.share == (0.75 if factor > 1 else 0.5)


async def test_without_odds_a_verdict_that_turns_with_the_order_is_a_tie() -> None:
    assert (await pairwise(weighing(lambda a: 9.0 if a == "Paris" else None), QUESTION)).share == 0.5


async def test_a_verdict_that_is_not_among_the_likeliest_tokens_is_unlikely() -> None:
    assert (await pairwise(weighing(lambda a: 1e12 if a == "Paris" else 2.0), QUESTION)).share == 0.75


async def test_a_verdict_in_both_orders_needs_no_odds() -> None:
    def reply(call: ChatCall) -> ChatReply:
        better = "A" if shown(call)[0] == "Paris" else "B"
        return ChatReply(text=f'{{"better": "{better}"}}', odds={"A": 0.5, "B": 0.5})

    assert (await pairwise(ScriptedChat(reply), QUESTION)).share == 1.0


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20))
def test_what_is_added_for_the_place_changes_no_verdict(better: float, place: float, other: float) -> None:
    first, turned = _Verdict(1.0, better + place), _Verdict(1.0, -better + place).turned
    moved = _Verdict(1.0, better + other), _Verdict(1.0, -better + other).turned
    if abs(abs(better) - SURE) > 1e-6:
        assert _of_both(first, turned) == _of_both(*moved)


async def test_a_judge_that_calls_everything_a_tie_is_of_one_mind() -> None:
    assert (await pairwise(judge(lambda a, b: "tie"), QUESTION, samples=2)).disagreement == 0


async def test_the_first_sample_is_greedy_and_the_others_differ() -> None:
    chat = judge(lambda a, b: "tie")
    await pairwise(chat, QUESTION, samples=3)
    assert [(call.temperature, call.seed) for call in chat.calls] == [(0, 0), (0, 0), (1, 1), (1, 1), (1, 2), (1, 2)]


async def test_without_rules_the_request_alone_is_the_yardstick() -> None:
    chat = judge(lambda a, b: "B")
    await pairwise(chat, Question(query="q", rules=" ", first="x", second="y"))
    assert "Rules:" not in chat.calls[0].messages[-1].content


async def test_no_verdict_is_an_error_never_a_tie() -> None:
    with pytest.raises(ModelError):
        await pairwise(ScriptedChat("I like both."), QUESTION)


async def test_ratings_are_the_mean_of_the_samples() -> None:
    chat = ScriptedChat(['{"score": 7}', '{"score": 8}', '{"score": 9}'])
    assert await pointwise(chat, "q", "- r", "a") == Score(mean=8, votes=(7, 8, 9))


@pytest.mark.parametrize("wrong", ['{"score": 0}', '{"score": 11}', '{"score": 7.5}', '{"score": "8"}', "8"])
async def test_a_rating_outside_1_to_10_is_no_rating(wrong: str) -> None:
    with pytest.raises(ModelError, match="no valid rating"):
        await pointwise(ScriptedChat(wrong), "q", "- r", "a", samples=1)


def test_two_ratings_are_a_preference() -> None:
    low, high = Score(mean=3, votes=(3,)), Score(mean=7, votes=(7,))
    assert [by_scores(high, low), by_scores(low, high), by_scores(low, low)] == [1, 0, 0.5]


def test_a_good_judge_is_usable() -> None:
    found = calibrate([trial(1, 1)] * 9 + [trial(0, 0)] * 9 + [trial(1, 0)] * 2)
    assert found.agreement == pytest.approx(0.9)
    assert found.usable
    assert found.kappa == pytest.approx(0.8, abs=0.02)
    assert found.flips == 0
    assert "18 of 20 pairs and is undecided on 0" in found.told


@pytest.mark.parametrize(
    "trials",
    [[trial(1, 1)] * 6 + [trial(1, 0)] * 5, [trial(1, 0.5)] * 50, [trial(0, 1)] * 20, [trial(1, 1)] * 4, []],
    ids=["chance", "always a tie", "always wrong", "too few", "none"],
)  # fmt: skip
def test_a_judge_no_better_than_chance_is_not(trials: list[Trial]) -> None:
    found = calibrate(trials)
    assert not found.usable
    assert "chance" in found.told or "none of 0" in found.told


def test_where_people_always_say_the_same_there_is_no_kappa() -> None:
    for judged in ([1.0] * 9, [1.0] * 5 + [0.0] * 4):
        assert calibrate([trial(1, each) for each in judged]).kappa is None
    assert calibrate([trial(1, 1), trial(0, 0)] * 5).kappa == 1.0


def test_a_love_of_length_shows_beside_that_of_people() -> None:
    trials = [trial(1, 0, (10, 90)), trial(0, 0, (10, 90)), trial(1, 1, (90, 10)), trial(1, 0, (10, 90))]
    found = calibrate(trials)
    assert (found.longer_judge, found.longer_human) == (1.0, 0.5)


def test_a_love_of_its_own_answers_shows() -> None:
    trials = [trial(0, 1, writer="first"), trial(1, 0, writer="second"), trial(1, 1), trial(1, 1, writer="first")]
    found = calibrate(trials)
    assert (found.own_judge, found.own_human) == (1.0, pytest.approx(1 / 3))


def test_flips_are_counted_over_samples() -> None:
    twice = Preference(share=0.5, votes=(1, 0, 1, 0), flips=2, samples=2)
    found = calibrate([Trial(human=1, judged=twice, lengths=(1, 2)), trial(1, 1)])
    assert found.flips == pytest.approx(2 / 3)
    assert found.ties == 0.5


SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), SHARES), max_size=30))
def test_every_number_is_a_share_and_swapping_sides_changes_nothing(rows: list[tuple[float, float]]) -> None:
    found = calibrate([trial(human, judged, (1, 2)) for human, judged in rows])
    swapped = calibrate([trial(1 - human, 1 - judged, (2, 1)) for human, judged in rows])
    for name in Calibration.__slots__:
        ours, theirs = getattr(found, name), getattr(swapped, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs)
        assert ours is None or name in ("trials", "decided", "verdicts") or -1 <= ours <= 1
