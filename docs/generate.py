"""Code -> docs: the reference pages, logtune.example.toml, and the parts of README between markers.

`python docs/generate.py` writes them, `--check` fails where one is not what the code says (`make docs`, `make check`).
"""

import argparse
import ast
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import click
from pydantic.fields import FieldInfo
from sqlalchemy import create_engine
from sqlalchemy import text as sql

from logtune import records
from logtune.app import openapi
from logtune.app.cli import COMMANDS, RECORDS, cli
from logtune.app.commands.project import example_settings
from logtune.app.feedback_shapes import PREFIX
from logtune.config import PRESETS, Config
from logtune.config_gateway import Settings
from logtune.edges.migrations import migrate
from logtune.pipeline import STAGES
from logtune.records import Json
from logtune.stages.filter import REASONS as FILTERED
from logtune.stages.standing import REASONS as HELD

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it again. -->\n"
WIDTH = 100  # columns of help texts


def main() -> int:
    """Write or check every generated file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")
    check = parser.parse_args().check
    stale = [path for path, made in generated() if not path.exists() or path.read_text(encoding="utf-8") != made]
    for path, made in generated() if not check else ():
        path.write_text(made, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
    if check and stale:
        print("`make docs` writes them again.", file=sys.stderr)
    return int(check and bool(stale))


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file and what it should hold."""
    for name, page in PAGES.items():
        yield ROOT / name, page()
    for name, blocks in BLOCKS.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for block, make in blocks.items():
            text = _fill(text, block, make())
        yield ROOT / name, text


def _fill(page: str, name: str, body: str) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"a page has lost its marks {begin} and {end}")
    return f"{before}{begin}\n{body}{end}{after}"


# settings


SETTINGS = """\
# Settings

`logtune init` writes a commented `logtune.toml`; [logtune.example.toml](../../logtune.example.toml) is the same file.
An unknown key, a wrong type or an impossible value is an error that names the key, the value and what is allowed.

Where a key is set more than once, the first of these wins: `--set train.epochs=5` of a command, an environment variable
(`LOGTUNE_TRAIN__EPOCHS=5`), the file, the preset, the default.
"""


def config_page() -> str:
    """docs/reference/config.md: every setting with its default, what is allowed and its meaning."""
    lines = [NOTE, SETTINGS]
    for name, field in Config.model_fields.items():
        default = field.default
        if not isinstance(default, Settings):
            lines += [f"## `{name}`\n", f"{_row(name, field)}\n"]
            continue
        lines += [f"## `[{name}]`\n", f"{inspect.cleandoc(type(default).__doc__ or '')}\n", HEAD]
        lines += [_row(key, inner) for key, inner in type(default).model_fields.items()]
        lines.append("")
    return "\n".join([*lines, *_presets()])


HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|"


def _row(key: str, field: FieldInfo) -> str:
    default = "not set" if field.default is None else f"`{json.dumps(field.default)}`"
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    if key == "preset":
        return f"{HEAD}\n| `{key}` | {default} | {_allowed(field)} | {meaning} |"
    return f"| `{key}` | {default} | {_allowed(field)} | {meaning} |"


def _allowed(field: FieldInfo) -> str:
    """The type and limits of a setting, in words."""
    hint = field.annotation
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    bounds: dict[str, object] = {}
    for item in field.metadata:
        bounds |= {name: getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    limits = " and ".join(f"{SIGNS[name]} {value}" for name, value in bounds.items())
    return f"{_type_name(hint)} {limits}".strip()


SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
TYPES = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}


