"""Which answer a request borrows from those around it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.ports import Vectors
from logtune.stages.borrowed import Told, borrow


def vectors(*degrees: float) -> Vectors:
    """(N, 2): directions of length 1."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# two topics, a right angle apart, six people each
AT = [0, 1, 2, 3, 4, 5, 85, 86, 87, 88, 89, 90]
TOLD = [Told(id=f"i{n}", user=f"ann-{n}", answer="refund" if n < 6 else "parcel") for n in range(12)]


def borrowed(degree: float, user: str = "eve", told: list[Told] = TOLD, precision: float = 0.9) -> str | None:
    loan = borrow(vectors(degree), [user], told, vectors(*AT[: len(told)]), precision)[0]
    return None if loan is None else told[loan.told[0]].answer


def test_a_request_borrows_what_those_around_it_have_in_common() -> None:
    assert borrowed(3.5) == "refund"
    assert borrowed(86.5) == "parcel"


def test_the_lenders_are_named_nearest_first() -> None:
    loan = borrow(vectors(-10), ["eve"], TOLD, vectors(*AT), 0.9)[0]
    assert loan is not None
    assert loan.told == (0, 1, 2)


def test_between_two_answers_nothing_is_borrowed() -> None:
    told = [*TOLD, Told(id="x", user="x", answer="parcel")]  # one mistaken word among the refunds
    at = vectors(*AT, 2.5)
    assert borrow(vectors(2.4), ["eve"], told, at, 0.9) == [None]


def test_nobody_borrows_from_themselves() -> None:
    alone = [Told(id=f"i{n}", user="ann" if n < 6 else f"bob-{n}", answer=t.answer) for n, t in enumerate(TOLD)]
    assert borrowed(2, user="ann", told=alone) != "refund"


def test_one_person_alone_is_not_enough() -> None:
    alone = [Told(id=f"i{n}", user="ann" if n < 6 else f"bob-{n}", answer=t.answer) for n, t in enumerate(TOLD)]
    assert borrowed(2, told=alone) is None


def test_where_neighbours_do_not_find_each_others_answers_nothing_is_borrowed() -> None:
    mixed = [Told(id=f"i{n}", user=f"ann-{n}", answer="refund" if n % 2 else "parcel") for n in range(12)]
    assert borrowed(2, told=mixed) is None


def test_nobody_borrows_from_those_who_are_not_believed() -> None:
    doubted = [Told(id=t.id, user=t.user, answer=t.answer, believed=t.id not in {"i0", "i1", "i2"}) for t in TOLD]
    loan = borrow(vectors(-10), ["eve"], doubted, vectors(*AT), 0.9)[0]
    assert loan is not None
    assert loan.told == (3, 4, 5)


def test_those_who_are_not_believed_show_where_neighbours_disagree() -> None:
    doubted = [Told(id=f"d{n}", user=f"d{n}", answer="parcel", believed=False) for n in range(6)]
    at = vectors(*AT, 0, 1, 2, 3, 4, 5)
    assert borrow(vectors(2), ["eve"], [*TOLD, *doubted], at, 0.9) == [None]
    assert borrow(vectors(2), ["eve"], [*TOLD, *doubted], at, 0.6) != [None]


def test_few_told_requests_show_nothing_about_what_is_near() -> None:
    assert borrowed(2, told=TOLD[:9]) is None


def test_where_all_say_the_same_nothing_shows_where_it_ends() -> None:
    same = [Told(id=t.id, user=t.user, answer="refund") for t in TOLD]
    assert borrowed(45, told=same) is None


def test_with_nothing_told_nothing_is_borrowed() -> None:
    assert borrow(vectors(1, 2), ["a", "b"], [], np.zeros((0, 2), dtype=np.float32), 0.9) == [None, None]


@settings(deadline=None)
@given(
    at=st.lists(st.tuples(st.integers(0, 359), st.integers(0, 6), st.sampled_from("abc")), max_size=40),
    asked=st.lists(st.tuples(st.integers(0, 359), st.integers(0, 6)), max_size=5),
    precision=st.floats(0, 1),
)
def test_a_loan_is_of_one_answer_by_two_other_users(
    at: list[tuple[int, int, str]], asked: list[tuple[int, int]], precision: float
) -> None:
    told = [Told(id=str(n), user=str(user), answer=answer) for n, (_, user, answer) in enumerate(at)]
    users = [str(user) for _, user in asked]
    loans = borrow(vectors(*(d for d, _ in asked)), users, told, vectors(*(d for d, *_ in at)), precision)
    assert len(loans) == len(asked)
    for user, loan in zip(users, loans, strict=True):
        if loan is not None:
            assert len({told[row].answer for row in loan.told}) == 1
            assert len({told[row].user for row in loan.told} - {user}) == len(loan.told) >= 2
            assert loan.margin >= -1e-6
