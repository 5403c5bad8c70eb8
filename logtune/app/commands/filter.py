"""`logtune filter`: what the filter would drop, why it judged one interaction so, and where its thresholds belong."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, common, counted, fit, one_line
from logtune.errors import InputError

if TYPE_CHECKING:
    from logtune.app.explaining import Explanation
    from logtune.app.sifting import Sifted
    from logtune.app.tuning import Tuned

DRY_RUN = "--dry-run"


class Filter(click.Group):
    """A group whose verb may be left out: `logtune filter --dry-run` is `logtune filter run --dry-run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with `run` put in where an option comes first."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("filter", cls=Filter)
def filter_group() -> None:
    """What the filter drops, why, and where its thresholds belong.

    \b
    Examples:
      logtune filter --dry-run          counts and examples a reason, over all logs
      logtune filter explain 0198c2     why one interaction was judged so
      logtune filter tune --fpr 0.01    thresholds for this deployment's own traffic
    """


@filter_group.command("run")
@click.option(DRY_RUN, is_flag=True, help="Only this is to be had here: logtune cycle filters for good.")
@click.option("--workers", type=click.IntRange(0), help="Processes; 0: in this one.  [default: one a core]")
@common
def run(say: Console, dry_run: bool, workers: int | None) -> None:
    """Screen every log in one streaming pass, without feedback and embedder, and count what would be dropped.

    \b
    Examples:
      logtune filter --dry-run
      logtune filter --dry-run --workers 1 --json
    """
    from logtune.app.sifting import sift

    if not dry_run:
        raise InputError("logtune filter writes nothing", "add --dry-run, or run logtune cycle to filter for good")
    with say.store() as (store, config):
        found = sift(store.encoded_logs(), config.filter, workers, say.progress)
    say.answer(found, sifted(found))


def sifted(found: "Sifted") -> Iterator[str]:
    """Counts and examples, the most frequent reason first."""
    from logtune.app.report import percent, reason_words

    if not found.total:
        yield "The store holds no answered request. Next: logtune import FILE, or logtune serve"
        return
    kept, words = found.counts.get("kept", 0), reason_words()
    yield f"{counted(found.total, 'answered request')}: {kept:,} pass the cheap checks. Nothing was written."
    for reason, count in sorted(found.counts.items(), key=lambda pair: -pair[1]):
        if reason != "kept":
            yield f"\n{reason}: {count:,} ({percent(count / found.total)})"
            yield f"  {words.get(reason, '')}"
            yield from (f"  {shown.id}  {fit(one_line(shown.query), 100)}" for shown in found.examples[reason])


@filter_group.command("explain")
@click.argument("record_id", metavar="ID")
@common
def explain(say: Console, record_id: str) -> None:
    """Why an interaction (or a log record) was judged so: every score beside its threshold.

    \b
    Examples:
      logtune filter explain int-4f2a
      logtune filter explain 0198c2a1 --json
    """
    from logtune.app.explaining import explain as explained

    with say.store() as (store, config):
        found = explained(store, config, record_id, say.progress)
    say.answer(found, told(found))


def told(found: "Explanation") -> Iterator[str]:
    """An explanation in words."""
    from logtune.app.report import reason_words

    yield f"{found.id}: {fit(one_line(found.query), 100)}"
    yield f"decision: {found.decision or 'none yet, logtune cycle decides'}"
    if found.reason:
        yield f"  {reason_words().get(found.reason, '')}"
    for name, value in found.rests_on.items():
        yield f"  rests on {name} = {value:g}"
    yield "scores of the noise classes, by the trained classifiers:"
    for name, score in found.scores.items():
        mark = "  <- reached" if score >= found.thresholds[name] else ""
        yield f"  {name:17} {score:.3f} of {found.thresholds[name]:.3f}{mark}"
    for name, text in found.words.items():
        yield f"  {name}: {text}"
    yield f"answer: {'refuses' if found.refuses else 'does not refuse'}"


@filter_group.command("tune")
@click.option("--fpr", type=click.FloatRange(0, 0.5, min_open=True), default=0.01, show_default=True,
              help="Share of ordinary traffic that may be flagged.")  # fmt: skip
@common
def tune(say: Console, fpr: float) -> None:
    """Find the thresholds at which about this share of the deployment's own ordinary traffic is flagged.

    Ordinary is what several other users ask alike. The lines it prints go into logtune.toml; with
    filter.false_positives every cycle does this by itself.

    \b
    Examples:
      logtune filter tune --fpr 0.01
    """
    from logtune.app.tuning import tuned

    with say.store() as (store, config):
        found = tuned(store, config, fpr, say.progress)
    say.answer(found, proposed(found))


def proposed(found: "Tuned") -> Iterator[str]:
    """Thresholds as settings."""
    yield (
        f"{found.ordinary:,} of {found.total:,} queries are ordinary; {found.flagged_before:.2%} of them are flagged "
        f"now, {found.flagged:.2%} with these thresholds:"
    )
    yield "\n[filter]"
    yield from (f"{name} = {value:.3f}" for name, value in found.thresholds.items())
    yield f"\nOf the other queries {found.others_before:.1%} are flagged now, {found.others:.1%} with them."


COMMANDS = {"filter": filter_group}
