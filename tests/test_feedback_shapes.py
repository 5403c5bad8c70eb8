"""Feedback in the shapes of other systems: bodies as their SDKs send them, through the running gateway."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from gateway_kit import Kit, gateway, post
from hypothesis import given
from hypothesis import strategies as st

from logtune.app.exchange import Exchange
from logtune.app.feedback_reading import MOST, PREFIX, Said, rated
from logtune.app.feedback_shapes import SHAPES, find
from logtune.app.metrics import Metrics
from logtune.errors import RequestError
from logtune.records import Feedback, Json

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with gateway(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A gateway for tests that keep nothing, or find what they kept by its id."""
    with gateway(tmp_path_factory.mktemp("shared"), scores=("stars=1..5", "toxic=1..0")) as running:
        yield running


def chat(kit: Kit, **headers: str) -> str:
    """The id of an answer's record, asked for with these headers."""
    body = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}
    status, told, _ = post(kit.url, "/v1/chat/completions", json.dumps(body).encode(), **headers)
    assert status == 200
    return told["x-logtune-interaction"]


def call(kit: Kit, path: str, body: object = None, method: str = "POST", **headers: str) -> tuple[int, Json]:
    raw = b"" if body is None else json.dumps(body).encode()
    status, _, answer = post(kit.url, PREFIX + path, raw, method, **headers)
    return status, json.loads(answer)


def kept(kit: Kit, kind: str) -> Feedback:
    (found,) = [item for item in kit.store.feedback() if item.kind == kind]
    return found


# TensorZero


def test_tensorzero_metrics_comments_and_demonstrations(kit: Kit) -> None:
    record = chat(kit)
    about = {"inference_id": record, "tags": {"user_id": "ann"}}
    status, answer = call(kit, "/tensorzero/feedback", {"metric_name": "thumbs_up", "value": True, **about})
    assert status == 200
    assert isinstance(answer, dict)
    assert UUID(str(answer["feedback_id"]))
    again = {"metric_name": "thumbs_up", "value": False, **about, "dryrun": False}
    assert call(kit, "/tensorzero/feedback", again) == (200, answer)  # the newest counts
    rating = kept(kit, "rating")
    assert (rating.target, rating.value, rating.user, rating.name) == (record, -1.0, "ann", "thumbs_up")
    call(kit, "/tensorzero/feedback", {"metric_name": "comment", "value": "too long", **about})
    assert kept(kit, "comment").comment == "too long"
    blocks = [{"type": "text", "text": "forty"}, {"type": "tool_call", "name": "f"}]
    call(kit, "/tensorzero/feedback", {"metric_name": "demonstration", "value": blocks, **about})
    assert kept(kit, "correction").correction == "forty"


def test_tensorzeros_client_sends_null_for_what_is_not_given(kit: Kit) -> None:
    nothing = {"episode_id": None, "dryrun": None, "internal": None, "tags": None}
    body = {"metric_name": "m", "value": True, "inference_id": chat(kit), **nothing}
    assert call(kit, "/tensorzero/feedback", body)[0] == 200


def test_a_dry_run_is_checked_and_kept_nowhere(kit: Kit) -> None:
    body = {"metric_name": "quality", "value": 0.5, "inference_id": chat(kit), "dryrun": True}
    assert call(kit, "/tensorzero/feedback", body)[0] == 200
    assert call(kit, "/tensorzero/feedback", {**body, "value": "x"})[0] == 400
    assert kit.store.count(Feedback) == 0


def test_a_tensorzero_episode_is_a_session(kit: Kit) -> None:
    body: dict[str, object] = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
    post(kit.url, "/v1/chat/completions", json.dumps({**body, "tensorzero::episode_id": "e1"}).encode())
    (record,) = kit.logs()
    assert (record.session, record.session_source) == ("e1", "body.tensorzero::episode_id")
    call(kit, "/tensorzero/feedback", {"metric_name": "solved", "value": 1.0, "episode_id": "e1"})
    item = kept(kit, "rating")
    assert (item.target_kind, item.target, item.value) == ("session", "e1", 1.0)


# Langfuse


