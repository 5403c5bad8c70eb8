"""Findings -> one self-contained HTML page: words first, then plots and tables, readable on a phone and on paper.

Every text that comes from logs or models is escaped and shortened; the page loads nothing and runs no script.
"""

import platform
import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from logtune.app.console import counted, moment
from logtune.app.findings import Findings, Group, gather
from logtune.app.plots import BAD, CALM, FAINT, GOOD, Bar, Interval, Line, bars, curves, intervals, sequence
from logtune.app.serving_now import base_parameters
from logtune.app.week import CANDIDATES, Week, before, failed, fresh, tell
from logtune.edges.whole_file import write_whole
from logtune.records import Json
from logtune.stages.standing import REASONS as HELD

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from logtune.config import Config
    from logtune.edges.store import Store

MOST_ROWS = 40  # of a plot or table; what is left out is counted
SHORT = 220  # letters of a quoted text
OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they turn the reading direction of what follows
TONES = {"positive": GOOD, "rule": CALM, "nothing": BAD}
TEACHES = {"positive": "an example to follow", "rule": "a source of rules", "nothing": "dropped"}


def write(store: "Store", path: Path, config: "Config", cycle_id: str | None = None) -> Path:
    """Write the report of a cycle (default: the newest) to `path`, whole or not at all; InputError without a cycle."""
    found = gather(store, cycle_id, base_parameters(config))
    return save(path, render(found, config, told(store, found)))


def told(store: "Store", found: Findings) -> Week:
    """The cycle in sentences."""
    earlier = before(store, found.cycle)
    new, runs = fresh(store, found.cycle, earlier), failed(store, found.cycle, earlier)
    return tell(found, earlier, new, headline(found), runs)


def save(path: Path, page: str) -> Path:
    """Write a page, whole or not at all."""
    write_whole(path, page, 0o644)
    return path


def render(found: Findings, config: "Config", week: Week) -> str:
    """The page as text. The same findings give the same page."""
    from logtune.app.build import versions

    return _environment().get_template("report.html.j2").render(
        found=found, week=week, headline=headline(found), outcomes=outcomes(found), plots=_plots(found), config=config,
        most=MOST_ROWS, teaches=TEACHES, candidates=CANDIDATES, reason_words=reason_words(), held_words=HELD,
        versions={"Python": platform.python_version(), **versions()},
    )  # fmt: skip


def headline(found: Findings) -> str:
    """What was learned and from how many users, in one sentence."""
    if not found.interactions:
        return "There was nothing to learn from: the logs hold no answered message."
    users = counted(found.users, "user") if found.users else "users without a name"
    if not found.lessons and not found.passed:
        why = "nobody said what was wrong" if not found.corrected else "no reaction was clear enough to become a rule"
        return f"Nothing was learned from {counted(found.interactions, 'message')} of {users}: {why}."
    rules = counted(len(found.lessons), "rule")
    if not found.passed:
        return f"{rules} learned from {users}, but nothing new serves: no candidate passed its gate."
    groups = counted(len(found.groups), "group")
    return f"{rules} learned from {users}; {len(found.passed)} of {groups} of requests now get better answers."


def outcomes(found: Findings) -> list[tuple[Group, str]]:
    """What became of each group of requests, in one sentence each."""
    return [(group, _outcome(group)) for group in found.groups]


def _outcome(group: Group) -> str:
    judged = group.judged
    if judged is None:
        return group.deployment.reason if group.deployment else "nothing was trained for it"
    verb = {"passed": "passed its gate", "failed": "failed its gate", "not_enough_data": "could not be judged"}
    return f"{CANDIDATES[judged.candidate]} {verb[judged.outcome]}: {judged.reason.rstrip('.')}."


