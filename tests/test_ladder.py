"""The ladder of candidates through whole cycles with fakes: what is tried, in which order, what serves and why."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from gateway_kit import WEIGHTS, gateway, post, write_adapter

from logtune import pipeline
from logtune.app.rules_prompt import with_rules as with_rules_in_body
from logtune.config import Config, build
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import CycleRow, Store, UnitResult
from logtune.ids import identified
from logtune.ports import ChatCall, Example, Tools, TrainingJob
from logtune.records import (
    Adapter,
    Cluster,
    Deployment,
    Evaluation,
    Feedback,
    Json,
    Message,
    PreferencePair,
    Rule,
    RuleEntry,
    Verdict,
)
from logtune.served import served_rules
from logtune.stages import deploy
from logtune.stages import plan as planning
from logtune.stages.budget import Limits
from logtune.stages.choice import best_of, verdicts
from logtune.stages.prompted import active, with_rules
from logtune.testing import FakeExecutor, ScriptedChat, WordCoverage, sample_log
from logtune.testing import tools as fakes

BAD, GOOD = "Soon.", "The refund comes in 5 days."
RULE = "Say in how many days it comes."
QUERY = "where is my refund number"
SETTINGS: dict[str, Json] = {
    "filter": {"off_topic": "off"}, "train": {"budget": 0.004}, "pairs": {"candidates": ["revised"]},
}  # fmt: skip
CONFIG = build(SETTINGS)

Says = Callable[[ChatCall], str]


def teach(call: ChatCall) -> str:
    """Distils RULE, rewrites to GOOD, and prefers what has a number in it."""
    last = call.messages[-1].content
    if call.purpose in ("distill", "predict"):
        return json.dumps({"rules": [RULE]})
    if call.purpose == "judge":
        first, second = last.split("\n\nA: ")[1].split("\n</")[0].split("\n\nB: ")
        better = int(bool(re.search(r"\d", first))) - int(bool(re.search(r"\d", second)))
        return json.dumps({"better": {1: "A", -1: "B", 0: "tie"}[better]})
    return GOOD


def student(*able: str) -> ScriptedChat:
    """Answers well as one of `able` (rules, critic_prompt, critic, expert), and badly otherwise."""

    def say(call: ChatCall) -> str:
        last, told = call.messages[-1].content, any(RULE in m.content for m in call.messages if m.role == "system")
        if "numbered rules" in last:
            mine = "critic" if call.model else "critic_prompt"
            return f"1. {RULE}" if mine in able else "1. Be nice."
        if "Rewrite" in last:
            return GOOD if RULE in last else BAD
        return GOOD if (call.model and "expert" in able) or (told and "rules" in able) else BAD

    return ScriptedChat(say)


def tools(store: Store, model: ScriptedChat, executor: FakeExecutor | None = None, **more: object) -> Tools:
    return replace(fakes(model, executor), teacher=ScriptedChat(teach), **more)


class Unknown(WordCoverage):
    """Nothing is known beforehand: every lesson is new."""

    def covered(self, rule: str, known: Sequence[str], example: Example | None = None) -> float:
        return 0.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Complaints of 80 users that say how."""
    opened = Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    add(opened, range(80))
    return opened


def add(store: Store, numbers: range) -> None:
    store.add_logs([sample_log(f"l{i}", f"{QUERY} {i}", BAD, f"user-{i}", 1e9 + i) for i in numbers])
    told = "too vague, please say in how many days"
    store.put_feedback(
        [Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="comment", comment=told, value=-1.0) for i in numbers]
    )


def cycle(store: Store, made: Tools, config: Config = CONFIG) -> list[tuple[str, str]]:
    """What was judged, in that order."""
    known = {e.id for e in store.list(Evaluation, limit=1000)}
    receipt = pipeline.run_cycle(store, made, config)
    row = next(row for row in store.cycles(1) if row.id == receipt.cycle_id)
    assert row.ended_at is not None
    fresh = [e for e in reversed(store.list(Evaluation, limit=1000)) if e.id not in known]
    return sorted((e.candidate, e.outcome) for e in fresh)


def serves(store: Store) -> tuple[str, str]:
    (row,) = store.deployments().values()
    return row.candidate, row.reason


def asked(**ladder: Json) -> Config:
    return build({**SETTINGS, "ladder": dict(ladder)})


# what serves


