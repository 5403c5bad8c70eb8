"""The model's name in the bytes of a request.

JSON object as it came, name -> the same bytes with that name; nothing is parsed and written again
"""

import json
import re

SPACE = re.compile(r"[ \t\n\r]*")
KEY = b'"model"'
PLAIN = re.compile(rb'"model"[ \t\n\r]*:[ \t\n\r]*("[^"\\]*+")')


def with_model(raw: bytes, name: str, *, named: bool = False) -> bytes:
    """The JSON object `raw` with its top-level "model" replaced by `name`, or added; every other byte stays.

    `named`: it is known to have one. Where the bytes of the key stand but once, and no escape spells them otherwise,
    they are that key, and the object need not be read again.
    """
    found = PLAIN.search(raw) if named and raw.count(KEY) == 1 and b"\\u" not in raw else None
    if found is not None:
        return raw[: found.start(1)] + json.dumps(name).encode() + raw[found.end(1) :]
    text, decode = raw.decode("utf-8"), json.JSONDecoder().raw_decode
    start = at = _after_space(text, text.index("{") + 1)
    spots: list[tuple[int, int]] = []
    while text[at] != "}":
        key, at = decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)  # over the colon
        _, end = decode(text, at)
        spots += [(at, end)] if key == "model" else []
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at] == "," else at
    if not spots:
        comma = "" if text[start] == "}" else ", "
        return f'{text[:start]}"model": {json.dumps(name)}{comma}{text[start:]}'.encode()
    for at, end in reversed(spots):
        text = text[:at] + json.dumps(name) + text[end:]
    return text.encode()


def _after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at
