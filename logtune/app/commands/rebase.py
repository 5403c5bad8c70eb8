"""`logtune rebase`: another base model under the same lessons."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, counted, one_line, table
from logtune.errors import OK, ConfigError

if TYPE_CHECKING:
    from logtune.app.rebase import Plan
    from logtune.config import Config
    from logtune.edges.store import Store
    from logtune.ports import Tools


@click.command("rebase")
@click.argument("new_model", metavar="NEW_MODEL")
@click.option("--dry-run", is_flag=True, help="Show what would be kept, dropped and trained again; write nothing.")
@click.option("--url", metavar="URL", help="Where it is served, with /v1.  [default: model.url]")
@click.option("--served-name", metavar="NAME", help="Its name there.  [default: model.served_name]")
@click.option(
    "--ask", type=click.IntRange(1), default=50, show_default=True, help="Lessons of a cluster that it is asked."
)
@common
def rebase(say: Console, new_model: str, dry_run: bool, url: str | None, served_name: str | None, ask: int) -> int:
    """Put another base model under the lessons: rules and pairs stay, adapters are trained and proven again.

    What serves on the old one goes off at once and the new base model serves alone, until a candidate of its own has
    passed the gate. Lessons that it knows by itself are left out. The settings file names the new model from then on.
    It may be killed at any time; the same command goes on.

    \b
    Examples:
      logtune rebase ./SmolLM2-360M-Instruct --dry-run
      logtune rebase ./SmolLM2-360M-Instruct
      logtune rebase Qwen/Qwen3-8B --url http://gpu2:8000/v1 --served-name qwen3
    """
    from logtune.app import build
    from logtune.app import rebase as rebasing

    changed = {"base": _absolute(new_model), **({"url": url} if url else {})}
    changed |= {"served_name": served_name} if served_name else {}
    old, new = say.config(), say.config(**{f"model__{key}": value for key, value in changed.items()})
    refuse_overruled(say, changed)
    folder = rebasing.chat_model(new.model.base, say.progress)
    told = rebasing.differences(old.model.base, folder)
    if new.model.engine == "openai":
        asyncio.run(rebasing.check_server(new, folder, say.progress))
    opened = build.store(new)
    try:
        made = build.tools(new, say.progress, opened)
        found = rebasing.plan(opened, new, made, ask)
        lines = [*_models(found, told), *_lessons(found)]
        if dry_run or found.done:
            say.answer({"plan": found, "differs": told, "dry_run": dry_run}, [*lines, *_next(found, dry_run=dry_run)])
            return OK
        for line in lines:
            say.progress(line)
        return _learn(say, opened, made, (old, new), found, changed)
    finally:
        opened.close()


def _learn(
    say: Console,
    store: "Store",
    tools: "Tools",
    configs: "tuple[Config, Config]",
    found: "Plan",
    changed: dict[str, str],
) -> int:
    """The settings first, so that nothing begins with the old model any more; then a cycle with the new one."""
    from logtune.edges.lease import CYCLE, Lease
    from logtune.edges.settings_file import set_values
    from logtune.pipeline import run_cycle

    old, new = configs
    lease = Lease(store, CYCLE)
    with lease.held():
        if old.model != new.model:
            set_values(say.config_file or Path("logtune.toml"), "model", changed)
            say.progress(f"model.base is {new.model.base} now")
        receipt = run_cycle(store, tools, new, say.progress, lease.check)
    document = {"plan": found, "settings": changed, "cycle": receipt, "dry_run": False}
    say.answer(document, [one_line(receipt.summary), *_next(found, dry_run=False)])
    return receipt.exit_code


def refuse_overruled(say: Console, changed: dict[str, str]) -> None:
    """ConfigError where the settings file would have no say in what has to change."""
    given = say.overrides()
    for key, value in changed.items():
        name = f"LOGTUNE_MODEL__{key.upper()}"
        told = {f"--set model.{key}": given.get(f"model.{key}"), name: os.environ.get(name)}
        for where, other in told.items():
            if other is not None and other != value:
                raise ConfigError(
                    f"{where} is {other}, and wins over the settings file", f"make it {value}, or drop it"
                )


def _absolute(model: str) -> str:
    """A folder by its full path: settings hold wherever a command is run."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _models(found: "Plan", told: dict[str, tuple[object, object]]) -> Iterator[str]:
    yield f"Base model: {found.before or 'not known'} -> {found.after}, {found.parameters:,} parameters."
    if told:
        yield f"  {'; '.join(f'{name} {old} -> {new}' for name, (old, new) in told.items())}"


def _lessons(found: "Plan") -> Iterator[str]:
    yield (
        f"Kept: {counted(found.rules, 'rule')} with {counted(found.decided, 'decision')} about them, "
        f"{counted(found.pairs, 'pair')}, and the clusters' names."
    )
    if found.off:
        yield f"Off until proven again: {', '.join(f'{what} of {name}' for name, what in found.off.items())}."
    if found.share_known is not None:
        asked = sum(item.asked for item in found.clusters)
        share = f"{found.share_known:.0%}"
        yield f"Of {counted(asked, 'lesson')} asked, the new model knows {share} by itself: these are dropped."
        rows = [
            [item.cluster, item.serves or "base", str(item.pairs), f"{item.known} of {item.asked}", str(item.left),
             "trained again" if item.trains else f"not trained: {item.reason}"]
            for item in found.clusters
        ]  # fmt: skip
        yield from table(["cluster", "served by", "lessons", "known", "left", "what happens"], rows)


def _next(found: "Plan", *, dry_run: bool) -> Iterator[str]:
    if found.done:
        yield "It is the base model already, and nothing of another one serves. Next: logtune cycle"
    elif dry_run:
        yield "Nothing was written. Next: the same command without --dry-run."
    else:
        yield "Next: restart logtune serve. A gateway that runs still has the old model, and serves it"
        yield "  without adapters."


COMMANDS = {"rebase": rebase}