def test_rules_serve_where_they_do_as_well_as_an_expert(store: Store) -> None:
    assert cycle(store, tools(store, student("rules", "expert"))) == [("expert", "passed"), ("rules", "passed")]
    kind, reason = serves(store)
    assert kind == "rules"
    assert reason.startswith("rules in the prompt won 100% at 1 call and ")
    assert "an expert adapter won 100% at 1 call and" in reason
    assert "which is not 5 points better and costs more" in reason
    (row,) = store.deployments().values()
    assert row.adapter_id is None
    decided = {v.arms["candidate"]["kind"]: v.decision for v in store.list(Verdict)}  # type: ignore[index,call-overload]
    assert decided == {"rules": "promote", "expert": "stop"}


def test_an_expert_serves_where_rules_do_not_help(store: Store) -> None:
    assert cycle(store, tools(store, student("expert"))) == [("expert", "passed"), ("rules", "failed")]
    kind, reason = serves(store)
    assert kind == "expert"
    assert "rules in the prompt failed" in reason


def test_what_fails_goes_on_to_the_critic_in_the_same_cycle_and_trains_nothing_twice(store: Store) -> None:
    executor = FakeExecutor()
    judged = cycle(store, tools(store, student("critic"), executor))
    assert judged == [("critic", "passed"), ("critic_prompt", "failed"), ("expert", "failed"), ("rules", "failed")]
    assert [job.kind for job in executor.jobs] == ["expert", "critic"]
    assert serves(store)[0] == "critic"
    assert cycle(store, tools(store, student("critic"), executor)) == []
    assert len(executor.jobs) == 2
    assert serves(store)[0] == "critic"


def test_a_critic_prompt_that_passes_saves_the_training_of_a_critic(store: Store) -> None:
    executor = FakeExecutor()
    judged = cycle(store, tools(store, student("critic_prompt"), executor))
    assert judged == [("critic_prompt", "passed"), ("expert", "failed"), ("rules", "failed")]
    assert [job.kind for job in executor.jobs] == ["expert"]
    kind, reason = serves(store)
    assert kind == "critic_prompt"
    assert reason.startswith("the base model as its own critic won 100% at 3 calls and")


def test_a_large_gap_tries_the_critic_first_and_then_the_expert(store: Store) -> None:
    executor = FakeExecutor()
    judged = cycle(store, tools(store, student("expert"), executor, coverage=Unknown()))
    assert [job.kind for job in executor.jobs] == ["critic", "expert"]
    assert judged == [("critic", "failed"), ("critic_prompt", "failed"), ("expert", "passed"), ("rules", "failed")]
    assert serves(store)[0] == "expert"


def test_a_training_that_breaks_goes_on_too(store: Store) -> None:
    class Half(FakeExecutor):
        def train(self, job, progress):  # type: ignore[no-untyped-def]
            self.error = "the loss did not fall" if job.kind == "expert" else None
            return super().train(job, progress)

    assert ("critic", "passed") in cycle(store, tools(store, student("critic"), Half()))


def test_nothing_passes_and_the_base_model_stays(store: Store) -> None:
    executor = FakeExecutor()
    judged = cycle(store, tools(store, student(), executor))
    assert {outcome for _, outcome in judged} == {"failed"}
    assert len(judged) == 4
    assert store.deployments() == {}
    assert cycle(store, tools(store, student(), executor)) == []
    assert len(executor.jobs) == 2


# settings


@pytest.mark.parametrize(
    ("ladder", "able", "known", "trained"),
    [
        ({"rungs": ["expert", "critic"], "route": "strict"}, "critic", WordCoverage(), ["expert", "critic"]),
        ({"rungs": ["expert", "critic"], "route": "strict"}, "expert", Unknown(), ["critic"]),
        ({"rungs": ["expert"], "route": "strict"}, "critic", WordCoverage(), ["expert"]),
        ({"rungs": ["expert"], "route": "strict"}, "expert", Unknown(), []),
        ({"rungs": ["rules"]}, "expert", WordCoverage(), []),
        ({"rungs": ["rules", "critic_prompt"]}, "critic_prompt", WordCoverage(), []),
        ({"rungs": []}, "expert", WordCoverage(), []),
    ],
)
def test_the_rungs_of_the_settings(
    store: Store, ladder: dict[str, Json], able: str, known: WordCoverage, trained: list[str]
) -> None:
    executor = FakeExecutor()
    judged = cycle(store, tools(store, student(able), executor, coverage=known), asked(**ladder))
    assert [job.kind for job in executor.jobs] == trained
    assert {kind for kind, _ in judged} <= set(cast("list[str]", ladder["rungs"]))
    if "critic_prompt" in cast("list[str]", ladder["rungs"]):
        assert serves(store)[0] == "critic_prompt"


