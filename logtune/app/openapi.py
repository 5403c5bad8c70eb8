"""The gateway's OpenAPI 3.1 document, served at /openapi.json; docs/reference/http.md lists it.

what the gateway answers -> one JSON document

It says what the embedded engine takes. Fields that it does not name are let through, and reach a model server.
"""

from collections.abc import Iterator
from functools import cache
from typing import get_args

from logtune import __version__
from logtune.app.feedback_api import LONGEST_ID, RECORD_KEYS
from logtune.app.feedback_reading import WORDS, Shape
from logtune.app.feedback_shapes import SHAPES
from logtune.app.openapi_shapes import BODIES, SPOKEN
from logtune.records import FeedbackKind, Json

Schema = dict[str, Json]
STATUSES = {
    "400": "The request cannot be read, or asks for what cannot be done; `param` names the field.",
    "401": "A key is needed, or the one given is not known.",
    "404": "There is no such path, model or feedback.",
    "405": "The method is not allowed here; the header `allow` names those that are.",
    "408": "The request took too long to arrive.",
    "413": "The body is larger than `serve.max_body_mb`.",
    "429": "Too many requests of this key; `retry-after` says when to come back.",
    "500": "The model or the gateway failed.",
    "502": "The model server failed.",
    "503": "Too much is under way, or the store does not answer; try again.",
    "504": "The model server did not answer in time.",
}
ALWAYS = ("400", "401", "405", "408", "413", "429", "500", "503")
TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "maxLength": LONGEST_ID}
WHOLE: Schema = {"type": "integer"}


@cache
def document() -> Schema:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "logtune", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "An OpenAI-compatible gateway that learns from its users.",
        },
        "security": [{}, {"key": []}],
        "paths": {**_own_paths(), **_shaped_paths()},
        "components": {
            "schemas": {"Error": _error(), "ChatRequest": _chat_request(), "ChatCompletion": _completion(),
                        "CompletionRequest": _text_request(), "Completion": _text_completion(),
                        "Feedback": _feedback(), "Model": _model()},
            "responses": {status: _problem(status) for status in STATUSES},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "logtune keys create"}},
        },
    }  # fmt: skip


def calls() -> Iterator[tuple[str, str, str, list[str]]]:
    """Path, method, summary and statuses of every call in the document."""
    paths = document()["paths"]
    for path, item in paths.items() if isinstance(paths, dict) else ():
        for method, call in item.items() if isinstance(item, dict) else ():
            responses = call.get("responses") if isinstance(call, dict) else None
            if isinstance(call, dict) and isinstance(responses, dict):
                yield path, method, str(call["summary"]), list(responses)


def _own_paths() -> Schema:
    said = _object({"id": TEXT, "status": {"enum": ["stored", "revoked", "accepted"]}, "note": TEXT}, "id", "status")
    feedback: Schema = {
        "200": _json(said, "Kept."),
        "202": _json(said, "Kept, and joined when its answer is known; or it waits for the store."),
    }
    alive = _object({"status": {"const": "ok"}}, "status")
    listed = _object({"object": {"const": "list"}, "data": _list(_ref("Model"))}, "object", "data")
    ready = _object({"status": {"enum": ["ready", "not ready"]}, "store": TEXT}, "status", "store")
    return {
        "/v1/chat/completions": {"post": _call("createChatCompletion", "An answer, whole or streamed.",
                                               _answers("ChatCompletion"), _ref("ChatRequest"))},
        "/v1/completions": {"post": _call("createCompletion", "A text goes on; by a model server alone.",
                                          _answers("Completion"), _ref("CompletionRequest"))},
        "/v1/feedback": {"post": _call("createFeedback", "What a user said about an answer.",
                                       {**feedback, **_problems()}, _ref("Feedback"))},
        "/v1/models": {"get": _call("listModels", "The base model, and the adapters that serve.", {
            "200": _json(listed, "Models."), **_problems(),
        })},
        "/v1/models/{id}": {
            "parameters": [_id_in_path()],
            "get": _call("getModel", "One of them.", {"200": _json(_ref("Model"), "It."), **_problems("404")}),
        },
        "/healthz": {"get": _open("live", "The process runs.", {"200": _json(alive, "Yes.")})},
        "/readyz": {"get": _open("ready", "Requests can be served and stored.", {
            "200": _json(ready, "Yes."), "503": _json(ready, "No; `store` says why.")})},
        "/openapi.json": {"get": _open("openapi", "This document.", {"200": _json({"type": "object"}, "It.")})},
    }  # fmt: skip


