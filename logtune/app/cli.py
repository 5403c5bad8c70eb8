"""The command line: a table of commands, each imported when it is called, so that `--help` is quick.

Exit codes: 0 ok, 1 known error, 2 usage, 3 a gate was not passed, 130 interrupted. With --json an error is one JSON
document on stdout too; its words are on stderr in any case.
"""

import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

import click

from logtune import __version__
from logtune.errors import INTERRUPTED, KNOWN_ERROR, OK, LogtuneError


class Entry(NamedTuple):
    """One line of `logtune --help`."""

    module: str  # below logtune.app.commands
    about: str


START = {
    "demo": Entry("demo", "The whole loop on a sample: ask, learn, deploy, compare."),
    "init": Entry("project", "Write a commented logtune.toml."),
    "doctor": Entry("project", "What is installed, what is missing, and the command that mends it."),
}
LOOP = {
    "serve": Entry("serve", "Run the gateway: OpenAI-compatible, logs every call."),
    "keys": Entry("keys", "Who may ask the gateway: create, list, revoke."),
    "import": Entry("loop", "Read logs and feedback from files."),
    "filter": Entry("filter", "What the filter drops, why, and where its thresholds belong."),
    "cycle": Entry("loop", "Learn from the logs: filter, distil, train, gate, deploy."),
    "schedule": Entry("schedule", "When the next cycle begins by itself, or why it does not."),
    "status": Entry("status", "Logs, last cycle, what serves, what would happen next."),
    "report": Entry("loop", "One HTML page about a cycle."),
    "gap": Entry("gap", "How new lessons are, by several methods, beside the gate."),
    "judge": Entry("judge", "How far the judge of answers agrees with people."),
    "reproduce": Entry("reproduce", "The paper's evaluation, for those who have its data set."),
    "rebase": Entry("rebase", "Another base model under the same lessons."),
    "rollback": Entry("loop", "Give a cluster back to what served it before."),
    "simulate": Entry("simulate", "How a live test would go: errors, users, days."),
    "pause": Entry("experiments", "Let no live test change anything by itself."),
    "resume": Entry("experiments", "Undo pause."),
}
RECORDS = {
    "interactions": Entry("records", "One query with its answer and what the user said next."),
    "feedback": Entry("records", "Ratings, edits, comments and corrections as they came in."),
    "signals": Entry("signals", "Readings of what users thought of answers."),
    "decisions": Entry("records", "What each interaction may teach, and why."),
    "rules": Entry("rules", "Instructions that would have made answers better."),
    "pairs": Entry("records", "A better and a worse answer to the same prompt."),
    "standings": Entry("records", "Whose words hold, whose are held back, and why."),
    "clusters": Entry("records", "Interactions of one kind; an adapter each."),
    "gaps": Entry("records", "How new each cluster's lessons are, and what they train."),
    "adapters": Entry("adapters", "Trained LoRA adapters, and the budget of those that serve."),
    "evaluations": Entry("records", "The gate: candidates against what serves now."),
    "experiments": Entry("experiments", "Live A/B tests; also stop, promote and rollback by hand."),
    "verdicts": Entry("records", "What the gate and live tests decided, and why."),
    "deployments": Entry("records", "Which candidate serves each cluster, newest first."),
    "failures": Entry("records", "Items that a stage could not do."),
}
SECTIONS = {"Start": START, "The loop": LOOP, "Records (list, show ID)": RECORDS}
COMMANDS = START | LOOP | RECORDS

HELP = """Makes a deployed language model better from its own user logs.

\b
  logtune demo                  see the whole loop in one command
  logtune import logs.jsonl     read what users asked, got and said
  logtune cycle                 learn from it, prove it, deploy it
  logtune serve                 serve it, and log what comes next
"""


class Commands(click.Group):
    """A group that imports a command when it is called, and lists them from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None where the table has no such name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found = import_module(f"logtune.app.commands.{entry.module}").COMMANDS[cmd_name]
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with the closest names where there is no such command."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], COMMANDS, 2)
            guess = f" Did you mean '{' or '.join(close)}'?" if close else ""
            raise click.UsageError(f"There is no command '{args[0]}'.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's sections, without importing a command."""
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.about) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> object:
        """As click; a reader that closed the pipe (`logtune rules | head`) has all it wanted."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK
        return code


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="logtune")
def cli() -> None:
    """The root of all commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; known mistakes become one message."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(arguments, prog_name="logtune", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return _told(error.format_message(), "", error.exit_code, "--json" in arguments)
    except LogtuneError as error:
        return _failed(error.what, error.hint, error.exit_code, "--json" in arguments)
    except OSError as error:
        if error.filename is None:
            raise
        return _failed(f"{error.filename}: {error.strerror}", "", KNOWN_ERROR, "--json" in arguments)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was finished is kept, and the same command continues from there", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else OK


def _failed(what: str, hint: str, code: int, as_json: bool) -> int:
    from logtune.app.console import harmless

    click.echo(harmless(f"error: {what}" + (f"\n  {hint}" if hint else "")), err=True)
    return _told(what, hint, code, as_json)


def _told(what: str, hint: str, code: int, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": what, "hint": hint, "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main())