def test_the_papers_presets() -> None:
    uno, single = build({"preset": "uno"}), build({"preset": "uno-single"})
    assert (uno.ladder.rungs, uno.ladder.route) == (("expert", "critic"), "strict")
    assert (single.ladder.rungs, single.ladder.route) == (("expert",), "strict")
    assert single.model_copy(update={"ladder": uno.ladder, "preset": "uno"}) == uno


@pytest.mark.parametrize(
    ("preset", "known", "judged", "served"),
    [
        ("uno", WordCoverage(), [("critic", "passed"), ("expert", "failed")], "critic"),
        ("uno", Unknown(), [("critic", "passed")], "critic"),
        ("uno-single", WordCoverage(), [("expert", "failed")], None),
        ("uno-single", Unknown(), [], None),
    ],
)
def test_cycles_of_the_papers_presets(
    store: Store, preset: str, known: WordCoverage, judged: list[tuple[str, str]], served: str | None
) -> None:
    own = {"pairs": {"candidates": ["revised"], "samples": 1, "judge": "pairwise", "judge_samples": 1}}
    config = build({**SETTINGS, "preset": preset, **own, "train": {"budget": 0.1}, "evaluate": {"min_bleu": 0.0}})
    assert cycle(store, tools(store, student("critic"), coverage=known), config) == judged
    assert [row.candidate for row in store.deployments().values()] == ([served] if served else [])


def test_right_answers_are_no_rules_for_a_prompt(tmp_path: Path) -> None:
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    opened.add_logs([sample_log(f"l{i}", f"{QUERY} {i}", BAD, f"user-{i}", 1e9 + i) for i in range(120)])
    opened.put_feedback(
        [Feedback(id=f"f{i}", target=f"l{i}", at=2e9, kind="edit", correction=GOOD) for i in range(120)]
    )
    said: list[str] = []
    executor = FakeExecutor()
    pipeline.run_cycle(opened, replace(fakes(student(), executor)), CONFIG, said.append)
    (judged,) = opened.list(Evaluation)
    assert (judged.candidate, judged.outcome) == ("expert", "failed")
    assert len(executor.jobs) == 1  # what an expert can't learn from right answers, a critic can't say
    left_out = cast("dict[str, str]", judged.guards["not_tried"])
    assert set(left_out) == {"rules", "critic_prompt"}
    assert "right answers to single requests" in left_out["rules"]
    assert any("rules is not tried: its rules are right answers" in line for line in said)


def test_a_rule_of_too_few_users_stays_out_of_the_prompt(store: Store) -> None:
    cycle(store, tools(store, student("rules")), build({**SETTINGS, "trust": {"min_users": 1000}}))
    assert all(e.candidate in ("expert", "critic") for e in store.list(Evaluation))
    told = cast("dict[str, str]", store.list(Evaluation)[0].guards["not_tried"])
    assert told["rules"] == "no rule has 1000 users behind it"


# the gate


def test_every_candidate_is_put_to_the_same_held_out_users_and_its_cost_is_told(store: Store) -> None:
    cycle(store, tools(store, student("critic")))
    found = {e.candidate: e for e in store.list(Evaluation)}
    assert len({e.interaction_ids for e in found.values()}) == 1
    costs = {kind: cast("dict[str, float]", e.guards["cost"]) for kind, e in found.items()}
    assert {kind: cost["calls"] for kind, cost in costs.items()} == {
        "rules": 1, "expert": 1, "critic_prompt": 3, "critic": 3,
    }  # fmt: skip
    assert costs["expert"]["tokens_ratio"] == 1.0
    assert costs["rules"]["tokens_ratio"] > 1
    assert costs["critic"]["tokens_ratio"] > costs["rules"]["tokens_ratio"]


def test_the_model_is_asked_each_question_once_in_a_cycle(store: Store) -> None:
    model = student()
    cycle(store, tools(store, model))
    questions = [call for call in model.calls if not call.purpose]
    assert len(questions) == len(set(questions))


def test_with_several_candidates_each_needs_more_proof(store: Store) -> None:
    """Four candidates at 95% would pass by chance four times as often."""
    cycle(store, tools(store, student("expert")))
    (expert,) = (e for e in store.list(Evaluation) if e.candidate == "expert")
    assert "99% interval" in expert.reason  # 1 - 0.05 / 4
    fresh = Store("sqlite://")
    add(fresh, range(120))
    cycle(fresh, tools(fresh, student("expert")), asked(rungs=["expert"]))
    (alone,) = fresh.list(Evaluation)
    assert "95% interval" in alone.reason
    assert (alone.lower or 0) > (expert.lower or 0) > 0.5


