"""What nothing needs leaves the disk after a cycle, and comes back where it is needed after all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from two_topics import student

from logtune import pipeline, pruning
from logtune.app.cli import cli
from logtune.app.commands.loop import undo
from logtune.app.projects import for_project
from logtune.config import Config, build
from logtune.edges.experiments import Control, Experiments
from logtune.edges.pruned import Pruned
from logtune.edges.store import Store, UnitResult
from logtune.errors import InputError
from logtune.ids import identified
from logtune.ports import TrainingJob
from logtune.records import Adapter, Evaluation, Json
from logtune.testing import FakeExecutor, sample_logs, tools

SETTINGS: dict[str, Json] = {
    "filter": {"off_topic": "off"}, "ladder": {"rungs": ["expert"]}, "train": {"budget": 0.004, "epochs": 3},
}  # fmt: skip
LOGS, FEEDBACK = sample_logs(users=400, per_user=1)


class Writing(FakeExecutor):
    """Leaves a folder an adapter, as training does."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        made = super().train(job, progress)
        for adapter in made:
            (self.home / adapter.path).mkdir(parents=True, exist_ok=True)
            (self.home / adapter.path / "adapter_model.safetensors").write_bytes(b"x" * 100)
        return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".logtune" / "adapters"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'store.db'}")
    made.add_logs(LOGS)
    made.put_feedback(FEEDBACK)
    return made


def cycle(store: Store, home: Path, settings: dict[str, Json] | None = None) -> Writing:
    config: Config = build({**SETTINGS, **(settings or {})})
    executor = Writing(home)
    pipeline.run_cycle(store, replace(tools(student(), executor), adapters_dir=str(home)), config)
    return executor


def here(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def live(store: Store) -> set[str]:
    ids = [row.adapter_id for row in store.deployments().values() if row.adapter_id]
    return {row.path for row in store.load(Adapter, ids)}


def test_losers_and_what_trainings_left_behind_go_and_their_records_stay(store: Store, home: Path) -> None:
    (home / ".training-of-another-job").mkdir(parents=True)
    cycle(store, home)
    made = store.list(Adapter, limit=100)
    assert len(made) == 6
    assert here(home) == live(store)
    assert len(live(store)) == 2
    assert set(Pruned(store).every()) == {row.id for row in made if row.path not in live(store)}


def test_it_can_be_turned_off(store: Store, home: Path) -> None:
    cycle(store, home, {"store": {"prune": False}})
    assert len(here(home)) == 6
    assert not Pruned(store).every()


def test_a_cycle_with_nothing_new_trains_nothing_again(store: Store, home: Path) -> None:
    cycle(store, home)
    assert not cycle(store, home).jobs


def test_what_is_put_to_the_gate_again_is_trained_again(store: Store, home: Path) -> None:
    """It was rolled back, and the guards are others: all checkpoints are compared once more, and most are gone."""
    cycle(store, home)
    name, row = sorted(store.deployments().items())[0]
    undo(store, name, 9e9)
    guards: dict[str, Json] = {"guards": {"lesson_checks": 7}}
    (job,) = cycle(store, home, guards).jobs
    assert job.cluster_id == row.cluster_id
    assert not cycle(store, home, guards).jobs


def test_what_passed_and_lost_its_weights_meanwhile_is_trained_again_before_it_serves(store: Store, home: Path) -> None:
    """It passed while live tests were paused, another setting was tried, and then the first one was put back."""
    Experiments(store).pause(Control(name="", at=1.0, by="ann", reason="the fair"))
    cycle(store, home, {"experiment": {"mode": "ab"}})
    assert not live(store)
    cycle(store, home, {"experiment": {"mode": "ab"}, "train": {"budget": 0.004, "seed": 1}})
    jobs = cycle(store, home).jobs
    assert live(store)
    assert live(store) <= here(home)
    assert len(jobs) == len(live(store))
    assert not cycle(store, home).jobs


def later(store: Store, count: int) -> list[Adapter]:
    """So many adapters, deployed one after the other in the cluster that is called first."""
    _, last = sorted(store.deployments().items())[0]
    (first,) = store.load(Adapter, [last.adapter_id or ""])
    made = [identified(replace(first, id="", path=f"later-{n}", sha256=f"{n:064}")) for n in range(count)]
    store.commit_units([
        UnitResult(stage="t", key="t", outputs=tuple(made), cycle_id="t", config_hash="h", at=2e9)
    ])  # fmt: skip
    for number, adapter in enumerate(made):
        row = replace(last, id="", adapter_id=adapter.id, previous_id=last.id, at=2e9 + number)
        last = identified(row)
        store.deploy(last, "t")
    return made


def test_as_many_past_ones_stay_as_a_rollback_may_restore(store: Store, home: Path) -> None:
    cycle(store, home)
    made = later(store, 5)
    for adapter in made:
        (home / adapter.path).mkdir()
    found = pruning.plan(store, home, 2, (), ())
    assert {name for name in found.adapters if name.startswith("later")} == {"later-0", "later-1"}
    pruning.apply(store, home, found, 3e9)
    name = sorted(store.deployments())[0]
    assert [undo(store, name, 3e9 + n).adapter_id for n in range(2)] == [made[3].id, made[2].id]
    with pytest.raises(InputError, match=f"the weights of {made[1].id}.* were removed on"):
        undo(store, name, 4e9)
    assert undo(store, name, 5e9, to_base=True).candidate == "base"


def test_a_folder_that_two_records_share_stays_while_one_needs_it(store: Store, home: Path) -> None:
    cycle(store, home)
    path = sorted(live(store))[0]
    (one,) = (row for row in store.list(Adapter, limit=100) if row.path == path)
    twin = identified(replace(one, id="", cluster_id="clu-other"))
    store.commit_units([UnitResult(stage="t", key="t", outputs=(twin,), cycle_id="t", config_hash="h", at=2e9)])
    assert path not in pruning.plan(store, home, 0, (), ()).adapters


def test_the_command_says_what_would_go(
    store: Store, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle(store, home, {"store": {"prune": False}})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logtune.toml").write_text(f'[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n', encoding="utf-8")
    shown = CliRunner().invoke(cli, ["adapters", "prune", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "4 folders of 400 bytes would be removed" in shown.output
    assert len(here(home)) == 6
    done = CliRunner().invoke(cli, ["adapters", "prune"])
    assert "4 folders of 400 bytes were removed" in done.output
    assert here(home) == live(store)
    assert {row.adapter_id for row in store.list(Evaluation, limit=100)} - set(Pruned(store).every())


def test_a_project_keeps_what_the_settings_say_of_its_disk() -> None:
    config = build({"store": {"prune": False, "keep_past": 7}})
    own = for_project(config, "shop").store
    assert (own.prune, own.keep_past) == (False, 7)
