import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.app.exchange import Exchange, begin
from logtune.app.identity import (
    LONGEST,
    NAMING,
    SESSION_HEADERS,
    TRACE_HEADERS,
    TRACE_KEYS,
    USER_HEADERS,
    header_user,
    identify,
    last_user_text,
)
from logtune.errors import RequestError
from logtune.records import Json


def user(text: Json) -> Json:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("body", "headers", "name", "source"),
    [
        ({"user": "a", "metadata": {"user_id": "b"}}, {"x-user-id": "c"}, "a", "body.user"),
        ({"metadata": {"user_id": "b"}}, {"x-user-id": "c"}, "b", "metadata.user_id"),
        ({"metadata": "odd", "user": ["x"]}, {"x-user-id": "c"}, "c", "x-user-id"),
        ({"user": " "}, {"helicone-user-id": "e"}, "e", "helicone-user-id"),
        ({"user": 7}, {}, "7", "body.user"),
        ({"user": True}, {}, None, ""),
        ({"user": "x" * 999}, {}, "x" * 256, "body.user"),
        ({"metadata": {"langfuse_user_id": "l"}}, {}, "l", "metadata.langfuse_user_id"),
        ({"metadata": {"trace_user_id": "t"}}, {}, "t", "metadata.trace_user_id"),
        ({}, {"x-portkey-metadata": '{"_user": "p"}'}, "p", "x-portkey-metadata._user"),
        ({}, {"x-portkey-metadata": '{"_user": ["p"]}'}, None, ""),
        ({}, {"x-portkey-metadata": "{"}, None, ""),
        ({}, {"x-openwebui-user-email": "ann@example.com"}, None, ""),  # an address says more than is needed
        *(({}, {name: "h"}, "h", name) for name in USER_HEADERS),
    ],
)  # fmt: skip
def test_the_user(body: dict[str, Json], headers: dict[str, str], name: str | None, source: str) -> None:
    found = identify(body, headers)
    assert (found.user, found.user_source) == (name, source)
    assert body or header_user(headers) == name


@pytest.mark.parametrize(
    ("body", "headers", "name", "source"),
    [
        ({"metadata": {"session_id": "s"}}, {"x-session-id": "h"}, "s", "metadata.session_id"),
        ({"metadata": {"langfuse_session_id": "s"}}, {}, "s", "metadata.langfuse_session_id"),
        ({"metadata": {"conversation_id": 5}}, {}, "5", "metadata.conversation_id"),
        ({"metadata": {"chat_id": "c"}}, {}, "c", "metadata.chat_id"),
        ({"tensorzero::episode_id": "e"}, {"x-session-id": "h"}, "e", "body.tensorzero::episode_id"),
        ({}, {"x-session-id": "h", "x-openwebui-chat-id": "o"}, "h", "x-session-id"),
        *(({}, {name: "h"}, "h", name) for name in SESSION_HEADERS),
        ({"messages": [{"role": "system", "content": "x"}]}, {}, None, ""),
        ({"messages": "odd"}, {}, None, ""),
        ({"messages": [5]}, {}, None, ""),
    ],
)  # fmt: skip
def test_the_session(body: dict[str, Json], headers: dict[str, str], name: str | None, source: str) -> None:
    found = identify(body, headers)
    assert (found.session, found.session_source) == (name, source)


TRACE, SPAN, RUN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "74f0c4e0-9240-4308-80d5-4734838dc618"


EVERY = tuple(dict.fromkeys((*TRACE_KEYS, *TRACE_HEADERS)))