def test_a_langfuse_score_of_a_trace_in_the_traceparent(kit: Kit) -> None:
    record = chat(kit, traceparent=f"00-{TRACE}-{SPAN}-01")
    body = {"id": "s1", "traceId": TRACE, "name": "user-feedback", "value": 0, "dataType": "BOOLEAN",
            "comment": "wrong price", "metadata": {"user_id": "bo"}, "environment": "default"}  # fmt: skip
    assert call(kit, "/langfuse/api/public/scores", body) == (200, {"id": "s1"})
    item = kept(kit, "rating")
    assert (item.id, item.target, item.value, item.comment, item.user) == ("s1", record, -1.0, "wrong price", "bo")
    assert call(kit, "/langfuse/api/public/scores", {**body, "value": 1}) == (200, {"id": "s1"})
    assert kept(kit, "rating").value == 1.0
    assert call(kit, "/langfuse/api/public/scores/s1", method="DELETE")[0] == 202
    assert kept(kit, "rating").revoked
    assert call(kit, "/langfuse/api/public/scores/s2", method="DELETE")[0] == 404


@pytest.mark.parametrize(
    ("score", "wanted"),
    [
        ({"value": 0.9}, ("rating", 0.8, None, None)),
        ({"value": 0.25, "dataType": "NUMERIC"}, ("rating", -0.5, None, None)),
        ({"value": -1, "dataType": "NUMERIC"}, ("rating", -1.0, None, None)),
        ({"value": 4, "name": "stars"}, ("rating", 0.5, None, None)),
        ({"value": 1, "name": "toxic", "dataType": "BOOLEAN"}, ("rating", -1.0, None, None)),
        ({"value": "Good", "dataType": "CATEGORICAL"}, ("rating", 1.0, None, None)),
        ({"value": "partially", "dataType": "CATEGORICAL"}, ("comment", None, "s: partially", None)),
        ({"value": "too long", "dataType": "TEXT", "comment": "much"}, ("comment", None, "too long\nmuch", None)),
        ({"value": "forty", "dataType": "CORRECTION"}, ("correction", None, None, "forty")),
    ],
)  # fmt: skip
def test_every_type_of_a_langfuse_score(shared: Kit, score: dict[str, Json], wanted: tuple[object, ...]) -> None:
    name = str(wanted) + str(score)
    body = {"sessionId": "z", "name": "s", "id": name, **score}
    assert call(shared, "/langfuse/api/public/scores", body) == (200, {"id": name})
    item = shared.store.feedback_by_id([name])[name]
    assert item.value == pytest.approx(wanted[1])
    assert (item.kind, item.comment, item.correction) == (wanted[0], *wanted[2:])


def test_a_list_of_langfuse_scores_keeps_the_good_ones(kit: Kit) -> None:
    good = {"traceId": TRACE, "name": "a", "value": 1}
    bad = {"value": "x", "dataType": "NUMERIC"}
    assert call(kit, "/langfuse/api/public/scores", [good]) == (202, {"message": "Accepted"})
    status, answer = call(kit, "/langfuse/api/public/scores", [good, {**good, **bad}, {"name": "b"}])
    assert isinstance(answer, dict)
    assert (status, answer["accepted"], answer["rejected"]) == (207, 1, 2)
    assert call(kit, "/langfuse/api/public/scores", {**good, **bad})[0] == 400


def test_a_number_of_unknown_range_is_kept_as_it_came(kit: Kit) -> None:
    heard: list[Feedback] = []
    kit.gateway.watch(Hearing(heard))
    score = {"id": "s1", "traceId": TRACE, "name": "stars", "value": 4, "dataType": "NUMERIC"}
    assert call(kit, "/langfuse/api/public/scores", score) == (200, {"id": "s1"})
    body = {"metric_name": "tokens", "value": 812.0, "inference_id": chat(kit)}
    status, answer = call(kit, "/tensorzero/feedback", body)
    assert isinstance(answer, dict)
    assert status == 200
    found = kit.store.feedback_by_id(["s1", str(answer["feedback_id"])])
    assert [(item.kind, item.value, item.score) for item in sorted(found.values(), key=lambda item: item.score)] == [
        ("rating", None, 4.0), ("rating", None, 812.0),
    ]  # fmt: skip
    metrics = Metrics()
    for item in heard:
        metrics.feedback(item, "x")
    assert metrics._feedback._counts == {("unread_score", "x"): 2}
    assert call(kit, "/langfuse/api/public/scores", {**score, "value": 0.5}) == (200, {"id": "s1"})
    item = kit.store.feedback_by_id(["s1"])["s1"]
    assert (item.value, item.score) == (0.0, None)


def test_a_changed_comment_leaves_the_number_of_unknown_range(kit: Kit) -> None:
    body = {"id": "f1", "run_id": "r1", "key": "stars", "score": 4}
    assert call(kit, "/langsmith/feedback", body)[0] == 200
    assert call(kit, "/langsmith/feedback/f1", {"comment": "well"}, "PATCH")[0] == 200
    item = kit.store.feedback_by_id(["f1"])["f1"]
    assert (item.value, item.score, item.comment) == (None, 4.0, "well")
    assert call(kit, "/langsmith/feedback/f1", {"score": 1}, "PATCH")[0] == 200
    item = kit.store.feedback_by_id(["f1"])["f1"]
    assert (item.value, item.score, item.comment) == (1.0, None, "well")


