"""text -> whether an answer keeps the format that was asked for: JSON, its keys, and tools that exist."""

import json
import re
from collections.abc import Mapping

from logtune.records import Json

FENCE = re.compile(r"^\s*```(?:json)?\s*|\s*```\s*$")


def wants_json(request: Mapping[str, Json], reference: str | None) -> bool:
    """Whether an answer has to be JSON: the request says so, or what the user wanted is JSON."""
    return _dict(request.get("response_format")).get("type") in ("json_object", "json_schema") or bool(
        parsed(reference or "")
    )


def breaks(text: str, reference: str | None, request: Mapping[str, Json]) -> bool:
    """Whether the JSON that was asked for is not there, lacks a key that the schema or the user's own answer has, or
    calls a tool that the request does not offer.
    """
    found = parsed(text)
    if found is None:
        return True
    keys = set(found) if isinstance(found, dict) else set()
    return not _wanted(reference, request) <= keys or _strange_tool(found, request)


def parsed(text: str) -> Json:
    """The JSON object or list that a text is, a code fence around it allowed; None: it is none."""
    bare = FENCE.sub("", text)
    if not bare.startswith(("{", "[")):
        return None
    try:
        found: Json = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    return found


def _wanted(reference: str | None, request: Mapping[str, Json]) -> set[str]:
    shape = _dict(_dict(request.get("response_format")).get("json_schema"))
    required = _dict(shape.get("schema")).get("required")
    named = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    return named | set(_dict(parsed(reference or "")))


def _strange_tool(found: Json, request: Mapping[str, Json]) -> bool:
    tools = request.get("tools")
    call = _dict(found)
    if not isinstance(tools, list) or not tools or not {"name", "arguments"} <= set(call):
        return False
    offered = {_dict(_dict(tool).get("function")).get("name") for tool in tools}
    return call["name"] not in offered


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
