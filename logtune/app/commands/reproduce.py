"""`logtune reproduce`: the paper's evaluation as a command, for those who have the data set."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logtune.app.console import Console, counted, table, unscoped
from logtune.errors import OK, InputError

if TYPE_CHECKING:
    from logtune.app.reproduce import Answered, ToolsOf
    from logtune.app.reproduce_summary import TaskSummary
    from logtune.config import Config
    from logtune.edges.memorybench import BenchSet
    from logtune.ports import Tools

METHODS = ("vanilla", "bm25_dialog", "embedder_dialog", "uno-single", "uno")


@click.group("reproduce")
def reproduce() -> None:
    """Run a published evaluation with this system."""


@reproduce.command("memorybench")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with MemoryBench's data sets.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("memorybench"), show_default=True, help="Results.")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), help="Only these.  [default: all]")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only these, as Long-Short.  [default: all]")
@click.option("--dialog", default="", metavar="NAME", help="Read the columns dialog_NAME and implicit_feedback_NAME.")
@unscoped
def memorybench(
    say: Console, data: Path, out: Path, methods: tuple[str, ...], tasks: tuple[str, ...], dialog: str
) -> int:  # fmt: skip
    """Learn from MemoryBench's dialogs and answer its test requests, with UNO, UNO-single and baselines.

    Writes predict.json for each method, which MemoryBench's own evaluation scores. Put its evaluate_details.json beside
    it, its final_evaluate_summary_*.json into the same results folder, and run the same again: nothing is answered
    twice, and the summary is comparable with published ones. Before that, answers are compared with the references that
    records hold.

    \b
    Examples:
      logtune reproduce memorybench --data MemoryBench/dataset --set gap.reranker=Qwen/Qwen3-Reranker-0.6B
      logtune reproduce memorybench --data MemoryBench/dataset --task Short-Short --method vanilla --method uno
    """
    from logtune.edges.memorybench import read

    config = say.config()
    sets = read(data, dialog)
    constants = next(iter(sorted(out.glob("final_evaluate_summary_*.json"))), None)
    found = run(say, sets, config, out, methods or METHODS, tasks, constants)
    say.answer({"tasks": found}, told(found, out))
    return OK


def run(
    say: Console, sets: "Sequence[BenchSet]", config: "Config", out: Path, methods: Sequence[str],
    wanted: Sequence[str], constants: Path | None, tools_of: "ToolsOf | None" = None,
) -> "list[TaskSummary]":  # fmt: skip
    """Every task by every method, and its summary; `tools_of`: None for the real models."""
    from logtune.app.reproduce import answer_all, check
    from logtune.app.reproduce import tasks as tasks_of
    from logtune.app.reproduce_summary import read_constants, summary_of

    by_task, left_out = tasks_of(sets)
    for name, reason in left_out.items():
        say.progress(f"{name} is left out: {reason}")
    unknown = [task for task in wanted if task not in by_task]
    if unknown or not by_task:
        raise InputError(
            f"there is no task {unknown[0]}" if unknown else "no data set can be used",
            f"tasks of this folder: {', '.join(sorted(by_task)) or 'none'}",
        )
    made = []
    with _tools(say, config, out, tools_of) as use:
        check({task: by_task[task] for task in wanted or by_task}, methods, out, use, config)
        for task in wanted or sorted(by_task):
            known = read_constants(constants, task) if constants else None
            done = [answer_all(by_task[task], method, out, use, config, say.progress) for method in methods]
            _tell_failures(say, done)
            made.append(summary_of(task, by_task[task], done, known))
    return made


def told(found: "Sequence[TaskSummary]", out: Path) -> Iterator[str]:
    """A table a task."""
    for item in found:
        yield f"{item.task}, by {item.scored_by}, normalised by {item.normalised_by}:"
        heads = ["method", "average", "weighted average", "z-score", "answers"]
        rows = [
            [method, _number(s.average), _number(s.weighted_average), _number(s.z_score), str(sum(s.counts.values()))]
            for method, s in item.methods.items()
        ]
        yield from table(heads, rows)
        for name, reason in item.left_out.items():
            yield f"  {name} is not in it: {reason}"
        yield ""
    yield f"Answers and summaries are in {out}/task."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _tell_failures(say: Console, done: "Sequence[Answered]") -> None:
    for item in done:
        if item.failed:
            count = counted(len(item.failed), "request")
            say.progress(f"{item.task}, {item.method}: {count} without an answer; first: {item.failed[0]}")


@contextmanager
def _tools(say: Console, config: "Config", out: Path, given: "ToolsOf | None") -> "Iterator[ToolsOf]":
    """What makes the tools of each method: one set of models, and one memory of the teacher's replies for all."""
    from logtune.app import build
    from logtune.edges.store import Store

    if given is not None:
        yield given
        return
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    made: list[Tools] = []

    with closing(Store(f"sqlite:///{work / 'replies.db'}")) as replies:

        def use(chosen: "Config", learns: bool) -> "Tools":
            if not made:  # only where something is left to do
                plain = config.model_copy(update={"gap": config.gap.model_copy(update={"method": "embedding"})})
                made.append(build.tools(plain, say.progress))
            home = chosen.store.model_copy(update={"home": str(work)})
            return (
                build.with_settings(made[0], chosen.model_copy(update={"store": home}), replies) if learns else made[0]
            )

        yield use


COMMANDS = {"reproduce": reproduce}
