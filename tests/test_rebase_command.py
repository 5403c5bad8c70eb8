"""`logtune rebase`: what it says beforehand, what it changes, what it refuses, and that it goes on where it was."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from sample_cycle import base_model as model_folder
from test_rebasing import all_taught, half_taught, model, old_model, serving

from logtune.app import build, cli
from logtune.config import Config, load
from logtune.edges.store import Store
from logtune.edges.weights import fingerprint_of
from logtune.errors import KNOWN_ERROR, NOT_PASSED, OK
from logtune.pipeline import run_cycle
from logtune.records import Deployment
from logtune.testing import sample_logs

SETTINGS = '# ours\n[model]\nbase = "old"  # the first one\n'


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that has learned on another base model, a settings file, and the folder of a new model; all in cwd."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("logtune.toml").write_text(SETTINGS)
    with closing(Store("sqlite:///logtune.db")) as store:
        logs, feedback = sample_logs(users=120, per_user=1)
        store.add_logs(logs)
        store.put_feedback(feedback)
        run_cycle(store, model(old_model, "tiny@0", 1_755_000_000.0), Config())
    folder = model_folder(tmp_path / "new")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


def with_model(monkeypatch: pytest.MonkeyPatch, folder: Path, script: object) -> None:
    mark = fingerprint_of(str(folder))
    assert mark is not None
    monkeypatch.setattr(build, "tools", lambda *_: model(script, mark))


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object], str]:
    capsys.readouterr()
    code = cli.main(["rebase", *words, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def state() -> tuple[str, list[Deployment], int]:
    with closing(Store("sqlite:///logtune.db")) as store:
        return Path("logtune.toml").read_text(), store.list(Deployment, limit=99), len(store.cycles())


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(
    new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_model(monkeypatch, new, half_taught)
    before = state()
    code, found, _ = ran(capsys, "new", "--dry-run")
    assert code == OK
    assert state() == before
    plan = found["plan"]
    assert (plan["before"], plan["after"], plan["done"]) == ("tiny@0", fingerprint_of(str(new)), False)
    (cluster,) = plan["clusters"]
    assert cluster["serves"].startswith("ada-")
    assert cluster["pairs"] == plan["pairs"] == 84
    assert cluster["asked"] == 50
    assert 0 < cluster["known"] < 50
    assert cluster["left"] == 84 - round(84 * cluster["known"] / 50)
    assert cluster["trains"] is True
    assert cli.main(["rebase", "new", "--dry-run"]) == OK
    told = capsys.readouterr().out
    assert "Kept: 2 rules with 0 decisions about them, 84 pairs" in told
    assert "Nothing was written" in told


def test_it_switches_learns_and_says_so_the_second_time(
    new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_model(monkeypatch, new, all_taught)
    code, found, _ = ran(capsys, "new")
    assert code in (OK, NOT_PASSED)
    assert Path("logtune.toml").read_text() == SETTINGS.replace('"old"', f'"{new}"')
    assert load().model.base == str(new)
    assert found["cycle"]["summary"].startswith(f"The base model is {fingerprint_of(str(new))}, before it was tiny@0.")
    with closing(Store("sqlite:///logtune.db")) as store:
        assert {what for what, _ in serving(store).values()} == {"base"}
        assert store.cycles()[0].receipt["rebased"]["from"] == "tiny@0"
    before = state()
    code, again, _ = ran(capsys, "new")
    assert (code, again["plan"]["done"], state()) == (OK, True, before)


def test_killed_after_the_settings_are_written_it_goes_on(
    new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("logtune.toml").write_text(SETTINGS.replace('"old"', f'"{new}"'))  # as far as it came
    with_model(monkeypatch, new, old_model)
    code, found, _ = ran(capsys, "new")
    assert code == OK
    assert len(found["cycle"]["deployed"]) == 1
    with closing(Store("sqlite:///logtune.db")) as store:
        assert {what for what, _ in serving(store).values()} == {"expert"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no model 'nowhere'"),
        (["empty"], "holds no config.json with *.safetensors beside it"),
        (["plain"], "has no chat template"),
        (["new", "--set", "model.base=other"], "--set model.base is other, and wins over the settings file"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_changes(
    new: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    Path("empty").mkdir()
    model_folder(Path("plain"))
    before = state()
    code, found, _ = ran(capsys, *words)
    assert code == KNOWN_ERROR
    assert said in str(found)
    assert state() == before


def test_without_a_cycle_there_is_nothing_to_keep(
    new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_model(monkeypatch, new, half_taught)
    code, found, _ = ran(capsys, "new", "--set", "store.url=sqlite:///empty.db")
    assert code == KNOWN_ERROR
    assert "no cycle has ended" in str(found)
