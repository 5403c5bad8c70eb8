"""Feedback as other systems' SDKs send it, and answers as those systems give them.

method, /compat/<system>/..., body -> Said* -> their answer

Each shape was read off the system's own client or API reference, named beside it with the version it was tried with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from logtune.app.feedback_reading import (
    PREFIX as PREFIX,
)
from logtune.app.feedback_reading import (
    Outcome,
    Said,
    Shape,
    Target,
    TargetKind,
    first,
    json_list,
    json_object,
    label,
    mapping,
    needed,
    number,
    revoked,
    said,
    targets_of,
    text,
    user_in,
    uuid_of,
)
from logtune.app.identity import text_of
from logtune.errors import RequestError
from logtune.ids import canonical
from logtune.records import Feedback, Json

Reads = Callable[[Json, str], Sequence[Said | RequestError]]
Answers = Callable[[Json, Sequence[Outcome]], tuple[int, Json]]


# TensorZero: tensorzero.com/docs/gateway/api-reference/feedback; client 2026.6.0


def _tensorzero(body: Json, _: str) -> list[Said | RequestError]:
    given = json_object(body)
    name, value = needed(given, "metric_name"), given.get("value")
    targets = targets_of(("record", text(given, "inference_id")), ("session", text(given, "episode_id")))
    dry = given.get("dryrun") or False  # their client sends null for every field that is not given
    if not isinstance(dry, bool):
        raise RequestError("'dryrun' must be true or false", param="dryrun")
    if len(targets) != 1:
        raise RequestError("give either 'inference_id' or 'episode_id'", param="inference_id")
    fields: dict[str, Json] = {"user": user_in(given.get("tags")), "name": name}
    if name in ("comment", "demonstration"):
        fields = {**fields, "name": "", "correction" if name == "demonstration" else "comment": _content(value)}
        return [said("tensorzero", fields, targets, dry=dry)]
    score = number(value)
    if score is None:
        raise RequestError("'value' of a metric must be true, false or a number", param="value")
    return [said("tensorzero", fields, targets, score, dry=dry)]


def _content(value: Json) -> str:
    """The text of a value that may be content blocks, or the output of a JSON function."""
    if isinstance(value, (str, list)):
        return text_of(value)
    return canonical(value) if value is not None else ""


# Langfuse: api.reference.langfuse.com (scores, ingestion); SDK 5.0.4 sends lists, 3 and 4 events, REST clients objects


def _score(body: Json) -> Said:
    given = json_object(body)
    name, kind, value = needed(given, "name"), text(given, "dataType").upper(), given.get("value")
    trace, session = text(given, "traceId"), text(given, "sessionId")
    targets = targets_of(("record", text(given, "observationId")), ("record", trace), ("session", session))
    if not targets:
        raise RequestError("nothing says what the score is about: give traceId, observationId or sessionId")
    fields: dict[str, Json] = {
        "id": text(given, "id"), "name": name, "comment": text(given, "comment"),
        "user": user_in(given.get("metadata")), "source": "annotator" if given.get("source") == "ANNOTATION" else None,
    }  # fmt: skip
    score = number(value)
    if score is not None and kind in ("", "NUMERIC", "BOOLEAN"):
        return said("langfuse", fields, targets, score, (0.0, 1.0) if kind == "BOOLEAN" else None)
    if not isinstance(value, str) or kind in ("NUMERIC", "BOOLEAN"):
        raise RequestError(f"'value' does not fit the dataType {kind[:20] or 'NUMERIC'}", param="value")
    if kind == "CORRECTION":
        return said("langfuse", {**fields, "correction": value}, targets)
    meant: dict[str, Json] = {"comment": value} if kind == "TEXT" else label(name, value.strip())
    comments = [str(part) for part in (meant.get("comment"), fields["comment"]) if part]
    return said("langfuse", {**fields, **meant, "comment": "\n".join(comments)}, targets)


def _each(items: Sequence[Json], read: Callable[[Json], Said]) -> list[Said | RequestError]:
    def one(item: Json) -> Said | RequestError:
        try:
            return read(item)
        except RequestError as error:
            return error

    return [one(item) for item in items]


def _scores(body: Json, _: str) -> list[Said | RequestError]:
    return _each(json_list(body), _score) if isinstance(body, list) else [_score(body)]


def _scored(body: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    bad = [item for item in outcomes if isinstance(item, RequestError)]
    if not isinstance(body, list):
        if bad:
            raise bad[0]
        return 200, {"id": first(outcomes).id}
    if not bad:
        return 202, {"message": "Accepted"}
    told: list[Json] = [{"message": item.what} for item in bad]
    return 207, {"accepted": len(outcomes) - len(bad), "rejected": len(bad), "errors": told}


def _events(body: Json, _: str) -> list[Said | RequestError]:
    return _each(json_list(json_object(body).get("batch"), "'batch'"), _event)


def _event(item: Json) -> Said:
    if json_object(item).get("type") != "score-create":
        raise RequestError("logtune takes scores alone (events of type score-create)", param="type")
    return _score(json_object(item).get("body"))


def _ingested(body: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    done, bad = list[Json](), list[Json]()
    for item, outcome in zip(json_list(json_object(body).get("batch")), outcomes, strict=True):
        name = item.get("id") if isinstance(item, dict) else None
        if isinstance(outcome, RequestError):
            bad.append({"id": name, "status": outcome.status, "message": outcome.what})
        else:
            done.append({"id": name, "status": 201})
    return 207, {"successes": done, "errors": bad}


# Portkey: portkey.ai/docs/api-reference/admin-api/data-plane/feedback; SDK 2.3.4


def _portkey(body: Json, _: str) -> list[Said | RequestError]:
    items = json_list(body) if isinstance(body, list) else [body]
    return [_portkey_one(json_object(item), (("record", needed(json_object(item), "trace_id")),)) for item in items]


def _portkey_one(given: dict[str, Json], targets: tuple[Target, ...], name: str = "") -> Said:
    value, weight = number(given.get("value")), number(given.get("weight", 1.0))
    if value is None or abs(value) > 10:
        raise RequestError("'value' must be a whole number from -10 to 10", param="value")
    if weight is None or not 0 <= weight <= 1:
        raise RequestError("'weight' must be a number from 0 to 1", param="weight")
    about = mapping(given.get("metadata"))
    comment = next((about[key] for key in ("comment", "text", "feedback") if isinstance(about.get(key), str)), None)
    # Their guide says 1 and -1 for thumbs; on a scale up to 10 such a thumb would say next to nothing.
    scale = (-1.0, 1.0) if abs(value) <= 1 else (-10.0, 10.0)
    fields: dict[str, Json] = {"id": name, "user": user_in(about), "comment": comment}
    return said("portkey", fields, targets, value, scale, weight=weight)


def _portkey_done(_: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    ids: list[Json] = [item.id for item in outcomes if isinstance(item, Feedback)]
    return 200, {"status": "success", "message": "Feedback successfully saved", "feedback_ids": ids}


# Helicone: its API reference (docs.helicone.ai), Submit Feedback


def _helicone(body: Json, name: str) -> list[Said | RequestError]:
    rating = json_object(body).get("rating")
    if not isinstance(rating, bool):
        raise RequestError("'rating' must be true or false", param="rating")
    return [said("helicone", {}, (("record", name),), float(rating))]


# Open WebUI: backend/open_webui/routers/evaluations.py and models/feedbacks.py; the export has the same items


def _open_webui(body: Json, name: str) -> list[Said | RequestError]:
    given = json_object(body)
    data, meta = mapping(given.get("data")), mapping(given.get("meta"))
    # Chats go by X-OpenWebUI-Chat-Id, messages only where the front end sends X-OpenWebUI-Message-Id too.
    message, chat = text(meta, "message_id"), text(meta, "chat_id")
    targets = () if name else targets_of(("record", message), ("session", chat))
    if not name and not targets:
        raise RequestError(
            "nothing says what the feedback is about: give meta.message_id or meta.chat_id", param="meta"
        )
    reason = text(data, "reason").replace("_", " ")
    words = [part for part in ("" if reason == "other" else reason, text(data, "comment")) if part]
    fields: dict[str, Json] = {
        "id": name or text(given, "id"),
        "user": text(given, "user_id"),
        "comment": ": ".join(words),
    }
    rating = data.get("rating")
    if isinstance(rating, bool):
        raise RequestError("'data.rating' must be 1 or -1", param="data.rating")
    score = number(rating) if not isinstance(rating, str) else {"1": 1.0, "-1": -1.0}.get(rating.strip())
    if score is None and rating is not None:
        raise RequestError("'data.rating' must be 1 or -1", param="data.rating")
    return [said("openwebui", fields, targets, score, (-1.0, 1.0))]


def _open_webui_done(body: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    given, item = json_object(body), first(outcomes)
    kept = {key: given.get(key) for key in ("data", "meta", "snapshot")}
    times: dict[str, Json] = {"created_at": int(item.at), "updated_at": int(item.at)}
    return 200, {"id": item.id, "user_id": item.user or "", "version": 0, "type": given.get("type"), **kept, **times}


# LangSmith: langsmith.Client.create_feedback; SDK 0.15.0


def _langsmith(body: Json, name: str) -> list[Said | RequestError]:
    given = json_object(body)
    key, value, config = text(given, "key"), given.get("value"), mapping(given.get("feedback_config"))
    targets = () if name else targets_of(("record", text(given, "run_id")), ("record", text(given, "trace_id")))
    if not name and not targets:
        raise RequestError("nothing says what the feedback is about: give run_id or trace_id", param="run_id")
    source = mapping(given.get("feedback_source"))
    fields: dict[str, Json] = {
        "id": name or text(given, "id"), "name": key, "user": user_in(source.get("metadata")),
        "comment": text(given, "comment"), "source": "judge" if source.get("type") == "model" else None,
        "correction": _answer_in(given.get("correction")),
    }  # fmt: skip
    score = next((number for number in (number(given.get("score")), number(value)) if number is not None), None)
    if score is None and isinstance(value, str):
        fields |= {**label(key, value), **({"comment": fields["comment"]} if fields["comment"] else {})}
    low, high = number(config.get("min")), number(config.get("max"))
    scale = (low, high) if low is not None and high is not None and low < high else None
    return [said("langsmith", fields, targets, score, scale)]


def _answer_in(correction: Json) -> Json:
    """A correction is a text, or an object whose one text is the answer; anything else as it is."""
    if isinstance(correction, dict) and len(correction) == 1:
        (correction,) = correction.values()
    return correction if correction is None or isinstance(correction, str) else canonical(correction)


def _langsmith_done(body: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    return 200, {**(body if isinstance(body, dict) else {}), "id": first(outcomes).id}


# Phoenix: arize-phoenix-client 3.5.0, spans, traces and sessions


def _phoenix(id_key: str, kind: TargetKind) -> Reads:
    def one(item: Json) -> Said:
        given = json_object(item)
        name, target = needed(given, "name"), needed(given, id_key)
        result = mapping(given.get("result"))
        score, word = number(result.get("score")), text(result, "label")
        source = {"HUMAN": "user", "LLM": "judge", "CODE": "detector"}.get(text(given, "annotator_kind"))
        fields: dict[str, Json] = {
            "id": uuid_of(["phoenix", name, target, text(given, "identifier")]), "name": name, "source": source,
            "user": user_in(given.get("metadata")),
        }  # fmt: skip
        if score is None and word:
            fields |= label(name, word)
        if explained := text(result, "explanation"):
            fields["comment"] = explained
        return said("phoenix", fields, ((kind, target),), score)

    return lambda body, _: [one(item) for item in json_list(json_object(body).get("data"), "'data'")]


def _phoenix_done(_: Json, outcomes: Sequence[Outcome]) -> tuple[int, Json]:
    return 200, {"data": [{"id": item.id} for item in outcomes if isinstance(item, Feedback)]}


def _static(answer: Json) -> tuple[Reads, Answers]:
    return (lambda _, name: []), (lambda _, done: (200, answer))


def _shape(
    system: str, call: str, about: str, read: Reads,
    answer: Answers, *, changes: bool = False, partial: bool = False,
) -> Shape:  # fmt: skip
    method, _, path = call.partition(" ")
    return Shape(
        system=system, method=method, path=path, about=about, read=read, answer=answer, changes=changes, partial=partial
    )


SHAPES: tuple[Shape, ...] = (
    _shape("tensorzero", "POST /feedback", "A metric, a comment or a demonstration.", _tensorzero,
           lambda _, done: (200, {"feedback_id": first(done).id})),
    _shape("tensorzero", "GET /status", "What its client asks first.",
           *_static({"status": "ok", "version": "logtune"})),
    _shape("langfuse", "POST /api/public/scores", "A score, or a list of scores.", _scores, _scored, partial=True),
    _shape("langfuse", "POST /api/public/ingestion", "Events of type score-create.", _events, _ingested, partial=True),
    _shape("langfuse", "DELETE /api/public/scores/{id}", "Revokes a score.", revoked("langfuse"),
           lambda _, done: (202, {"message": "Score deletion request submitted"}), changes=True),
    _shape("portkey", "POST /v1/feedback", "A rating from -10 to 10 with a weight, or a list of those.", _portkey,
           _portkey_done),
    _shape("portkey", "PUT /v1/feedback/{id}", "Another rating in its place.",
           lambda body, name: [_portkey_one(json_object(body), (), name)], _portkey_done, changes=True),
    _shape("helicone", "POST /v1/request/{id}/feedback", "A thumb.", _helicone,
           lambda _, done: (200, {"data": None, "error": None})),
    _shape("openwebui", "POST /api/v1/evaluations/feedback", "A thumb with reason and comment; arena votes too.",
           _open_webui, _open_webui_done),
    _shape("openwebui", "POST /api/v1/evaluations/feedback/{id}", "Another one in its place.", _open_webui,
           _open_webui_done, changes=True),
    _shape("openwebui", "DELETE /api/v1/evaluations/feedback/{id}", "Revokes it.", revoked("openwebui"),
           lambda _, done: (200, True), changes=True),
    _shape("langsmith", "POST /feedback", "A score, value, comment or correction.", _langsmith, _langsmith_done),
    _shape("langsmith", "PATCH /feedback/{id}", "Another one in its place.", _langsmith, _langsmith_done, changes=True),
    _shape("langsmith", "DELETE /feedback/{id}", "Revokes it.", revoked("langsmith"), _langsmith_done, changes=True),
    _shape("langsmith", "GET /info", "What its client asks first.", *_static({})),
    _shape("phoenix", "POST /v1/span_annotations", "Annotations of spans.", _phoenix("span_id", "record"),
           _phoenix_done),
    _shape("phoenix", "POST /v1/trace_annotations", "Annotations of traces.", _phoenix("trace_id", "record"),
           _phoenix_done),
    _shape("phoenix", "POST /v1/session_annotations", "Annotations of sessions.", _phoenix("session_id", "session"),
           _phoenix_done),
    _shape("phoenix", "GET /arize_phoenix_version", "What its client asks before sessions.", *_static("12.0.0")),
)  # fmt: skip


def find(path: str) -> Mapping[str, tuple[Shape, str]]:
    """Method -> the shape at this path, and the id in it; empty when there is none."""
    found = [(shape, pattern.fullmatch(path)) for shape, pattern in _patterns()]
    return {shape.method: (shape, m["id"] if m.groups() else "") for shape, m in found if m}


@cache
def _patterns() -> list[tuple[Shape, "re.Pattern[str]"]]:
    segment = r"(?P<id>[^/]+)"
    return [(shape, re.compile(re.escape(shape.full_path).replace(r"\{id\}", segment))) for shape in SHAPES]
