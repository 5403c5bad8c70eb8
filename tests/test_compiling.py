"""The build that compiles: what it names is there, and nothing is compiled unless it is asked for."""

import ast
import os
import subprocess
import sys
from pathlib import Path

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


def test_without_being_asked_the_build_is_pure_python() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LOGTUNE_COMPILE"}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "mypyc" not in done.stdout + done.stderr
