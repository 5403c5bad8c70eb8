"""What was asked before is not asked again, and nothing is spent beyond the budget."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from logtune.edges.replies import Gathered, Meter, MeteredChat, RememberedChat, ReplyMemory, key_of
from logtune.edges.store import Store
from logtune.errors import BudgetSpent, ModelError
from logtune.ports import Chat, ChatCall, ChatReply, Spent
from logtune.records import Json, Message
from logtune.stages.asking import Better, ask
from logtune.testing import ScriptedChat


def call(text: str = "hello", **fields: object) -> ChatCall:
    return replace(ChatCall(messages=(Message(role="user", content=text),), max_tokens=10), **fields)


class Held:
    """Answers once `go` is set."""

    def __init__(self, chat: ScriptedChat) -> None:
        self.chat = chat
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def complete(self, call: ChatCall) -> ChatReply:
        self.begun.set()
        await self.go.wait()
        return await self.chat.complete(call)


def remembered_by(memory: ReplyMemory, chat: Chat, meter: Meter, name: str = "m") -> RememberedChat:
    return RememberedChat(MeteredChat(chat, meter), name, memory, meter)


@pytest.fixture
def memory(tmp_path: Path) -> ReplyMemory:
    return ReplyMemory(Store(f"sqlite:///{tmp_path / 'store.db'}"))


async def test_a_call_made_again_reaches_no_model(memory: ReplyMemory) -> None:
    first, second = ScriptedChat("fine"), ScriptedChat("never")
    meter = Meter()
    made = await remembered_by(memory, first, meter, "http://a|m").complete(call(purpose="judge"))
    again = await remembered_by(memory, second, meter, "http://a|m").complete(call(purpose="judge"))
    assert again == made == ChatReply(text="fine", prompt_tokens=1, completion_tokens=1)
    assert second.calls == []
    assert meter.spent == {"judge": Spent(calls=1, remembered=1, prompt_tokens=1, completion_tokens=1)}


@pytest.mark.parametrize(
    "other",
    [call("bye"), call(temperature=0.7), call(seed=1), call(max_tokens=11), call(model="x"), call(schema={"a": 1}),
     call(stop=("\n",)), call(top_p=0.5)],
)  # fmt: skip
def test_whatever_changes_the_reply_changes_the_key(other: ChatCall) -> None:
    assert key_of("m", other) != key_of("m", call())
    assert key_of("m", call(purpose="judge")) == key_of("m", call())
    assert key_of("another", call()) != key_of("m", call())


async def test_the_same_call_at_the_same_moment_is_made_once(memory: ReplyMemory) -> None:
    chat, meter = ScriptedChat("fine"), Meter()
    remembered = remembered_by(memory, chat, meter)
    replies = await asyncio.gather(*(remembered.complete(call()) for _ in range(5)))
    assert {reply.text for reply in replies} == {"fine"}
    assert len(chat.calls) == 1
    assert meter.total.remembered == 4


async def test_a_failure_is_not_remembered(memory: ReplyMemory) -> None:
    meter = Meter()
    remembered = remembered_by(memory, ScriptedChat([ModelError("down"), "up"]), meter)
    with pytest.raises(ModelError, match="down"):
        await remembered.complete(call())
    assert (await remembered.complete(call())).text == "up"
    assert (meter.total.calls, meter.total.failed) == (2, 1)


async def test_a_call_given_up_leaves_nothing_behind(memory: ReplyMemory) -> None:
    begun = asyncio.Event()

    class Slow:
        async def complete(self, call: ChatCall) -> ChatReply:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    remembered = remembered_by(memory, Slow(), Meter())
    task = asyncio.create_task(remembered.complete(call()))
    await begun.wait()
    waiter = asyncio.create_task(remembered.complete(call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ModelError, match="given up"):
        await waiter


async def test_calls_stop_at_the_budget_and_remembered_ones_are_free(memory: ReplyMemory) -> None:
    chat = ScriptedChat("fine")
    remembered = remembered_by(memory, chat, Meter(max_calls=2))
    await remembered.complete(call("a"))
    await remembered.complete(call("b"))
    await remembered.complete(call("a"))
    with pytest.raises(BudgetSpent, match="2 calls is spent"):
        await remembered.complete(call("c"))
    assert len(chat.calls) == 2


async def test_the_cost_never_exceeds_the_budget_also_with_calls_under_way(memory: ReplyMemory) -> None:
    price = 1e6  # one a token
    meter = Meter(max_cost=45, prompt_price=price, completion_price=price)
    held = Held(ScriptedChat("one two three"))
    remembered = remembered_by(memory, held, meter)
    tasks = [asyncio.create_task(remembered.complete(call(f"text{i}"))) for i in range(10)]
    refused = 0
    for done in asyncio.as_completed(tasks):  # three may cost 45 together, and hang until the others are refused
        try:
            await done
        except BudgetSpent:
            refused += 1
        if refused == 7:
            held.go.set()
    assert refused == 7
    assert meter.total.cost == 12  # each cost 1 + 3


async def test_any_text_is_kept_exactly(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    meter = Meter()
    remembered = remembered_by(ReplyMemory(store), ScriptedChat("lone \ud800 surrogate"), meter)
    assert (await remembered.complete(call())).text == "lone \ud800 surrogate"
    assert (await remembered.complete(call())).text == "lone \ud800 surrogate"
    assert meter.total.calls == 1


def test_forgetting_empties_the_memory(memory: ReplyMemory) -> None:
    memory.keep([("k", ChatReply(text="secret")), ("k", ChatReply(text="later")), ("j", ChatReply(text="other"))])
    memory.keep([("k", ChatReply(text="another"))])
    assert memory.find(["j", "k", "k", "x"]) == [
        ChatReply(text="other"), ChatReply(text="secret"), ChatReply(text="secret"), None
    ]  # fmt: skip
    assert memory.clear() == 2
    assert memory.find(["k"]) == [None]


async def test_a_reply_that_is_wrong_twice_is_asked_for_again_the_next_time(memory: ReplyMemory) -> None:
    chat = ScriptedChat(["garbage", "more garbage", '{"better": "A"}'])
    remembered = remembered_by(memory, chat, Meter())
    with pytest.raises(ModelError, match="no valid verdict"):
        await ask(remembered, call(), Better, "verdict")
    assert (await ask(remembered, call(), Better, "verdict")).better == "A"
    assert len(chat.calls) == 3
    assert (await ask(remembered, call(), Better, "verdict")).better == "A"
    assert len(chat.calls) == 3  # a good one is remembered


async def test_a_repaired_reply_is_remembered_with_what_it_repaired(memory: ReplyMemory) -> None:
    chat = ScriptedChat(["garbage", '{"better": "A"}'])
    remembered = remembered_by(memory, chat, Meter())
    for _ in range(2):
        assert (await ask(remembered, call(), Better, "verdict")).better == "A"
    assert len(chat.calls) == 2


@pytest.mark.parametrize(("schema", "asked"), [({"type": "object"}, 2), (None, 1)])
async def test_json_that_was_cut_off_is_not_kept(memory: ReplyMemory, schema: dict[str, Json], asked: int) -> None:
    chat = ScriptedChat(lambda _: ChatReply(text='{"ru', finish_reason="length"))
    remembered = remembered_by(memory, chat, Meter())
    for _ in range(2):
        await remembered.complete(call(schema=schema))
    assert len(chat.calls) == asked


async def test_what_is_asked_for_meanwhile_is_done_in_one_go() -> None:
    goes: list[list[int]] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        goes.append(list(items))
        first_runs.set()
        go_on.wait(10)
        if 13 in items:
            raise ModelError("13")
        return [-item for item in items]

    gathered = Gathered(work)
    one = asyncio.create_task(gathered.do(1))
    await asyncio.to_thread(first_runs.wait, 10)
    others = [asyncio.create_task(gathered.do(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    others[0].cancel()
    go_on.set()
    assert await asyncio.gather(one, *others[1:]) == [-1, -3, -4]
    assert goes == [[1], [2, 3, 4]]
    with pytest.raises(ModelError):
        await gathered.do(13)
    assert await gathered.do(5) == -5
