"""The build that compiles: what it names is there, and nothing is compiled unless it is asked for."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def compiled() -> tuple[str, ...]:
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "COMPILED":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError("setup.py names no modules")


def test_what_is_compiled_is_there_and_can_be() -> None:
    assert compiled() == tuple(sorted(set(compiled())))
    for name in compiled():
        tree = ast.parse((ROOT / "logtune" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # the compiler knows no asynchronous generators
            if isinstance(node, ast.AsyncFunctionDef):
                assert not any(isinstance(inner, (ast.Yield, ast.YieldFrom)) for inner in ast.walk(node)), name


@pytest.mark.parametrize(("asked", "compiles"), [("", False), ("0", False), ("1", True)])
def test_the_compiler_is_called_for_where_it_is_asked_for(tmp_path: Path, asked: str, compiles: bool) -> None:
    (tmp_path / "mypyc").mkdir()
    (tmp_path / "mypyc" / "__init__.py").touch()
    (tmp_path / "mypyc" / "build.py").write_text(
        "def mypycify(paths, opt_level, group_name):\n    raise SystemExit(f'asked to compile {group_name}')\n"
    )
    environment = {**os.environ, "LOGTUNE_COMPILE": asked, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    # In the package: an editable installation finds nothing that lies beside it.
    assert ("asked to compile logtune.compiled" in done.stderr) is compiles
    assert (done.returncode != 0) is compiles, done.stderr
