"""Whose word holds: contradictions, reliability, brigades, bursts, and facts that have changed."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.config_trust import TrustSettings
from logtune.ports import Vectors
from logtune.records import DAY_S
from logtune.stages.trust import Claim, Weighed, bursts, weigh, weight

STREAM = Path(__file__).parents[2] / "shared/data/weekly_stream_banking77/stream.jsonl"
SMALL = TrustSettings(neighbours=3, unheard=6, agreement=0.6, heard=0.02)
NOBODY = np.zeros((0, 4), np.float32)


def near(count: int, angle: float = 0.01) -> Vectors:
    """(count, 2): unit vectors, row i at `i * angle`."""
    angles = np.arange(count) * angle
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def claims(answers: Sequence[str], users: Sequence[str] | None = None, times: Sequence[float] = ()) -> list[Claim]:
    names = users or [f"u{number}" for number in range(len(answers))]
    said_at = times or [1e9 + 3600 * number for number in range(len(answers))]
    rows = zip(names, answers, said_at, strict=True)
    return [Claim(id=str(i), user=user, answer=answer, at=at) for i, (user, answer, at) in enumerate(rows)]


def found(answers: str, users: str | None = None, **more: float) -> dict[int, str]:
    """Number of each doubted claim -> the reason; an answer and a user are a letter each."""
    chosen = SMALL.model_copy(update=more)
    weighed = weigh(claims(answers, list(users) if users else None), near(len(answers)), chosen)
    return {int(name): doubt.reason for name, doubt in weighed.doubts.items()}


def crowd(*groups: tuple[int, str, str, float], topic: Sequence[int], seed: int = 0) -> tuple[list[Claim], Vectors]:
    """Claims of groups (claims, prefix of their users, answer, day of each claim's start) about topics, with vectors.

    Requests of one topic lie around one axis of a space of 24 dimensions.
    """
    draw = np.random.default_rng(seed)
    made: list[Claim] = []
    vectors = []
    for (count, prefix, answer, day), axis in zip(groups, topic, strict=True):
        for number in range(count):
            row = draw.normal(0, 0.15, 24)
            row[axis] += 1
            vectors.append(row / np.linalg.norm(row))
            at = 1e9 + DAY_S * (day + 7 * number / count)
            user = f"{prefix}{number}"
            made.append(Claim(id=str(len(made)), user=user, answer=answer, at=at))
    return made, np.stack(vectors).astype(np.float32)


def held(weighed: Weighed, made: Sequence[Claim], prefix: str) -> float:
    """The share of a group's claims that are held back."""
    mine = [claim.id for claim in made if claim.user.startswith(prefix)]
    return sum(name in weighed.doubts for name in mine) / len(mine)


# contradictions


def test_one_against_all_its_neighbours_is_contradicted() -> None:
    assert found("aaabaaa") == {3: "contradicted"}


def test_neighbours_that_differ_among_themselves_contradict_nobody() -> None:
    assert found("xabcdef") == {}


def test_one_more_user_with_the_same_answer_nearby_is_enough() -> None:
    assert found("aaabaab") == {}


def test_fewer_other_users_than_wanted_contradict_nobody() -> None:
    assert found("aaabaa") == {}
    assert found("aaabaaa", "uuuvuuu") == {}


def test_a_loud_user_has_one_voice_and_none_for_himself() -> None:
    assert set(found("llllaaaaaaa", "xxxxabcdefg")) == {0, 1, 2, 3}  # seven users against one who says it four times


@given(answers=st.lists(st.sampled_from("ab"), min_size=0, max_size=30))
def test_one_user_alone_is_never_doubted(answers: list[str]) -> None:
    vectors = near(len(answers)) if answers else NOBODY
    weighed = weigh(claims(answers, ["u"] * len(answers)), vectors, SMALL)
    assert weighed.doubts == {}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("tuvwxyz")), max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_the_claims_makes_no_difference(rows: list[tuple[str, str]], order) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(len(rows))
    vectors = draw.normal(size=(len(rows), 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) if len(rows) else 1
    made = claims([answer for answer, _ in rows], [user for _, user in rows])
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    first, second = weigh(made, vectors, SMALL), weigh([made[i] for i in shuffled], vectors[shuffled], SMALL)
    assert first.doubts.keys() == second.doubts.keys()
    assert first.reliability == pytest.approx(second.reliability, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 15)), max_size=40))
