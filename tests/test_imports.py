"""The import budget: the command line starts without models, trainers, plots and servers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from logtune.app.cli import COMMANDS

HEAVY = frozenset({
    "torch", "transformers", "peft", "trl", "sentence_transformers", "sklearn", "matplotlib", "aiohttp", "scipy",
    "accelerate", "datasets", "pandas",
})  # fmt: skip
START = frozenset({"numpy", "sqlalchemy", "pydantic", "jinja2", "uvicorn", "asyncio"})  # not even these for --help


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after `code`."""
    ending = "import sys, json; print('\\n' + json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ending}"], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_starts_light() -> None:
    assert not modules_after("import logtune.app.cli") & (HEAVY | START)


def test_help_stays_light() -> None:
    assert not modules_after("from logtune.app.cli import main\nmain(['--help'])") & (HEAVY | START)


@pytest.mark.parametrize("module", sorted({entry.module for entry in COMMANDS.values()}))
def test_the_help_of_a_command_imports_no_model(module: str) -> None:
    name = next(name for name, entry in COMMANDS.items() if entry.module == module)
    assert not modules_after(f"from logtune.app.cli import main\nmain(['{name}', '--help'])") & HEAVY


def test_a_look_without_live_tests_imports_nothing_to_decide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "scipy" not in modules_after("from logtune.app.cli import main\nmain(['experiments', 'look'])")


def test_the_stages_table_imports_no_model() -> None:
    heavy = HEAVY - {"scipy", "aiohttp", "sklearn"}
    assert not modules_after("import logtune.pipeline") & heavy
