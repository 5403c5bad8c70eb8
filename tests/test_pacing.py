"""A busy server is asked less at once, and failing ones are not asked again by everybody."""

import asyncio

import pytest

from logtune.edges.pacing import REPEATS_AT_FIRST, Pace, RepeatBudget


async def test_no_more_than_the_limit_are_under_way_and_the_first_to_come_is_the_first_to_go() -> None:
    pace, order, most = Pace(2), list[int](), 0

    async def one(number: int) -> None:
        nonlocal most
        async with pace.place():
            order.append(number)
            most = max(most, pace.running)
            await asyncio.sleep(0)

    await asyncio.gather(*map(one, range(9)))
    assert order == list(range(9))
    assert most == 2
    assert pace.running == 0


async def test_busy_halves_the_limit_once_for_calls_begun_together() -> None:
    pace = Pace(16)
    for _ in range(16):
        pace.busy(0)
    assert pace.limit == 8
    async with pace.place() as since:
        pace.busy(since)
    assert pace.limit == 4


async def test_the_limit_never_falls_below_one_and_grows_by_one_a_round_up_to_the_most() -> None:
    pace = Pace(4)
    for _ in range(9):
        async with pace.place() as since:
            pace.busy(since)
    assert pace.limit == 1
    pace.answered()
    assert pace.limit == 2
    pace.answered()
    pace.answered()
    assert 2.9 <= pace.limit <= 3
    for _ in range(99):
        pace.answered()
    assert pace.limit == 4


async def test_a_waiting_call_that_is_given_up_costs_no_place() -> None:
    pace = Pace(1)
    ready, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with pace.place():
            ready.set()
            await leave.wait()

    async def enter() -> None:
        async with pace.place():
            pass

    holder = asyncio.create_task(hold())
    await ready.wait()
    waiting = [asyncio.create_task(enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    leave.set()
    await asyncio.sleep(0)
    waiting[1].cancel()  # perhaps just as it gets its place
    await asyncio.gather(holder, *waiting, return_exceptions=True)
    assert pace.running == 0
    await enter()


async def test_an_error_inside_gives_the_place_back() -> None:
    pace = Pace(1)
    with pytest.raises(ValueError, match="no"):
        async with pace.place():
            raise ValueError("no")
    assert pace.running == 0


def test_repeats_are_paid_by_answers() -> None:
    budget = RepeatBudget(2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.answered()
    assert budget.take()
    assert not budget.take()
    for _ in range(1000):
        budget.answered()
    assert budget.left == 2
    assert REPEATS_AT_FIRST >= 1
