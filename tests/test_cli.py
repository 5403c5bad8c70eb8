import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
import sample_cycle

from logtune.app import cli
from logtune.app.commands import loop, schedule
from logtune.app.commands.project import example_settings
from logtune.app.commands.records import KINDS
from logtune.app.console import Console, cells, fit, harmless, plain, table
from logtune.config import Config, build, load
from logtune.edges.runs import Runs
from logtune.edges.store import CycleRow, Store
from logtune.errors import ModelError
from logtune.ports import ChatCall, Tools
from logtune.testing import (
    FakeExecutor,
    FixedClock,
    FixedLikelihood,
    MemoryAdapterServer,
    ScriptedChat,
    WordCoverage,
    WordEmbedder,
    sample_logs,
)

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "sklearn",
    "matplotlib",
    "numpy",
    "scipy",
    "sqlalchemy",
    "pydantic",
    "jinja2",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, where logtune.db is the default store and the base model's size is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOGTUNE_MODEL__BASE", str(sample_cycle.base_model(tmp_path / "base")))
    return tmp_path


@pytest.fixture
def filled(home: Path) -> Iterator[Store]:
    store = Store("sqlite:///logtune.db")
    sample_cycle.fill(store)
    yield store
    store.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def commands(
    group: click.Group = cli.cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be run, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


# help and start


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from logtune.app.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stderr.split()}.isdisjoint(HEAVY)
    assert "rollback" in done.stdout


def test_help_names_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name, entry in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.about)}$", out, re.MULTILINE), name


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_examples_json_and_config(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *path, "--help")
    assert code == 0
    assert re.search(rf"Examples?:\n +logtune {path[0]}", out)
    assert "--json" in out
    assert "--config" in out
    assert len([item for item in command.params if isinstance(item, click.Option)]) <= 8


# exit codes and errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stats",), "There is no command 'stats'. Did you mean 'status'?"),
        (("rules", "rule-1"), "Did you mean 'show rule-1'?"),
        (("rules", "list", "--limit", "0"), "--limit"),
        (("import",), "Missing argument"),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert json.loads(run(capsys, *arguments, "--json")[1])["exit_code"] == 2


def test_a_known_mistake_is_one_message_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "status", "--config", "none.toml")
    assert (code, out) == (1, "")
    assert err == "error: there is no config file none.toml\n  logtune init writes one\n"


def test_with_json_a_mistake_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "status", "--json", "--set", "train.epoch=3")
    assert code == 1
    document = json.loads(out)
    assert document["exit_code"] == 1
    assert "train.epoch" in document["error"]
    assert "did you mean 'epochs'?" in document["hint"]
    assert "train.epoch" in err


def test_a_setting_without_a_value_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", "--set", "train.epochs")[::2] == (
        1,
        "error: --set 'train.epochs' is no assignment\n  write it as --set train.epochs=5\n",
    )


