"""What a command says: results to stdout (tables, or one JSON document), progress to stderr.

Texts of users and models are made harmless for a terminal: control characters, which could move the cursor or change
the window's title, are shown as escapes.
"""

import dataclasses
import functools
import json
import math
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.errors import OK, InputError

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.store import Store
    from logtune.records import Json

GAP = "  "  # between two columns


@dataclass(frozen=True, slots=True)
class Console:
    """Where one command reads its settings and writes its words."""

    as_json: bool
    config_file: Path | None
    settings: tuple[str, ...] = ()  # KEY=VALUE of --set
    project: str | None = None  # None: the default one

    def config(self, **overrides: "Json") -> "Config":
        """The settings of the file, the environment, `--set` and `overrides` (dots written as double underscores).

        They are those of `project`; InputError where there is no such project.
        """
        from logtune.config import load

        named = {key.replace("__", "."): value for key, value in overrides.items() if value is not None}
        config = load(self.config_file, self.overrides() | named)
        if self.project is None:
            return config
        from logtune.app.projects import existing

        return existing(config, self.project)

    def overrides(self) -> "dict[str, Json]":
        """The settings given with --set, by dotted name; InputError for one that is no assignment."""
        return dict(map(_assignment, self.settings))

    def arguments(self) -> list[str]:
        """The options that give another command the same settings."""
        found = [] if self.config_file is None else ["--config", str(self.config_file)]
        return [*found, *(part for text in self.settings for part in ("--set", text))]

    @contextmanager
    def store(self, **overrides: "Json") -> "Iterator[tuple[Store, Config]]":
        """The opened store and the settings that name it, with `overrides` as for `config`."""
        from logtune.app.build import store

        config = self.config(**overrides)
        opened = store(config)
        try:
            yield opened, config
        finally:
            opened.close()

    def answer(self, document: object, lines: Iterable[str]) -> None:
        """The result: `document` with --json, else the `lines` of text."""
        if self.as_json:
            click.echo(json.dumps(plain(document), indent=2 if sys.stdout.isatty() else None, allow_nan=False))
            return
        for line in lines:
            click.echo(line)

    def progress(self, line: str) -> None:
        """One line about what goes on, to stderr."""
        click.echo(harmless(line), err=True)


def common(body: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command `--project` and what `unscoped` gives; it returns the exit code."""

    @functools.wraps(body)
    def run(say: Console, project: str | None, **rest: object) -> int | None:
        return body(dataclasses.replace(say, project=project), **rest)

    option = click.option("--project", metavar="NAME", help="Whose records.  [default: those of store.url]")
    return unscoped(option(run))


def unscoped(body: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command `--config`, `--set` and `--json`, and its Console as first argument; it returns the exit code."""

    @functools.wraps(body)
    def run(config_file: Path | None, settings: tuple[str, ...], as_json: bool, **rest: object) -> int:
        return body(Console(as_json, config_file, settings), **rest) or OK

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting, as train.epochs=5."
        ),
        click.option(
            "--config", "config_file", type=click.Path(path_type=Path), help="Settings file.  [default: logtune.toml]"
        ),
    ):
        option(run)
    return run


def _assignment(text: str) -> "tuple[str, Json]":
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text!r} is no assignment", "write it as --set train.epochs=5")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def plain(value: object) -> object:
    """The value as JSON can hold it: records become objects, numbers that are not finite become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def harmless(text: str) -> str:
    """The text with control characters, direction overrides and lone surrogates shown as escapes."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs") or letter == "\u200d"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )  # fmt: skip


def one_line(text: str) -> str:
    """The text on one line, harmless."""
    return harmless(" ".join(text.split()))


def fit(text: str, width: int) -> str:
    """The text cut to `width` terminal cells, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for letter in text:
        used += cells(letter)
        if used > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def cells(text: str) -> int:
    """Terminal cells the text takes: East Asian wide letters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns. On a terminal the widest columns are cut so that a row stays on its line."""
    lines = [list(head), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(head))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    excess = sum(widths) + len(GAP) * (len(head) - 1) - room
    while excess > 0 and max(widths) > 12:
        widest = widths.index(max(widths))
        cut = min(excess, widths[widest] - max(12, sorted(widths)[-2] if len(widths) > 1 else 12) or 1)
        widths[widest] -= cut
        excess -= cut
    return [_row(line, widths) for line in lines]


def _row(line: Sequence[str], widths: Sequence[int]) -> str:
    fitted = [fit(cell, width) for cell, width in zip(line, widths, strict=True)]
    padded = [cell + " " * (width - cells(cell)) for cell, width in zip(fitted, widths, strict=True)]
    return GAP.join(padded).rstrip()


def moment(at: float | None) -> str:
    """A time as people write it, in the local zone."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def counted(number: int, one: str, many: str = "") -> str:
    """`1 log`, `2 logs`, `1,204 logs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