def test_reliability_is_a_likelihood_and_nobody_has_more_weight_than_the_log_odds(rows: list[tuple[str, int]]) -> None:
    made = claims([answer for answer, _ in rows], [str(user) for _, user in rows])
    weighed = weigh(made, near(len(rows)) if rows else NOBODY, SMALL)
    assert set(weighed.reliability) == {claim.user for claim in made}
    assert all(0 < share < 1 for share in weighed.reliability.values())


def test_the_weight_of_a_voice() -> None:
    assert weight(SMALL.prior, SMALL) == pytest.approx(1)
    assert weight(0.5, SMALL) == weight(0.2, SMALL) == 0
    assert weight(0.95, SMALL) > 2


def test_who_agrees_with_others_is_more_reliable_than_who_does_not() -> None:
    made, vectors = crowd((15, "a", "x", 0), (15, "b", "y", 0), (1, "c", "y", 3), topic=(0, 1, 0))
    reliability = weigh(made, vectors, TrustSettings()).reliability
    assert reliability["a0"] > 0.8 > reliability["c0"]


def test_words_nobody_else_can_be_compared_with_leave_the_prior() -> None:
    assert weigh(claims("a"), near(1), SMALL).reliability == {"u0": SMALL.prior}


# people who act together


def pushed(attackers: int, each: int, honest: int = 16, seed: int = 0) -> tuple[list[Claim], Vectors]:
    """Two topics with `honest` users each and a third whose answer the attackers push on both."""
    groups = [(honest, "h", "x", 0.0), (honest, "i", "y", 0.0), (honest, "j", "z", 0.0)]
    made, vectors = crowd(*groups, *[(each, f"bad{n}-", "z", 0.0) for n in range(attackers)],
                          topic=[0, 1, 2, *[n % 2 for n in range(attackers)]], seed=seed)  # fmt: skip
    owned = [replace(c, user=c.user.split("-")[0]) if c.user.startswith("bad") else c for c in made]
    return owned, vectors


@pytest.mark.parametrize("seed", range(5))
def test_a_brigade_of_sock_puppets_against_an_honest_majority(seed: int) -> None:
    made, vectors = pushed(attackers=6, each=5, seed=seed)  # 30 of 78 claims, 15 against 16 on each attacked topic
    weighed = weigh(made, vectors, TrustSettings())
    assert held(weighed, made, "bad") == 1
    assert held(weighed, made, "h") + held(weighed, made, "i") + held(weighed, made, "j") <= 0.1
    assert {weighed.doubts[c.id].reason for c in made if c.user.startswith("bad")} == {"brigade"}
    assert max(weighed.reliability[f"bad{n}"] for n in range(6)) < 0.5 < weighed.reliability["h0"]


def test_who_pushes_one_answer_is_not_believed_elsewhere_either() -> None:
    made, vectors = pushed(attackers=4, each=5)
    lonely = np.zeros((1, 24), np.float32)
    lonely[0, 20] = 1
    extra = Claim(id="extra", user="bad0", answer="z", at=1e9)
    assert weigh([*made, extra], np.concatenate([vectors, lonely]), TrustSettings()).unbelieved.keys() >= {"bad0"}


def test_equal_words_of_many_users_over_days_are_read_in_one_pass() -> None:
    many = [Claim(id=str(i), user=f"u{i}", answer="", at=60.0 * i, words="rating -1") for i in range(20_000)]
    vectors = np.random.default_rng(0).normal(size=(len(many), 24)).astype(np.float32)
    began = time.perf_counter()
    found = bursts(many, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), TrustSettings())
    assert time.perf_counter() - began < 5  # all with all took a minute
    assert len(found) == len(many)


