"""A bad answer is looked into: how many are asked, when, and by whom."""

import asyncio

from logtune.app.exchange import Exchange, begin
from logtune.app.inquiry import PAUSE_S, QUESTIONS, Inquiry


def answered(error: str | None = None) -> Exchange:
    exchange = begin(b'{"messages": []}', {})
    exchange.error = error
    return exchange


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_only_an_open_inquiry_asks_and_only_what_the_base_answered() -> None:
    async def told() -> tuple[int, int, int]:
        asked: list[Exchange] = []

        async def unseen(exchange: Exchange) -> Exchange | None:
            asked.append(exchange)
            return exchange

        inquiry = Inquiry(unseen)
        inquiry.note(answered())
        await settled()
        before = len(asked)
        inquiry.open(0.0)
        for _ in range(2 * QUESTIONS):
            inquiry.note(answered("the model server answered 500"))
            inquiry.note(answered())
        await settled()
        return before, len(asked), len(inquiry.answers)

    assert asyncio.run(told()) == (0, QUESTIONS, QUESTIONS)


def test_the_next_inquiry_waits_and_forgets_the_last_one() -> None:
    async def told() -> list[int]:
        async def unseen(exchange: Exchange) -> Exchange | None:
            return exchange

        inquiry, found = Inquiry(unseen), []
        for now in (0.0, PAUSE_S / 2, PAUSE_S):
            inquiry.open(now)
            inquiry.note(answered())
            await settled()
            found.append(len(inquiry.answers))
        return found

    assert asyncio.run(told()) == [1, 2, 1]


def test_an_inquiry_waits_for_answers_that_are_slow() -> None:
    async def told() -> list[int]:
        late, found = asyncio.Event(), []

        async def unseen(exchange: Exchange) -> Exchange | None:
            await late.wait()
            return exchange

        inquiry = Inquiry(unseen)
        inquiry.open(0.0)
        for _ in range(QUESTIONS):
            inquiry.note(answered())
        await settled()
        inquiry.open(2 * PAUSE_S)
        late.set()
        await settled()
        found.append(len(inquiry.answers))
        inquiry.open(2 * PAUSE_S)
        found.append(len(inquiry.answers))
        return found

    assert asyncio.run(told()) == [QUESTIONS, 0]


def test_a_candidate_that_cannot_be_asked_says_nothing() -> None:
    async def told() -> int:
        async def unseen(exchange: Exchange) -> Exchange | None:
            if exchange.body["messages"] == []:
                raise RuntimeError("no journal")
            return None

        inquiry = Inquiry(unseen)
        inquiry.open(0.0)
        inquiry.note(answered())
        inquiry.note(begin(b'{"messages": [1]}', {}))
        await settled()
        inquiry.close()
        return len(inquiry.answers)

    assert asyncio.run(told()) == 0
