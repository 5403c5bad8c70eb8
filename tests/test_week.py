"""A cycle in sentences: what was learned and from how many, what changed, what was refused and why."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sample_cycle

from logtune.app.findings import Findings, Group, HeldBack, gather
from logtune.app.report import told
from logtune.app.week import MOST, Before, Week, before, failed, failures, fresh, tell
from logtune.edges.lease import CYCLE, Lease
from logtune.edges.runs import Run, Runs
from logtune.edges.store import CycleRow, Store
from logtune.ids import identified
from logtune.records import Interaction, Rule, Standing


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/s.db")
    sample_cycle.fill(made, naughty=False)
    yield made
    made.close()


@pytest.fixture
def found(store: Store) -> Findings:
    return gather(store)


def week(found: Findings, earlier: Before | None = None, new: int | None = None) -> Week:
    return tell(found, earlier, new, "The week")


def test_the_first_week_says_what_was_learned_from_whom(store: Store, found: Findings) -> None:
    learned = told(store, found).learned
    assert learned[0].startswith(f"{found.interactions} messages of {found.users} users were read; users were unhappy")
    best = found.lessons[0]
    assert learned[1].startswith(f"{best.rule.text}: from {best.rule.distinct_users} users (")
    assert len(learned) == 1 + len(found.lessons)


def test_later_weeks_tell_new_from_known(store: Store, found: Findings) -> None:
    known = frozenset(item.rule.text for item in found.lessons[1:])
    learned = week(found, Before(started_at=sample_cycle.START, rules=known), new=17).learned
    assert ", 17 of them new since 2025-06-15" in learned[0]
    assert learned[1] == f"1 rule is new, {len(found.lessons)} rules stand in all."
    assert learned[2].startswith(found.lessons[0].rule.text)
    assert len(learned) == 3


def test_what_serves_now_is_told_with_its_evidence(found: Findings) -> None:
    changed = week(found).changed
    (row,) = [item for item in changed if item.startswith("card_arrival")]
    judged = next(group for group in found.groups if group.name == "card_arrival").judged
    assert judged is not None
    assert judged.win_rate is not None
    assert "an expert adapter serves now, learned from 12 users; it won" in row
    assert f"{judged.win_rate:.0%} of the comparisons" in row
    assert "on users it never learned from (95% interval" in row


def test_an_interval_that_begins_below_one_half_is_told_with_the_bound_that_decided(found: Findings) -> None:
    votes = "won 5, tied 7 and lost 0 of 12 votes: win rate 71%, 95% interval 49% to 84%"
    reason = f"{votes}, and with 95% confidence above 52%"

    def close(group: Group) -> Group:
        near = {"win_rate": 0.708, "lower": 0.49, "upper": 0.84, "reason": reason}
        return replace(group, evaluations=tuple(replace(each, **near) for each in group.evaluations))

    changed = week(replace(found, groups=tuple(map(close, found.groups)))).changed
    assert any(f"serves now, learned from 12 users; it {reason}." in row for row in changed)


def test_what_serves_on_after_a_split_is_told_with_its_reason_and_no_others_result(found: Findings) -> None:
    row = replace(found.deployments[0], candidate="rules", adapter_id=None, reason="it was part of 'cards'")
    assert row.action == "deploy"
    (told,) = week(replace(found, deployments=(row,))).changed
    assert told == "card_arrival: rules in the prompt serves now; it was part of 'cards'."


def test_only_those_count_whose_words_an_adapter_has_learned(found: Findings) -> None:
    serving = tuple(replace(item, users=7) for item in found.serving)
    (told,) = week(replace(found, serving=serving)).changed
    assert "an expert adapter serves now, learned from 7 users; it won" in told


def test_what_was_taken_off_and_rolled_back_is_told(found: Findings) -> None:
    row = found.deployments[0]
    rows = (
        replace(row, action="retire", candidate="base", reason="trained on a; the base is b"),
        replace(row, action="rollback", candidate="rules", reason="complaints"),
    )
    changed = week(replace(found, deployments=rows)).changed
    assert changed[0].endswith(": the base model serves again; trained on a; the base is b.")
    assert changed[1].endswith(": rolled back to rules in the prompt; complaints.")


def test_nothing_changed(found: Findings) -> None:
    assert week(replace(found, deployments=())).changed == ("Nothing: 1 group is served as before.",)
    assert week(replace(found, deployments=(), serving=())).changed == (
        "Nothing: the base model serves every request.",
    )


def test_refusals_have_their_reasons(found: Findings) -> None:
    refused = week(found).refused
    wanted = [group for group in found.groups if group.judged and group.judged.outcome != "passed"]
    assert len(wanted) == 2
    for group, sentence in zip(wanted, refused[:2], strict=True):
        assert group.judged is not None
        assert sentence.startswith(f"{group.name}: ")
        assert group.judged.reason.rstrip(".") in sentence
    over = replace(found.deployments[0], action="keep", reason="refused: the budget is 0.500%")
    assert "refused: the budget is 0.500%." in week(replace(found, deployments=(over,))).refused[-1]
    quiet = replace(found, deployments=())
    assert week(replace(quiet, groups=())).refused == ("Nothing: there was no candidate.",)
    assert week(replace(quiet, groups=found.passed)).refused == ("Nothing: every candidate passed.",)


def test_what_was_left_out_is_counted_by_reason(found: Findings) -> None:
    (line,) = week(found).left_out
    assert line.startswith(f"{found.dropped} messages teach nothing: 14 too short, 11 off topic, 9 duplicate")
    assert line.endswith("2 for other reasons.")
    assert week(replace(found, reasons=())).left_out == ("Nothing.",)


def test_lessons_that_are_not_believed_are_explained(store: Store) -> None:
    held = identified(Standing(id="", lesson_id="pair-1", state="held", reason="known_already", users=0, scores={}))
    sample = gather(store)
    back = HeldBack(reason=held.reason, count=30, users=0, examples=())
    line = week(replace(sample, held=(back,))).left_out[-1]
    known = "the base model gives this answer by itself: there is nothing to train (known_already)"
    assert line == f"30 lessons are held back: {known}."


def test_long_lists_end_with_a_count(found: Findings) -> None:
    many = tuple(replace(found.lessons[0], evidence=()) for _ in range(MOST + 4))
    learned = week(replace(found, lessons=many)).learned
    assert len(learned) == 1 + MOST + 1
    assert learned[-1] == "And 4 more rules."


def test_the_cycle_before_is_the_last_one_that_ended(store: Store, found: Findings) -> None:
    assert before(store, found.cycle) is None
    assert fresh(store, found.cycle, None) is None
    later = CycleRow(id="cyc-later", config_hash="h", started_at=found.cycle.started_at + 99, ended_at=None, receipt={})
    store.open_cycle(later)
    earlier = before(store, later)
    assert earlier is not None
    assert earlier.started_at == found.cycle.started_at
    assert earlier.rules == {rule.text for rule in store.list(Rule, limit=None, cycle_id=found.cycle.id)}
    items = store.list(Interaction, limit=None, cycle_id=found.cycle.id)
    assert fresh(store, found.cycle, Before(started_at=max(i.at for i in items), rules=frozenset())) == sum(
        item.at == max(i.at for i in items) for item in items
    )


def test_a_terminal_sees_the_four_parts(found: Findings) -> None:
    lines = list(week(found).lines())
    assert lines[0] == "The week"
    assert [line for line in lines if line.startswith("\n")] == ["\nLearned", "\nChanged", "\nRefused", "\nLeft out"]


def test_runs_that_did_not_end_well_are_named_with_their_last_words(store: Store, found: Findings) -> None:
    runs, start = Runs(store), sample_cycle.START
    for day, code in ((1, 1), (2, None), (3, 0)):
        run = runs.begin(start + day * 86_400, 40)
        runs.end(run, run.began_at + 60, code, "the teacher does not answer\x1b[31m.")
    runs.begin(start + 4 * 86_400, 40)
    first, second, third = told(store, found).failed
    assert "failed with exit code 1" in first
    assert "was stopped" in second
    assert "ended together with its scheduler" in third
    lines = list(told(store, found).lines())
    assert "\nFailed" in lines
    assert "\x1b" not in "".join(lines)
    with Lease(store, CYCLE).held():  # the newest is under way
        assert len(told(store, found).failed) == 2


def test_an_older_cycles_report_names_failures_up_to_its_end(store: Store) -> None:
    older = store.cycles(1)[0]
    assert older.ended_at is not None
    store.open_cycle(CycleRow(id="cyc-z", config_hash="", started_at=older.ended_at + 9, ended_at=None, receipt={}))
    for at in (older.ended_at - 1, older.ended_at + 5):
        run = Runs(store).begin(at, 40)
        Runs(store).end(run, at + 1, 1, "x")
    assert len(failed(store, older, None)) == 1
    newest = store.cycles(1)[0]
    assert len(failed(store, newest, before(store, newest))) == 2


def test_many_failures_are_counted() -> None:
    runs = [Run(id=f"run-{n}", began_at=1e9 + n, records=1, ended_at=1e9 + n + 1, exit_code=1) for n in range(MOST + 7)]
    told_of = list(failures(runs))
    assert told_of[0] == "7 earlier cycles of the schedule did not end well."
    assert len(told_of) == MOST + 1
