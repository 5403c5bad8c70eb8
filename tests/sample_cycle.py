"""A store with one cycle made by hand, through the real seams: what readers, the report and their tests stand on."""

import json
import struct
from dataclasses import replace
from pathlib import Path

from logtune.edges.store import CycleRow, Store, UnitResult
from logtune.ids import identified
from logtune.records import (
    Adapter,
    Cluster,
    Decision,
    Deployment,
    Derived,
    Evaluation,
    Failure,
    Feedback,
    Gap,
    Interaction,
    Message,
    PreferencePair,
    Rule,
    Signal,
    Standing,
    Verdict,
)
from logtune.testing import sample_log

START = 1_750_000_000.0
DAY = 86_400.0
CYCLE = "cyc-sample"
BASE_PARAMETERS = 134_515_008
NAUGHTY = '<script>alert("x")</script> \x1b[31m{{ 7*7 }} \u202eevil\u202c \ud800 <img src=x onerror=alert(1)> $x^2$'
TOPICS = {
    "card_arrival": (
        "when will my new card get here",
        "Use the topic card_arrival when a card has not come by post yet.",
    ),
    "refund_status": (
        "where is the money you owe me back",
        "Use the topic refund_status when money is owed to the customer.",
    ),
    "change_pin": ("how do I set another pin at the machine", "Use the topic change_pin for a new pin."),
}
NOISE = {"too_short": 14, "duplicate": 9, "adversarial": 6, "off_topic": 11, "spam": 4, "malformed": 2}


