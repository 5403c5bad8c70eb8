"""JSON schemas of feedback in other systems' shapes, for the OpenAPI document.

(system, "METHOD path") -> schema of the body (None: there is none), schemas of the good answers by status
"""

from collections.abc import Mapping

from logtune.app.feedback_reading import MOST
from logtune.records import Json

Schema = dict[str, Json]
SPOKEN = r"[^\s\x1c-\x1f\x85]"  # something beside space, as Python sees it
TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": SPOKEN}
SCORE: Schema = {"type": ["number", "boolean"], "minimum": -1, "maximum": 1}
ANY_OBJECT: Schema = {"type": ["object", "null"]}


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": MOST}


def _either(schema: Schema, *choices: str) -> Schema:
    return {**schema, "anyOf": [{"required": [choice]} for choice in choices]}


def _named(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"type": "string"}}}


_SPOKEN: Schema = {"type": "string", "pattern": SPOKEN}
_NAME_OR_NULL: Schema = {**NAME, "type": ["string", "null"]}
_METRIC = _object({"metric_name": NAME, "value": True, "inference_id": _NAME_OR_NULL, "episode_id": _NAME_OR_NULL,
                   "tags": True, "dryrun": {"type": ["boolean", "null"]}}, "metric_name", "value")  # fmt: skip
_RESERVED: Schema = {"properties": {"metric_name": {"enum": ["comment", "demonstration"]}, "value": _SPOKEN}}
_OTHER: Schema = {"properties": {"metric_name": {"not": {"enum": ["comment", "demonstration"]}}, "value": SCORE}}
_TENSORZERO: Schema = {
    **_METRIC, "allOf": [{"oneOf": [_named("inference_id"), _named("episode_id")]},
                         {"anyOf": [_RESERVED, _OTHER]}],
}  # fmt: skip
_SCORE_FIELDS: Schema = {
    "id": NAME, "name": NAME, "value": True, "traceId": NAME, "sessionId": NAME, "observationId": NAME,
    "dataType": {"enum": ["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"]}, "comment": TEXT_OR_NULL,
    "metadata": True, "environment": True, "source": True,
}  # fmt: skip
_WORDED: Schema = {"properties": {"value": _SPOKEN, "dataType": {"enum": ["CATEGORICAL", "TEXT", "CORRECTION"]}}}
_COUNTED: Schema = {"properties": {"value": SCORE, "dataType": {"const": "NUMERIC"}}}
_YES_NO: Schema = {"properties": {"value": {"enum": [0, 1]}, "dataType": {"const": "BOOLEAN"}}}
_LANGFUSE: Schema = {
    **_either(_object(_SCORE_FIELDS, "name", "value"), "traceId", "sessionId", "observationId"),
    "allOf": [{"anyOf": [_WORDED, _COUNTED, _YES_NO]}],
}
_EVENT = _object({"id": TEXT, "type": TEXT, "timestamp": TEXT, "body": {"type": "object"}}, "id", "type", "body")
_RATED: Schema = {"value": {"type": "number", "minimum": -10, "maximum": 10},
                  "weight": {"type": "number", "minimum": 0, "maximum": 1}, "metadata": True}  # fmt: skip
_PORTKEY = _object({"trace_id": NAME, **_RATED}, "trace_id", "value")
_THUMB = _object({"rating": {"enum": [1, -1, "1", "-1"]}, "reason": TEXT_OR_NULL, "comment": TEXT_OR_NULL}, "rating")
_MESSAGE_ID = _either(_object({"message_id": NAME, "chat_id": NAME}), "message_id", "chat_id")
_OPEN_WEBUI: Schema = {"type": True, "data": _THUMB, "meta": True, "snapshot": True}
_LANGSMITH_SAID: Schema = {
    "key": NAME, "score": SCORE, "comment": TEXT_OR_NULL, "correction": True,
    "feedback_source": True,
}  # fmt: skip
_LANGSMITH = _either(
    _object({"id": NAME, "run_id": NAME, "trace_id": NAME, **_LANGSMITH_SAID}, "score"), "run_id", "trace_id"
)
_RESULT = _object({"score": SCORE, "label": TEXT_OR_NULL, "explanation": TEXT_OR_NULL}, "score")
_FEEDBACK_ITEM = _object({"id": TEXT, "user_id": TEXT, "version": {"type": "integer"}, "data": True,
                          "created_at": {"type": "integer"}, "updated_at": {"type": "integer"}}, "id")  # fmt: skip
