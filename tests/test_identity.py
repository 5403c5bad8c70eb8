import pytest

from logtune.app.identity import identify, last_user_text
from logtune.records import Json


def user(text: Json) -> Json:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("body", "headers", "name", "source"),
    [
        ({"user": "a", "metadata": {"user_id": "b"}}, {"x-user-id": "c"}, "a", "body.user"),
        ({"metadata": {"user_id": "b"}}, {"x-user-id": "c"}, "b", "metadata.user_id"),
        ({"metadata": "odd", "user": ["x"]}, {"x-user-id": "c"}, "c", "x-user-id"),
        ({}, {"x-openwebui-user-id": "d"}, "d", "x-openwebui-user-id"),
        ({"user": " "}, {"helicone-user-id": "e"}, "e", "helicone-user-id"),
        ({"user": 7}, {}, "7", "body.user"),
        ({"user": True}, {}, None, ""),
        ({"user": "x" * 999}, {}, "x" * 256, "body.user"),
    ],
)  # fmt: skip
def test_the_user(body: dict[str, Json], headers: dict[str, str], name: str | None, source: str) -> None:
    found = identify(body, headers)
    assert (found.user, found.user_source) == (name, source)


@pytest.mark.parametrize(
    ("body", "headers", "name", "source"),
    [
        ({"metadata": {"session_id": "s"}}, {"x-session-id": "h"}, "s", "metadata.session_id"),
        ({}, {"x-session-id": "h", "x-openwebui-chat-id": "o"}, "h", "x-session-id"),
        ({}, {"x-openwebui-chat-id": "o"}, "o", "x-openwebui-chat-id"),
        ({}, {"helicone-session-id": "e"}, "e", "helicone-session-id"),
        ({"messages": [{"role": "system", "content": "x"}]}, {}, None, ""),
        ({"messages": "odd"}, {}, None, ""),
        ({"messages": [5]}, {}, None, ""),
    ],
)  # fmt: skip
def test_the_session(body: dict[str, Json], headers: dict[str, str], name: str | None, source: str) -> None:
    found = identify(body, headers)
    assert (found.session, found.session_source) == (name, source)


def test_the_turns_of_a_conversation_share_the_session_of_their_first_messages() -> None:
    opening: list[Json] = [{"role": "system", "content": "be kind"}, user("hello")]
    later = [*opening, {"role": "assistant", "content": "hi"}, user("and now?")]
    first, second = identify({"messages": opening}, {}), identify({"messages": later}, {})
    assert first.session == second.session
    assert first.session_source == "prefix"
    assert identify({"messages": opening, "user": "u"}, {}).session != first.session
    assert identify({"messages": [user("hello")]}, {}).session != first.session


def test_the_last_user_text() -> None:
    parts: Json = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert last_user_text({"messages": [user("x"), user(parts), {"role": "assistant", "content": "y"}]}) == "a\nb"
    assert last_user_text({"messages": [{"role": "system", "content": "x"}]}) == ""
    assert last_user_text({}) == ""