def _plots(found: Findings) -> dict[str, "Markup"]:
    plots = {}
    if found.reasons:
        plots["reasons"] = _reason_bars(found)
    if found.signals:
        plots["signals"] = _signal_bars(found)
    if judged := [group for group in found.groups if group.judged and group.judged.win_rate is not None][:MOST_ROWS]:
        plots["gate"] = _gate_intervals(judged)
    if trained := [run.last for group in found.groups for run in group.runs if run.last.losses][:8]:
        names = {group.cluster.id: group.name for group in found.groups}
        lines = [Line(f"{names[item.cluster_id]} ({item.kind})", item.losses) for item in trained]
        alt = "Mean training loss of each epoch. " + "; ".join(
            f"{line.label}: {' to '.join(f'{loss:.2f}' for loss in line.values)}" for line in lines
        )
        plots["losses"] = curves("losses", alt, lines, "epoch", "mean training loss")
    for test in found.live_tests:
        if test.course[-1][0]:
            last = test.course[-1][1]
            alt = f"Difference of the arms after {test.course[-1][0]} users: {last.low:.3f} to {last.high:.3f}."
            plots[test.at.test.id] = sequence(test.at.test.id, alt, test.course)
    return plots


def _reason_bars(found: Findings) -> "Markup":
    rows = [
        Bar(item.reason.replace("_", " "), item.count, TONES[item.teaches], f"{item.count:,} ({percent(item.share)})")
        for item in found.reasons[:MOST_ROWS]
    ]
    alt = "Messages by the filter's reason: " + "; ".join(f"{row.label} {row.note}" for row in rows)
    return bars("reasons", alt, rows)


def _signal_bars(found: Findings) -> "Markup":
    rows = [
        Bar(item.kind, item.count, GOOD if item.polarity > 0.1 else BAD if item.polarity < -0.1 else FAINT)
        for item in found.signals
    ]
    return bars("signals", "Signals by kind: " + "; ".join(f"{row.label} {row.value:.0f}" for row in rows), rows)


def _gate_intervals(groups: Sequence[Group]) -> "Markup":
    rows = []
    for group in groups:
        judged = group.judged
        if judged is None or judged.win_rate is None:
            continue
        low, high = judged.win_rate if judged.lower is None else judged.lower, judged.upper or judged.win_rate
        tone = {"passed": GOOD, "failed": BAD}.get(judged.outcome, CALM)
        rows.append(Interval(group.name, low, judged.win_rate, high, tone))
    alt = "Share of held-out comparisons won against what served before, with 95% intervals: " + "; ".join(
        f"{row.label} {percent(row.middle)} ({percent(row.low)} to {percent(row.high)})" for row in rows
    )
    return intervals("gate", alt, rows, 0.5, "held-out comparisons won (ties count half)")


def reason_words() -> Mapping[str, str]:
    """The filter's reason codes in words, where it has them."""
    words = getattr(import_module("logtune.stages.filter"), "REASONS", {})
    return words if isinstance(words, Mapping) else {}


def _environment() -> "Environment":
    from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound

    class Packaged(BaseLoader):
        """Templates that ship with the package."""

        def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
            try:
                return files("logtune.app").joinpath("templates", template).read_text(encoding="utf-8"), template, None
            except FileNotFoundError as error:
                raise TemplateNotFound(template) from error

    made = Environment(
        loader=Packaged(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"short": short, "moment": moment, "percent": percent, "number": number, "in_words": in_words}
    made.globals |= {"counted": counted}
    return made


def short(text: str, most: int = SHORT) -> str:
    """The text on one line, at most so many letters, without characters a page cannot hold."""
    line = re.sub(r"\s+", " ", text[: 4 * most]).strip()
    line = "".join(
        letter
        if unicodedata.category(letter) not in ("Cc", "Cs") and letter not in OVERRIDES
        else "\N{REPLACEMENT CHARACTER}"
        for letter in line
    )
    return line if len(line) <= most and len(text) <= 4 * most else line[: most - 1].rstrip() + "…"


def in_words(value: Json) -> str:
    """A guard or check in words: its reason where it has one, else its numbers."""
    if isinstance(value, Mapping):
        if value.get("reason"):
            return f"{'kept' if value.get('passed', True) else 'broken'}, {value['reason']}"
        return ", ".join(f"{name.replace('_', ' ')} {in_words(item)}" for name, item in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float | None) -> str:
    """0.123 -> 12%; small shares keep their digits; None -> a dash."""
    if share is None:
        return "–"
    if 0 < share < 0.00005:
        return "<0.01%"
    digits = 0 if share == 0 or abs(share) >= 0.0995 else 1 if abs(share) >= 0.00995 else 2
    return f"{100 * share:.{digits}f}%"


def number(value: float | None) -> str:
    """A number in two digits after the point; None -> a dash."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
