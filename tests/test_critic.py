"""The critic in serving makes the calls of the gate, and says what they take."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import sample_cycle

from logtune.app import report
from logtune.app.critic import Part, revision, usage_of
from logtune.app.findings import gather
from logtune.app.reflective import reflective
from logtune.config import build
from logtune.edges.store import Store
from logtune.ids import identified
from logtune.ports import ChatCall
from logtune.records import Json, LogRecord, Message
from logtune.stages.answer import answer
from logtune.testing import ScriptedChat

ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "where is my parcel"},
]


def script(critique: str) -> ScriptedChat:
    def say(call: ChatCall) -> str:
        return critique if call.model else f"answer to {call.messages[-1].content!r}"

    return ScriptedChat(say)


def messages(body: Mapping[str, Json]) -> tuple[Message, ...]:
    found = body["messages"]
    assert isinstance(found, list)
    return tuple(Message(role=str(m["role"]), content=str(m["content"])) for m in found if isinstance(m, dict))


async def serve(student: ScriptedChat, body: Mapping[str, Json]) -> str:
    async def ask(model: str, asked: Mapping[str, Json]) -> Mapping[str, Json]:
        limit = asked.get("max_tokens")
        call = ChatCall(messages=messages(asked), model=model, max_tokens=limit if isinstance(limit, int) else 256)
        return {"choices": [{"message": {"content": (await student.complete(call)).text}}]}

    revised = await revision(ask, "c@1", body)
    assert revised is not None
    last = await ask("", revised)
    choices = last["choices"]
    assert isinstance(choices, list)
    return str(choices[0]["message"]["content"]) if isinstance(choices[0], dict) else ""


@pytest.mark.parametrize("asked", [ASKED, ASKED[1:], ASKED[-1:]])
@pytest.mark.parametrize("critique", ["1. Name the topic.", " \n"])
async def test_serving_makes_the_calls_of_the_gate(asked: Sequence[dict[str, Json]], critique: str) -> None:
    body: dict[str, Json] = {"messages": list(asked), "max_tokens": 9}
    served, proven = script(critique), script(critique)
    text = await serve(served, body)
    assert text == await answer(proven, "critic", "c@1", messages(body), 9)
    assert served.calls[: len(proven.calls)] == proven.calls


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [*ASKED[:3]]},
        {"messages": ASKED, "tools": [{"type": "function"}]},
        {"messages": ASKED, "functions": [{"name": "f"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is this"}, {"type": "image_url"}]}]},
        {"messages": "x"},
        {},
    ],
)
def test_what_is_not_plain_text_is_not_reviewed(body: dict[str, Json]) -> None:
    async def ask(model: str, asked: Mapping[str, Json]) -> Mapping[str, Json]:
        raise AssertionError("no call")

    assert asyncio.run(revision(ask, "c@1", body)) is None


def test_usage_is_summed_and_the_drafts_told() -> None:
    parts = [
        Part({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, 100.0),
        Part({"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}, 50.0),
    ]
    found = usage_of(parts, {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37})
    draft = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "latency_ms": 100.0}
    assert found == {"prompt_tokens": 60, "completion_tokens": 18, "total_tokens": 78, "calls": 3, "draft": draft}
    assert usage_of(parts, None)["uncounted"] == 1
    assert usage_of((), None) == {}
    assert usage_of((), {"odd": 1}) == {"odd": 1}


def log(number: int, latency_ms: float, usage: Mapping[str, Json], error: str | None = None) -> LogRecord:
    return LogRecord(
        id=f"l{number}", request={}, response=None, at=1.0, model="base", cluster="late", latency_ms=latency_ms,
        usage=usage, error=error,
    )  # fmt: skip


def page_of(opened: Store) -> str:
    found = gather(opened)
    return report.render(found, build({}), report.told(opened, found))


def test_the_report_tells_what_a_critic_costs() -> None:
    opened = Store("sqlite://")
    sample_cycle.fill(opened)
    assert "What a critic costs" not in page_of(opened)
    (before,) = opened.deployments().values()
    opened.deploy(identified(replace(before, id="", candidate="critic", previous_id=before.id, at=9e9)), "c")
    draft: Json = {"prompt_tokens": 10, "completion_tokens": 10, "latency_ms": 100.0}
    opened.add_logs([log(1, 340.0, {"prompt_tokens": 60, "completion_tokens": 20, "calls": 3, "draft": draft})])
    page = page_of(opened)
    assert "What a critic costs" in page
    assert ">340 ms<" in page
    assert ">3.4 times<" in page
    assert ">4.0 times<" in page


def test_a_critics_cost_is_told_against_a_single_call() -> None:
    draft: Json = {"prompt_tokens": 10, "completion_tokens": 10, "latency_ms": 100.0}
    three: dict[str, Json] = {"prompt_tokens": 60, "completion_tokens": 20, "calls": 3, "draft": draft}
    (found,) = reflective(
        [log(1, 300.0, three), log(2, 500.0, {**three, "uncounted": 1}), log(3, 9.0, {"prompt_tokens": 1}),
         log(4, 9e9, three, error="broken")]
    )  # fmt: skip
    assert (found.cluster, found.answers, found.calls, found.latency_ms) == ("late", 2, 3.0, 400.0)
    assert (found.latency_ratio, found.tokens, found.tokens_ratio) == (4.0, 80.0, 4.0)
    assert reflective([]) == ()