def _type_name(hint: object) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_type_name(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "table"
    return TYPES[hint] if isinstance(hint, type) and hint in TYPES else str(hint)


def _presets() -> Iterator[str]:
    yield "## Presets\n"
    yield "A preset changes defaults; a key set in the file wins over it.\n"
    for name, sections in PRESETS.items():
        if not sections:
            continue
        yield f"### `{name}`\n"
        yield "| key | value | default |\n|---|---|---|"
        for section, values in sections.items():
            for key, value in values.items():
                default = getattr(getattr(Config(), section), key)
                yield f"| `{section}.{key}` | `{json.dumps(value)}` | `{json.dumps(default)}` |"
        yield ""


# command line


EXIT_CODES = """\
Every command takes `--config FILE`, `--set KEY=VALUE` and `--json` (one JSON document on stdout). Results go to stdout,
progress to stderr.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | a known error; the message says what to do |
| 2 | wrong usage |
| 3 | no candidate passed its gate; nothing was deployed |
| 130 | interrupted |
"""


def cli_page() -> str:
    """docs/reference/cli.md: the help of every command."""
    root = click.Context(cli, info_name="logtune", terminal_width=WIDTH, max_content_width=WIDTH)
    lines = [NOTE, "# Command line\n", _fenced(root.get_help()), EXIT_CODES]
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None, name
        lines += [f"## `logtune {name}`\n", *_command(command, click.Context(command, root, name))]
    return "\n".join(lines)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield _fenced(context.get_help())
    if not isinstance(command, click.Group):
        return
    common = {"list", "show"} if context.info_name != next(iter(RECORDS)) else set[str]()
    for name, inner in command.commands.items():
        if name not in common:
            yield f"### `{context.command_path} {name}`\n"
            yield _fenced(click.Context(inner, context, name).get_help())
    if common:
        first = next(iter(RECORDS))
        yield f"`list` and `show ID` take the same options as those of [`logtune {first}`](#logtune-{first}).\n"


def _fenced(body: str, language: str = "text") -> str:
    return f"```{language}\n{body.rstrip()}\n```\n"


# records and tables


TABLES = """\
## Tables

One table a kind of record: its body is JSON, what is queried has a column of its own. `lineage` holds a row for each
parent of each derived record, so which logs an adapter came from is a join.
"""


def schema_page() -> str:
    """docs/reference/schema.md: the fields of every record, and the tables they lie in."""
    engine = create_engine("sqlite://")
    migrate(engine, "an empty database")
    with engine.connect() as db:
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        statements = [row[0] for row in db.execute(sql(query))]
    engine.dispose()
    lines = [NOTE, "# Records and tables\n", f"{_plain(inspect.cleandoc(records.__doc__ or ''))}\n", "## Records\n"]
    for kind in (records.Message, records.FollowUp, *_record_kinds()):
        lines += [f"### {kind.__name__}\n", f"{inspect.cleandoc(kind.__doc__ or '')}\n", *_fields(kind), ""]
    return "\n".join([*lines, TABLES, _fenced(";\n".join(statements) + ";", "sql")])


def _plain(docstring: str) -> str:
    """A docstring as Markdown: its first paragraph's indented diagram becomes a code block."""
    return re.sub(
        r"(?:^|\n)((?: {4}.*\n?)+)", lambda found: f"\n```text\n{inspect.cleandoc(found[1])}\n```\n", docstring
    )


def _record_kinds() -> tuple[type, ...]:
    return tuple(typing.get_args(records.Record))


FIELD = re.compile(r"^    (\w+): (.+?)(?: = .+?)?(?:  # (.*))?$")


def _fields(kind: type) -> Iterator[str]:
    yield "| field | type | meaning |\n|---|---|---|"
    for line in inspect.getsource(kind).splitlines():
        found = FIELD.match(line)
        if found:
            name, hint, meaning = found.groups()
            yield f"| `{name}` | `{hint}` | {meaning or ''} |".replace(" | None", " \\| None")


# stages


OVERVIEW = """\
# Stages

One row a stage, in order (`logtune/pipeline.py`). A stage is done again when its version, one of its settings or one of
its inputs has changed; everything else is taken from the store.

| stage | reads | writes | settings |
|---|---|---|---|"""


def stages_page() -> str:
    """docs/reference/stages.md: the STAGES table, each stage's own words, and the reason codes of filter and trust."""
    sections = {type(getattr(Config(), name)).__name__: name for name in Config.model_fields}
    lines = [NOTE, OVERVIEW]
    stages = {stage.name: stage for stage in STAGES}.values()  # a failing cluster goes through two of them twice
    for stage in stages:
        reads, writes = (", ".join(kind.__name__ for kind in kinds) for kinds in (stage.reads, stage.writes))
        used = ", ".join(f"`[{sections[type(item).__name__]}]`" for item in stage.settings(Config()))
        lines.append(f"| [{stage.name}](#{stage.name}) | {reads} | {writes} | {used} |")
    for stage in stages:
        docstring = inspect.cleandoc(_docstring(ROOT / "logtune" / "stages" / f"{stage.name}.py"))
        lines += [
            f"\n## {stage.name}\n",
            f"`logtune/stages/{stage.name}.py`, version {stage.version}\n",
            _plain(docstring),
        ]
        reasons = {"filter": FILTERED, "trust": HELD}.get(stage.name, {})
        if reasons:
            lines += [
                "\n| reason | meaning |\n|---|---|",
                *(f"| `{code}` | {words} |" for code, words in reasons.items()),
            ]
    return "\n".join(lines).rstrip() + "\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


# README


# file of benchmarks/results -> key -> what it is, how it is written, the aim
FIGURES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "weekly": {
        "gain_points": ("accuracy on the intents seen so far, against the base model", "{:+.1f} points", "+40"),
        "gain_lower": ("lower end of its 95% interval", "{:+.1f} points", "+30"),
        "noise_dropped": ("labelled noise that the filter dropped", "{:.1%}", "90%"),
        "clean_dropped": ("clean requests that it dropped too", "{:.1%}", "at most 5%"),
        "adapter_share": ("live adapter parameters, as a share of the base model's", "{:.2%}", "at most 0.5%"),
        "retention_points": ("change on general questions, through the router", "{:+.1f} points", "no worse than -1"),
        "retention_forced_points": ("the same with the adapter forced on", "{:+.1f} points", "reported"),
        "cycle_seconds": ("longest weekly cycle on two processor cores", "{:.0f} s", "900 s"),
    },
    "compare": {
        "streams_measured": ("streams of the comparison that were run, of four", "{:.0f}", "4"),
        "gain_points_week2": ("on them after two weeks of logs, against the base model", "{:+.1f} points", "+13.5"),
        "gain_lower_week2": ("lower end of its 95% interval, where it is lowest", "{:+.1f} points", "above 0"),
        "lead_points_week2": ("its lead over the best retrieval or memory, least stream", "{:+.1f} points", "reported"),
        "lead_lower_week2": ("lower end of its 95% interval", "{:+.1f} points", "reported"),
        "streams_ahead_week4": ("streams where it leads the best retrieval or memory, interval above 0", "{:.0f}", "3"),
        "lead_points_week4": ("its lead after four weeks, where it is least", "{:+.1f} points", "no worse than -2"),
        "prompt_token_ratio": ("prompt tokens a request, the best retrieval's divided by ours", "{:.1f}", "3"),
        "old_skill_points": ("first week's topics, from week 1 to week 4", "{:+.1f} points", "no worse than -2"),
        "retention_points": ("general questions after four cycles", "{:+.1f} points", "no worse than -1"),
        "stability_points": ("from week 4 to 6, where the stream repeats itself", "{:+.1f} points", "no decline"),
        "adapter_share": ("live adapter parameters after four cycles, by the base's", "{:.2%}", "at most 0.5%"),
        "human_actions": ("human actions in four cycles", "{:.0f}", "0"),
        "filter_gain_points": ("filtered logs against unfiltered ones after four weeks", "{:+.1f} points", "ahead"),
        "quick_minutes": ("the quick comparison on two processor cores", "{:.0f} minutes", "25"),
    },
    "gateway": {
        "added_p50_ms": ("added by the gateway at 500 requests a second, median", "{:.2f} ms", "1.0 ms"),
        "added_p99_ms": ("the same, 99th percentile", "{:.2f} ms", "5 ms"),
        "first_chunk_added_p50_ms": ("added to the first event of a stream, median", "{:.2f} ms", "1.0 ms"),
        "sustained_rps": ("sustained, no error, every record stored", "{:.0f} requests a second", "800"),
        "peer_ratio_p50": ("LiteLLM's added median divided by ours, one at a time", "{:.1f}", "10"),
        "lost_after_kill": ("records lost over 50 `kill -9` under load", "{:.0f}", "0"),
        "failed_during_swaps": ("requests failed or late by 1 s during 50 swaps", "{:.0f}", "0"),
        "failed_during_swaps_embedded": ("the same with real adapters in the embedded engine", "{:.0f}", "0"),
        "failed_during_swaps_vllm": ("the same in front of a real vLLM, its CPU build", "{:.0f}", "0"),
        "memory_growth_mb": ("memory growth with the store down for 2 minutes", "{:.0f} MB", "bounded by the queue"),
    },
    "routing": {
        "agreement": ("routing without the embedder: same decision as with it", "{:.1%}", "reported"),
    },
    "llm_path": {
        "speedup_calls": ("a teacher's calls, one by one (from a few logs) against ours", "{:.0f} times as fast", "40"),
        "calls_ratio": ("the reference's calls a log divided by ours", "{:.1f}", "3"),
        "calls_second_run": ("a teacher's calls in a second run over the same logs", "{:.0f}", "0"),
        "base_loads": ("loads of the base model while 8 clusters train", "{:.0f}", "1"),
        "train_speedup": ("training, tokens a second against TRL's DPOTrainer", "{:.1f} times", "2"),
        "rules_valid": ("rules of a 1.5B teacher from 100 real corrections: valid JSON", "{:.1%}", "99%"),
        "injections_followed": ("injected instructions among them that made a rule", "{:.0f}", "0"),
    },
    "signals": {
        "f1_human": ("feedback told from new matters, F1 on turns labelled by people, out of fold", "{:.3f}", "0.80"),
        "f1_all": ("the same on all turns (keywords alone: 0.61)", "{:.3f}", "0.78"),
        "ece": ("calibration error of its confidence", "{:.3f}", "at most 0.05"),
        "records_per_s_embedded": ("turns read over the embedder's small copy", "{:.0f} a second", "300"),
    },
    "filter": {
        "recall.jailbreak": ("jailbreaks that the filter found, out of fold", "{:.0%}", "90%"),
        "recall.prompt_injection": ("injected orders that it found", "{:.0%}", "90%"),
        "recall.harmful_request": ("harmful requests that it found", "{:.0%}", "90%"),
        "recall.toxic": ("toxic texts that it found", "{:.0%}", "90%"),
        "recall.spam": ("spam that it found", "{:.0%}", "90%"),
        "false_positives.benign": ("benign texts that it took for noise", "{:.1%}", "at most 2%"),
        "false_positives.benign_hard": ("the same of benign texts that look bad", "{:.1%}", "at most 8%"),
        "leave_source_out_recall": ("attacks of a source that it never saw", "{:.0%}", "75%"),
        "off_topic_recall": ("off-topic requests to a bank that it found, at 2% false positives", "{:.1%}", "90%"),
        "pii_f1": ("personal data found in texts, F1", "{:.3f}", "0.95"),
        "records_per_s": ("logs that the filter streams with near copies, two cores", "{:,.0f} a second", "20,000"),
        "records_per_s_embedded": ("texts that it reads in full, with the embedder", "{:.0f} a second", "300"),
    },
    "poison": {
        "poison_points": ("attacked topics, 5% of users push one wrong answer", "{:+.1f} points", "no worse than -3"),
        "poison_points_trust_off": ("the same with trust off", "{:+.1f} points", "-20 or worse"),
    },
    "startup": {"help_seconds": ("`logtune --help`", "{:.2f} s", "0.3 s")},
}  # fmt: skip


