"""`logtune filter`: the pass over all logs, the explanation of one, and thresholds of the deployment's own traffic."""

import json
from pathlib import Path

import pytest

from logtune.app import build, cli
from logtune.edges.store import Store
from logtune.ids import identified
from logtune.records import Decision, Interaction, LogRecord
from logtune.testing import WordEmbedder

SPAM = "WINNER!! You have been drawn for a £2000 prize. Txt CLAIM to 87066 now! 150p/msg, 18+ only"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "embedder", lambda config, progress: WordEmbedder())
    opened = Store("sqlite:///logtune.db")
    yield opened
    opened.close()


def log(number: int, query: str) -> LogRecord:
    return LogRecord(
        id=f"log-{number:04d}", at=1_750_000_000.0 + number, user=f"u{number}",
        request={"messages": [{"role": "user", "content": query}]},
        response={"choices": [{"message": {"role": "assistant", "content": f"Answer {number}."}}]},
    )  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_pass_counts_with_examples_and_writes_nothing(store, capsys):
    store.add_logs([log(1, "Where is my new card? It should have come."), log(2, SPAM), log(3, "hi")])
    code, said, _ = run(capsys, "filter", "--dry-run", "--workers", "0")
    assert code == 0
    assert "3 answered requests: 1 pass the cheap checks. Nothing was written." in said
    assert "spam: 1 (33%)" in said
    assert "log-0002" in said
    code, document, _ = run(capsys, "filter", "--dry-run", "--workers", "0", "--json")
    assert json.loads(document)["counts"] == {"kept": 1, "spam": 1, "too_short": 1}
    assert store.list(Decision) == []


def test_without_dry_run_nothing_happens(store, capsys):
    code, _, said = run(capsys, "filter", "run")
    assert code == 1
    assert "--dry-run" in said
    assert "no answered request" in run(capsys, "filter", "--dry-run")[1]


def test_one_interaction_is_explained(store, capsys):
    store.add_logs([log(1, SPAM)])
    code, said, _ = run(capsys, "filter", "explain", "log-0001")
    assert code == 0
    assert "spam" in said
    assert "<- reached" in said
    assert "none yet, logtune cycle decides" in said
    code, document, _ = run(capsys, "filter", "explain", "log-0001", "--json")
    found = json.loads(document)
    assert found["scores"]["spam"] >= found["thresholds"]["spam"] == 0.5


def test_a_decision_is_part_of_its_explanation(store, capsys):
    store.add_logs([log(1, SPAM)])
    item = Interaction(
        id="int-1", log_id="log-0001", context=(), query=SPAM, answer="Answer 1.", follow_ups=(), feedback_ids=(),
        user="u1", session=None, adapter=None, at=1.0,
    )  # fmt: skip
    decision = identified(
        Decision(id="", interaction_id="int-1", teaches="nothing", reason="spam", scores={"spam": 0.97})
    )
    from logtune.edges.store import UnitResult

    store.commit_units(
        [UnitResult(stage="filter", key="k", outputs=(item, decision), cycle_id="c", config_hash="h", at=1.0)]
    )
    for name in ("int-1", "log-0001", decision.id):
        _, said, _ = run(capsys, "filter", "explain", name)
        assert "decision: nothing, spam" in said
        assert "rests on spam = 0.97" in said


def test_an_unknown_id_is_an_error_with_the_next_step(store, capsys):
    code, _, said = run(capsys, "filter", "explain", "nobody")
    assert code == 1
    assert "logtune interactions" in said


def test_thresholds_are_proposed_as_settings(store, capsys):
    topics = ("Where is my new card that you sent last week", "Which exchange rate do you use for my euros")
    store.add_logs([log(n, f"{topics[n % 2]} {n}") for n in range(300)])
    code, said, _ = run(capsys, "filter", "tune", "--fpr", "0.02")
    assert code == 0
    assert "[filter]" in said
    assert "jailbreak = 0." in said
    found = json.loads(run(capsys, "filter", "tune", "--json")[1])
    assert found["flagged"] <= 0.01
    assert set(found["thresholds"]) == {"jailbreak", "prompt_injection", "harmful_request", "toxic", "spam"}


def test_too_little_traffic_proposes_nothing(store, capsys):
    store.add_logs([log(1, "Where is my card?")])
    code, _, said = run(capsys, "filter", "tune")
    assert code == 1
    assert "are needed" in said
