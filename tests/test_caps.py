"""What one user may teach a cluster."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.config_trust import TrustSettings
from logtune.stages.caps import allowed, over_cap

CAPS = TrustSettings()


def test_a_loud_user_is_capped_at_so_many_times_the_typical() -> None:
    assert allowed({"loud": 50, **{f"u{n}": 2 for n in range(30)}}, CAPS)["loud"] == 6


def test_nobody_gives_more_than_all_others_together() -> None:
    assert allowed({"a": 40, "b": 10, "c": 5}, CAPS) == {"a": 15, "b": 10, "c": 5}


def test_a_few_are_always_allowed() -> None:
    assert allowed({"a": 5, "b": 1}, CAPS) == {"a": 3, "b": 1}


def test_where_one_user_is_alone_nothing_is_cut() -> None:
    assert allowed({"a": 1000}, CAPS) == {"a": 1000}
    assert allowed({}, CAPS) == {}


def test_ten_colleagues_who_all_say_much_keep_everything() -> None:
    counts = {f"u{n}": 200 for n in range(10)}
    assert allowed(counts, CAPS) == counts


def test_newer_pairs_stay() -> None:
    owners = {f"p{n}": "loud" for n in range(6)} | {"q": "other"}
    said_at = {name: float(name[1:] or 0) for name in owners}
    assert over_cap(owners, said_at, CAPS) == {"p0", "p1", "p2"}


COUNTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 300), max_size=12)


@given(COUNTS)
def test_the_caps_hold(counts: dict[str, int]) -> None:
    most = allowed(counts, CAPS)
    assert most.keys() == counts.keys()
    for user, limit in most.items():
        assert min(counts[user], CAPS.always_allowed) <= limit <= counts[user]
        if len(counts) > 1 and limit > CAPS.always_allowed:
            assert limit <= sum(counts.values()) - counts[user]


@given(COUNTS, st.integers(1, 200))
def test_saying_more_never_lets_a_user_teach_more_than_the_others_allow(counts: dict[str, int], more: int) -> None:
    if len(counts) < 4:
        return
    loud = min(counts)
    before, after = allowed(counts, CAPS), allowed({**counts, loud: counts[loud] + more}, CAPS)
    typical = sorted(count for user, count in counts.items() if user != loud)[len(counts) // 2]
    assert after[loud] <= max(CAPS.always_allowed, CAPS.most_of_typical * typical, before[loud])
    assert all(after[user] >= before[user] for user in counts if user != loud)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e9)), max_size=40))
def test_what_is_cut_is_what_is_beyond_the_cap_and_older(rows: list[tuple[str, float]]) -> None:
    owners = {f"p{n}": user for n, (user, _) in enumerate(rows)}
    said_at = {f"p{n}": at for n, (_, at) in enumerate(rows)}
    cut = over_cap(owners, said_at, CAPS)
    left = Counter(user for name, user in owners.items() if name not in cut)
    assert left == Counter({user: n for user, n in allowed(Counter(owners.values()), CAPS).items() if n})
    for name in cut:
        kept = [said_at[other] for other, user in owners.items() if user == owners[name] and other not in cut]
        assert all(said_at[name] <= at for at in kept)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_share_of_a_cluster(share: float) -> None:
    limit = allowed({"a": 1000, "b": 30, "c": 30}, TrustSettings(most_of_cluster=share, most_of_typical=1000))["a"]
    assert limit / (limit + 60) <= share + 1e-9