def results() -> str:
    """What `benchmarks/results/*.json` hold, as a table; a sentence where there are none."""
    folder = ROOT / "benchmarks" / "results"
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    lines = [f"{line} `{name}` |" for name, of in FIGURES.items() for line in _figures(found.get(name, {}), of)]
    proofs = {name: rows for name, rows in found.items() if name.startswith("proof")}
    lines += [f"{line} `{name}` |" for name, rows in proofs.items() for line in _proofs(rows)]
    if not lines:
        return "No results are recorded yet; `make bench` writes them.\n"
    notes = [f"- `{name}`: {row['note']}." for name, row in found.items() if row.get("note")]
    head = ["\nWhat to know about these files of `benchmarks/results`:\n"] if notes else []
    return "\n".join(["| figure | measured | aim | file |", "|---|---|---|---|", *lines, *head, *notes]) + "\n"


def _figures(row: Mapping[str, Json], figures: Mapping[str, tuple[str, str, str]]) -> Iterator[str]:
    """A line a figure that is there; of a list the largest, of several streams the least."""
    for key, (label, written, target) in figures.items():
        value: Json = row.get(key)
        if "." in key:
            inner = row.get(key.partition(".")[0])
            value = inner.get(key.partition(".")[2]) if isinstance(inner, dict) else None
        several = value if isinstance(value, list) else [*value.values()] if isinstance(value, dict) else [value]
        numbers = [float(item) for item in several if isinstance(item, (int, float))]
        if numbers:
            chosen = min(numbers) if isinstance(value, dict) else max(numbers)
            yield f"| {label} | {written.format(chosen)} | {target} |"


