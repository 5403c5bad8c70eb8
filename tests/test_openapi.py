"""The OpenAPI document is true: of paths, of bodies as clients send them, and under schemathesis."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_kit import Kit, gateway, post

from logtune.app.feedback_shapes import SHAPES
from logtune.app.openapi import document
from logtune.app.openapi_shapes import BODIES
from logtune.records import Json

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with gateway(tmp_path_factory.mktemp("openapi")) as running:
        yield running


def whole() -> dict[str, dict[str, dict[str, dict[str, Json]]]]:
    copied: dict[str, dict[str, dict[str, dict[str, Json]]]] = json.loads(json.dumps(document()))
    return copied


def calls() -> list[tuple[str, str, dict[str, Json]]]:
    """Path, method and description of every call."""
    return [
        (path, method, call)
        for path, item in whole()["paths"].items()
        for method, call in item.items()
        if method in METHODS
    ]


def nodes(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_the_gateway_serves_it_to_everybody(kit: Kit) -> None:
    status, headers, body = post(kit.url, "/openapi.json", b"", "GET")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == whole()
    assert json.loads(body)["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere_and_every_call_has_a_name() -> None:
    every: Json = json.loads(json.dumps(document()))
    for node in nodes(every):
        target = every
        for part in str(node.get("$ref", "#")).split("/")[1:]:
            assert isinstance(target, dict)
            target = target[part]
    names = [call["operationId"] for _, _, call in calls()]
    assert len(names) == len({*names})
    assert set(BODIES) == {(shape.system, f"{shape.method} {shape.path}") for shape in SHAPES}


def test_every_call_exists_and_no_other_method_does(kit: Kit) -> None:
    for path, item in whole()["paths"].items():
        allowed = post(kit.url, path.replace("{id}", "x"), b"", "OPTIONS")[1]["allow"].lower().split(", ")
        assert {*allowed} - {"options", "head"} == METHODS & {*item}, path


def test_schemas_are_schemas_and_take_what_clients_send() -> None:
    jsonschema = pytest.importorskip("jsonschema_rs", reason="comes with schemathesis")
    components = whole()["components"]
    for path, method, call in calls():
        body = call.get("requestBody")
        if isinstance(body, dict):
            schema = json.loads(json.dumps(body))["content"]["application/json"]["schema"]
            checker = jsonschema.Draft202012Validator({**schema, "components": components})
            good, bad = SENT[f"{method} {path}"]
            assert checker.is_valid(good), f"{method} {path}: {checker.iter_errors(good)}"
            assert not checker.is_valid(bad), f"{method} {path}"


RATED: Json = {"rating": 1, "reason": "thorough_explanation", "comment": "", "model_id": "m", "details": {"rating": 9}}
NOTED: Json = {"name": "n", "annotator_kind": "HUMAN", "result": {"score": 1, "explanation": "x"}, "identifier": ""}
SENT: dict[str, tuple[Json, Json]] = {
    "post /v1/chat/completions": (
        {"model": "base", "messages": [{"role": "user", "content": "x"}], "top_k": 5}, {"messages": []}),
    "post /v1/completions": ({"model": "base", "prompt": "def f(", "suffix": "x"}, {"model": 5, "prompt": ""}),
    "post /v1/feedback": ({"response_id": "i", "rating": "up", "user": "u"}, {"response_id": "i"}),
    "post /compat/tensorzero/feedback": (
        {"metric_name": "m", "value": True, "inference_id": "i", "episode_id": None, "tags": None},
        {"metric_name": "m", "value": 1}),
    "post /compat/langfuse/api/public/scores": (
        [{"id": "s", "traceId": "t", "name": "n", "value": 0.5, "dataType": "NUMERIC", "timestamp": "now"}],
        {"name": "n", "value": 1}),
    "post /compat/langfuse/api/public/ingestion": (
        {"batch": [{"id": "e", "type": "score-create", "timestamp": "t", "body": {"name": "n"}}]}, {"batch": []}),
    "post /compat/portkey/v1/feedback": ({"trace_id": "t", "value": -10, "weight": 0.5}, {"value": 1}),
    "put /compat/portkey/v1/feedback/{id}": ({"value": 1, "weight": 1, "metadata": {}}, {}),
    "post /compat/helicone/v1/request/{id}/feedback": ({"rating": True}, {"rating": "up"}),
    "post /compat/openwebui/api/v1/evaluations/feedback": (
        {"type": "rating", "data": RATED, "meta": {"message_id": "m", "chat_id": "c"}}, {"data": RATED}),
    "post /compat/openwebui/api/v1/evaluations/feedback/{id}": ({"type": "rating", "data": RATED, "meta": {}}, {}),
    "post /compat/langsmith/feedback": (
        {"id": "f", "run_id": "r", "key": "k", "score": 1.0, "feedback_source": {"type": "api"}}, {"key": "k"}),
    "patch /compat/langsmith/feedback/{id}": ({"score": 0.5, "comment": None}, []),
    "post /compat/phoenix/v1/span_annotations": ({"data": [{"span_id": "s", **NOTED}]}, {"data": [NOTED]}),
    "post /compat/phoenix/v1/trace_annotations": ({"data": [{"trace_id": "s", **NOTED}]}, {"data": []}),
    "post /compat/phoenix/v1/session_annotations": ({"data": [{"session_id": "s", **NOTED}]}, {}),
}  # fmt: skip


# The shapes of other systems are read leniently: odd values in fields that we pass over are no reason to lose a thumb.
@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    ["--exclude-path-regex ^/compat", "--include-path-regex ^/compat --exclude-checks negative_data_rejection"],
    ids=["own", "compat"],
)
def test_schemathesis_finds_nothing(kit: Kit, tmp_path: Path, chosen: str) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed: pip install 'logtune[dev]'")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{kit.url}/openapi.json", "--url", kit.url, "--checks", "all",
        "--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--no-color", "--request-timeout", "60",
    ]  # fmt: skip
    done = subprocess.run([*command, *chosen.split()], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    assert json.loads(post(kit.url, "/healthz", b"", "GET")[2]) == {"status": "ok"}
