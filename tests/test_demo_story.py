"""What the demo says of its run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sample_cycle import BASE_PARAMETERS, fill

from logtune.app import demo_sample
from logtune.app.demo_story import Outcome, figures, tell
from logtune.app.findings import gather
from logtune.edges.store import Store

ROWS = demo_sample.load()
HELD = tuple(row for row in ROWS if row.held_out)
KEYS = {
    "base_accuracy", "tuned_accuracy", "gain", "lower", "upper", "cases", "adapter_share", "seconds", "dropped",
    "rules", "pairs", "clusters", "deployed",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'demo.db'}")
    fill(opened)
    yield opened
    opened.close()


def outcome(store: Store, right: int, adapter: str = "bikes-expert@1") -> Outcome:
    """The first `right` of the held-out messages are answered rightly by an adapter, none by the base model."""
    log = {row.id: row for row in ROWS if not row.held_out}
    after = tuple(
        ((row.topic or "") if number < right else "dock-\x1b[31mdesk", adapter) for number, row in enumerate(HELD)
    )
    return Outcome(
        held_out=HELD, before=("I am sorry for your loss.",) * len(HELD), after=after, log=log,
        noise={name: "spam" for name, row in log.items() if row.noise == "spam"},
        found=gather(store, None, BASE_PARAMETERS), report=Path("demo/report.html"), home=Path("demo"), seconds=420.0,
    )  # fmt: skip


def test_figures_are_those_of_the_run(store: Store) -> None:
    found = figures(outcome(store, 60))
    assert set(found) == KEYS
    assert (found["base_accuracy"], found["tuned_accuracy"], found["cases"]) == (0.0, 0.75, 80)
    assert found["gain"] == 0.75
    assert 0.6 < found["lower"] < 0.75 < found["upper"] < 0.9  # type: ignore[operator]
    assert found["dropped"]
    assert found["deployed"] == 1


def test_the_story_has_everything_a_newcomer_asks_for(store: Store) -> None:
    text = "\n".join(tell(outcome(store, 60), Path("demo/result.json")))
    for part in (
        "0 of 80", "60 of 80", "75.0%", "+75.0 points", "5 of 51 noise messages", "0 of 240 real",
        "demo/report.html", "demo/result.json", "logtune rules --config demo/logtune.toml",
        "logtune serve --config demo/logtune.toml", "7.0 minutes", "80 of 80 messages were routed",
    ):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text
    assert sum(topic in text for topic in {row.topic or "" for row in HELD}) >= 5


def test_nothing_gained_is_told_as_plainly(store: Store) -> None:
    text = "\n".join(tell(outcome(store, 0, "base"), Path("result.json")))
    assert "+0.0 points" in text
    assert "0 of 80 messages were routed" in text


def test_nothing_deployed_is_a_normal_result(store: Store) -> None:
    ended = outcome(store, 0, "base")
    found = replace(ended.found, serving=(), share=0.0, lessons=(), summary="Nothing new passed.")
    ended = replace(ended, found=found)
    text = "\n".join(tell(ended, Path("result.json")))
    assert "the base model keeps serving. Nothing new passed." in text
    assert figures(ended)["deployed"] == 0
