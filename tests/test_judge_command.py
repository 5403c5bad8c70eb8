"""`logtune judge calibrate`: against a file of preferences and against the store's own corrections, over HTTP."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from logtune.app import cli
from logtune.edges.preferences import HumanChoice, read_choices
from logtune.edges.store import CycleRow, Store, UnitResult
from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import Message, PreferencePair, Standing

ROWS = [
    {"instruction": f"Add {n} and 1.", "output_1": str(n + 1), "output_2": f"It is {n}.", "preferred": 1}
    for n in range(6)
] + [{"instruction": "Say hi.", "input": "to Ann", "output_1": "Bye.", "output_2": "7", "preferred": 2}]


class Judge(BaseHTTPRequestHandler):
    """Prefers the answer that is a number."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        self.server.asked.append(prompt)  # type: ignore[attr-defined]
        first = re.search(r"\nA: (.*)\n\nB: ", prompt)
        better = "A" if first and first[1].isdigit() else "B"
        reply = {"choices": [{"message": {"content": json.dumps({"better": better})}, "finish_reason": "stop"}]}
        raw = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    made.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def folder(tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    Path("logtune.toml").write_text(f'[store]\nurl = "sqlite:///store.db"\n[teacher]\nurl = "{url}"\n')
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_a_file_of_preferences_is_judged_in_both_orders_and_remembered(
    folder: Path, server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["judge", "calibrate", "rows.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trials"], found["agreement"], found["flips"]) == (7, 1.0, 0.0)
    assert len(server.asked) == 14  # type: ignore[attr-defined]
    assert cli.main(["judge", "calibrate", "rows.jsonl"]) == 0
    assert len(server.asked) == 14  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    assert said.startswith("The judge agrees with people on 7 of 7 pairs and is undecided on 0 (95% interval")


def test_a_judge_that_chance_could_replace_ends_with_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "preferred": 1 + number % 2} for number, row in enumerate(ROWS)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["judge", "calibrate", "rows.jsonl"]) == 3
    assert "The gate refuses its verdicts" in capsys.readouterr().out


def test_without_a_file_the_users_corrections_are_the_yardstick(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store("sqlite:///store.db")
    pairs = tuple(
        identified(PreferencePair(
            id="", interaction_id=f"int-{n}", rule_ids=(), prompt=(Message(role="user", content=f"What is {n}?"),),
            chosen=str(n), rejected="No idea.", origin=origin, margin=None, votes={},
        )) for n, origin in enumerate(["edit", "stated", "revised"] * 4)
    )  # fmt: skip
    doubt = Standing(id="st-1", lesson_id="int-99", state="held", reason="contradicted", users=1, scores={})
    doubted = identified(replace(pairs[0], id="", interaction_id="int-99", chosen="a lie"))
    store.open_cycle(CycleRow(id="c", config_hash="h", started_at=1.0, ended_at=2.0, receipt={}))
    made = (*pairs, doubted, doubt)
    store.commit_units([UnitResult(stage="pairs", key="k", outputs=made, cycle_id="c", config_hash="h", at=1.0)])
    store.close()
    assert cli.main(["judge", "calibrate", "--json", "--limit", "9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decided"] == 8  # not those that a model wrote
    assert (found["agreement"], found["kappa"]) == (1.0, 1.0)  # each other correction stands second


def test_nothing_to_compare_with_and_no_judge_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["judge", "calibrate"]) == 1
    assert "nobody has corrected" in capsys.readouterr().err
    assert cli.main(["judge", "calibrate", "--set", "teacher.url=null"]) == 1
    assert "teacher.url is empty" in capsys.readouterr().err


def test_choices_are_read_with_their_input(folder: Path) -> None:
    *_, last = read_choices(Path("rows.jsonl"))
    assert last == HumanChoice(query="Say hi.\n\nto Ann", first="Bye.", second="7", preferred=0.0)


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"instruction": "a"}', '{"instruction": "a", "output_1": "b", "output_2": "c", "preferred": 3}',
     '{"instruction": "a", "output_1": "b", "output_2": 4, "preferred": 1}',
     '{"instruction": "a", "output_1": "b", "output_2": "c", "preferred": true}'],
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        list(read_choices(path))


def test_it_is_measured_whether_the_judge_prefers_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the judge prefers numbers: in four of six its own answer is one, people prefer them too
    rows = [{**row, "model_1": "teacher" if n < 4 else "other", "model_2": "other" if n < 4 else "teacher"}
            for n, row in enumerate(ROWS[:6])]  # fmt: skip
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(["judge", "calibrate", "own.jsonl", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["own_judge"], found["own_human"]) == (pytest.approx(4 / 6), pytest.approx(4 / 6))
    cli.main(["judge", "calibrate", "own.jsonl"])
    assert "prefers an answer of its own in 67% of the pairs that have one, people in 67%" in capsys.readouterr().out
    cli.main(["judge", "calibrate", "rows.jsonl"])
    assert "prefers its own answers is not measured" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["llmbar", "mtbench_expert_200", "pandalm_3annotators"])
def test_real_sets_are_read(name: str) -> None:
    path = Path(__file__).parents[2] / f"shared/data/human_pref_pairs/{name}.jsonl"
    if not path.exists():
        pytest.skip("the set of human preferences is not here")
    choices = list(read_choices(path))
    assert len(choices) > 100
    assert {choice.preferred for choice in choices} >= {0.0, 1.0}