def test_rules_of_held_out_users_alone_are_not_in_the_prompt(store: Store) -> None:
    cycle(store, tools(store, student("rules")))
    (rules,) = (e for e in store.list(Evaluation) if e.candidate == "rules")
    held_out = set(rules.interaction_ids)
    for rule in store.load(Rule, rules.rule_ids):
        assert set(rule.interaction_ids) - held_out
    assert store.children(rules.rule_ids[0])  # lineage: the evaluation knows its rules


# the next weeks


def test_rules_that_serve_are_the_baseline_of_the_next_cycle(store: Store) -> None:
    cycle(store, tools(store, student("rules")))
    assert serves(store)[0] == "rules"
    assert cycle(store, tools(store, student("rules"))) == []  # nothing new
    add(store, range(200, 320))
    judged = cycle(store, tools(store, student("rules", "expert")))
    assert ("expert", "failed") in judged  # no better than the rules
    assert "rules" not in {kind for kind, _ in judged}  # they serve already
    latest = store.list(Evaluation, limit=1)[0]
    assert latest.baseline == "rules"
    assert serves(store)[0] == "rules"


def test_what_rules_of_held_out_users_taught_is_no_lesson_of_the_next_adapter(store: Store) -> None:
    cycle(store, tools(store, student("rules")))
    assert serves(store)[0] == "rules"
    add(store, range(200, 320))
    executor = FakeExecutor()
    cycle(store, tools(store, student("rules", "expert"), executor))
    trained = {pair.id for job in executor.jobs for pair in job.pairs}
    learned = {pair.interaction_id for pair in store.load(PreferencePair, sorted(trained))}
    held_out = {member for found in store.list(Evaluation, limit=1000) for member in found.interaction_ids}
    assert learned
    assert held_out
    assert not learned & held_out


def test_a_veto_of_a_rule_in_its_new_words_ends_the_proven_one_too(store: Store) -> None:
    cycle(store, tools(store, student("rules")))
    (row,) = store.deployments().values()
    (proven,) = served_rules(store, row)
    sibling = identified(replace(proven, id="", text="Be kind.", merged_from=("rule-other",)))
    anew = identified(replace(proven, id="", text="Say it in other words.", merged_from=("rule-anew",)))

    def veto(about: Rule) -> None:
        RuleLedger(store).add(RuleEntry(
            id=f"led-{about.id}", action="veto", rule_id=about.id, rule_text=about.text, parts=about.merged_from,
            who="ann", at=8e9, interaction_ids=about.interaction_ids,
        ))  # fmt: skip

    veto(sibling)
    assert served_rules(store, row) == (proven,)  # it holds still, and another rule was meant
    store.open_cycle(CycleRow(id="c2", config_hash="c", started_at=9e9, ended_at=None, receipt={}))
    store.commit_units(
        [
            UnitResult(
                stage="distill",
                key="k",
                outputs=(anew,),
                cycle_id="c2",
                config_hash="c",
                at=9e9,
            )
        ]
    )
    veto(anew)
    assert served_rules(store, row) == ()


def test_what_serves_can_be_rolled_back_to_rules_and_keeps_the_proven_ones(store: Store) -> None:
    cycle(store, tools(store, student("rules")))
    (before,) = store.deployments().values()
    proven = served_rules(store, before)
    assert [rule.text for rule in proven] == [RULE]
    by_hand = identified(replace(before, id="", candidate="base", previous_id=before.id, verdict_id=None, at=9e9))
    store.deploy(by_hand, "c")
    back = deploy.rollback(before.cluster_name, [before, by_hand], 9.1e9, "worse")
    store.deploy(back, "c")
    assert (back.candidate, back.adapter_id, back.verdict_id) == ("rules", None, None)
    assert served_rules(store, back) == proven
    nothing = deploy.rollback(before.cluster_name, [before, by_hand, back], 9.2e9, "worse still")
    assert (nothing.candidate, served_rules(store, nothing)) == ("base", ())


def test_candidates_without_adapters_take_nothing_of_the_budget(store: Store) -> None:
    cycle(store, tools(store, student("critic_prompt")))
    current = store.deployments()
    assert deploy.live_adapters(current) == ()
    assert deploy.live_share(current, {}, 1_000_000) == 0