def _shaped_paths() -> Schema:
    found: dict[str, Schema] = {}
    for shape in SHAPES:
        path = found.setdefault(shape.full_path, {"parameters": [_id_in_path()]} if "{id}" in shape.path else {})
        path[shape.method.lower()] = _shaped(shape)
    return dict(found)


def _shaped(shape: Shape) -> Schema:
    body, answers = BODIES[shape.system, f"{shape.method} {shape.path}"]
    good: Schema = {
        status: _json(schema, "As that system answers.") if schema.get("type") != "text" else _plain()
        for status, schema in answers.items()
    }
    needs = [*(["404"] if shape.changes else [])]
    name = f"{shape.system}_{shape.method.lower()}_{shape.path.strip('/').replace('/', '_').replace('{id}', 'id')}"
    return {**_call(name, shape.about, {**good, **_problems(*needs)}, body), "tags": [shape.system]}


# schemas


def _chat_request() -> Schema:
    part = _object({"type": {"const": "text"}, "text": TEXT}, "type", "text")
    content: Schema = {"anyOf": [TEXT, _list(part)]}
    said = _object({"role": {"enum": ["system", "developer", "user"]}, "content": content}, "role", "content")
    silent: Schema = {"anyOf": [content, {"type": "null"}]}
    answered = _object({"role": {"const": "assistant"}, "content": silent, "tool_calls": False}, "role")
    request = _object({
        "model": {"type": ["string", "null"], "description": "`base`, or an adapter; a model server's own names."},
        "messages": {"type": "array", "minItems": 1, "items": {"anyOf": [said, answered]}},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"description": "`include_usage`: the last chunk counts tokens."},
        "temperature": _range("number", 0, 2), "top_p": _range("number", 0, 1), "n": _range("integer", 1, 16),
        "max_tokens": _range("integer", 1, 2**31),
        "max_completion_tokens": _range("integer", 1, 2**31),
        "seed": _range("integer", -(2**63), 2**63 - 1),
        "stop": {"anyOf": [{"type": ["string", "null"], "minLength": 1},
                           {**_list({"type": "string", "minLength": 1}), "maxItems": 16}]},
        "user": {"description": "Who asks; headers and `metadata.user_id` do too."},
        "metadata": {"description": "`session_id`, `user_id`, `trace_id` are read."},
    }, "messages")  # fmt: skip
    more = (
        "Other fields (tools, response_format, logprobs...) are for a model server; the embedded engine refuses them."
    )
    return {**request, "description": more}


def _text_request() -> Schema:
    request = _object({
        "model": {"type": ["string", "null"], "description": "`base`, or an adapter; a model server's own names."},
        "prompt": {"description": "A text, texts, or numbers of tokens, as the model server takes them."},
        "stream": {"type": ["boolean", "null"]},
    }, "prompt")  # fmt: skip
    return {**request, "description": "It and all other fields reach the model server as they came."}


def _text_completion() -> Schema:
    choice = _object({"text": TEXT, "index": WHOLE, "finish_reason": {"type": ["string", "null"]}}, "text")
    return _object({"id": TEXT, "object": {"const": "text_completion"}, "choices": _list(choice)}, "choices")


def _completion() -> Schema:
    message: Schema = {"type": "object", "required": ["role"], "properties": {"role": TEXT}}
    choice = _object({"index": WHOLE, "message": message, "finish_reason": {"type": ["string", "null"]}},
                     "index", "message")  # fmt: skip
    return _object({
        "id": TEXT, "object": {"const": "chat.completion"}, "created": WHOLE, "model": TEXT, "choices": _list(choice),
        "usage": {"type": ["object", "null"]},
    }, "choices")  # fmt: skip


