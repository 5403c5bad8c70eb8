"""The docs say what the code does: generated pages are fresh, examples run, links lead somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest

from logtune.app.cli import COMMANDS, cli
from logtune.app.commands.project import example_settings
from logtune.config import Config, Settings, build
from logtune.edges import importers
from logtune.pipeline import STAGES
from logtune.records import Feedback, LogRecord
from logtune.stages.filter import REASONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SECTIONS = {name: field.default for name, field in Config.model_fields.items() if isinstance(field.default, Settings)}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    """In a process of its own, as `make docs-check` runs it: other tests change what the command line shows."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"`make docs` writes them again: {found.stdout}{found.stderr}"


# everything has its place


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"\n## `logtune {name}`\n" in read("docs/reference/cli.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented(section: str) -> None:
    page = read("docs/reference/config.md").partition(f"\n## `[{section}]`\n")[2].partition("\n## ")[0]
    for key in type(SECTIONS[section]).model_fields:
        assert f"| `{key}` |" in page, key


@pytest.mark.parametrize("stage", dict.fromkeys(stage.name for stage in STAGES))
def test_every_stage_is_documented(stage: str) -> None:
    assert f"\n## {stage}\n" in read("docs/reference/stages.md")
    assert f"logtune/stages/{stage}.py" in read("docs/paper.md") or stage in ("experiment", "interactions"), "paper.md"


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    assert f"| `{reason}` |" in read("docs/reference/stages.md")


@pytest.mark.parametrize(("reason", "words"), importers.REASONS.items())
def test_every_reason_of_a_rejected_line_is_documented(reason: str, words: str) -> None:
    assert f"| `{reason}` | {words} |" in read("docs/reference/log-format.md")


def test_every_extra_is_documented() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for extra in extras:
        assert f"| `{extra}` |" in read("README.md"), extra


# the example settings


def test_the_example_settings_are_those_of_init() -> None:
    assert read("logtune.example.toml") == example_settings()


def test_the_example_settings_change_nothing() -> None:
    assert build(dict(tomllib.loads(read("logtune.example.toml")))) == Config()


def test_every_key_of_the_example_holds_its_default() -> None:
    opened = re.sub(r"^# (\w+ = (?!.*\(not set\)).*)$", r"\1", read("logtune.example.toml"), flags=re.MULTILINE)
    tree = tomllib.loads(opened)
    for section, default in SECTIONS.items():
        given = {key for key, value in default if value is not None}
        assert tree[section].keys() == given, section
    assert build(tree) == Config()


# what a reader types


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def typed(tool: str) -> list[tuple[str, str]]:
    lines = ((page, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines())
    return [(page.name, line.partition("#")[0].strip()) for page, line in lines if line.startswith(f"{tool} ")]


def examples() -> list[tuple[str, str]]:
    """Command lines in the commands' own help."""
    found = re.findall(r"^ +(logtune .+)$", read("docs/reference/cli.md"), re.MULTILINE)
    return [("help", re.split(r" {2,}| > |#", line)[0].strip()) for line in found]  # without what it is for


@pytest.mark.parametrize(("page", "line"), [*typed("logtune"), *examples()])
def test_every_command_line_of_the_docs_is_understood(page: str, line: str) -> None:
    arguments = shlex.split(line)[1:]
    with click.Context(cli, info_name="logtune") as root:
        name, command, rest = cli.resolve_command(root, arguments)
        assert command is not None
        made = command.make_context(name, rest, parent=root)
    assert made.params.get("format_name") in {None, *importers.FORMATS}


@pytest.mark.parametrize(("page", "line"), typed("make"))
def test_every_make_target_of_the_docs_exists(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert shlex.split(line)[1] in targets


def test_the_python_block_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "expert deployed" in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=lambda page: page.name)
def test_every_settings_block_is_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        build(dict(tomllib.loads(block)))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "jsonl?")], ids=lambda page: page.name)
def test_every_log_line_of_the_docs_is_imported(page: Path) -> None:
    for block in blocks(page, "jsonl?"):
        Path("lines.jsonl").write_text(block, encoding="utf-8")
        assert all(isinstance(item, (LogRecord, Feedback)) for item in importers.read("lines.jsonl"))


# where links lead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_file_the_paper_page_names_exists() -> None:
    names = re.findall(r"`(logtune/[\w/]+\.py)`", read("docs/paper.md"))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_lock_names_no_host() -> None:
    lock = read("requirements.lock")
    assert "://" not in lock
    assert "--index" not in lock
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lock.splitlines() if line and line[0] != "#")