_MESSAGE = _object({"message": TEXT}, "message")
_IDS = _object({"status": TEXT, "message": TEXT, "feedback_ids": {"type": "array", "items": TEXT}}, "feedback_ids")
_BATCH = _object({"accepted": {"type": "integer"}, "rejected": {"type": "integer"}, "errors": {"type": "array"}})
_ID = _object({"id": TEXT}, "id")


def _annotations(key: str) -> Schema:
    one = _object({
        key: NAME, "name": NAME, "annotator_kind": {"enum": ["HUMAN", "LLM", "CODE"]}, "result": _RESULT,
        "metadata": True, "identifier": TEXT_OR_NULL,
    }, key, "name", "result")  # fmt: skip
    return _object({"data": _many(one)}, "data")


_ANNOTATED: Mapping[str, Schema] = {"200": _object({"data": {"type": "array", "items": _ID}}, "data")}
BODIES: Mapping[tuple[str, str], tuple[Schema | None, Mapping[str, Schema]]] = {
    ("tensorzero", "POST /feedback"): (_TENSORZERO, {"200": _object({"feedback_id": TEXT}, "feedback_id")}),
    ("tensorzero", "GET /status"): (None, {"200": _object({"status": TEXT}, "status")}),
    ("langfuse", "POST /api/public/scores"): (
        {"anyOf": [_LANGFUSE, _many(_LANGFUSE)]}, {"200": _ID, "202": _MESSAGE, "207": _BATCH}),
    ("langfuse", "POST /api/public/ingestion"): (
        _object({"batch": _many(_EVENT), "metadata": True}, "batch"),
        {"207": _object({"successes": {"type": "array"}, "errors": {"type": "array"}}, "successes", "errors")}),
    ("langfuse", "DELETE /api/public/scores/{id}"): (None, {"202": _MESSAGE}),
    ("portkey", "POST /v1/feedback"): ({"anyOf": [_PORTKEY, _many(_PORTKEY)]}, {"200": _IDS}),
    ("portkey", "PUT /v1/feedback/{id}"): (_object(_RATED, "value"), {"200": _IDS}),
    ("helicone", "POST /v1/request/{id}/feedback"): (
        _object({"rating": {"type": "boolean"}}, "rating"),
        {"200": _object({"data": {"type": "null"}, "error": {"type": "null"}}, "data", "error")}),
    ("openwebui", "POST /api/v1/evaluations/feedback"): (
        _object({**_OPEN_WEBUI, "meta": _MESSAGE_ID}, "data", "meta"), {"200": _FEEDBACK_ITEM}),
    ("openwebui", "POST /api/v1/evaluations/feedback/{id}"): (
        _object(_OPEN_WEBUI, "data"), {"200": _FEEDBACK_ITEM}),
    ("openwebui", "DELETE /api/v1/evaluations/feedback/{id}"): (None, {"200": {"const": True}}),
    ("langsmith", "POST /feedback"): (_LANGSMITH, {"200": _ID}),
    ("langsmith", "PATCH /feedback/{id}"): (_object(_LANGSMITH_SAID), {"200": _ID}),
    ("langsmith", "DELETE /feedback/{id}"): (None, {"200": _ID}),
    ("langsmith", "GET /info"): (None, {"200": {"type": "object"}}),
    ("phoenix", "POST /v1/span_annotations"): (_annotations("span_id"), _ANNOTATED),
    ("phoenix", "POST /v1/trace_annotations"): (_annotations("trace_id"), _ANNOTATED),
    ("phoenix", "POST /v1/session_annotations"): (_annotations("session_id"), _ANNOTATED),
    ("phoenix", "GET /arize_phoenix_version"): (None, {"200": {"type": "text"}}),
}  # fmt: skip
