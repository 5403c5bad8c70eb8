"""How each kind of candidate answers: one call for base and expert, three for a critic."""

import pytest

from logtune.errors import ModelError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Message
from logtune.stages.answer import Answered, answer, answered, critic_prompt, critique
from logtune.testing import ScriptedChat

PROMPT = (Message(role="system", content="Be brief."), Message(role="user", content="Where is my parcel?"))


@pytest.mark.parametrize(("kind", "model"), [("base", ""), ("expert", "parcels-expert@1")])
async def test_base_and_expert_answer_in_one_call(kind: str, model: str) -> None:
    student = ScriptedChat("late")
    assert await answer(student, "expert" if kind == "expert" else "base", model, PROMPT, 7) == "late"
    (call,) = student.calls
    assert (call.messages, call.model, call.max_tokens, call.temperature) == (PROMPT, model, 7, 0.0)


async def test_a_critic_takes_three_calls_and_speaks_only_in_the_second() -> None:
    student = ScriptedChat(["I do not know.", "1. Name the topic.", "late_parcel"])
    assert await answer(student, "critic", "parcels-critic@1", PROMPT, 9) == "late_parcel"
    draft, critic, revise = student.calls
    assert [call.model for call in student.calls] == ["", "parcels-critic@1", ""]
    assert draft.messages == PROMPT
    assert critic.messages == critic_prompt("Where is my parcel?", "I do not know.")
    assert revise.messages[0] == PROMPT[0]
    assert "1. Name the topic." in revise.messages[-1].content
    assert "I do not know." in revise.messages[-1].content


async def test_the_conversation_before_is_known_to_the_draft_and_the_revision() -> None:
    before = (*PROMPT[:1], Message(role="user", content="Hello"), Message(role="assistant", content="Hi!"))
    student = ScriptedChat(["draft", "1. Be kind.", "better"])
    assert await answer(student, "critic_prompt", "", (*before, PROMPT[-1]), 9) == "better"
    assert student.calls[0].messages[:3] == student.calls[2].messages[:3] == before
    assert len(student.calls[1].messages) == 1


async def test_a_critic_with_nothing_to_say_leaves_the_draft() -> None:
    student = ScriptedChat(["draft", " \n"])
    assert await answer(student, "critic", "c@1", PROMPT, 9) == "draft"


async def test_rules_are_told_to_the_base_model() -> None:
    student = ScriptedChat("late")
    assert await answer(student, "rules", "", PROMPT, 9, ["Name the topic."]) == "late"
    (call,) = student.calls
    assert (call.model, [m.role for m in call.messages]) == ("", ["system", "user"])
    assert call.messages[0].content.startswith("Be brief.\n\n")
    assert "- Name the topic." in call.messages[0].content


async def test_what_an_answer_takes_is_counted_over_all_its_calls() -> None:
    replies = [ChatReply(text=text, prompt_tokens=10 * n, completion_tokens=n) for n, text in enumerate("abc", start=1)]
    found = await answered(ScriptedChat(replies), "critic", "c@1", PROMPT, 9)
    assert found == Answered(text="c", calls=3, prompt_tokens=60, completion_tokens=6)
    silent = [replies[0], ChatReply(text=" ", prompt_tokens=7, completion_tokens=1)]
    found = await answered(ScriptedChat(silent), "critic", "c@1", PROMPT, 9)
    assert found == Answered(text="a", calls=2, prompt_tokens=17, completion_tokens=2)


async def test_no_answer_is_an_error() -> None:
    with pytest.raises(ModelError, match="down"):
        await answer(ScriptedChat([ModelError("down")]), "base", "", PROMPT, 9)


async def test_a_chinese_request_is_criticised_in_chinese() -> None:
    student = ScriptedChat(["草稿", "1. 简短。", "好"])
    assert await answer(student, "critic", "c@1", (Message(role="user", content="我的包裹在哪里"),), 9) == "好"
    assert "请用编号的规则" in student.calls[1].messages[0].content
    assert "请改写" in student.calls[2].messages[0].content


def test_what_a_critic_learns_to_say_is_numbered() -> None:
    assert critique(["Name the topic.", "Be brief."]) == "1. Name the topic.\n2. Be brief."


def test_a_critic_is_asked_the_same_in_training_and_serving() -> None:
    (message,) = critic_prompt("q $x {y}", "a")
    assert message.role == "user"
    assert "q $x {y}" in message.content
    assert isinstance(ChatCall(messages=(message,)), ChatCall)