# rows of benchmarks/proof.py that are no shares: their unit
UNITS: Mapping[str, str] = {"sample_ratio": " times", "users_exposed": " users", "mixed_users": "", "rollback_s": " s"}


def _proofs(rows: Mapping[str, Json]) -> Iterator[str]:
    """A line a row of `benchmarks/proof.py`, which says itself what it is and what its aim is; of several the worst."""
    for key, row in rows.items():
        if not isinstance(row, dict):
            continue
        value, side = row.get("value"), "most" if "at_most" in row else "least"
        values = [
            item for item in (value.values() if isinstance(value, dict) else [value]) if isinstance(item, (int, float))
        ]
        if values:
            worst = max(values) if side == "most" else min(values)
            limit = cast("float", row[f"at_{side}"])
            aim = f"at {side} {_written(key, limit)}" if limit else "0"
            void = cast("dict[str, Json]", row.get("details") or {}).get("void")
            figure = f"does not count: {void}" if void else _written(key, worst)
            several = f" (worst of {len(values)})" if len(values) > 1 and "worst" not in str(row["what"]) else ""
            yield f"| {row['what']}{several} | {figure} | {aim} |"


def _written(key: str, value: float) -> str:
    """A figure of a proof with its unit."""
    return f"{value:.4g}{UNITS[key]}" if key in UNITS else f"{100 * value:.4g}%"


