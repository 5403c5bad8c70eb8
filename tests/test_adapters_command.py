"""`logtune adapters budget`, and what live adapters are worth by the store's own logs and verdicts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sample_cycle
from click.testing import CliRunner

from logtune import holdings
from logtune.app.cli import cli
from logtune.edges.store import Store
from logtune.records import Adapter
from logtune.testing import sample_log

NOW = sample_cycle.START + 9 * sample_cycle.DAY


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """One live adapter of cluster card_arrival, to which 3 of 4 requests go since it serves."""
    monkeypatch.chdir(tmp_path)
    base = sample_cycle.base_model(tmp_path / "base")
    url = f"sqlite:///{tmp_path / 'sample.db'}"
    (tmp_path / "logtune.toml").write_text(f'[store]\nurl = "{url}"\n[model]\nbase = "{base}"\n', encoding="utf-8")
    opened = Store(url)
    sample_cycle.fill(opened)
    row = opened.deployments()["card_arrival"]
    since = row.at + 60
    logs = [sample_log(f"live-{n}", f"where is card {n}", "card_arrival", f"u{n}", since + n) for n in range(8)]
    opened.add_logs([replace(log, cluster=None if n % 4 == 3 else "card_arrival") for n, log in enumerate(logs)])
    yield opened
    opened.close()


def test_worth_is_what_the_gate_and_the_logs_say(store: Store) -> None:
    (found,) = holdings.listed(store, sample_cycle.BASE_PARAMETERS, NOW)
    (adapter,) = store.load(Adapter, [found.adapter_id])
    assert found.clusters == ("card_arrival",)
    assert found.gain == pytest.approx(0.834)  # 11 of 12 votes
    assert found.traffic == 0.75  # logs from before it served tell nothing
    assert found.worth == pytest.approx(0.834 * 0.75)
    assert found.share == adapter.parameters / sample_cycle.BASE_PARAMETERS
    assert found.goes == 1


def test_the_command_says_what_goes_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    shown = CliRunner().invoke(cli, ["adapters", "budget"])
    assert shown.exit_code == 0, shown.output
    (name,) = {row.adapter_id for row in store.deployments().values() if row.adapter_id}
    head, row, total, goes = shown.output.splitlines()
    assert head.split() == [
        "goes",
        "adapter",
        "cluster",
        "kind",
        "rank",
        "parameters",
        "share",
        "gain",
        "traffic",
        "worth",
    ]
    assert row.split()[:4] == ["1", name, "card_arrival", "expert"]
    assert "the budget is 0.500%" in total
    assert goes == f"Next to make way, should a cycle need room: {name} (card_arrival)."
    document = json.loads(CliRunner().invoke(cli, ["adapters", "budget", "--json"]).output)
    assert document["next"] == name
    assert document["left"] == round(0.005 * sample_cycle.BASE_PARAMETERS) - document["parameters"]
    assert document["adapters"][0]["worth"] == pytest.approx(0.6255)


def test_without_a_live_adapter_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = sample_cycle.base_model(tmp_path / "base")
    found = CliRunner().invoke(
        cli, ["adapters", "budget", "--set", f"model.base={base}", "--set", f"store.url=sqlite:///{tmp_path / 'x.db'}"]
    )
    assert found.exit_code == 0
    assert "No adapter is live" in found.output


def test_a_base_model_that_is_not_here_is_a_known_error(store: Store) -> None:
    found = CliRunner().invoke(cli, ["adapters", "budget", "--set", "model.base=nobody/nothing", "--json"])
    assert found.exit_code != 0
    assert "is not on this disk" in str(found.exception)


def test_list_and_show_are_as_of_all_records(store: Store) -> None:
    listed = CliRunner().invoke(cli, ["adapters", "--limit", "2"])
    assert listed.exit_code == 0
    assert "ada-" in listed.output
