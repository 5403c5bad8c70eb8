"""A chat model with a memory and a bill: what was asked before is not asked again, and nothing is spent unseen.

ChatCall -> the store's reply, else the model's (kept for the next time) -> ChatReply; Meter: calls, tokens, cost
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Generic, Protocol, TypeVar

from logtune.edges import schema
from logtune.edges.database import insert_new, pairs_in
from logtune.edges.store import Store
from logtune.errors import BudgetSpent, CallRejected, LogtuneError, ModelError
from logtune.ids import digest
from logtune.ports import Chat, ChatCall, ChatReply, Spent

Item = TypeVar("Item")
Made = TypeVar("Made")
KEPT = "what was done is kept; the next run goes on from there"
CUT = frozenset({"length", "content_filter"})  # finish reasons of replies that are not whole


class Meter:
    """Counts what is spent, and refuses the call that would go beyond the budget. Prices are for a million tokens."""

    def __init__(
        self, *, max_calls: int = 0, max_cost: float = 0.0, prompt_price: float = 0.0, completion_price: float = 0.0
    ) -> None:  # fmt: skip
        self._max_calls = max_calls  # 0: no limit
        self._max_cost = max_cost
        self._prices = prompt_price, completion_price
        self._spent: dict[str, Spent] = {}
        self._begun = 0
        self._reserved = 0.0  # what the calls under way may cost

    @property
    def spent(self) -> Mapping[str, Spent]:
        """What was spent, by purpose."""
        return dict(self._spent)

    @property
    def total(self) -> Spent:
        """What was spent in all."""
        return sum(self._spent.values(), Spent())

    def begin(self, call: ChatCall) -> None:
        """Before a call: BudgetSpent when it, and those under way, could cost more than is left."""
        if self._max_calls and self._begun >= self._max_calls:
            raise BudgetSpent(f"the budget of {self._max_calls} calls is spent", KEPT)
        possible = self.total.cost + self._reserved + self._at_most(call)
        if self._max_cost and possible > self._max_cost:
            raise BudgetSpent(
                f"the next call could bring the cost to {possible:.4f}, above the budget of {self._max_cost:g}", KEPT
            )
        self._begun += 1
        self._reserved += self._at_most(call)

    def end(self, call: ChatCall, spent: Spent) -> None:
        """After a call that was begun."""
        self._reserved -= self._at_most(call)
        self.note(call.purpose, spent)

    def note(self, purpose: str, spent: Spent) -> None:
        """Add to what a purpose has spent."""
        self._spent[purpose] = self._spent.get(purpose, Spent()) + spent

    def again(self, call: ChatCall, *, free: bool) -> None:
        """Before a call that was begun and failed is made again; `free`: the server never took it up."""
        self.begin(call)
        self.end(call, self.failed(call, free=free))

    def of(self, call: ChatCall, reply: ChatReply) -> Spent:
        """What a reply cost; as much as it can have where the server counts no tokens."""
        counted = reply.prompt_tokens or reply.completion_tokens
        return Spent(
            calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
            cost=self._cost(reply.prompt_tokens, reply.completion_tokens) if counted else self._at_most(call),
        )  # fmt: skip

    def failed(self, call: ChatCall, *, free: bool) -> Spent:
        """What a failed call cost, at most: what was generated until then is on the bill."""
        return Spent(calls=1, failed=1, cost=0.0 if free else self._at_most(call))

    def _at_most(self, call: ChatCall) -> float:
        """What a call may cost: a token has at least one byte."""
        return self._cost(sum(len(message.content.encode()) for message in call.messages), call.max_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / 1e6


class Replies(Protocol):
    """Where replies are kept, `ReplyMemory`."""

    def find(self, keys: Sequence[str]) -> list[ChatReply | None]:
        """The reply kept under each key."""
        ...

    def keep(self, replies: Sequence[tuple[str, ChatReply]]) -> None:
        """Keep (key, reply)*, in one transaction; the first one of a key stays."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Keep the replies under these keys no longer."""
        ...