@pytest.mark.parametrize(
    ("metadata", "headers", "traces"),
    [
        ({}, {"traceparent": f"00-{TRACE}-{SPAN}-01"}, (TRACE, SPAN)),
        ({}, {"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"}, (TRACE, SPAN)),
        ({}, {"traceparent": f"cc-{TRACE}-{SPAN}-01-what-comes"}, (TRACE, SPAN)),
        ({}, {"traceparent": f"00-{TRACE}-{SPAN}"}, ()),
        ({}, {"traceparent": f"00-{'g' * 32}-{SPAN}-01"}, ()),
        ({}, {"langsmith-trace": f"20260101T000000000000Z{RUN}"}, (RUN,)),
        ({}, {"langsmith-trace": "nonsense"}, ()),
        ({"trace_id": "t", "run_id": "r"}, {"x-request-id": "q"}, ("t", "r", "q")),
        ({"trace_id": "t"}, {"x-portkey-trace-id": "t"}, ("t",)),
        ({"trace_id": ["t"], "run_id": ""}, {}, ()),
        *(({key: "m"}, {}, ("m",)) for key in TRACE_KEYS),
        *(({}, {name: "h"}, ("h",)) for name in TRACE_HEADERS),
        ({key: key for key in TRACE_KEYS}, {name: name for name in TRACE_HEADERS}, EVERY[:8]),
    ],
)  # fmt: skip
def test_the_other_ids_of_a_request(
    metadata: dict[str, Json], headers: dict[str, str], traces: tuple[str, ...]
) -> None:
    assert identify({"metadata": metadata}, headers).traces == traces


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODY_KEYS = st.sampled_from(["user", "metadata", "messages", "model", "tensorzero::episode_id", "stream"])
HEADER_NAMES = st.sampled_from([*USER_HEADERS, *TRACE_HEADERS, "traceparent", "langsmith-trace", "x-portkey-metadata"])


def test_every_header_that_is_looked_at_counts_as_one_that_names() -> None:
    looked = set[str]()

    class Watched(dict[str, str]):
        def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
            looked.add(key)
            return super().get(key, default)

    identify({"messages": [user("hi")], "metadata": {"x": "y"}}, Watched(host="here", traceparent=""))
    assert looked == NAMING


@given(st.dictionaries(BODY_KEYS, JSON), st.dictionaries(HEADER_NAMES, st.text()))
def test_any_request_has_an_identity_that_can_be_kept(body: dict[str, Json], headers: dict[str, str]) -> None:
    found = identify(body, headers)
    for name in (found.user, found.session, *found.traces):
        assert name is None or (0 < len(name) <= LONGEST and name.isprintable())
    assert bool(found.user) == bool(found.user_source)
    assert bool(found.session) == bool(found.session_source)
    assert isinstance(last_user_text(body), str)


def begun(raw: bytes) -> Exchange | RequestError:
    try:
        return begin(raw, {})
    except RequestError as error:
        return error


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_refused(raw: bytes) -> None:
    found = begun(raw)
    if isinstance(found, RequestError):
        assert found.status == 400
    else:
        assert found.body == json.loads(raw)


@given(st.dictionaries(BODY_KEYS, JSON))
def test_an_object_is_refused_for_its_model_alone(body: dict[str, Json]) -> None:
    found = begun(json.dumps(body).encode())
    if isinstance(found, RequestError):
        assert found.param == "model" or "is not JSON" in found.what  # NaN and Infinity
    else:
        assert found.requested == (body.get("model") or "")


def test_the_turns_of_a_conversation_share_the_session_of_their_first_messages() -> None:
    opening: list[Json] = [{"role": "system", "content": "be kind"}, user("hello")]
    later = [*opening, {"role": "assistant", "content": "hi"}, user("and now?")]
    first, second = identify({"messages": opening}, {}), identify({"messages": later}, {})
    assert first.session == second.session
    assert first.session_source == "prefix"
    assert identify({"messages": opening, "user": "u"}, {}).session != first.session
    assert (
        identify({"messages": opening, "user": "u"}, {}).session
        == identify({"messages": later}, {"x-user-id": "u"}).session
    )
    assert identify({"messages": [user("hello")]}, {}).session != first.session
    assert identify({"messages": [user("hello there")]}, {}).session != first.session


def test_the_last_user_text() -> None:
    parts: Json = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert last_user_text({"messages": [user("x"), user(parts), {"role": "assistant", "content": "y"}]}) == "a\nb"
    assert last_user_text({"messages": [{"role": "system", "content": "x"}]}) == ""
    assert last_user_text({}) == ""
