"""The draw of new users: votes spread over right answers, without a favour to any of them."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.config import EvaluateSettings
from logtune.records import Interaction
from logtune.stages import held_out
from logtune.stages.held_out import evenest, split
from logtune.statistics import unit_of

SETTINGS = EvaluateSettings(selection_share=0.05, confirmation_share=0.3)


def asked(user: str) -> Interaction:
    return Interaction(
        id=f"int-{user}", log_id=f"log-{user}", context=(), query="where is it", answer="no idea", follow_ups=(),
        feedback_ids=(), user=user, session=None, adapter=None, at=1.0,
    )  # fmt: skip


def drawn(wanted: Mapping[str, str], draw: int, salt: str = "x") -> dict[str, list[str]]:
    """Side -> the right answers of those who are on it; `wanted`: user -> right answer."""
    parts = split([asked(user) for user in wanted], SETTINGS, salt, draw=draw)
    sides = {"train": parts.train, "selection": parts.selection, "confirmation": parts.confirmation}
    return {name: [wanted[str(item.user)] for item in items] for name, items in sides.items()}


def best(wanted: Mapping[str, str], salt: str = "x") -> int:
    return evenest({unit_of(user, None, ""): answer for user, answer in wanted.items()}, SETTINGS, salt)


@pytest.mark.parametrize("salt", ["x", "y", "z"])
def test_every_answer_is_learned_and_voted_on_in_its_share(salt: str) -> None:
    wanted = {f"user-{number}": f"answer-{number % 12}" for number in range(60)}
    sides = drawn(wanted, best(wanted, salt), salt)
    votes = Counter(sides["confirmation"])
    assert len(sides["confirmation"]) == pytest.approx(0.3 * 60, abs=3)
    assert set(sides["train"]) == set(wanted.values())
    assert max(votes.values()) <= 3, "nobody's answer is with the voters alone"
    assert len(votes) >= 10
    assert sides["selection"]


def test_by_chance_alone_some_answers_have_only_votes() -> None:
    """What the draw is for: with four users an answer, one draw in five leaves one without a learner."""
    wanted = {f"user-{number}": f"answer-{number % 15}" for number in range(60)}
    unlearned = [15 - len(set(drawn(wanted, draw)["train"])) for draw in range(60)]
    assert sum(map(bool, unlearned)) >= 8
    assert set(drawn(wanted, best(wanted))["train"]) == set(wanted.values())


def test_what_is_rare_votes_as_often_as_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_DRAWS", 60)
    wanted = {f"user-{number}": f"common-{number % 3}" if number < 12 else f"rare-{number}" for number in range(24)}
    votes = Counter(
        answer.partition("-")[0]
        for salt in map(str, range(150))
        for answer in drawn(wanted, best(wanted, salt), salt)["confirmation"]
    )
    assert votes["rare"] / (12 * 150) == pytest.approx(0.3, abs=0.05)
    assert votes["common"] / (12 * 150) == pytest.approx(0.3, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.sampled_from(["a", "b", ""]), max_size=8))
def test_the_draw_depends_on_users_and_answers_alone(wanted: dict[str, str]) -> None:
    found = evenest(wanted, SETTINGS, "x")
    assert found == evenest(dict(reversed(wanted.items())), SETTINGS, "x")
    assert 0 <= found < held_out.MOST_DRAWS


def test_without_new_users_or_without_votes_there_is_nothing_to_draw() -> None:
    assert evenest({}, SETTINGS, "x") == 0
    assert evenest({"user:a": "b"}, EvaluateSettings(confirmation_share=0.0, selection_share=0.0), "x") == 0
