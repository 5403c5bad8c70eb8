"""One setting changed in a settings file that a person wrote: the line of its key and nothing else.

text, section, key, value -> text        path -> the file replaced at once, so that no reader sees half of it
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from logtune.edges.whole_file import write_whole
from logtune.errors import ConfigError

BY_HAND = "change it there by hand, then run the command again"


def set_values(path: Path, section: str, values: Mapping[str, str]) -> None:
    """Write the keys of a section into a TOML file; ConfigError where that cannot be done without touching more."""
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", "logtune init writes one") from error
    text = before
    for key, value in values.items():
        text = with_value(text, section, key, value)
    wanted = tomllib.loads(before)
    wanted[section] = {**wanted.get(section, {}), **values}
    if _parsed(text) != wanted:
        names = ", ".join(f'{section}.{key} = "{value}"' for key, value in values.items())
        raise ConfigError(f"{path} is written in a way that {names} cannot be put into it", BY_HAND)
    _replace(path, text)


def with_value(text: str, section: str, key: str, value: str) -> str:
    """The text with `key = "value"` in place of the key's line, of its commented one, or at the section's head."""
    lines, line = text.splitlines(), f"{key} = {json.dumps(value, ensure_ascii=False)}"
    head = next((n for n, row in enumerate(lines) if re.fullmatch(rf"\s*\[{section}\]\s*(#.*)?", row)), None)
    if head is None:
        return "\n".join([*lines, *([""] if lines else []), f"[{section}]", line]) + "\n"
    end = next((n for n in range(head + 1, len(lines)) if re.match(r"\s*\[", lines[n])), len(lines))
    own = [n for n in range(head + 1, end) if re.match(rf"\s*{key}\s*=", lines[n])]
    commented = [n for n in range(head + 1, end) if re.match(rf"\s*#\s*{key}\s*=", lines[n])]
    if own:
        lines[own[0]] = line + _comment(lines[own[0]])
    else:
        lines.insert((commented or [head])[-1] + 1, line)
    return "\n".join(lines) + "\n"


def _comment(row: str) -> str:
    """What stands behind the value of a line whose value is a plain string."""
    found = re.match(r"""\s*[\w-]+\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*')(?P<rest>\s*#.*)?$""", row)
    return found["rest"] or "" if found else ""


def _parsed(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _replace(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays a link
    try:
        write_whole(target, text, target.stat().st_mode & 0o7777)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}", BY_HAND) from error
