"""`logtune init` and `logtune doctor`: a settings file to start from, and what this machine lacks."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, table, unscoped
from logtune.errors import KNOWN_ERROR, OK, ConfigError, InputError

if TYPE_CHECKING:
    from logtune.app.doctor import Check

HEAD = """\
# Settings of logtune. Every key is shown with its default and commented out: take away the "# " of what you change.
# Precedence: --set of a command > environment (LOGTUNE_TRAIN__EPOCHS=5) > this file > preset > default.
"""


@click.command("init")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="logtune.toml")
@click.option("--print", "only_print", is_flag=True, help="Print the file and write nothing.")
@unscoped
def init(say: Console, path: Path, only_print: bool) -> None:
    """Write a settings file with every key, its meaning and its default.

    \b
    Examples:
      logtune init                  ./logtune.toml; an existing file is never overwritten
      logtune init --print > staging.toml
    """
    text = example_settings()
    if only_print:
        say.answer({"text": text}, [text.rstrip("\n")])
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{path} exists already", f"edit it, or write another: logtune init other-{path.name}"
        ) from None
    say.answer(
        {"path": str(path)}, [f"Wrote {path}. Next: logtune demo shows the loop, logtune serve starts the gateway."]
    )


def example_settings() -> str:
    """The commented settings file, made from the settings themselves."""
    from logtune.config import Config

    lines = [HEAD]
    for name, field in Config.model_fields.items():
        section = getattr(Config(), name)
        if not hasattr(section, "model_fields_set"):
            lines += [*_comment(field.description or ""), _setting(name, section), ""]
            continue
        lines += [f"# {type(section).__doc__}", f"[{name}]"]
        for key, inner in type(section).model_fields.items():
            lines += [*_comment(inner.description or ""), _setting(key, getattr(section, key))]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 116))


def _setting(key: str, value: object) -> str:
    """A commented TOML assignment; a key without a value is shown empty."""
    if value is None:
        return f'# {key} = ""  (not set)'
    return f"# {key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}"


@click.command("doctor")
@unscoped
def doctor(say: Console) -> int:
    """Check Python, packages, models, store, disk and processor; exit 1 where something blocks.

    \b
    Examples:
      logtune doctor
      logtune doctor --json
    """
    from logtune.app.doctor import Check, examine
    from logtune.config import Config

    try:
        checks = examine(say.config(), say.config_file)
    except ConfigError as error:
        bad = Check(name="settings", state="blocked", found=error.what, mend=error.hint)
        checks = [bad, *(check for check in examine(Config()) if check.name != "settings")]
    blocked = [check for check in checks if check.state == "blocked"]
    say.answer({"ok": not blocked, "checks": checks}, _report(checks, len(blocked)))
    return KNOWN_ERROR if blocked else OK


def _report(checks: "list[Check]", blocked: int) -> Iterator[str]:
    marks = {"ok": "ok", "note": "note", "blocked": "BLOCKED"}
    yield from table(("", "check", "found"), [(marks[check.state], check.name, check.found) for check in checks])
    for check in checks:
        if check.mend:
            yield (
                f"\n{check.name}: {check.found}\n  {check.mend}"
                if check.state == "blocked"
                else f"\n{check.name}: {check.mend}"
            )
    yield f"\n{blocked} of {len(checks)} checks block." if blocked else "\nNothing blocks. Next: logtune demo"


COMMANDS = {"init": init, "doctor": doctor}