def test_a_place_that_cannot_be_written_is_a_known_mistake(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    code, _, err = run(capsys, "report", "-o", "file/report.html")
    assert code == 1
    assert err.startswith("error: file")


def test_a_reader_that_closes_the_pipe_has_all_it_wanted(filled: Store) -> None:
    command = [sys.executable, "-m", "logtune.app.cli", "interactions", "list", "--limit", "100000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_an_interrupt_exits_with_130(home: Path) -> None:
    os.mkfifo("logs.jsonl")
    command = [sys.executable, "-m", "logtune.app.cli", "import", "logs.jsonl", "--format", "logtune"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, Path("logs.jsonl").open("w"):
        process.send_signal(signal.SIGINT)  # the file is open for writing, so the command is reading it
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == 130
    assert "Traceback" not in said
    assert "interrupted" in said


# records


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_list_says_the_next_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, name)
    assert (code, err) == (0, "")
    assert out.startswith("There are no ")
    assert run(capsys, name, "--json")[:2] == (0, "[]\n")


@pytest.mark.parametrize("name", list(KINDS))
def test_records_are_listed_and_shown(name: str, filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, name, "list", "--limit", "2")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[0] == "id"
    listed = json.loads(run(capsys, name, "--limit", "2", "--json")[1])
    assert [row.split()[0] for row in rows[: len(listed)]] == [item["id"] for item in listed]
    shown = run(capsys, name, "show", listed[0]["id"])
    assert shown[0] == 0
    assert listed[0]["id"] in shown[1]
    document = json.loads(run(capsys, name, "show", listed[0]["id"], "--json")[1])
    assert document["record"]["id"] == listed[0]["id"]
    of_rules = {"influence", "rests_on"} if name == "rules" else set()
    assert set(document) == {"kind", "record", "parents", "children", "logs", "users"} | of_rules


def test_a_list_says_how_many_are_left_out(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "interactions", "--limit", "3")[1]
    assert out.splitlines()[-1] == "... there are more: logtune interactions --limit 30"


def test_a_list_can_be_limited_to_a_cycle(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(json.loads(run(capsys, "rules", "--cycle", sample_cycle.CYCLE, "--json")[1])) == 4
    assert len(json.loads(run(capsys, "rules", "--cycle", "cyc-s", "--json")[1])) == 4
    assert "the newest are: cyc-sample" in run(capsys, "rules", "--cycle", "other")[2]
    assert "belongs to no cycle" in run(capsys, "feedback", "--cycle", "cyc-sample")[2]


def test_clusters_have_names_too(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "clusters", "show", "change_pin", "--json")[1])["record"]["name"] == "change_pin"
    assert "did you mean change_pin?" in run(capsys, "clusters", "show", "chang_pin")[2]


def test_show_names_where_a_record_comes_from_and_what_it_led_to(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = json.loads(run(capsys, "rules", "--limit", "1", "--json")[1])[0]["id"]
    out = run(capsys, "rules", "show", rule[:9])[1]
    assert re.search(r"^  came from: +1 log of 1 user$", out, re.MULTILINE)
    assert re.search(r"^  led to: ", out, re.MULTILINE)


def test_an_unknown_id_gets_the_closest_one(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(run(capsys, "clusters", "--json")[1])[0]["id"]
    code, _, err = run(capsys, "clusters", "show", known[:-1] + "x")
    assert code == 1
    assert f"did you mean {known}? logtune clusters lists them" in err


def test_an_id_of_another_kind_gets_the_right_command(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(run(capsys, "clusters", "--json")[1])[0]["id"]
    code, _, err = run(capsys, "rules", "show", known)
    assert code == 1
    assert f"logtune clusters show {known}" in err


def test_texts_of_users_cannot_drive_the_terminal(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("rules",), ("rules", "show", _naughty_rule(filled)), ("interactions", "--limit", "200")):
        out = run(capsys, *arguments)[1]
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "\\x1b" in out


def _naughty_rule(store: Store) -> str:
    return next(rule.id for rule in store.list(KINDS["rules"].record) if "<script>" in rule.text)


# init, doctor


def test_init_writes_once_and_what_it_writes_are_the_defaults(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(capsys, "init")[0] == 0
    text = Path("logtune.toml").read_text(encoding="utf-8")
    assert run(capsys, "init", "--print")[1] == text
    code, _, err = run(capsys, "init")
    assert code == 1
    assert "logtune.toml exists already" in err
    assert Path("logtune.toml").read_text(encoding="utf-8") == text


def test_every_line_of_the_example_can_be_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGTUNE_MODEL__BASE")
    lines = [
        re.sub(r"^# (\w+ = .*)$", r"\1", line) for line in example_settings().splitlines() if "(not set)" not in line
    ]
    Path("all.toml").write_text("\n".join(lines), encoding="utf-8")
    assert load(Path("all.toml")) == Config()
    assert sum(bool(re.match(r"\w+ = ", line)) for line in lines) > 50


def test_doctor_reports_bad_settings_among_its_checks(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    Path("logtune.toml").write_text("[train]\nepoch = 3\n")
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["ok"] is False
    assert document["checks"][0]["state"] == "blocked"
    assert "train.epoch" in document["checks"][0]["found"]
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert re.search(r"^BLOCKED +settings", out, re.MULTILINE)


# the loop


def test_status_of_an_empty_store_says_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "0 logs and 0 feedback" in out
    assert "logtune import FILE reads logs" in out


def test_status_says_what_happened_what_serves_and_what_is_next(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "status")[1]
    assert "The last cycle (cyc-sample) ended" in out
    assert "1 group of requests with 0.45% of the base model's parameters;" in out
    assert re.search(r"card_arrival: expert ada-\w+ since", out)
    document = json.loads(run(capsys, "status", "--json")[1])
    assert document["logs"] == 118
    assert document["serving"][0]["deployment"]["cluster_name"] == "card_arrival"


def test_status_tells_of_the_schedule_and_of_what_failed(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "schedule" not in run(capsys, "status")[1]
    for at in (4e9, 4.1e9):
        Runs(filled).end(Runs(filled).begin(at, 1), at + 60, 1, "the teacher does not answer")
    out = run(capsys, "status", "--set", "schedule.every=7d")[1]
    assert "The schedule says " in out
    assert "2 cycles of the schedule have not ended well since one last did; the cycle begun 2099-" in out
    assert "failed with exit code 1" in out
    assert ": the teacher does not answer." in out
    document = json.loads(run(capsys, "status", "--json")[1])
    assert document["schedule"]["reason"] == "off"
    assert [row["exit_code"] for row in document["failed"]] == [1, 1]


def test_a_report_before_any_cycle_tells_of_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = f"store.url=sqlite:///{tmp_path / 'other.db'}"
    runs = Runs(Store(url.removeprefix("store.url=")))
    runs.end(runs.begin(1e9, 1), 1e9 + 60, 1, "there is no model")
    out = run(capsys, "report", "--set", url)[1]
    assert "no cycle has run yet" in out
    assert "failed with exit code 1" in out
    assert "there is no model" in out


def test_status_tells_of_a_cycle_that_has_not_ended(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    filled.open_cycle(CycleRow(id="cyc-open", config_hash="0", started_at=9e8, ended_at=None, receipt={}))
    out = run(capsys, "status")[1]
    assert "Cycle cyc-open has been open since" in out
    assert "logtune cycle continues it" in out


def test_report_writes_a_page_or_says_why_not(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(capsys, "report")
    assert (code, out) == (0, "There is nothing to report: no cycle has run yet. Next: logtune cycle\n")
    store = Store("sqlite:///logtune.db")
    sample_cycle.fill(store)
    store.close()
    document = json.loads(run(capsys, "report", "--json", "-o", "week.html")[1])
    assert (document["path"], document["cycle"]) == ("week.html", "cyc-sample")
    assert set(document["week"]) == {"headline", "learned", "changed", "refused", "left_out", "failed"}
    assert "card_arrival" in Path("week.html").read_text(encoding="utf-8")
    assert "cyc-sample" in run(capsys, "report", "--cycle", "nope")[2]


def test_rollback_brings_back_what_served_before(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "rollback", "card_arival")
    assert code == 1
    assert "did you mean card_arrival?" in err
    code, out, _ = run(capsys, "rollback", "card_arrival")
    assert code == 0
    assert out.startswith("card_arrival is served by the base model again")
    assert filled.deployments()["card_arrival"].adapter_id is None
    assert run(capsys, "rollback", "card_arrival")[0] == 1


def test_import_reports_each_bad_line_and_keeps_the_rest(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    good = {"id": "a", "messages": [{"role": "user", "content": "hello there"}], "answer": "hi"}
    Path("logs.jsonl").write_text(json.dumps(good) + "\n{not json\n", encoding="utf-8")
    code, out, _ = run(capsys, "import", "logs.jsonl")
    assert code == 0
    assert "1 new log" in out
    assert "invalid_json: 1. The line is no JSON." in out
    assert "logs.jsonl:2: " in out
    assert out.splitlines()[-1] == "Next: logtune cycle"
    again = json.loads(run(capsys, "import", "logs.jsonl", "--json")[1])
    assert [(item["new_logs"], item["known_logs"]) for item in again] == [(0, 1)]
    assert run(capsys, "import", "none.jsonl")[0] == 1
    assert "use one of" in run(capsys, "import", "logs.jsonl", "--format", "csv")[2]


@pytest.fixture
def tools() -> Tools:
    """Fakes of everything outside; the student answers as the users wanted."""

    def answers(call: ChatCall) -> str:
        right = "late_parcel" if "parcel" in call.messages[-1].content else "refund_status"
        return right if call.model not in ("", "base") else "general_question"

    return Tools(
        embedder=WordEmbedder(), coverage=WordCoverage(), student=ScriptedChat(answers), likelihood=FixedLikelihood(),
        teacher=None, adapters=MemoryAdapterServer(), executor=FakeExecutor(), clock=FixedClock(step=0.1),
        base_parameters=1_000_000, base_fingerprint="tiny@0", lora_sizes={"all-linear": 1000}, adapters_dir="adapters",
    )  # fmt: skip


CONFIG = build({"filter": {"off_topic": "off"}, "train": {"budget": 0.004}})


def say(as_json: bool = False) -> Console:
    return Console(as_json, None)


def with_logs() -> Store:
    store = Store("sqlite:///logtune.db")
    logs, feedback = sample_logs(users=120, per_user=1)
    store.add_logs(logs)
    store.put_feedback(feedback)
    return store


def test_a_cycle_tells_its_stages_and_ends_with_a_sentence(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(with_logs()) as store:
        code = loop.learn(say(), store, tools, CONFIG)
        said = capsys.readouterr()
        assert code == 0
        assert re.search(r"^interactions: 120 done, 0 unchanged$", said.err, re.MULTILINE)
        assert "pairs" in said.out
        assert said.out.splitlines()[-1].startswith("Next: logtune report")
        code = loop.learn(say(as_json=True), store, tools, CONFIG)
        again = json.loads(capsys.readouterr().out)
        assert again["exit_code"] == code
        assert again["stages"]["interactions"] == {"done": 0, "unchanged": 120, "failed": 0}


def test_a_timer_begins_a_cycle_only_where_the_gates_are_open(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    open_gates = CONFIG.schedule.model_copy(update={"min_disk_gb": 0.0, "min_memory_gb": 0.0})
    config = CONFIG.model_copy(update={"schedule": open_gates})
    with closing(with_logs()) as store:

        def when_due(learn: Callable[[], int]) -> int:
            return schedule.when_due(say(), store, config, learn)

        def fails() -> int:
            raise ModelError("the teacher does not answer", "start it")

        with pytest.raises(ModelError, match="does not answer"):
            when_due(fails)
        (run,) = Runs(store).recent()
        assert (run.exit_code, run.detail) == (1, "the teacher does not answer")
        assert when_due(fails) == 0
        assert "No cycle begins: 1 failed in a row; the next try is at" in capsys.readouterr().out
        Runs(store).end(run, run.began_at, 0, "as if nothing had happened")
        more, _ = sample_logs(users=160, per_user=1)
        store.add_logs(more)
        assert when_due(lambda: loop.learn(say(), store, tools, config)) == 0
        assert Runs(store).recent()[0].exit_code == 0
        assert "interactions" in Runs(store).recent()[0].detail
        assert when_due(fails) == 0
        assert "and schedule.min_new asks for 20" in capsys.readouterr().out


def test_a_dry_run_shows_reasons_with_examples_and_writes_nothing(
    tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(with_logs()) as store:
        assert loop.foretell(say(), store, tools, CONFIG) == 0
        out = capsys.readouterr().out
        assert out.startswith("120 interactions: ")
        assert re.search(r"^explicit_correction: \d+ \(\d+%\), a source of rules$", out, re.MULTILINE)
        assert (
            len(re.findall(r"^  int-", out.partition("explicit_correction")[2].partition("\n\n")[0], re.MULTILINE)) == 3
        )
        assert loop.foretell(say(as_json=True), store, tools, CONFIG) == 0
        assert sum(item["count"] for item in json.loads(capsys.readouterr().out)["reasons"]) == 120
        assert store.cycles() == []
        assert store.list(KINDS["decisions"].record) == []


def test_a_cycle_over_an_empty_store_ends_with_a_sentence(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Store("sqlite:///logtune.db")) as store:
        assert loop.learn(say(), store, tools, CONFIG) == 0
        assert "Nothing to learn from" in capsys.readouterr().out
        assert loop.foretell(say(), store, tools, CONFIG) == 0
        assert "The store holds no answered request" in capsys.readouterr().out


# what is printed


def test_json_has_no_numbers_that_json_lacks() -> None:
    assert plain({"a": (float("nan"), float("inf"), 1.5), "b": {1: None}}) == {"a": [None, None, 1.5], "b": {"1": None}}


def test_control_characters_become_visible() -> None:
    assert harmless("a\x1b[31m\u202eb\ud800\nc\u200dd") == "a\\x1b[31m\\u202eb\\ud800\nc\u200dd"


def test_columns_line_up_whatever_the_letters() -> None:
    lines = table(("id", "text"), [("1", "日本語"), ("22", "e\u0301t\u00e9")])
    assert lines == ["id  text", "1   日本語", "22  e\u0301t\u00e9"]
    assert cells("日本") == 4
    assert fit("日本語です", 6) == "日本…"
    assert fit("short", 6) == "short"


def test_on_a_terminal_the_widest_column_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    lines = table(("id", "text", "more"), [("rule-0123456789", "x" * 200, "y" * 30)])
    assert max(map(cells, lines)) <= 60
    assert lines[1].startswith("rule-0123456789  xxx")
    assert lines[1].count("…") >= 1
