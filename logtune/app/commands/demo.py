"""`logtune demo`: the whole loop on a sample, in one command."""

from pathlib import Path

import click

from logtune.app.console import Console, unscoped


@click.command("demo")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo",
    show_default=True,
    help="Folder for its settings, store, adapters, report and result.json; an earlier demo in it is replaced.",
)
@unscoped
def demo(say: Console, folder: Path) -> None:
    """Run the whole loop on a sample: the model answers, users react, a cycle learns, and the model is asked again.

    It takes under ten minutes on two processor cores, and downloads nothing.

    \b
    Examples:
      logtune demo
      logtune demo --dir /tmp/demo --set train.epochs=1 --json
    """
    from logtune.app.demo import run

    heard = say.progress if say.as_json else click.echo
    figures = run(folder, folder / "result.json", say.progress, heard, say.overrides())
    say.answer(figures, ())


COMMANDS = {"demo": demo}
