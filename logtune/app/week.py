"""Findings, the cycle before -> Week: what a reader with half a minute wants to know, in sentences.

What was learned and from how many users, what changed in serving, what was refused and why, what was left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from logtune.app.console import counted, moment, one_line
from logtune.app.findings import Findings, Group
from logtune.edges.runs import failed_between
from logtune.records import Deployment, Interaction, Rule
from logtune.stages.standing import REASONS as HELD

if TYPE_CHECKING:
    from logtune.edges.runs import Run
    from logtune.edges.store import CycleRow, Store

MOST = 5  # sentences of a kind; what is left out is counted
CANDIDATES: Mapping[str, str] = {
    "base": "the base model", "rules": "rules in the prompt", "critic_prompt": "a critic in the prompt",
    "critic": "a critic adapter", "expert": "an expert adapter",
}  # fmt: skip
OUTCOMES = {"failed": "failed its gate", "not_enough_data": "could not be judged"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The cycle before, as far as it matters here."""

    started_at: float
    rules: frozenset[str]  # their words


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """A cycle in sentences."""

    headline: str
    learned: tuple[str, ...]
    changed: tuple[str, ...]
    refused: tuple[str, ...]
    left_out: tuple[str, ...]  # messages that teach nothing, and lessons that are not believed
    failed: tuple[str, ...] = ()  # cycles of the schedule that did not end well since the one before

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield self.headline
        for title, sentences in self.parts():
            yield f"\n{title}"
            yield from (f"  - {one_line(sentence)}" for sentence in sentences)

    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each kind of sentences under its title."""
        failed = (("Failed", self.failed),) if self.failed else ()
        return (
            ("Learned", self.learned), ("Changed", self.changed), ("Refused", self.refused),
            ("Left out", self.left_out), *failed,
        )  # fmt: skip


def before(store: "Store", cycle: "CycleRow") -> Before | None:
    """The newest cycle that ended before this one began; None: this one is the first."""
    earlier = (row for row in store.cycles(None) if row.started_at < cycle.started_at and row.ended_at is not None)
    row = next(earlier, None)
    if row is None:
        return None
    rules = store.list(Rule, limit=None, cycle_id=row.id)
    return Before(started_at=row.started_at, rules=frozenset(rule.text for rule in rules))


def tell(
    found: Findings, earlier: Before | None, fresh: int | None, headline: str, runs: "Sequence[Run]" = ()
) -> Week:  # fmt: skip
    """The week; `fresh`: messages that came in since the cycle before, None for the first cycle.

    `runs`: those of the schedule that did not end well, oldest first.
    """
    return Week(
        headline=headline, learned=tuple(_learned(found, earlier, fresh)), changed=tuple(_changed(found)),
        refused=tuple(_refused(found)), left_out=tuple(_left_out(found)),
        failed=tuple(failures(runs)),
    )  # fmt: skip


def failed(store: "Store", cycle: "CycleRow", earlier: Before | None) -> "Sequence[Run]":
    """Runs of the schedule since the cycle before that did not end well; of the newest cycle up to now."""
    newest = store.cycles(1)[0].id == cycle.id
    begin, end = earlier.started_at if earlier else 0.0, inf if newest else cycle.ended_at or inf
    return failed_between(store, begin, end)


def failures(runs: "Sequence[Run]") -> Iterator[str]:
    """What became of runs that did not end well, the newest ones in words."""
    if len(runs) > MOST:
        yield f"{counted(len(runs) - MOST, 'earlier cycle')} of the schedule did not end well."
    yield from map(failure, runs[-MOST:])


def failure(run: "Run") -> str:
    """What became of a run that did not end well."""
    began = f"the cycle begun {moment(run.began_at)}"
    if run.ended_at is None:
        return f"{began} ended together with its scheduler, without a word."
    how = "was stopped" if run.exit_code is None else f"failed with exit code {run.exit_code}"
    return f"{began} {how} {moment(run.ended_at)}: {run.detail.rstrip('.') or 'it said nothing'}."


def fresh(store: "Store", cycle: "CycleRow", earlier: Before | None) -> int | None:
    """Messages of the cycle that came in since the one before began."""
    if earlier is None:
        return None
    items = store.list(Interaction, limit=None, cycle_id=cycle.id)
    return sum(item.at >= earlier.started_at for item in items)


def _learned(found: Findings, earlier: Before | None, fresh: int | None) -> Iterator[str]:
    read = f"{counted(found.interactions, 'message')} of {counted(found.users, 'user')} were read"
    since = f", {fresh:,} of them new since {moment(earlier.started_at)}" if earlier and fresh is not None else ""
    yield f"{read}{since}; users were unhappy with {counted(found.corrected, 'answer')} and said so."
    if not found.lessons:
        yield "No rule came of it: nobody said in words what was wrong."
        return
    known = earlier.rules if earlier else frozenset()
    new = [item for item in found.lessons if item.rule.text not in known]
    if earlier:
        yield f"{counted(len(new), 'rule is', 'rules are')} new, {counted(len(found.lessons), 'rule')} stand in all."
    for item in (new or found.lessons)[:MOST]:
        word = f' ("{item.evidence[0]}")' if item.evidence else ""
        yield f"{item.rule.text}: from {counted(item.rule.distinct_users, 'user')}{word}"
    yield from _more(len(new or found.lessons), "rule")


def _changed(found: Findings) -> Iterator[str]:
    groups = {group.cluster.id: group for group in found.groups}
    taught = {item.adapter.id: item.users for item in found.serving if item.adapter}
    rows = [row for row in found.deployments if row.action != "keep"]
    for row in rows[:MOST]:
        yield _change(row, groups.get(row.cluster_id), taught.get(row.adapter_id or "", 0))
    yield from _more(len(rows), "change")
    if not rows:
        serving = [item for item in found.serving if item.deployment.candidate != "base"]
        what = counted(len(serving), "group is served", "groups are served")
        yield f"Nothing: {what} as before." if serving else "Nothing: the base model serves every request."


def _change(row: Deployment, group: Group | None, users: int) -> str:
    """`users`: whose words its adapter has learned; 0: it has none, or they have no names."""
    if row.action == "retire":
        return f"{row.cluster_name}: the base model serves again; {row.reason}."
    if row.action == "rollback":
        return f"{row.cluster_name}: rolled back to {CANDIDATES[row.candidate]}; {row.reason}."
    judged = group.judged if group else None
    learned, why = f", learned from {counted(users, 'user')}" if users else "", row.reason.rstrip(".")
    same = judged is not None and (judged.candidate, judged.adapter_id) == (row.candidate, row.adapter_id)
    if judged is not None and same and judged.win_rate is not None:
        straddles = judged.lower is not None and judged.lower <= 0.5  # the reason says what decided
        why = f"it {judged.reason.rstrip('.')}" if straddles else _won(judged.win_rate, judged.lower, judged.upper)
    return f"{row.cluster_name}: {CANDIDATES[row.candidate]} serves now{learned}; {why}."


def _won(rate: float, low: float | None, high: float | None) -> str:
    interval = "" if low is None or high is None else f" (95% interval {low:.0%} to {high:.0%})"
    return f"it won {rate:.0%} of the comparisons with what served before, on users it never learned from{interval}"


def _refused(found: Findings) -> Iterator[str]:
    groups = [group for group in found.groups if group.judged and group.judged.outcome != "passed"]
    for group in groups[:MOST]:
        judged = group.judged
        assert judged is not None
        yield f"{group.name}: {CANDIDATES[judged.candidate]} {OUTCOMES[judged.outcome]}: {judged.reason.rstrip('.')}."
    yield from _more(len(groups), "group")
    for row in (row for row in found.deployments if row.action == "keep"):
        yield f"{row.cluster_name}: {row.reason}."
    tried = [group for group in found.groups if group.judged]
    if not groups and not any(row.action == "keep" for row in found.deployments):
        yield "Nothing: every candidate passed." if tried else "Nothing: there was no candidate."


def _left_out(found: Findings) -> Iterator[str]:
    dropped = [item for item in found.reasons if item.teaches == "nothing"]
    if dropped:
        most = ", ".join(f"{item.count:,} {item.reason.replace('_', ' ')}" for item in dropped[:MOST])
        rest = sum(item.count for item in dropped[MOST:])
        others = f", {rest:,} for other reasons" if rest else ""
        yield f"{counted(found.dropped, 'message teaches', 'messages teach')} nothing: {most}{others}."
    for item in found.held[:MOST]:
        why = HELD.get(item.reason, "")
        why = f"{why[:1].lower()}{why[1:].rstrip('.')} ({item.reason})" if why else item.reason
        yield f"{counted(item.count, 'lesson is', 'lessons are')} held back: {why}."
    if not dropped and not found.held:
        yield "Nothing."


def _more(total: int, what: str) -> Iterator[str]:
    if total > MOST:
        yield f"And {counted(total - MOST, f'more {what}', f'more {what}s')}."
