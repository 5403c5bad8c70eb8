"""How units are run: a window that moves on, commits of what is done, failures by item, a budget that stops."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from logtune.config import Config
from logtune.errors import BudgetSpent, ModelError
from logtune.ids import identified
from logtune.records import Decision, Derived, Failure
from logtune.runner import Board, Cycle, Stage, Unit, run_stage
from logtune.testing import ScriptedChat, tools

Work = Callable[[int], Awaitable[None]]


def decision(number: int) -> Decision:
    return identified(Decision(id="", interaction_id=f"int-{number}", teaches="nothing", reason="duplicate", scores={}))


class Kept:
    """The commits of a stage, in order."""

    def __init__(self) -> None:
        self.commits: list[list[tuple[str, Sequence[Derived]]]] = []

    def __call__(self, stage: str, done: Sequence[tuple[str, Sequence[Derived]]]) -> None:
        if done:
            self.commits.append(list(done))

    @property
    def ids(self) -> set[str]:
        return {row.interaction_id for done in self.commits for _, rows in done for row in rows
                if isinstance(row, Decision)}  # fmt: skip


def stage_of(count: int, act: Work, together: int) -> Stage:
    def phase(cycle: Cycle) -> list[Unit]:
        def unit(number: int) -> Unit:
            async def work() -> Sequence[Derived]:
                await act(number)
                return [decision(number)]

            return Unit((f"int-{number}",), work)

        return [unit(number) for number in range(count)]

    return Stage(name="s", version="1", reads=(), writes=(Decision,), settings=lambda c: (), phases=(phase,),
                 together=together)  # fmt: skip


def cycle() -> Cycle:
    return Cycle(id="cyc-1", config=Config(), tools=tools(ScriptedChat()), board=Board(), logs={}, feedback={},
                 serving={}, before={}, progress=lambda line: None)  # fmt: skip


async def test_a_slow_unit_holds_up_no_other_and_no_more_run_than_allowed() -> None:
    last_ran, running, most, kept, made = asyncio.Event(), 0, 0, Kept(), cycle()

    async def act(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await (last_ran.wait() if number == 0 else asyncio.sleep(0))
        running -= 1
        if number == 19:
            last_ran.set()

    counts = await run_stage(stage_of(20, act, 4), made, lambda name, keys: {}, kept)
    assert counts.done == 20
    assert most == 4
    assert all(len(done) >= 4 for done in kept.commits[:-1])
    assert [row.interaction_id for row in made.board.all(Decision)] == [f"int-{n}" for n in range(20)]


async def test_failures_stay_with_their_items_in_order() -> None:
    async def act(number: int) -> None:
        if number in (3, 11):
            raise ModelError(f"no answer {number}")

    kept, made = Kept(), cycle()
    counts = await run_stage(stage_of(12, act, 4), made, lambda name, keys: {}, kept)
    assert (counts.done, counts.failed, counts.reasons) == (10, 2, ("no answer 3", "no answer 11"))
    assert [failure.record_id for failure in made.board.all(Failure)] == ["int-3", "int-11"]
    keys = [key for done in kept.commits for key, rows in done if isinstance(rows[0], Failure)]
    assert len(keys) == 2
    assert all(key.endswith("-cyc-1") for key in keys)


async def test_a_spent_budget_lets_what_runs_finish_keeps_it_and_begins_nothing_more() -> None:
    begun: list[int] = []

    async def act(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 1:
            raise BudgetSpent("the budget is spent")

    kept = Kept()
    with pytest.raises(BudgetSpent):
        await run_stage(stage_of(50, act, 4), cycle(), lambda name, keys: {}, kept)
    assert len(begun) < 12
    assert kept.ids == {f"int-{number}" for number in begun if number != 1}


async def test_what_is_done_is_kept_when_the_stage_is_stopped() -> None:
    stuck = asyncio.Event()

    async def act(number: int) -> None:
        if number >= 2:
            stuck.set()
            await asyncio.Event().wait()

    kept = Kept()
    task = asyncio.create_task(run_stage(stage_of(8, act, 4), cycle(), lambda name, keys: {}, kept))
    await stuck.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept.ids == {"int-0", "int-1"}
