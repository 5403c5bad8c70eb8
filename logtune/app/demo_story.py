"""What a demo found -> its figures, and the lines that tell them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from logtune.app.console import counted, fit, one_line, table
from logtune.app.demo_sample import Sample, is_right
from logtune.app.report import percent
from logtune.records import Json
from logtune.statistics import Estimate, Interval, paired_difference, wilson

if TYPE_CHECKING:
    from logtune.app.findings import Findings, Reason

RIGHT, WRONG = 5, 2  # messages shown before and after, by how they end
RULES = 8  # rules shown
WIDE = 56  # letters of a message in a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run found."""

    held_out: tuple[Sample, ...]
    before: tuple[str, ...]  # answers of the base model, in the order of held_out
    after: tuple[tuple[str, str], ...]  # answers of the gateway, each with the adapter that gave it, or "base"
    log: Mapping[str, Sample]  # the messages of the log, by the id of their record
    noise: Mapping[str, str]  # id of a record that the filter called noise -> reason
    found: "Findings"
    report: Path
    home: Path
    seconds: float

    @property
    def right_before(self) -> list[float]:
        """1 for each held-out message that the base model got right, else 0."""
        return [float(is_right(row, said)) for row, said in zip(self.held_out, self.before, strict=True)]

    @property
    def right_after(self) -> list[float]:
        """The same for the gateway."""
        return [float(is_right(row, said)) for row, (said, _) in zip(self.held_out, self.after, strict=True)]

    @property
    def gain(self) -> Estimate:
        """Accuracy after minus accuracy before, as a fraction, with its 95% interval."""
        return paired_difference(self.right_after, self.right_before)


def figures(outcome: Outcome) -> dict[str, Json]:
    """The numbers of `result.json`: accuracies and shares as fractions; lower and upper bound the gain (95%)."""
    found, gain = outcome.found, outcome.gain
    return {
        "base_accuracy": sum(outcome.right_before) / len(outcome.held_out),
        "tuned_accuracy": sum(outcome.right_after) / len(outcome.held_out),
        "gain": gain.mean, "lower": gain.low, "upper": gain.high, "cases": len(outcome.held_out),
        "adapter_share": found.share, "seconds": round(outcome.seconds, 1),
        "dropped": {item.reason: item.count for item in found.reasons if item.teaches == "nothing"},
        "rules": len(found.lessons), "pairs": sum(group.pairs for group in found.groups),
        "clusters": len(found.groups), "deployed": sum(item.adapter is not None for item in found.serving),
    }  # fmt: skip


def tell(outcome: Outcome, out: Path) -> Iterator[str]:
    """The story, line by line; `out` is where the figures are."""
    yield from _comparison(outcome)
    yield from _examples(outcome)
    yield from _dropped(outcome)
    yield from _rules(outcome)
    yield from _serving(outcome)
    yield from _next(outcome, out)


def _comparison(outcome: Outcome) -> Iterator[str]:
    count, gain = len(outcome.held_out), outcome.gain
    rows = [
        _measured("base model, before", int(sum(outcome.right_before)), count),
        _measured("through the gateway, after", int(sum(outcome.right_after)), count),
        ("gain", "", f"{100 * gain.mean:+.1f} points", f"{100 * gain.low:+.1f} .. {100 * gain.high:+.1f}"),
    ]
    yield f"Larkwheel's messages sorted to ten desks: {count} held-out messages, from riders that are not in the log"
    yield ""
    yield from table(("", "right desk", "accuracy", "95% interval"), rows)


def _measured(name: str, right: int, count: int) -> tuple[str, str, str, str]:
    bounds: Interval = wilson(right, count)
    return (
        name,
        f"{right} of {count}",
        f"{100 * right / count:.1f}%",
        f"{100 * bounds.low:.1f} .. {100 * bounds.high:.1f}",
    )


def _examples(outcome: Outcome) -> Iterator[str]:
    """Some messages that are right now, each of another desk, and some that are wrong still."""
    met = list(zip(outcome.held_out, outcome.before, outcome.after, outcome.right_after, strict=True))
    right = list({item[0].topic: item for item in met if item[3]}.values())
    wrong = [item for item in met if not item[3]]
    rows = [
        (fit(one_line(row.text), WIDE), fit(one_line(before), 26), fit(one_line(after), 20), row.topic or "")
        for row, before, (after, _), _ in (*right[:RIGHT], *wrong[:WRONG])
    ]
    yield ""
    yield from table(("message", "before", "after", "right desk"), rows)


def _dropped(outcome: Outcome) -> Iterator[str]:
    real = [name for name, row in outcome.log.items() if row.noise is None]
    lost, total = sum(name in outcome.noise for name in real), len(outcome.log) - len(real)
    caught = sum(name in outcome.noise for name, row in outcome.log.items() if row.noise is not None)
    yield ""
    yield f"Left out of the teaching: {caught} of {total} noise messages as noise, and {lost} of {len(real)} real ones."
    rows = [_reason(item) for item in outcome.found.reasons if item.teaches == "nothing"]
    yield from table(("reason", "logs", "for example"), rows)


def _reason(item: "Reason") -> tuple[str, str, str]:
    example = item.examples[0].query if item.examples else ""
    return item.reason, str(item.count), fit(one_line(example), WIDE)


def _rules(outcome: Outcome) -> Iterator[str]:
    lessons = outcome.found.lessons
    yield ""
    yield f"Learned from the riders' words: {counted(len(lessons), 'rule')}" + (", among them" if lessons else "")
    rows = [
        (fit(one_line(rule.text), 70), str(rule.distinct_users), fit(one_line("; ".join(lesson.evidence)), 40))
        for lesson in lessons[:RULES]
        for rule in (lesson.rule,)
    ]
    if rows:
        yield from table(("rule", "riders", "in their words"), rows)


def _serving(outcome: Outcome) -> Iterator[str]:
    asked = sum(adapter != "base" for _, adapter in outcome.after)
    live = [item for item in outcome.found.serving if item.adapter]
    yield ""
    if not live:
        yield f"Nothing was deployed; the base model keeps serving. {outcome.found.summary}"
        return
    yield (
        f"{counted(len(live), 'adapter')} live, {percent(outcome.found.share)} of the base model's parameters; "
        f"{asked} of {len(outcome.after)} messages were routed to {'it' if len(live) == 1 else 'them'}."
    )


def _next(outcome: Outcome, out: Path) -> Iterator[str]:
    settings = outcome.home / "logtune.toml"
    yield ""
    yield f"Done in {outcome.seconds / 60:.1f} minutes. Report: {outcome.report}   Figures: {out}"
    yield "Next:"
    yield f"  logtune rules --config {settings}    what was learned, each rule with its evidence"
    yield f"  logtune serve --config {settings}    an OpenAI-compatible endpoint that serves it"