def base_model(folder: Path) -> Path:
    """A folder that says it holds a base model of BASE_PARAMETERS parameters; it cannot be loaded."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"weight": {"dtype": "F32", "shape": [BASE_PARAMETERS], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def fill(store: Store, naughty: bool = True) -> None:
    """Three groups (passed, failed, too little data), noise of six kinds, failures, an earlier and a new deployment."""
    store.open_cycle(CycleRow(id=CYCLE, config_hash="c0ffee", started_at=START + 8 * DAY, ended_at=None, receipt={}))
    made: list[Derived] = []
    clusters = [_cluster(store, made, number, name) for number, name in enumerate(TOPICS)]
    for number, (reason, count) in enumerate(NOISE.items()):
        for copy in range(count):
            asked = _interaction(store, f"{reason}-{copy}", f"{reason.replace('_', ' ')} message {copy}", user=number)
            made += [asked, _decided(asked, "nothing", reason)]
    if naughty:
        asked = _interaction(store, "naughty", NAUGHTY + "long " * 500, user=77)
        signal = _signal(asked, "complaint", "no: " + NAUGHTY)
        made += [asked, signal, _decided(asked, "nothing", "malformed"), _rule(NAUGHTY, [asked], [signal], 1)]
    failed = Failure(
        id="", record_id=clusters[0].interaction_ids[0], stage="distill", error="ModelError", reason="no answer"
    )
    made.append(identified(failed))
    store.commit_units([UnitResult(
        stage="all", key="sample", outputs=tuple(made), cycle_id=CYCLE, config_hash="c0ffee", at=START + 8 * DAY,
    )])  # fmt: skip
    _decide(store, clusters, made)
    stages = {
        "interactions": {"done": 160, "unchanged": 0, "failed": 0},
        "distill": {"done": 60, "unchanged": 41, "failed": 1},
    }
    receipt = {
        "stages": stages, "summary": "1 of 3 groups passed its gate and is deployed.",
        "deployed": ["card_arrival"], "passed": True, "exit_code": 0,
    }  # fmt: skip
    store.close_cycle(CYCLE, START + 8 * DAY + 540, receipt)


def _interaction(store: Store, key: str, query: str, user: int) -> Interaction:
    at = START + DAY * (user % 7)
    store.add_logs([sample_log(f"log-{key}", query, "general_question", f"user-{user:03}", at)])
    context = (Message(role="system", content="Name the topic."),)
    return identified(Interaction(
        id="", log_id=f"log-{key}", context=context, query=query, answer="general_question", follow_ups=(),
        feedback_ids=(f"fb-{key}",), user=f"user-{user:03}", session=None, adapter=None, at=at,
    ))  # fmt: skip


def _decided(asked: Interaction, teaches: str, reason: str) -> Decision:
    return identified(
        Decision(id="", interaction_id=asked.id, teaches=teaches, reason=reason, scores={"confidence": 0.8})
    )


def _signal(asked: Interaction, kind: str, evidence: str) -> Signal:
    return identified(Signal(
        id="", interaction_id=asked.id, feedback_id=asked.feedback_ids[0], kind=kind, polarity=-0.8, confidence=0.9,
        evidence=evidence, correction=None, detector="sample-1",
    ))  # fmt: skip


def _rule(text: str, asked: list[Interaction], signals: list[Signal], users: int) -> Rule:
    return identified(Rule(
        id="", text=text, interaction_ids=tuple(item.id for item in asked),
        signal_ids=tuple(item.id for item in signals),
        from_feedback=True, covered=0.2, distinct_users=users,
    ))  # fmt: skip


def _cluster(store: Store, made: list[Derived], number: int, name: str) -> Cluster:
    """One group: interactions, signals, decisions, a rule, pairs, the cluster and its gap."""
    query, rule_text = TOPICS[name]
    size = (38, 24, 9)[number]
    asked = [_interaction(store, f"{name}-{i}", f"{query}, case {i}", user=10 * number + i % 12) for i in range(size)]
    kinds = ("edit", "correction", "complaint", "reask", "praise")
    signals = [_signal(item, kinds[i % 5], f"no, that is {name}") for i, item in enumerate(asked)]
    signals = [identified(replace(item, id="", polarity=0.9)) if item.kind == "praise" else item for item in signals]
    decisions = [
        _decided(item, "positive" if i % 5 == 4 else "rule", "praised" if i % 5 == 4 else "corrected")
        for i, item in enumerate(asked)
    ]
    rule = _rule(rule_text, asked, signals, len({item.user for item in asked}))
    pairs = [
        identified(PreferencePair(
            id="", interaction_id=item.id, rule_ids=(rule.id,), prompt=(Message(role="user", content=item.query),),
            chosen=name, rejected=item.answer, origin="edit", margin=None,
        ))
        for item in asked
    ]  # fmt: skip
    cluster = identified(Cluster(
        id="", interaction_ids=tuple(item.id for item in asked), centroids=((1.0, 0.0), (0.0, 1.0)), radius=0.4,
        label=query, name=name,
    ))  # fmt: skip
    gap = identified(Gap(
        id="", cluster_id=cluster.id, rule_ids=(rule.id,), novelty=0.3 + 0.2 * number, method="embedding",
        route="primary" if number < 2 else "reflective",
        reason=f"novelty {0.3 + 0.2 * number:.2f}, reflective from 0.45",
    ))  # fmt: skip
    store.put_feedback([
        Feedback(id=f"fb-{name}-{i}", target=item.log_id, at=item.at + 60, kind="edit", correction=name)
        for i, item in enumerate(asked)
    ])  # fmt: skip
    standing = identified(Standing(
        id="", lesson_id=rule.id, state="trusted", reason="trusted", users=rule.distinct_users, scores={"share": 1.0}
    ))  # fmt: skip
    made += [*asked, *signals, *decisions, rule, *pairs, standing, cluster, gap]
    return cluster


def _decide(store: Store, clusters: list[Cluster], made: list[Derived]) -> None:
    """Train, judge and deploy: the first group passes, the second fails, the third has too little data."""
    more: list[Derived] = []
    judged: list[Evaluation] = []
    for number, cluster in enumerate(clusters[:2]):
        pairs = tuple(
            item.id
            for item in made
            if isinstance(item, PreferencePair) and item.interaction_id in cluster.interaction_ids
        )
        checkpoints = [adapter(cluster, pairs, epoch) for epoch in (1, 2, 3)]
        passed = number == 0
        judged.append(identified(Evaluation(
            id="", cluster_id=cluster.id, candidate="expert", adapter_id=checkpoints[-1].id, baseline="base",
            interaction_ids=cluster.interaction_ids[:12], cases=12, wins=11 if passed else 5, ties=0,
            win_rate=0.917 if passed else 0.417, lower=0.646 if passed else 0.193, upper=0.985 if passed else 0.681,
            guards={"length_ratio": 0.94, "degenerate": 0.0}, outcome="passed" if passed else "failed",
            reason="the lower bound 0.65 is above 0.50" if passed else "the lower bound 0.19 is not above 0.50",
        )))  # fmt: skip
        more += [*checkpoints, judged[-1]]
    more.append(identified(Evaluation(
        id="", cluster_id=clusters[2].id, candidate="expert", adapter_id=None, baseline="base", interaction_ids=(),
        cases=3, wins=0, ties=0, win_rate=None, lower=None, upper=None, guards={}, outcome="not_enough_data",
        reason="3 held-out cases, 8 are needed",
    )))  # fmt: skip
    verdict = identified(Verdict(
        id="", cluster_id=clusters[0].id, evaluation_id=judged[0].id, adapter_id=judged[0].adapter_id, arms={},
        effect=0.417, lower=0.146, upper=0.485, decision="promote", reason="no live traffic yet: the gate decides",
    ))  # fmt: skip
    store.commit_units([UnitResult(
        stage="gate", key="sample", outputs=(*more, verdict), cycle_id=CYCLE, config_hash="c0ffee", at=START + 8 * DAY,
    )])  # fmt: skip
    old = deployment(clusters[0], None, None, START)
    store.deploy(old, CYCLE)
    store.deploy(deployment(clusters[0], judged[0].adapter_id, old.id, START + 8 * DAY), CYCLE)


def adapter(cluster: Cluster, pairs: tuple[str, ...], epoch: int) -> Adapter:
    """One checkpoint of an expert."""
    return identified(Adapter(
        id="", cluster_id=cluster.id, pair_ids=pairs, kind="expert", base="sha", rank=2, parameters=610_560,
        path=f"{cluster.id}-expert@{epoch}", sha256=f"{epoch:064x}", losses=(1.61, 0.72, 0.31)[:epoch],
        checks={"weight_norm": 4.31, "chosen_nll_before": 3.2, "chosen_nll_after": 0.4}, epoch=epoch,
    ))  # fmt: skip


def deployment(cluster: Cluster, adapter_id: str | None, previous: str | None, at: float) -> Deployment:
    """What serves a cluster from `at` on."""
    return identified(Deployment(
        id="", cluster_id=cluster.id, cluster_name=cluster.name, candidate="expert" if adapter_id else "base",
        adapter_id=adapter_id, verdict_id=None, previous_id=previous, action="deploy" if adapter_id else "keep",
        reason="passed its gate: 92 % of 12 held-out cases" if adapter_id else "nothing was trained yet", at=at,
    ))  # fmt: skip
