"""A file of JSON lines -> one JSON object a line, or why the line cannot be used; plain or gzip, in bounded memory.

Refused is also what JSON allows and the rest of the program could not use: NUL and its like, half surrogate pairs,
numbers too large for a float, objects hundreds deep.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TypeAlias, cast

from logtune.errors import InputError
from logtune.records import Json

Object: TypeAlias = Mapping[str, Json]

BOM = b"\xef\xbb\xbf"
MAX_LINE = 10_000_000  # bytes
MAX_DEPTH = 100
_UNUSABLE = re.compile("[\x00-\x07\x0e-\x1a\x1c-\x1f]")  # not: backspace, white space, and the escapes of terminals
_SURROGATE = re.compile("[\ud800-\udfff]")
_SUSPECT = re.compile(rb"\\u(00[01]|[dD][89a-fA-F])")


class Bad(Exception):
    """A line that cannot be used: its reason code, what exactly is wrong, and how a line not held whole starts."""

    def __init__(self, reason: str, detail: str, start: bytes = b"") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.start = start


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], BufferedReader]]:
    """The file's text as bytes, and the file itself; gzip is told by its first bytes, not by its name."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    with raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as stream:
                yield cast("IO[bytes]", stream), raw
        else:
            yield raw, raw


def raw_lines(stream: IO[bytes]) -> Iterator[bytes | Bad]:
    """The lines of a file, in order; one that is too long is passed over in small pieces, never held whole."""
    mark = BOM
    try:
        while raw := stream.readline(MAX_LINE + 1):
            if len(raw) <= MAX_LINE:
                yield raw.removeprefix(mark)
            else:
                start = raw[:200]
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(1 << 16)
                yield Bad("too_long", f"the line is longer than {MAX_LINE // 1_000_000} MB", start)
            mark = b""
    except (EOFError, OSError, zlib.error) as error:
        yield Bad("damaged_file", str(error))


def parsed(raw: bytes) -> Object | Bad:
    """The JSON object of a line, or why it cannot be used."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad("not_utf8", str(error))
    try:
        line = _DECODER.decode(text)
    except RecursionError:
        return Bad("too_deep", f"more than {MAX_DEPTH} deep")
    except ValueError as error:
        return _no_json(text, error)
    if not isinstance(line, dict):
        return Bad("not_an_object", f"the line is a {type(line).__name__}")
    try:
        _check(line, raw)
    except Bad as error:
        return error
    return line


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def _no_json(text: str, error: ValueError) -> Bad:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return Bad("invalid_json", str(error))
    return Bad("control_characters" if "control character" in str(error) else "invalid_json", str(error))


def _check(line: Object, raw: bytes) -> None:
    """Refuse what JSON allows and the rest of the program could not use."""
    # Both walks are for suspects only: nothing can hide from these two looks at the bytes.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        raise Bad("too_deep", f"more than {MAX_DEPTH} deep")
    if not _SUSPECT.search(raw):
        return
    for text in _texts(line):
        if found := _UNUSABLE.search(text):
            raise Bad("control_characters", f"U+{ord(found[0]):04X} in {text[:40]!a}")
        if found := _SURROGATE.search(text):
            raise Bad("not_unicode", f"U+{ord(found[0]):04X} in {text[:40]!a}")


def _texts(value: Object) -> Iterator[str]:
    """Every text in a value, keys included."""
    left: list[Json] = [dict(value)]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left.extend(item.keys())
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _depth(value: Object) -> int:
    """How deep objects and lists lie in each other."""
    level: list[Json] = [dict(value)]
    depth = 0
    while level:
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
        depth += bool(inner)
    return depth


def excerpt(text: bytes | str) -> str:
    """The start of a line, at most 200 characters, harmless on a terminal."""
    start = text[:800].decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in start.strip()[:200])
