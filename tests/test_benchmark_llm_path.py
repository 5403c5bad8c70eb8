"""The benchmark of the language-model path on a few logs and a server that does not wait: its figures hold together."""

import asyncio
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def llm_path(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("llm_path")


@pytest.fixture
def llm_mock(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("llm_mock")


def test_every_log_gets_its_artefacts_and_a_second_run_asks_nothing(llm_path: ModuleType, tmp_path: Path) -> None:
    found = asyncio.run(llm_path.measure(12, 1, 1.0, tmp_path))
    assert found["ours_calls_by_purpose"] == {"distill": 12, "revise": 12, "afresh": 12, "judge": 48, "predict": 12}
    assert found["ours_made"]["PreferencePair"] == found["ours_made"]["Interaction"] == 12
    assert found["ours_made"]["Failure"] == 0
    assert found["calls_ratio"] == 3
    assert found["calls_second_run"] == found["calls_second_run_memory"] == 0
    assert found["reference_extrapolated"]
    assert found["reference_logs_measured"] == 1
    assert found["speedup_calls"] == found["reference_seconds"] / found["ours_seconds"]
    json.dumps(found)


def test_the_model_answers_so_many_at_once_and_in_the_form_that_was_asked_for(llm_mock: ModuleType) -> None:
    async def run() -> tuple[int, int, list[str]]:
        model = llm_mock.Model(0.01, 3)
        bodies = [
            json.dumps({"messages": [{"role": "user", "content": f"Q{n}\n\nA: {llm_mock.REWRITTEN} x\n\nB: y"}],
                        "response_format": {"json_schema": {"schema": {"properties": {name: {}}}}}}).encode()
            for n, name in enumerate(["rules", "better", "score", "other"])
        ]  # fmt: skip
        replies = await asyncio.gather(*(model.answer(body) for body in bodies))
        return model.calls, model.most, [json.loads(r)["choices"][0]["message"]["content"] for r in replies]

    calls, most, said = asyncio.run(run())
    assert (calls, most) == (4, 3)
    assert len(json.loads(said[0])["rules"]) == 1
    assert json.loads(said[1]) == {"better": "A"}
    assert json.loads(said[2]) == {"score": 9}
    assert said[3].startswith(llm_mock.REWRITTEN)