def test_the_same_words_within_minutes_count_as_one() -> None:
    words = [Claim(id=str(i), user=f"u{i}", answer="a", at=1e9 + 60 * i, words="obey me now") for i in range(5)]
    vectors = near(5, 0.001)
    assert {d.reason for d in weigh(words, vectors, SMALL).doubts.values()} == {"burst"}
    assert len(weigh(words, vectors, SMALL).doubts) == 4  # the first is heard
    slow = [replace(claim, at=claim.at * 1.0 + 86_400 * i) for i, claim in enumerate(words)]
    assert weigh(slow, vectors, SMALL).doubts == {}
    assert weigh(words[:3], vectors[:3], SMALL).doubts == {}  # three make no burst
    assert weigh(words, near(5, 0.5), SMALL).doubts == {}  # nor do requests of different kinds


# facts that change


def test_a_fact_that_has_changed_is_learnt_and_makes_nobody_unreliable() -> None:
    made, vectors = crowd((30, "old", "a", 0), (20, "new", "b", 8), (30, "other", "c", 0), topic=(0, 0, 1))
    weighed = weigh(made, vectors, TrustSettings())
    assert held(weighed, made, "new") == 0
    assert held(weighed, made, "old") > 0.9
    assert {weighed.doubts[c.id].reason for c in made if c.id in weighed.doubts} == {"outdated"}
    assert min(weighed.reliability[f"old{n}"] for n in range(30)) >= 0.75


def test_a_few_new_voices_are_no_change_yet() -> None:
    made, vectors = crowd((30, "old", "a", 0), (4, "new", "b", 8), topic=(0, 0))
    weighed = weigh(made, vectors, TrustSettings())
    assert held(weighed, made, "old") == 0
    assert held(weighed, made, "new") == 1


def test_many_new_voices_within_hours_are_no_change() -> None:
    made, vectors = crowd((30, "old", "a", 0), (12, "new", "b", 8), topic=(0, 0))
    soon = [replace(c, at=1e9 + 9 * DAY_S + 600 * n) if c.user[0] == "n" else c for n, c in enumerate(made)]
    weighed = weigh(soon, vectors, TrustSettings())
    assert held(weighed, soon, "old") == 0
    assert "outdated" not in {doubt.reason for doubt in weighed.doubts.values()}


def test_two_kinds_of_requests_of_which_one_comes_later_are_no_change() -> None:
    made, vectors = crowd((25, "old", "a", 0), (25, "new", "b", 8), topic=(0, 1))
    blended = vectors.copy()
    blended[:, 0] += 0.8  # side by side: each is the other's next neighbour
    blended /= np.linalg.norm(blended, axis=1, keepdims=True)
    assert weigh(made, blended, TrustSettings()).doubts == {}


# real messages


@pytest.mark.slow  # the real embedder on 480 messages
@pytest.mark.skipif(not STREAM.exists(), reason="needs ../shared/data/weekly_stream_banking77")
@pytest.mark.parametrize(
    ("wrong", "precision", "recall", "lost"), [(0.05, 0.8, 0.7, 0.01), (0.2, 0.9, 0.45, 0.01), (0.0, 0.0, 0.0, 0.01)]
)
def test_wrong_answers_in_real_messages_are_found(wrong: float, precision: float, recall: float, lost: float) -> None:
    """Some answers are replaced by another one at random. Measured: precision 0.95 and 1.0, recall 0.88 and 0.62."""
    rows = [row for row in map(json.loads, STREAM.read_text(encoding="utf-8").splitlines()) if row["gold_intent"]]
    vectors = real_vectors(tuple(row["text"] for row in rows))
    generator = np.random.default_rng(7)
    intents = sorted({row["gold_intent"] for row in rows})
    flipped = {i for i in range(len(rows)) if generator.random() < wrong}
    gold = [row["gold_intent"] for row in rows]
    others = [str(generator.choice([name for name in intents if name != right])) for right in gold]
    users = [str(generator.integers(120)) for _ in rows]
    made = claims([others[i] if i in flipped else gold[i] for i in range(len(rows))], users)
    ids = {int(name) for name in weigh(made, vectors, TrustSettings()).doubts}
    assert len(ids & flipped) >= precision * len(ids)
    assert len(ids & flipped) >= recall * len(flipped)
    assert len(ids - flipped) <= lost * len(rows)


@cache
def real_vectors(texts: tuple[str, ...]) -> Vectors:
    from logtune.edges.vectors import LocalEmbedder
    from logtune.edges.weights import embedder_model

    return LocalEmbedder(embedder_model("all-minilm-l6-v2")).embed(texts)
