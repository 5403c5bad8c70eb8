import pytest

from logtune.edges.chat_body import Heading, chat_request, completion
from logtune.errors import RequestError
from logtune.ports import ChatReply
from logtune.records import Json, Message

USER: Json = {"role": "user", "content": "hi"}


def test_every_field_of_the_call() -> None:
    (call,) = chat_request(
        {
            "messages": [{"role": "developer", "content": "d"}, {"role": "assistant", "content": None}, USER],
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "x",
            "tools": [], "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0, "user": "u",
        },
        "m", 99,
    ).calls  # fmt: skip
    assert call.messages == (
        Message(role="system", content="d"), Message(role="assistant", content=""), Message(role="user", content="hi"),
    )  # fmt: skip
    assert (call.model, call.max_tokens, call.temperature, call.top_p, call.seed) == ("m", 7, 0.5, 0.9, 3)
    assert call.stop == ("x",)


def test_nine_point_zero_is_an_integer() -> None:
    assert len(chat_request({"messages": [USER], "n": 2.0}, "m", 9).calls) == 2
    with pytest.raises(RequestError, match=r"'n' is 2\.5"):
        chat_request({"messages": [USER], "n": 2.5}, "m", 9)


def test_defaults_and_seeds() -> None:
    first = chat_request({"messages": [USER]}, "m", 99)
    second = chat_request({"messages": [USER]}, "m", 99)
    assert (first.calls[0].max_tokens, first.calls[0].temperature, first.calls[0].top_p) == (99, 0.0, 1.0)
    assert first.calls[0].seed != second.calls[0].seed  # sampled answers differ unless a seed is given
    assert (first.stream, first.include_usage) == (False, False)
    choices = chat_request({"messages": [USER], "n": 3, "seed": 1, "stop": ["a", "b"]}, "m", 9).calls
    assert [call.seed for call in choices] == [1, 2, 3]
    assert choices[2].stop == ("a", "b")
    streamed = chat_request({"messages": [USER], "stream": True, "stream_options": {"include_usage": True}}, "m", 9)
    assert (streamed.stream, streamed.include_usage) == (True, True)


def test_a_lone_surrogate_is_no_text_for_a_tokenizer() -> None:
    (call,) = chat_request({"messages": [{"role": "user", "content": "a\ud800"}]}, "m", 9).calls
    assert call.messages[0].content == "a?"


def test_the_prompt_counts_once_for_all_choices() -> None:
    replies = [ChatReply(text="a", prompt_tokens=4, completion_tokens=1), ChatReply(text="b", finish_reason="length",
               prompt_tokens=4, completion_tokens=2)]  # fmt: skip
    whole = completion(Heading(id="i", created=1, model="m"), replies)
    assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    assert (whole["id"], whole["object"], whole["model"], whole["created"]) == ("i", "chat.completion", "m", 1)