class Hearing:
    """Takes down feedback."""

    def __init__(self, heard: list[Feedback]) -> None:
        self._heard = heard

    def exchange(self, exchange: Exchange) -> None:
        pass

    def feedback(self, feedback: Feedback, shape: str) -> None:
        self._heard.append(feedback)


def test_langfuse_events_of_older_clients(kit: Kit) -> None:
    score = {"type": "score-create", "timestamp": "2026-01-01T00:00:00Z",
             "body": {"id": "s1", "traceId": TRACE, "name": "a", "value": 1.0}}  # fmt: skip
    batch = [{"id": "e1", **score}, {"id": "e2", "type": "trace-create", "body": {}}]
    status, answer = call(kit, "/langfuse/api/public/ingestion", {"batch": batch, "metadata": {"sdk_name": "python"}})
    assert isinstance(answer, dict)
    assert (status, answer["successes"]) == (207, [{"id": "e1", "status": 201}])
    assert [(error["id"], error["status"]) for error in json.loads(json.dumps(answer["errors"]))] == [("e2", 400)]
    assert [item.id for item in kit.store.feedback()] == ["s1"]


# Portkey, Helicone


def test_portkey_feedback_and_its_update(kit: Kit) -> None:
    record = chat(kit, **{"x-portkey-trace-id": "t1", "x-portkey-metadata": '{"_user": "cy"}'})
    assert kit.store.record(record).user == "cy"
    body = {"trace_id": "t1", "value": 1, "weight": 0.5, "metadata": {"text": "title was irrelevant", "_user": "cy"}}
    status, answer = call(kit, "/portkey/v1/feedback", body)
    assert isinstance(answer, dict)
    assert (status, answer["status"], answer["message"]) == (200, "success", "Feedback successfully saved")
    item = kept(kit, "rating")
    assert answer["feedback_ids"] == [item.id]
    assert (item.target, item.value, item.comment, item.user) == (record, 0.5, "title was irrelevant", "cy")
    assert call(kit, f"/portkey/v1/feedback/{item.id}", {"value": -10}, "PUT") == (200, answer)
    item = kept(kit, "rating")
    assert (item.target, item.value, item.comment, item.user) == (record, -1.0, None, "cy")


def test_a_bulk_of_portkey_feedback_is_kept_whole_or_not_at_all(kit: Kit) -> None:
    bulk = [{"trace_id": "t1", "value": 5}, {"trace_id": "t2", "value": -10, "weight": 1}]
    assert call(kit, "/portkey/v1/feedback", [*bulk, {"trace_id": "t3", "value": 11}])[0] == 400
    assert kit.store.count(Feedback) == 0
    _, answer = call(kit, "/portkey/v1/feedback", bulk)
    assert isinstance(answer, dict)
    assert {item.id: item.value for item in kit.store.feedback()} == dict(
        zip(json.loads(json.dumps(answer["feedback_ids"])), [0.5, -1.0], strict=True)
    )