def _feedback() -> Schema:
    value: Schema = {
        "anyOf": [{"enum": [*WORDS]}, {"type": "boolean"}, {"type": "number", "minimum": -1, "maximum": 1}]
    }
    fields: Schema = {
        **dict.fromkeys((*RECORD_KEYS, "session", "user", "id", "source", "supersedes", "name"), NAME),
        "value": value, "rating": value, "comment": TEXT, "correction": TEXT,
        "target_kind": {"enum": ["record", "session", "user"]}, "kind": {"enum": [*get_args(FeedbackKind)]},
    }  # fmt: skip
    about: list[Json] = [*map(_given, RECORD_KEYS), _given("session")]
    nothing_else: Schema = {"not": {"anyOf": about}, **_given("user")}
    says: list[Json] = [_given(key) for key in ("value", "rating", "comment", "correction", "kind")]
    needs = [("rating", ("value", "rating")), ("comment", ("comment",))]
    needs += [(kind, ("correction",)) for kind in ("edit", "correction")]
    return {
        **_object({**{key: {"anyOf": [schema, {"type": "null"}]} for key, schema in fields.items()},
                   "metadata": True, "tags": True}),
        "additionalProperties": False,
        "allOf": [
            {"oneOf": [*about, nothing_else]}, {"anyOf": says}, {"not": {"allOf": [_given("value"), _given("rating")]}},
            *(_needs(kind, keys) for kind, keys in needs),
        ],
    }  # fmt: skip


def _given(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"not": {"type": "null"}, "pattern": SPOKEN}}}


def _needs(kind: str, keys: tuple[str, ...]) -> Schema:
    named: Schema = {"required": ["kind"], "properties": {"kind": {"const": kind}}}
    return {"if": named, "then": {"anyOf": [_given(key) for key in keys]}}


def _model() -> Schema:
    return _object(
        {"id": TEXT, "object": TEXT, "created": WHOLE, "owned_by": TEXT, "parent": {"type": ["string", "null"]}}, "id"
    )


def _error() -> Schema:
    texts: Schema = {"type": ["string", "null"]}
    fields: Schema = {"message": TEXT, "type": TEXT, "param": texts, "code": texts}
    return _object({"error": _object(fields, *fields)}, "error")


# parts


def _call(name: str, summary: str, answers: Schema, body: Schema | None = None) -> Schema:
    call: Schema = {"operationId": name, "summary": summary, "responses": answers}
    return (
        {**call, "requestBody": {"required": True, "content": {"application/json": {"schema": body}}}} if body else call
    )


def _open(name: str, summary: str, answers: Schema) -> Schema:
    return {**_call(name, summary, {**answers, "405": {"$ref": "#/components/responses/405"}}), "security": []}


def _problems(*more: str) -> Schema:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in sorted({*ALWAYS, *more})}


def _problem(status: str) -> Schema:
    return _json(_ref("Error"), STATUSES[status])


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _plain() -> Schema:
    return {"description": "As that system answers.", "content": {"text/plain": {"schema": TEXT}}}


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _range(kind: str, low: int, high: int) -> Schema:
    return {"type": [kind, "null"], "minimum": low, "maximum": high}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _id_in_path() -> Schema:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    }


def _answers(schema: str) -> Schema:
    return {
        "200": {"description": "The answer; server-sent events when `stream` is true.", "headers": _answer_headers(),
                "content": {"application/json": {"schema": _ref(schema)}, "text/event-stream": {}}},
        **_problems("404", "502", "504"),
        "default": {"description": "What the model server answered, unchanged."},
    }  # fmt: skip


def _answer_headers() -> Schema:
    about = {
        "interaction": "Id of the log record; feedback accepts it.", "cluster": "Name of the cluster, or `none`.",
        "arm": "Arm of a live test, or `none`.", "adapter": "Id of the adapter that answered, or `base`.",
        "overhead-ms": "Time that was not spent waiting for the model.",
        "calls": "Calls of the model that the answer took, where it took several.",
    }  # fmt: skip
    return {f"x-logtune-{name}": {"description": text, "schema": TEXT} for name, text in about.items()}