def test_other_rules_of_the_same_cluster_replace_those_that_serve(store: Store) -> None:
    """They were proven against them; a second look at the same verdict changes nothing."""
    cycle(store, tools(store, student("rules")))
    (row,) = store.deployments().values()
    (cluster,) = store.load(Cluster, [row.cluster_id])
    (passed,) = (e for e in store.list(Evaluation) if e.candidate == "rules")
    (verdict,) = verdicts([replace(passed, baseline="rules")], worth=0.05, live_test=False, config_hash="h")
    (change,) = planning.plan([verdict], [cluster], serving({row.cluster_name: row}))
    assert (change.candidate, change.action, change.previous_id) == ("rules", "deploy", row.id)
    assert planning.plan([verdict], [cluster], serving({row.cluster_name: change})) == []


def test_a_prompt_retires_with_its_cluster_and_takes_the_place_of_an_adapter_whatever_the_budget(store: Store) -> None:
    cycle(store, tools(store, student("expert")))
    (expert,) = store.deployments().values()
    (cluster,) = store.load(Cluster, [expert.cluster_id])
    (adapter,) = store.load(Adapter, [str(expert.adapter_id)])
    (verdict,) = verdicts([evaluation("rules", 0.8, 0.6)], worth=0.05, live_test=False, config_hash="h")
    current = {expert.cluster_name: expert}
    tight = serving(current, adapter, limits=Limits(base_parameters=1, budget=1e-9))
    (change,) = planning.plan([replace(verdict, cluster_id=cluster.id)], [cluster], tight)
    assert (change.candidate, change.adapter_id, change.action) == ("rules", None, "deploy")
    other = replace(cluster, id="clu-other", name="other")
    left = replace(serving({change.cluster_name: change}), leaving={change.cluster_name: "nobody asks any more"})
    (gone,) = planning.plan([], [other], left)
    assert (gone.candidate, gone.action) == ("base", "retire")
    assert deploy.rollback(change.cluster_name, [expert, change, gone], 9.2e9, "still asked").candidate == "rules"


def serving(
    current: Mapping[str, Deployment], *adapters: Adapter, limits: Limits | None = None
) -> planning.Serving:  # fmt: skip
    known = {each.id: each for each in adapters}
    return planning.Serving(current=current, adapters=known, now=9e9, limits=limits)


# the choice


def evaluation(kind: str, rate: float, lower: float, outcome: str = "passed", calls: float = 1.0) -> Evaluation:
    adapter = f"ada-{kind}" if kind in ("expert", "critic") else None
    return identified(Evaluation(
        id="", cluster_id="clu-1", candidate=kind, adapter_id=adapter, baseline="base", interaction_ids=(), cases=20,
        wins=0, ties=0, win_rate=rate, lower=lower, upper=1.0, outcome=outcome, reason="as the gate said",
        guards={"cost": {"calls": calls, "prompt_tokens": 100.0, "completion_tokens": 20.0}},
    ))  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "best"),
    [
        ([("rules", 0.70, 0.55, 1), ("expert", 0.74, 0.60, 1)], "rules"),
        ([("rules", 0.70, 0.55, 1), ("expert", 0.75, 0.60, 1)], "expert"),
        ([("rules", 0.70, 0.60, 1), ("expert", 0.80, 0.55, 1)], "rules"),  # fewer votes: surer is the cheaper
        ([("critic_prompt", 0.75, 0.60, 3), ("expert", 0.75, 0.60, 1)], "expert"),  # one call is cheaper than three
        ([("critic", 0.80, 0.65, 3), ("critic_prompt", 0.78, 0.63, 3)], "critic_prompt"),
        ([("rules", 0.70, 0.55, 1), ("expert", 0.74, 0.58, 1), ("critic", 0.77, 0.62, 3)], "critic"),
        ([], None),
    ],
)
def test_a_costlier_candidate_must_be_worth_it(passed: list[tuple[str, float, float, float]], best: str | None) -> None:
    found = best_of([evaluation(kind, rate, low, calls=calls) for kind, rate, low, calls in passed], 0.05)
    assert (found.candidate if found else None) == best


