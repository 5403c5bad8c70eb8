"""Better answers that models write, judged against the one that was given."""

import json

import numpy as np
import pytest

from logtune.config import PRESETS, PairSettings
from logtune.errors import ModelError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Interaction, Message, PreferencePair, Rule
from logtune.stages.revise import TEMPERATURE, Writers, revise
from logtune.testing import ScriptedChat


def settings(margin: float = 0.0, **fields: object) -> PairSettings:
    return PairSettings(margin=margin, **fields)


def interaction(answer: str = "card_arrival", *context: Message, query: str = "where is it") -> Interaction:
    return Interaction(
        id="int-0", log_id="log-0", context=context, query=query, answer=answer, follow_ups=(), feedback_ids=(),
        user="u", session=None, adapter=None, at=0.0,
    )  # fmt: skip


def rule(text: str = "be brief") -> Rule:
    return Rule(
        id=f"rule-{text}", text=text, interaction_ids=("int-0",), signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1,
    )  # fmt: skip


class Teacher:
    """Revises, answers afresh, and judges by the marks it gives answers, or by their order."""

    def __init__(
        self, revised: str | ChatReply = "revised", afresh: str | ChatReply = "afresh",
        marks: dict[str, int] | None = None, verdict: str | None = None,
    ) -> None:  # fmt: skip
        self.replies = {"revise": revised, "afresh": afresh}
        self.marks = marks or {}
        self.verdict = verdict
        self.chat = ScriptedChat(self._reply)

    def _reply(self, call: ChatCall) -> str | ChatReply:
        last = call.messages[-1].content
        if "Two answers, A and B" not in last:
            return self.replies["revise" if last.startswith("Rewrite") else "afresh"]
        if self.verdict is not None:
            return self.verdict
        first, second = last.split("\n\nA: ")[1].split("\n</")[0].split("\n\nB: ")
        better = np.sign(self.marks.get(first, 0) - self.marks.get(second, 0))
        return json.dumps({"better": {1: "A", -1: "B", 0: "tie"}[int(better)]})

    async def pair(self, margin: float = 0.0, *context: Message, answer: str = "given") -> PreferencePair | None:
        asked = interaction(answer, *context)
        return await revise(asked, [rule("be brief"), rule("be kind")], Writers(teacher=self.chat), settings(margin))


async def test_the_judges_best_is_chosen_after_both_orders() -> None:
    teacher = Teacher(marks={"given": 1, "revised": 2, "afresh": 0})
    pair = await teacher.pair()
    assert pair is not None
    assert (pair.chosen, pair.rejected, pair.origin, pair.margin) == ("revised", "given", "revised", 1.0)
    assert pair.votes == {"revised": 1.0, "afresh": 0.0, "disagreement": 0.0}
    judged = [call.messages[0].content for call in teacher.chat.calls[2:]]
    assert [text.split("\n\nA: ")[1].split("\n")[0] for text in judged] == ["revised", "given", "afresh", "given"]
    assert all(call.schema for call in teacher.chat.calls[2:])
    assert all("- be brief\n- be kind" in call.messages[0].content for call in teacher.chat.calls)


@pytest.mark.parametrize("verdict", ['{"better": "A"}', '{"better": "B"}', '{"better": "tie"}'])
async def test_a_judge_that_is_swayed_by_the_order_makes_no_pair(verdict: str) -> None:
    assert await Teacher(verdict=verdict).pair() is None


async def test_an_original_that_is_best_stays() -> None:
    assert await Teacher(marks={"given": 5, "revised": 4}).pair() is None


class Half(Teacher):
    """Prefers the revised answer in the first place, and calls it a tie in the second: 0.75."""

    def _reply(self, call: ChatCall) -> str | ChatReply:
        last = call.messages[-1].content
        if "\n\nA: revised" in last:
            return '{"better": "A"}'
        return '{"better": "tie"}' if "\n\nB: revised" in last else super()._reply(call)


@pytest.mark.parametrize(("margin", "kept"), [(0.0, True), (0.5, True), (0.51, False), (1.0, False)])
async def test_the_margin_is_the_preference_for_chosen_over_rejected(margin: float, kept: bool) -> None:
    pair = await Half(marks={"given": 1}).pair(margin)
    assert (pair is not None) is kept
    assert pair is None or pair.margin == 0.75


async def test_a_judge_of_one_mind_passes_any_margin() -> None:
    assert await Teacher(marks={"revised": 1}).pair(1.0) is not None


async def test_of_equals_the_revised_answer_is_taken_and_the_same_text_judged_once() -> None:
    teacher = Teacher(revised=" same ", afresh="same", marks={"same": 1})
    pair = await teacher.pair()
    assert pair is not None
    assert (pair.chosen, pair.votes) == ("same", {"revised": 1.0, "disagreement": 0.0})
    assert len(teacher.chat.calls) == 4