def tree() -> str:
    """Every file of ours with the first line of its docstring."""
    folders = ["logtune", "logtune/stages", "logtune/edges", "logtune/app", "logtune/app/commands"]
    lines: list[str] = []
    for folder in folders:
        paths = _in_order(folder, sorted((ROOT / folder).glob("*.py")))
        lines += [f"{folder}/", *(f"  {path.name:<18} {_first_sentence(path)}" for path in paths)]
    return _fenced("\n".join(lines + _others()))


SHORTEST, LONGEST = 45, 105  # letters about a file


def _first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring; where that is long, the clauses that fit."""
    sentence = " ".join(_docstring(path).partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    ends = [found.start() for found in re.finditer(r"[:;,] ", sentence[:LONGEST])]
    whole = [end for end in ends if sentence.count("(", 0, end) == sentence.count(")", 0, end)]
    clauses = [end for end in whole if sentence[end] != "," and end > SHORTEST]
    return sentence if len(sentence) <= LONGEST else sentence[: (clauses or whole or [LONGEST])[-1]]


def _in_order(folder: str, paths: Sequence[Path]) -> list[Path]:
    """Files of a folder as they are best read: stages in pipeline order, the rest by name."""
    first = {
        "logtune": ["records", "ids", "ports", "pipeline", "lessons", "candidates", "ladder", "gate", "runner"],
        "logtune/stages": list(dict.fromkeys(stage.name for stage in STAGES)),
    }
    order = first.get(folder, [])
    rank = {name: place for place, name in enumerate(order)}
    return sorted((path for path in paths if path.stem != "__init__"), key=lambda path: rank.get(path.stem, len(order)))


def _others() -> list[str]:
    """Folders without a page of their own."""
    return [
        "benchmarks/           what is measured, and results/ with the figures above",
        "docs/                 quickstart, concepts, how-to, reference; generate.py writes the reference from the code",
        "scripts/              what writes requirements.lock and the noise classifiers",
        "tests/                one file a module; conftest.py keeps them off the network",
    ]


def paths() -> str:
    """The gateway's own paths, from its OpenAPI document."""
    return _calls(lambda path: not path.startswith(PREFIX))


def shapes() -> str:
    """The paths of feedback in other systems' shapes."""
    return _calls(lambda path: path.startswith(PREFIX))


def _calls(wanted: Callable[[str], bool]) -> str:
    lines = ["| path | method | what for | answers |", "|---|---|---|---|"]
    for path, method, summary, statuses in openapi.calls():
        if wanted(path):
            good = [status for status in statuses if status < "300" or (path == "/readyz" and status == "503")]
            lines.append(f"| `{path}` | {method.upper()} | {summary} | {', '.join(good)} |")
    return "\n".join(lines) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "logtune.example.toml": example_settings,
    "docs/reference/cli.md": cli_page,
    "docs/reference/config.md": config_page,
    "docs/reference/schema.md": schema_page,
    "docs/reference/stages.md": stages_page,
}

BLOCKS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"results": results, "tree": tree},
    "docs/reference/http.md": {"paths": paths, "shapes": shapes},
}

if __name__ == "__main__":
    sys.exit(main())
