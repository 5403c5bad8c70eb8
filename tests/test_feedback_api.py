import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_kit import Kit, deploy_expert, gateway, post, serving, until_stored, upstream
from hypothesis import given
from hypothesis import strategies as st
from test_gateway import LATE, adapter_of, ask, wait_for
from test_pipeline import CONFIG, tools

from logtune import pipeline
from logtune.app.feedback_api import Answers, named_target, read_feedback
from logtune.edges.upstream import HttpBackend
from logtune.errors import RequestError
from logtune.ids import new_id
from logtune.records import Feedback, Interaction, Json


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with gateway(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A gateway for tests that find what they kept by its id."""
    with gateway(tmp_path_factory.mktemp("shared")) as running:
        yield running


def say(kit: Kit, **body: object) -> tuple[int, dict[str, str]]:
    status, _, answer = post(kit.url, "/v1/feedback", json.dumps(body).encode())
    return status, json.loads(answer)


def read(**body: Json) -> Feedback:
    kind, target = named_target(body)
    return read_feedback(body, kind, target, 5.0)


@pytest.mark.parametrize("prefix", ["", "chatcmpl-"])
@pytest.mark.parametrize("key", ["target", "log_id", "inference_id", "response_id", "trace_id"])
def test_an_answer_is_named_by_either_id_under_any_key(shared: Kit, key: str, prefix: str) -> None:
    record_id = ask(shared, "hello")[1]["x-logtune-interaction"]
    status, answer = say(shared, **{key: prefix + record_id, "rating": "up"})
    assert (status, answer["status"]) == (200, "stored")
    feedback = shared.store.feedback_by_id([answer["id"]])[answer["id"]]
    assert (feedback.target, feedback.target_kind) == (record_id, "record")
    assert (feedback.kind, feedback.value) == ("rating", 1.0)


def test_the_upstreams_own_id_names_its_answer_also_after_a_restart(tmp_path: Path) -> None:
    with serving(upstream("base")) as url:
        with gateway(tmp_path, backend=HttpBackend(f"{url}/v1")) as kit:
            ask(kit, "hi")
            (record,) = kit.logs()
            assert say(kit, response_id="chatcmpl-up", value=1)[0] == 200
        with gateway(tmp_path, backend=HttpBackend(f"{url}/v1")) as kit:
            assert say(kit, response_id="chatcmpl-up", comment="too short")[0] == 200
            assert [feedback.target for feedback in kit.store.feedback()] == [record.id, record.id]


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"headers": {"traceparent": f"00-{TRACE}-{SPAN}-01"}}, TRACE),
        ({"headers": {"traceparent": f"00-{TRACE}-{SPAN}-01"}}, SPAN),
        ({"headers": {"x-portkey-trace-id": "pk 1"}}, "pk 1"),
        ({"headers": {"langfuse_trace_id": "lf-1"}}, "lf-1"),
        ({"headers": {"helicone-request-id": "h-1"}}, "h-1"),
        ({"headers": {"x-openwebui-message-id": "m-1"}}, "m-1"),
        ({"headers": {"x-request-id": "r-1"}}, "r-1"),
        ({"metadata": {"trace_id": "t-1"}}, "t-1"),
        ({"metadata": {"run_id": "run-1"}}, "run-1"),
    ],
)  # fmt: skip
def test_an_answer_is_named_by_the_ids_its_request_came_with(
    shared: Kit, given: dict[str, dict[str, str]], name: str
) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "metadata": given.get("metadata", {})}
    _, told, _ = post(shared.url, "/v1/chat/completions", json.dumps(body).encode(), **given.get("headers", {}))
    status, answer = say(shared, trace_id=name, rating="up")
    assert status == 200
    assert shared.store.feedback_by_id([answer["id"]])[answer["id"]].target == told["x-logtune-interaction"]


def traced(kit: Kit, text: str, *, stream: bool = False) -> str:
    """The record of a request in the trace `t`."""
    body = {"model": "base", "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"x-portkey-trace-id": "t"}
    return post(kit.url, "/v1/chat/completions", json.dumps(body).encode(), **headers)[1]["x-logtune-interaction"]


def test_the_newest_answer_of_a_trace_counts_also_after_a_restart(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        traced(kit, "first")
        second = traced(kit, "second", stream=True)
    with gateway(tmp_path) as kit:
        assert say(kit, trace_id="t", rating="up", id="f1")[0] == 200
        third = traced(kit, "third")
        assert say(kit, trace_id="t", rating="up", id="f2")[0] == 200
        assert {item.id: item.target for item in kit.store.feedback()} == {"f1": second, "f2": third}


def test_an_answer_is_named_while_the_store_fails(kit: Kit) -> None:
    kit.store.broken = True
    record = traced(kit, "hello")
    assert say(kit, trace_id="t", rating="up")[0] == 202
    kit.store.broken = False
    until_stored(kit, 1)
    assert [item.target for item in kit.store.feedback()] == [record]


def test_feedback_before_its_answer_is_joined_by_the_next_cycle(kit: Kit) -> None:
    early = [
        say(kit, trace_id="t", rating="down", id="by trace"),
        say(kit, response_id="chatcmpl-other", rating="down", id="of another store"),
    ]
    assert [status for status, _ in early] == [202, 202]
    record = traced(kit, "where is my parcel")
    assert say(kit, log_id=record, comment="that is the old price", id="late")[0] == 200
    (found,) = joined(kit)
    assert (found.log_id, found.feedback_ids) == (record, ("by trace", "late"))


def joined(kit: Kit) -> list[Interaction]:
    """What a cycle's first stage makes of the store; the later stages run too."""
    pipeline.run_cycle(kit.store, tools(), CONFIG)
    return kit.store.list(Interaction)


def test_late_feedback_is_credited_to_the_adapter_that_answered(tmp_path: Path) -> None:
    with gateway(tmp_path, deploy=[("late_parcel", LATE)]) as kit:
        old = adapter_of(kit, "late_parcel").id
        _, headers = ask(kit, LATE)
        new = deploy_expert(kit.store, "late_parcel", LATE, at=2.0, rank=4)
        wait_for(kit, LATE, lambda text: text.startswith(new.path))
        assert say(kit, log_id=headers["x-logtune-interaction"], rating="down", id="late")[0] == 200
        rated = [item for item in joined(kit) if item.feedback_ids]
    assert [(item.feedback_ids, item.adapter) for item in rated] == [(("late",), old)]
    assert headers["x-logtune-adapter"] == old != new.id


def test_feedback_for_an_unknown_id_is_kept_and_said_to_be(kit: Kit) -> None:
    early = new_id()
    status, answer = say(kit, response_id=f"chatcmpl-{early}", rating="down")
    assert (status, answer["status"]) == (202, "accepted")
    assert "joined when one comes" in answer["note"]
    assert next(kit.store.feedback()).target == early
    assert say(kit, response_id="chatcmpl-elsewhere", rating="down")[0] == 202


def test_the_same_id_again_replaces_and_neutral_revokes(kit: Kit) -> None:
    ask(kit, "hello")
    (record,) = kit.logs()
    say(kit, id="f1", target=record.id, rating="down", comment="wrong")
    say(kit, id="f1", target=record.id, rating="up")
    (feedback,) = kit.store.feedback()
    assert (feedback.value, feedback.comment, feedback.revoked) == (1.0, None, False)
    assert say(kit, id="f1", target=record.id, rating="neutral") == (200, {"id": "f1", "status": "revoked"})
    (feedback,) = kit.store.feedback()
    assert (feedback.value, feedback.revoked) == (None, True)


def test_a_thumb_without_an_id_replaces_the_same_users_thumb(kit: Kit) -> None:
    ask(kit, "hello")
    (record,) = kit.logs()
    for user, rating in [("u1", "up"), ("u2", "down"), ("u1", "neutral")]:
        say(kit, response_id=f"chatcmpl-{record.id}", rating=rating, user=user)
    assert {(item.user, item.value, item.revoked) for item in kit.store.feedback()} == {
        ("u1", None, True), ("u2", -1.0, False),
    }  # fmt: skip


def test_comments_and_corrections_without_an_id_stand_side_by_side(kit: Kit) -> None:
    ask(kit, "hello")
    (record,) = kit.logs()
    say(kit, target=record.id, comment="too long")
    say(kit, target=record.id, comment="and wrong")
    say(kit, target=record.id, correction=" the right answer\n")
    say(kit, target=record.id, kind="edit", correction="my edit")
    assert [(item.kind, item.comment, item.correction) for item in kit.store.feedback()] == [
        ("comment", "too long", None), ("comment", "and wrong", None), ("correction", None, " the right answer\n"),
        ("edit", None, "my edit"),
    ]  # fmt: skip


def test_a_session_or_a_user_may_be_the_target(kit: Kit) -> None:
    ask(kit, "hello", user="u7", metadata={"session_id": "s7"})
    assert say(kit, session="s7", value=-0.5)[0] == 200
    assert say(kit, user="u7", value=True)[0] == 200
    assert say(kit, session="s8", value=False)[0] == 202
    assert [(item.target_kind, item.target, item.value) for item in kit.store.feedback()] == [
        ("session", "s7", -0.5), ("user", "u7", 1.0), ("session", "s8", -1.0),
    ]  # fmt: skip


def test_feedback_waits_while_the_store_fails(kit: Kit) -> None:
    kit.store.broken = True
    status, answer = say(kit, session="s", value=1)
    assert (status, answer["status"], answer["note"]) == (202, "accepted", "waits until the store answers")
    kit.store.broken = False
    until_stored(kit, 0)
    assert [item.target for item in kit.store.feedback()] == ["s"]


@pytest.mark.parametrize(
    ("given_value", "value"),
    [("up", 1), ("Like", 1), ("down", -1), (True, 1), (False, -1), (1, 1), (-1, -1), (0, 0), (0.3, 0.3)],
)  # fmt: skip
def test_ratings_in_words_and_numbers(given_value: Json, value: float) -> None:
    assert read(target="t", rating=given_value) == read(target="t", value=given_value)
    assert read(target="t", value=given_value).value == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"rating": "up"}, "nothing says what the feedback is about"),
        ({"target": "t"}, "says nothing"),
        ({"target": "t", "log_id": "u", "value": 1}, "each name a target"),
        ({"target": "t", "value": 5}, "'value' is '5'"),
        ({"target": "t", "rating": "great"}, "must be one of up, like"),
        ({"target": "t", "value": 1, "rating": 1}, "mean the same"),
        ({"target": "t", "kind": "rating"}, "needs 'value'"),
        ({"target": "t", "kind": "edit", "value": 1}, "needs 'correction'"),
        ({"target": "t", "kind": "comment", "value": 1}, "needs 'comment'"),
        ({"target": "t", "kind": "shout"}, "must be one of rating, edit"),
        ({"target": "t", "coment": "x"}, "did you mean 'comment'?"),
        ({"target": 5, "value": 1}, "'target' must be a text"),
        ({"target": "t", "target_kind": "planet", "value": 1}, "must be record, session or user"),
        ({"target": "t" * 300, "value": 1}, "longer than 256"),
        ({"target": "t", "value": [1]}, "'value' is '[1]'"),
        ({"target": "  ", "value": 1}, "nothing says what the feedback is about"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(body: dict[str, Json], said: str) -> None:
    with pytest.raises(RequestError) as error:
        read(**body)
    assert error.value.status == 400
    assert said in error.value.what


def test_a_refusal_has_openais_shape_and_stores_nothing(kit: Kit) -> None:
    status, answer = say(kit, target="t", rating="great")
    assert (status, answer["error"]["param"]) == (400, "rating")
    assert post(kit.url, "/v1/feedback", b"{")[0] == 400
    assert kit.store.count(Feedback) == 0


KEYS = st.sampled_from(["id", "target", "session", "kind", "value", "rating", "comment", "correction"])
VALUES = st.none() | st.booleans() | st.floats() | st.text() | st.just("copy") | st.just([])


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_body_is_read_or_refused(body: dict[str, Json]) -> None:
    try:
        feedback = read(**body)
    except RequestError:
        return
    assert feedback.target
    assert feedback.value is None or -1 <= feedback.value <= 1
    assert feedback.revoked or feedback.value is not None or feedback.comment or feedback.correction or feedback.kind


def test_answers_forget_the_oldest_and_keep_the_newest_of_an_id() -> None:
    answers = Answers(capacity=2)
    answers.note(None, "0", ["t"])
    assert answers.find("t") == "0"
    for answer_id, record_id in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("x-9", "9")]:
        answers.note({"id": answer_id}, record_id)
    answers.note(None, "5")
    answers.note({"id": 7}, "6")
    assert [answers.find(name) for name in ("a", "b", "c", "x-9")] == ["3", None, "4", None]