@pytest.mark.parametrize(
    "text",
    [
        "given",
        " given\n",
        "",
        ChatReply(text="cut off in the mid", finish_reason="length"),
        ChatReply(text="stopped by a fil", finish_reason="content_filter"),
    ],
)
async def test_unchanged_empty_and_cut_answers_are_no_candidates(text: str | ChatReply) -> None:
    teacher = Teacher(revised=text, afresh=text)
    assert await teacher.pair() is None
    assert len(teacher.chat.calls) == 2


async def test_answered_afresh_keeps_the_conversation_and_its_instructions() -> None:
    context = [
        Message(role="system", content="You sort messages."), Message(role="user", content="q0"),
        Message(role="assistant", content="a0"),
    ]  # fmt: skip
    teacher = Teacher(marks={"afresh": 1})
    pair = await teacher.pair(0.0, *context)
    assert pair is not None
    assert pair.origin == "afresh"
    afresh = teacher.chat.calls[1].messages
    assert [m.role for m in afresh] == ["system", "user", "assistant", "user"]
    assert afresh[0].content.startswith("You sort messages.\n\nKeep to these rules")
    assert pair.prompt == (*context, Message(role="user", content="where is it"))


async def test_a_chinese_query_is_judged_in_chinese() -> None:
    teacher = ScriptedChat({"改写": "更好", "请判断": '{"better": "tie"}', "": "另一个"})
    assert (
        await revise(interaction("回答", query="我的卡在哪里"), [rule("简短")], Writers(teacher=teacher), settings())
        is None
    )
    assert len(teacher.calls) == 6
    assert teacher.calls[1].messages[0].content.startswith("请遵守以下规则")


@pytest.mark.parametrize(
    "verdict", ["A", '{"better": "a"}', '{"better": ["A"]}', '{"winner": "A"}', '{"better": null}']
)
async def test_a_reply_without_verdict_is_an_error(verdict: str) -> None:
    with pytest.raises(ModelError, match="no valid verdict"):
        await Teacher(verdict=verdict).pair()


async def test_a_failing_teacher_is_not_hidden() -> None:
    with pytest.raises(ModelError, match="down"):
        await revise(
            interaction(), [rule()], Writers(teacher=ScriptedChat(lambda call: ModelError("down"))), settings()
        )


async def test_the_served_model_told_the_rules_is_a_candidate_under_its_own_name() -> None:
    teacher = Teacher(marks={"mine": 3, "revised": 2})
    student = ScriptedChat(" mine ")
    pair = await revise(
        interaction("given"), [rule()], Writers(teacher=teacher.chat, student=student, model="expert@1"), settings()
    )
    assert pair is not None
    assert (pair.chosen, pair.origin) == ("mine", "on_policy")
    assert pair.votes == {"revised": 1.0, "afresh": 0.5, "on_policy": 1.0, "disagreement": 0.0}
    (asked,) = student.calls
    assert asked.model == "expert@1"
    assert "- be brief" in asked.messages[0].content
    assert asked.messages[-1].content == "where is it"


@pytest.mark.parametrize("candidates", [("revised",), ("afresh",), ("on_policy",), ()])
async def test_only_the_candidates_asked_for_are_made(candidates: tuple[str, ...]) -> None:
    teacher, student = Teacher(marks={"revised": 1, "afresh": 1}), ScriptedChat("mine")
    writers = Writers(teacher=teacher.chat, student=student)
    pair = await revise(interaction("given"), [rule()], writers, settings(candidates=candidates))
    assert (pair.origin if pair else None) == (candidates[0] if candidates and candidates[0] != "on_policy" else None)
    assert len(student.calls) == ("on_policy" in candidates)


async def test_the_papers_preset_samples_and_rates() -> None:
    uno = PairSettings.model_validate(PRESETS["uno"]["pairs"])
    marks = {"given": 4, "revised": 6, "afresh": 9}

    def reply(call: ChatCall) -> str:
        last = call.messages[-1].content
        if last.startswith("Rate"):
            return json.dumps({"score": marks[last.split("Answer: ")[1].split("\n</")[0]]})
        return "revised" if last.startswith("Rewrite") else "afresh"

    chat = ScriptedChat(reply)
    pair = await revise(interaction("given"), [rule()], Writers(teacher=chat), uno)
    assert pair is not None
    assert (pair.chosen, pair.origin) == ("afresh", "afresh")
    assert pair.votes == {"revised": pytest.approx(0.5 + 2 / 18), "afresh": pytest.approx(0.5 + 5 / 18)}
    written = [call for call in chat.calls if call.purpose in ("revise", "afresh")]
    assert [(call.temperature, call.top_p, call.seed) for call in written] == [
        (TEMPERATURE, 0.9, n) for n in (0, 1, 2)
    ] * 2
    rated = [call for call in chat.calls if call.purpose == "judge"]
    assert len(rated) == 9  # three of each text, which are given, revised and afresh
    assert {call.temperature for call in rated} == {0.0, 1.0}
