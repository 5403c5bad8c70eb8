"""The rules ledger: pin, veto, edit, expire and reset; in the store, in a cycle, on the command line, in serving."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from logtune import pipeline
from logtune.app.cli import cli
from logtune.app.influence import Decisions, of_rule
from logtune.config import build
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.ids import identified
from logtune.records import Feedback, PreferencePair, Rule, RuleAction, RuleEntry
from logtune.stages.ledger import amend, decided
from logtune.testing import FakeExecutor, ScriptedChat, sample_log, sample_logs, tools

CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}})


def rule(text: str, *parts: str, interactions: tuple[str, ...] = ("i1",)) -> Rule:
    return identified(Rule(
        id="", text=text, interaction_ids=interactions, signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1, merged_from=parts,
    ))  # fmt: skip


def line(action: RuleAction, about: Rule, number: int = 0, text: str = "", until: float | None = None) -> RuleEntry:
    return RuleEntry(
        id=f"led-{action}-{number}", action=action, rule_id=about.id, rule_text=about.text,
        parts=about.merged_from or (about.id,), who="ann", at=1e9 + number, text=text, until=until,
        interaction_ids=about.interaction_ids,
    )  # fmt: skip


# what holds


def test_a_decision_stays_with_a_rule_that_later_cycles_merge_with_more() -> None:
    mine = rule("be brief", "a", "b")
    later = rule("keep it brief, please", "a", "b", "c", "d")
    assert decided(later, [line("veto", mine)]).state is not None
    assert decided(rule("be brief", "x"), [line("veto", mine)]).state is not None  # the same words, read anew
    assert decided(rule("be formal", "x"), [line("veto", mine)]).state is None
    assert (
        decided(rule("be formal", "b", "x", "y"), [line("veto", mine)]).state is None
    )  # one part of two is not enough


def test_a_decision_stays_with_a_rule_that_was_read_anew_in_other_words() -> None:
    mine = rule("Answer in two sentences.", "a", "b", "c", interactions=("i1", "i2", "i3"))
    anew = rule("Keep the answer to two sentences.", "x", "y", "z", interactions=("i1", "i2", "i9"))
    (made,) = amend([anew], [], {}, {}, [line("veto", mine)])
    assert made.state == "vetoed"
    (edited,) = amend([anew], [], {}, {}, [line("edit", mine, 1, "Be brief."), line("pin", mine, 2)])
    assert (edited.text, edited.state) == ("Be brief.", "pinned")
    fewer = rule("Keep it short.", "x", interactions=("i1", "i8", "i9"))
    assert amend([fewer], [], {}, {}, [line("veto", mine)]) == [fewer]
    old_line = replace(line("veto", mine), interaction_ids=())
    assert amend([anew], [], {}, {}, [old_line]) == [anew]


def test_another_rule_of_the_same_interactions_keeps_its_own_state() -> None:
    mine = rule("Answer in two sentences.", "a", interactions=("i1",))
    other = rule("Use the polite form.", "b", interactions=("i1",))
    assert [r.state for r in amend([mine, other], [], {}, {}, [line("veto", mine)])] == ["vetoed", "active"]


def test_a_decision_about_another_rule_of_the_same_interactions_is_not_told_of_this_one() -> None:
    mine = replace(rule("Use the polite form.", "a"), state="pinned")
    other = replace(rule("Answer in two sentences.", "b"), state="vetoed")
    pinned, vetoed = line("pin", mine, 1), line("veto", other, 2)
    decisions = Decisions((pinned, vetoed), (mine, other))
    assert of_rule(mine, [], {}, decisions).lines == (pinned,)
    anew = rule("Be brief.", "x")
    edited = line("edit", rule("Keep it short.", "y"), 3, "Be brief indeed.")
    assert of_rule(anew, [], {}, Decisions((edited,), (anew,))).lines == (edited,)  # it is still active


def test_the_newest_state_and_the_newest_edit_hold_side_by_side() -> None:
    mine = rule("be brief", "a")
    lines = [line("veto", mine, 1), line("edit", mine, 2, "one line"), line("pin", mine, 3)]
    (made,) = amend([mine], [], {}, {}, lines)
    assert (made.state, made.text) == ("pinned", "one line")
    assert amend([mine], [], {}, {}, [*lines, line("reset", mine, 4)]) == [mine]


def test_a_veto_of_the_edited_words_is_a_veto_of_the_rule() -> None:
    mine, edited = rule("be brief", "a"), rule("one line", "zz")
    (made,) = amend([mine], [], {}, {}, [line("edit", mine, 1, "one line"), line("veto", edited, 2)])
    assert made.state == "vetoed"


def test_what_users_say_after_a_rule_has_expired_is_a_rule_of_its_own() -> None:
    old, new = rule("be brief", interactions=("i1",)), rule("be brief", interactions=("i2",))
    merged = rule("be brief", old.id, new.id, interactions=("i1", "i2"))
    made = amend([merged], [old, new], {"i1": 10.0, "i2": 20.0}, {}, [line("expire", merged, until=15.0)])
    assert [(r.state, r.interaction_ids) for r in made] == [("expired", ("i1",)), ("active", ("i2",))]
    (ended,) = amend([merged], [old, new], {"i1": 10.0, "i2": 20.0}, {}, [line("expire", merged, until=20.0)])
    assert (ended.state, ended.interaction_ids) == ("expired", ("i1", "i2"))


@given(st.lists(st.sampled_from(["pin", "veto", "edit", "reset"]), max_size=12))
def test_without_a_decision_after_the_last_reset_a_rule_is_as_it_was(actions: list[RuleAction]) -> None:
    mine = rule("be brief", "a")
    lines = [line(action, mine, n, "other words" if action == "edit" else "") for n, action in enumerate(actions)]
    (made,) = amend([mine], [], {}, {}, lines)
    since = actions[len(actions) - actions[::-1].index("reset") :] if "reset" in actions else actions
    states = [action for action in since if action in ("pin", "veto")]
    assert made.state == ({"pin": "pinned", "veto": "vetoed"}[states[-1]] if states else "active")
    assert made.text == ("other words" if "edit" in since else "be brief")


# the store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
    logs, feedback = sample_logs(users=60, per_user=1)
    opened.add_logs(logs)
    opened.put_feedback(feedback)
    # six users ask for something in words
    opened.add_logs([sample_log(f"w{i}", f"late parcel {i}", "general_question", f"w-{i}", 2e9 + i) for i in range(6)])
    opened.put_feedback([
        Feedback(id=f"fw{i}", target=f"w{i}", at=2e9 + 60, kind="comment", comment="please answer without greetings")
        for i in range(6)
    ])  # fmt: skip
    return opened


def cycle(store: Store) -> FakeExecutor:
    executor = FakeExecutor()
    pipeline.run_cycle(store, tools(ScriptedChat("general_question"), executor), CONFIG)
    return executor


def merged(store: Store, text: str) -> Rule:
    """The newest merged rule with these words in it."""
    newest = store.cycles(1)[0].id
    found = [r for r in store.list(Rule, limit=10_000, cycle_id=newest) if r.merged_from and text in r.text]
    assert len(found) == 1, found
    return found[0]


def trained(executor: FakeExecutor) -> set[str]:
    return {pair.chosen for job in executor.jobs if job.kind == "expert" for pair in job.pairs}


def test_a_line_is_written_once_and_kept_with_who_and_when(store: Store) -> None:
    ledger, mine = RuleLedger(store), rule("be brief", "a")
    first = ledger.add(line("veto", mine, 1))
    assert ledger.add(line("veto", mine, 2)) == first
    assert ledger.add(line("pin", mine, 3)).id == "led-pin-3"
    assert ledger.add(line("veto", mine, 4)).id == "led-veto-4"
    assert ledger.add(line("edit", mine, 5, "x")).text == "x"
    assert ledger.add(line("edit", mine, 6, "x")).id == "led-edit-5"
    assert ledger.add(line("veto", mine, 7)).id == "led-veto-4"  # an edit between changes no state
    assert ledger.add(line("reset", mine, 8)).id == "led-reset-8"
    assert ledger.add(line("reset", mine, 9)).id == "led-reset-8"
    assert [(e.who, e.at) for e in ledger.every()] == [("ann", 1e9 + n) for n in (1, 3, 4, 5, 8)]
    assert ledger.last() == 5


def test_what_is_vetoed_trains_nothing_in_the_next_cycle(store: Store) -> None:
    assert trained(cycle(store)) == {"late_parcel", "refund_status"}
    RuleLedger(store).add(line("veto", merged(store, "Answer: refund_status")))
    executor = cycle(store)
    assert trained(executor) <= {"late_parcel"}
    assert merged(store, "Answer: refund_status").state == "vetoed"
    newest = store.list(PreferencePair, limit=10_000, cycle_id=store.cycles(1)[0].id)
    assert {pair.chosen for pair in newest} == {"late_parcel"}


def test_an_edited_right_answer_trains_in_its_new_words(store: Store) -> None:
    cycle(store)
    RuleLedger(store).add(line("edit", merged(store, "Answer: refund_status"), text="Answer: money_back"))
    assert trained(cycle(store)) == {"late_parcel", "money_back"}


def test_an_expired_right_answer_is_learnt_again_from_new_words_alone(store: Store) -> None:
    cycle(store)
    mine = merged(store, "Answer: refund_status")
    RuleLedger(store).add(line("expire", mine, until=1.9e9))
    assert trained(cycle(store)) <= {"late_parcel"}
    logs = [sample_log(f"n{i}", f"refund for order {i}", "general_question", f"n-{i}", 2.1e9 + i) for i in range(60)]
    store.add_logs(logs)
    store.put_feedback([
        Feedback(id=f"fn{i}", target=f"n{i}", at=2.1e9 + 99, kind="edit", correction="refund_status")
        for i in range(60)
    ])  # fmt: skip
    executor = cycle(store)
    assert "refund_status" in trained(executor)
    pairs = {pair.id: pair for pair in store.list(PreferencePair, limit=10_000)}
    taught = [p for job in executor.jobs if job.kind == "expert" for p in job.pairs]
    learnt = [pairs[p.id] for p in taught if p.chosen == "refund_status"]
    items = {name for pair in learnt for name in [pair.prompt[-1].content]}
    assert items <= {f"refund for order {i}" for i in range(60)}


# the command line


@pytest.fixture
def run(store: Store, tmp_path: Path):  # type: ignore[no-untyped-def]
    cycle(store)
    setting = ["--set", f"store.url=sqlite:///{tmp_path / 'store.db'}"]

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(cli, [*arguments, *setting], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_the_list_has_what_holds_now_and_with_all_what_it_replaced(run, store: Store) -> None:  # type: ignore[no-untyped-def]
    mine = merged(store, "greetings")
    RuleLedger(store).add(line("veto", mine))
    cycle(store)

    def states(*more: str) -> list[str]:
        listed = json.loads(run("rules", "--limit", "1000", "--json", *more))
        return sorted(r["state"] for r in listed if r["text"] == mine.text and r["merged_from"])

    assert (states(), states("--all")) == (["vetoed"], ["active", "vetoed"])
    RuleLedger(store).add(line("reset", mine, 1))
    cycle(store)
    assert states() == ["active"]


def test_the_verbs_are_idempotent_and_say_who(run, store: Store) -> None:  # type: ignore[no-untyped-def]
    name = merged(store, "greetings").id
    for verb, more in (("pin", []), ("veto", []), ("edit", ["No greetings."]), ("expire", []), ("reset", [])):
        first = json.loads(run("rules", verb, name, *more, "--who", "ann", "--note", "why", "--json"))
        again = json.loads(run("rules", verb, name, *more, "--who", "bob", "--json"))
        assert (first["changed"], again["changed"]) == (True, False)
        assert first["entry"] == again["entry"]
        assert (first["entry"]["who"], first["entry"]["note"], first["entry"]["action"]) == ("ann", "why", verb)
    told = run("rules", "ledger").splitlines()
    assert len(told) == 5
    assert "reset by ann" in told[0]


def test_show_says_on_whom_a_rule_rests(run, store: Store) -> None:  # type: ignore[no-untyped-def]
    mine = merged(store, "greetings")
    run("rules", "pin", mine.id, "--who", "ann", "--note", "house style")
    told = run("rules", "show", mine.id)
    assert "rests on:          6 users (" in told
    assert "standing:          trusted: Nothing speaks against it." in told
    assert "decided:           pinned by ann at" in told
    assert "house style" in told
    document = json.loads(run("rules", "show", mine.id, "--json"))
    assert document["influence"]["users"] == {f"w-{i}": 1 for i in range(6)}
    assert document["rests_on"].startswith("6 users")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["veto", "rule-nothing"], "there is no rule"),
        (["edit", "RULE", "  "], "the new text is empty"),
        (["pin", "RULE", "--note", "x" * 3000], "the note has 3000 letters"),
    ],
)
def test_mistakes_are_told(run, store: Store, tmp_path: Path, arguments: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    from logtune.errors import InputError

    given = [merged(store, "greetings").id if word == "RULE" else word for word in arguments]
    with pytest.raises(InputError, match=said):
        run("rules", *given)
    assert RuleLedger(store).every() == ()