class ReplyMemory:
    """Replies in the store. They may hold what users said, so erasing a user clears them all."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, keys: Sequence[str]) -> list[ChatReply | None]:
        """The reply kept under each key."""
        with self._store.transaction() as db:
            found = dict(pairs_in(db, schema.replies, ("key", "body"), list(dict.fromkeys(keys))))
        return [ChatReply(**json.loads(found[key])) if key in found else None for key in keys]

    def keep(self, replies: Sequence[tuple[str, ChatReply]]) -> None:
        """Keep (key, reply)*, in one transaction; the first one of a key stays."""
        now = time.time()
        rows = [
            {"key": key, "at": now, "body": schema.to_json(reply)} for key, reply in dict(reversed(replies)).items()
        ]
        with self._store.transaction(write=True) as db:
            insert_new(db, schema.replies, rows)

    def forget(self, keys: Sequence[str]) -> None:
        """Keep the replies under these keys no longer."""
        with self._store.transaction(write=True) as db:
            db.execute(schema.replies.delete().where(schema.replies.c.key.in_(list(keys))))

    def clear(self) -> int:
        """Forget every reply; returns how many there were."""
        with self._store.transaction(write=True) as db:
            return db.execute(schema.replies.delete()).rowcount


class MeteredChat:
    """`chat` with its calls counted, and refused beyond the budget."""

    def __init__(self, chat: Chat, meter: Meter) -> None:
        self._chat = chat
        self._meter = meter

    async def complete(self, call: ChatCall) -> ChatReply:
        """The reply; BudgetSpent instead of a call that may not be made."""
        self._meter.begin(call)
        spent = self._meter.failed(call, free=False)
        try:
            reply = await self._chat.complete(call)
            spent = self._meter.of(call, reply)
        except CallRejected:
            spent = self._meter.failed(call, free=True)
            raise
        finally:
            self._meter.end(call, spent)
        return reply


class Gathered(Generic[Item, Made]):
    """Does in one go, in a thread, what is asked for while the last go runs: many small transactions become one.

    `work`: N items -> N results, in order; an error of a go is everybody's who takes part in it.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Made]]) -> None:
        self._work = work
        self._waiting: list[tuple[Item, asyncio.Future[Made]]] = []
        self._goes: asyncio.Task[None] | None = None  # of the event loop that asked last

    async def do(self, item: Item) -> Made:
        """The result for one item."""
        future: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._goes is None or self._goes.done():
            self._goes = asyncio.create_task(self._go())
        return await future

    async def _go(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            work = asyncio.to_thread(self._work, [item for item, _ in batch])
            (results,) = await asyncio.gather(work, return_exceptions=True)
            for number, (_, future) in enumerate(batch):
                if future.done():  # given up
                    continue
                if isinstance(results, BaseException):
                    future.set_exception(results)
                else:
                    future.set_result(results[number])


class RememberedChat:
    """`chat` behind the memory; what is remembered is noted on the meter and costs nothing.

    `name` says whose replies they are: the endpoint and its model.
    """

    def __init__(self, chat: Chat, name: str, replies: Replies, meter: Meter) -> None:
        self._chat = chat
        self._name = name
        self._find = Gathered(replies.find)
        self._keep = Gathered(self._keep_all)
        self._replies = replies
        self._meter = meter
        self._under_way: dict[str, asyncio.Future[ChatReply]] = {}

    async def complete(self, call: ChatCall) -> ChatReply:
        """The reply; the same call made twice at the same moment reaches the model once."""
        key = key_of(self._name, call)
        if key in self._under_way:
            reply = await asyncio.shield(self._under_way[key])
            self._meter.note(call.purpose, Spent(remembered=1))
            return reply
        made: asyncio.Future[ChatReply] = asyncio.get_running_loop().create_future()
        self._under_way[key] = made
        try:
            reply = await self._found(key, call)
            made.set_result(reply)
        except BaseException as error:
            gone = ModelError("the call was given up by the one who made it")
            made.set_exception(error if isinstance(error, LogtuneError) else gone)
            made.exception()  # seen, also when nobody else waits
            raise
        finally:
            del self._under_way[key]
        return reply

    async def forget(self, calls: Sequence[ChatCall]) -> None:
        """The replies to these calls were of no use: make the calls again the next time."""
        await asyncio.to_thread(self._replies.forget, [key_of(self._name, call) for call in calls])

    async def _found(self, key: str, call: ChatCall) -> ChatReply:
        known = await self._find.do(key)
        if known is not None:
            self._meter.note(call.purpose, Spent(remembered=1))
            return known
        reply = await self._chat.complete(call)
        if call.schema is None or reply.finish_reason not in CUT:  # JSON that was cut off is none
            await self._keep.do((key, reply))
        return reply

    def _keep_all(self, replies: Sequence[tuple[str, ChatReply]]) -> list[None]:
        self._replies.keep(replies)
        return [None] * len(replies)


def key_of(name: str, call: ChatCall) -> str:
    """The hash under which a reply is kept: of the model, the messages and the settings, not of the purpose."""
    asked = {name: value for name, value in asdict(replace(call, purpose="")).items() if name != "weighed" or value}
    return digest([name, asked], 32)
