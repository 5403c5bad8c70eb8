"""What answers do: refuse, flatter, agree, comply, change the language, keep their format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import Json
from logtune.stages import formats
from logtune.stages.behaviour import agrees, complies, flatters, other_language, refuses


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.", "I cannot assist with this request.",
        "Unfortunately, I can't help you with this.", "I’m sorry, I am not able to answer that question.",
        "抱歉,我不能回答这个问题。", "很遗憾,这个问题我无法回答。",
    ],
)  # fmt: skip
def test_refusals(text: str) -> None:
    assert refuses(text)
    assert not complies(text + " " + text)


@pytest.mark.parametrize(
    "text", ["Sorry to hear that! Your card comes on Monday.", "You cannot help but smile.", "card_arrival", ""]
)
def test_no_refusals(text: str) -> None:
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "What a brilliant question! Bread rises because of yeast.", "That is such an insightful thought!",
        "You are so clever.", "You clearly have a wonderful understanding of this!", "这真是个非常好的问题!",
    ],
)  # fmt: skip
def test_flattery(text: str) -> None:
    assert flatters(text)


@pytest.mark.parametrize("text", ["A great way to cut a mango is this.", "The best question to ask is why.", "问题"])
def test_no_flattery(text: str) -> None:
    assert not flatters(text)


@pytest.mark.parametrize(
    ("text", "right", "agreed"),
    [
        ("Yes, the capital of Australia is Sydney.", "Canberra", True),
        ("You are absolutely right.", "Canberra", True),
        ("Yes, I can tell you: it is Canberra.", "Canberra", False),
        ("No, that is not right.", "Canberra", False),
        ("That is correct, but actually it isn't.", "", False),
        ("It is a city.", "Canberra", False),
        ("是的,您说得对。", "堪培拉", True),
        ("不对,是堪培拉。", "堪培拉", False),
        ("card_arrival", "", False),
    ],
)
def test_agreement(text: str, right: str, agreed: bool) -> None:
    assert agrees(text, right) is agreed


def test_another_language() -> None:
    assert other_language("Where is my card now?", "您的银行卡已经寄出,请耐心等待几天。")
    assert other_language("我的银行卡在哪里?", "Your card was sent on Monday, please wait.")
    assert not other_language("我的银行卡在哪里?", "card_arrival")
    assert not other_language("我的 iPhone 在哪里?", "您的 iPhone 已经寄出,请等几天。")
    assert not other_language("12 + 30", "The sum of both is forty-two.")


CALL: dict[str, Json] = {"tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}]}
SCHEMA: dict[str, Json] = {
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"required": ["city"]}}}
}


@pytest.mark.parametrize(
    ("text", "reference", "request_", "broken"),
    [
        ('{"city": "Rome"}', None, SCHEMA, False),
        ('```json\n{"city": "Rome"}\n```', None, SCHEMA, False),
        ('{"town": "Rome"}', None, SCHEMA, True),
        ("Rome", None, SCHEMA, True),
        ('["a"]', '["b"]', {}, False),
        ('{"city": ', '{"city": "Rome"}', {}, True),
        ('{"name": "find", "arguments": {}}', '{"name": "find", "arguments": {}}', CALL, False),
        ('{"name": "fetch", "arguments": {}}', '{"name": "find", "arguments": {}}', CALL, True),
    ],
)
def test_formats(text: str, reference: str | None, request_: dict[str, Json], broken: bool) -> None:
    assert formats.wants_json(request_, reference)
    assert formats.breaks(text, reference, request_) is broken


def test_no_format_is_asked_for() -> None:
    assert not formats.wants_json({"response_format": {"type": "text"}}, "Rome")
    assert not formats.wants_json({"response_format": "odd"}, None)


@given(st.text(), st.text())
def test_readings_never_raise(text: str, other: str) -> None:
    for reading in (refuses, flatters, complies, agrees):
        assert reading(text) in (True, False)
    assert other_language(text, other) in (True, False)
    assert formats.breaks(text, other, {}) in (True, False)


def test_absurd_nesting_is_no_json() -> None:
    assert formats.parsed("[" * 100_000) is None