def test_the_choice_is_a_sentence() -> None:
    tried = [evaluation("rules", 0.7, 0.55), evaluation("expert", 0.8, 0.65), evaluation("critic", 0.5, 0.3, "failed")]
    rules, expert, critic = verdicts(tried, worth=0.05, live_test=False, config_hash="h")
    assert (rules.decision, expert.decision, critic.decision) == ("stop", "promote", "stop")
    assert expert.reason.startswith(
        "an expert adapter won 80% at 1 call and 120 tokens an answer; rules in the prompt won 70% at 1 call and 120 "
        "tokens an answer, less by 10 points; a critic adapter failed; "
    )
    assert rules.reason.startswith("passed, but an expert adapter is chosen: ")
    assert [verdict.code for verdict in (rules, expert, critic)] == ["runner_up", "gate_passed", "gate_failed"]
    assert [verdict.receipt["phase"] for verdict in (rules, expert, critic)] == ["gate"] * 3
    assert critic.reason == "as the gate said"


def test_one_candidate_needs_no_choice() -> None:
    (alone,) = verdicts([evaluation("expert", 0.8, 0.65)], worth=0.05, live_test=False, config_hash="h")
    assert alone.reason.startswith("the gate was passed")


# served


class Writing(FakeExecutor):
    """Its adapters have files that the gateway takes for weights."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        sha = hashlib.sha256(WEIGHTS).hexdigest()
        trained = super().train(job, progress)
        made = tuple(identified(replace(a, id="", sha256=sha, path=f"{job.kind}@{a.epoch}")) for a in trained)
        for adapter in made:
            write_adapter(self.home, adapter)
        return made


@pytest.mark.parametrize("kind", ["rules", "critic_prompt", "critic", "expert"])
def test_what_a_cycle_deploys_is_what_the_gateway_serves(store: Store, tmp_path: Path, kind: str) -> None:
    cycle(store, tools(store, student(kind), Writing(tmp_path)))
    (row,) = store.deployments().values()
    assert row.candidate == kind
    body = {"model": "base", "stream": True, "messages": [{"role": "user", "content": f"{QUERY} 7"}]}
    with gateway(tmp_path) as kit:
        for _ in range(1000):  # an adapter is loaded beside the first requests
            kit.engine.calls.clear()
            status, headers, stream = post(kit.url, "/v1/chat/completions", json.dumps(body).encode())
            if headers["x-logtune-arm"] == "candidate" and headers["x-logtune-adapter"] == (row.adapter_id or "base"):
                break
        calls = list(kit.engine.calls)
        record = kit.store.record(headers["x-logtune-interaction"])
    assert status == 200
    adapter = store.load(Adapter, [row.adapter_id])[0].path if row.adapter_id else "base"
    models = {"critic_prompt": ["base"] * 3, "critic": ["base", adapter, "base"]}.get(kind, [adapter])
    assert [call.model for call in calls] == models
    assert (RULE in calls[0].messages[0].content) == (kind == "rules")
    assert headers.get("x-logtune-calls", "1") == str(len(calls))
    assert stream.count(b"data: ") > 5  # the last call comes word by word
    assert record.usage.get("calls", 1) == len(calls)
    assert (record.cluster, record.adapter) == (row.cluster_name, row.adapter_id)
    assert record.request["messages"] == body["messages"]  # the client's words alone


# the same words in the gate and in serving


@pytest.mark.parametrize(
    "messages",
    [
        [("user", QUERY)],
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", QUERY)],
        [("developer", ""), ("user", "我的退款在哪里")],
    ],
)
def test_the_gate_tells_the_rules_in_the_words_of_serving(messages: list[tuple[str, str]]) -> None:
    prompt = [Message(role=role, content=text) for role, text in messages]
    body: dict[str, Json] = {"messages": [{"role": role, "content": text} for role, text in messages]}
    served = cast("list[dict[str, str]]", with_rules_in_body(body, (RULE, "Be kind."))["messages"])
    assert [(m["role"], m["content"]) for m in served] == [
        (m.role, m.content) for m in with_rules(prompt, [RULE, "Be kind."])
    ]


def test_rules_that_may_be_told() -> None:
    def rule(text: str, users: int, state: str = "active") -> Rule:
        return identified(Rule(
            id="", text=text, interaction_ids=("i",), signal_ids=(), from_feedback=True, covered=None,
            distinct_users=users, state=state, merged_from=(f"rule-{text}",),
        ))  # type: ignore[arg-type]  # fmt: skip

    rules = [rule("few", 1), rule("many", 9), rule("Answer: 42", 9), rule("kept", 1, "pinned"), rule("x", 9, "vetoed")]
    assert [r.text for r in active(rules, 2)] == ["kept", "many"]
    assert [r.text for r in active(rules)] == ["kept", "many", "few"]