def test_helicone_rates_a_request_by_the_id_it_was_sent_with(kit: Kit) -> None:
    record = chat(kit, **{"helicone-request-id": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", "helicone-user-id": "di"})
    path = "/helicone/v1/request/9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d/feedback"
    assert call(kit, path, {"rating": True}) == (200, {"data": None, "error": None})
    assert call(kit, path, {"rating": False}, **{"helicone-user-id": "di"}) == (200, {"data": None, "error": None})
    assert {(item.target, item.value, item.user) for item in kit.store.feedback()} == {
        (record, 1.0, None), (record, -1.0, "di"),
    }  # fmt: skip
    assert call(kit, path, {"rating": 1})[0] == 400


# Open WebUI


def thumb(rating: Json = -1, **more: Json) -> dict[str, Json]:
    """As RateComment sends it; its export has the same items."""
    return {
        "type": "rating",
        "data": {"rating": rating, "model_id": "base", "reason": "too_verbose", "comment": "be brief",
                 "tags": ["billing"], "details": {"rating": 3}},
        "meta": {"arena": True, "model_id": "base", "message_id": "m1", "message_index": 2, "chat_id": "c1",
                 "base_models": {"base": None}},
        "snapshot": {"chat": {"id": "c1"}}, **more,
    }  # fmt: skip


def test_an_open_webui_thumb_goes_to_its_message(kit: Kit) -> None:
    record = chat(kit, **{"x-openwebui-message-id": "m1", "x-openwebui-chat-id": "c1"})
    chat(kit, **{"x-openwebui-message-id": "m2", "x-openwebui-chat-id": "c1"})
    path = "/openwebui/api/v1/evaluations/feedback"
    status, answer = call(kit, path, thumb(), **{"x-openwebui-user-id": "ed"})
    assert isinstance(answer, dict)
    assert (status, answer["user_id"], answer["data"]) == (200, "ed", thumb()["data"])
    item = kept(kit, "rating")
    assert (item.target, item.value, item.comment, item.user) == (record, -1.0, "too verbose: be brief", "ed")
    assert call(kit, f"{path}/{item.id}", thumb(1))[0] == 200
    assert (kept(kit, "rating").value, kept(kit, "rating").target) == (1.0, record)
    assert call(kit, f"{path}/{item.id}", method="DELETE") == (200, True)
    assert kept(kit, "rating").revoked


def test_an_open_webui_thumb_whose_message_is_unknown_goes_to_its_chat(kit: Kit) -> None:
    chat(kit, **{"x-openwebui-chat-id": "c1"})
    call(kit, "/openwebui/api/v1/evaluations/feedback", thumb("1", id="f1", user_id="ed"))
    item = kept(kit, "rating")
    assert (item.id, item.target_kind, item.target, item.value, item.user) == ("f1", "session", "c1", 1.0, "ed")


# LangSmith, Phoenix


def test_langsmith_feedback_is_created_changed_and_deleted(kit: Kit) -> None:
    run, key = "74f0c4e0-9240-4308-80d5-4734838dc618", "user_score"
    record = chat(kit, **{"langsmith-trace": f"20260101T000000000000Z{run}"})
    body = {"id": "f1", "run_id": run, "trace_id": run, "key": key, "score": 1.0, "comment": "fine",
            "feedback_source": {"type": "api", "metadata": {"user_id": "fay"}}}  # fmt: skip
    status, answer = call(kit, "/langsmith/feedback", body)
    assert (status, answer) == (200, body)
    assert call(kit, "/langsmith/feedback/f1", {"score": 0.0}, "PATCH")[0] == 200
    item = kept(kit, "rating")
    assert (item.target, item.value, item.comment, item.user, item.name) == (record, -1.0, "fine", "fay", key)
    call(kit, "/langsmith/feedback/f1", {"comment": None, "correction": {"answer": "forty"}}, "PATCH")
    item = kept(kit, "rating")
    assert (item.value, item.comment, item.correction) == (-1.0, None, "forty")
    assert call(kit, "/langsmith/feedback/f1", method="DELETE")[0] == 200
    assert kept(kit, "rating").revoked
    scaled = {"run_id": run, "key": "stars", "score": 5, "feedback_config": {"type": "continuous", "min": 1, "max": 5}}
    assert call(kit, "/langsmith/feedback", scaled)[0] == 200
    assert call(kit, "/langsmith/info", method="GET") == (200, {})


def test_phoenix_annotations_of_spans_traces_and_sessions(kit: Kit) -> None:
    record = chat(kit, traceparent=f"00-{TRACE}-{SPAN}-01")

    def one(**more: Json) -> dict[str, Json]:
        return {"data": [{"name": "thumbs", "annotator_kind": "HUMAN", "result": {"score": 0.0}, **more}]}

    status, answer = call(kit, "/phoenix/v1/span_annotations?sync=true", one(span_id=SPAN))
    assert isinstance(answer, dict)
    assert (status, answer["data"]) == (200, [{"id": kept(kit, "rating").id}])
    good: Json = {"label": "good", "explanation": "short"}
    call(kit, "/phoenix/v1/span_annotations", one(span_id=SPAN, result=good))
    item = kept(kit, "rating")  # the same name and identifier: in its place
    assert (item.target, item.value, item.comment, item.source) == (record, 1.0, "short", "user")
    call(kit, "/phoenix/v1/trace_annotations", one(trace_id=TRACE, annotator_kind="LLM"))
    call(kit, "/phoenix/v1/session_annotations", one(session_id="s"))
    assert {(item.target, item.source) for item in kit.store.feedback()} == {
        (record, "user"), (record, "judge"), ("s", "user"),
    }  # fmt: skip


# what cannot be read


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/tensorzero/feedback", {"value": True, "inference_id": "i"}, "'metric_name' is missing"),
        ("/tensorzero/feedback", {"metric_name": "m", "value": True}, "either 'inference_id' or 'episode_id'"),
        ("/tensorzero/feedback", {"metric_name": "m", "value": "x", "inference_id": "i"}, "true, false or a number"),
        ("/tensorzero/feedback", {"metric_name": "comment", "value": "", "inference_id": "i"}, "says nothing"),
        ("/langfuse/api/public/scores", {"name": "n", "value": 1}, "give traceId"),
        ("/langfuse/api/public/scores", {"name": "n", "value": "x", "traceId": "t", "dataType": "NUMERIC"}, "not fit"),
        ("/langfuse/api/public/ingestion", {"batch": 5}, "'batch' must be a list"),
        ("/portkey/v1/feedback", {"value": 1}, "'trace_id' is missing"),
        ("/portkey/v1/feedback", {"trace_id": "t", "value": 1, "weight": 2}, "'weight'"),
        ("/portkey/v1/feedback", [], f"a list of 1 to {MOST}"),
        ("/openwebui/api/v1/evaluations/feedback", {"data": {"rating": 1}}, "give meta.message_id"),
        ("/openwebui/api/v1/evaluations/feedback", thumb(2), "not from -1"),
        ("/openwebui/api/v1/evaluations/feedback", thumb("meh"), "must be 1 or -1"),
        ("/langsmith/feedback", {"key": "k", "score": 1}, "give run_id"),
        ("/langsmith/feedback", {"key": "k", "run_id": "r"}, "says nothing"),
        ("/phoenix/v1/span_annotations", {"data": [{"name": "n"}]}, "'span_id' is missing"),
        ("/helicone/v1/request/" + "r" * 300 + "/feedback", {"rating": True}, "1 to 256"),
        ("/tensorzero/feedback", [1], "no JSON object"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(shared: Kit, path: str, body: object, said: str) -> None:
    before = shared.store.count(Feedback)
    status, answer = call(shared, path, body)
    assert status == 400
    assert said in json.dumps(answer)
    assert shared.store.count(Feedback) == before


def test_paths_and_methods_of_the_compatibility_prefix(kit: Kit) -> None:
    assert call(kit, "/tensorzero/inference", {})[0] == 404
    assert call(kit, "/helicone/v1/request/a/b/feedback", {"rating": True})[0] == 404
    assert call(kit, "/tensorzero/feedback", method="GET")[0] == 405
    assert post(kit.url, f"{PREFIX}/portkey/v1/feedback/x", b"{", "PUT")[0] == 400
    kit.store.broken = True
    assert call(kit, "/tensorzero/feedback", {"metric_name": "m", "value": 1, "inference_id": "i"})[0] == 200


# any body


def test_numbers_on_one_scale() -> None:
    def value(score: float, name: str = "n", scale: tuple[float, float] | None = None) -> float | None:
        return rated(Said(system="s", fields={"name": name}, targets=(), score=score, scale=scale), {"stars": (1, 5)})

    assert [value(0), value(0.5), value(1)] == [-1, 0, 1]
    assert [value(1, "stars"), value(3, "stars"), value(5, "stars")] == [-1, 0, 1]
    assert value(2, scale=(10.0, 0.0)) == pytest.approx(0.6)
    assert [value(7), value(-2), value(0, "stars"), value(7, "stars", (0.0, 5.0))] == [None] * 4
    with pytest.raises(RequestError, match="not from 0"):
        value(7, scale=(0.0, 5.0))


WORDS_ = st.sampled_from([
    "metric_name", "value", "inference_id", "episode_id", "tags", "name", "traceId", "dataType", "trace_id", "weight",
    "metadata", "rating", "data", "meta", "chat_id", "comment", "run_id", "key", "score", "correction", "span_id",
    "result", "label", "batch", "type", "body", "reason", "feedback_source", "feedback_config", "min", "max",
])  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("NUMERIC") | st.just("{}")
)
BODIES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS_, inner, max_size=6))


@given(st.sampled_from(SHAPES), BODIES)
def test_any_body_is_read_or_refused(shape: object, body: Json) -> None:
    assert shape in SHAPES
    for known in [item for item in SHAPES if item == shape]:
        try:
            items = known.read(body, "id")
        except RequestError:
            continue
        assert all(isinstance(item, (RequestError, Said)) for item in items)


def test_every_path_is_found_with_its_id() -> None:
    for shape in SHAPES:
        found, named = find(shape.full_path.replace("{id}", "x y%"))[shape.method]
        assert found is shape
        assert named == ("x y%" if "{id}" in shape.path else "")
    assert find("/compat/nobody") == {}
