"""`logtune judge`: how far the judge agrees with people."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from logtune.app.console import Console, common, counted
from logtune.errors import NOT_PASSED, OK, ConfigError, InputError

if TYPE_CHECKING:
    from logtune.edges.preferences import HumanChoice
    from logtune.edges.store import Store
    from logtune.ports import Chat
    from logtune.stages.judge import Calibration, Trial

MOST = 200  # pairs that are judged when nothing else is asked for


@click.group("judge")
def judge() -> None:
    """The model that compares answers where no user gave the right one."""


@judge.command("calibrate")
@click.argument("files", metavar="[FILE...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--limit", type=click.IntRange(1), default=MOST, show_default=True, help="Pairs to judge, spread evenly.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Verdicts on each order.")
@common
def calibrate(say: Console, files: Sequence[Path], limit: int, samples: int) -> int:
    """Compare the teacher's verdicts with people's: in FILEs of preferences, else in the corrections of your own log.

    Exit 3 where it agrees no better than chance. The gate tries its judge too, each time, on believed corrections of
    many users, and refuses one that does no better there.

    \b
    Examples:
      logtune judge calibrate                       on what your users corrected
      logtune judge calibrate llmbar.jsonl --json   {"instruction", "output_1", "output_2", "preferred"} a line

    With "model_1" and "model_2" in a line, or where the served model is its own judge, it is measured whether the judge
    prefers its own answers.
    """
    from logtune.app.build import teacher

    with say.store() as (store, config):
        chat = teacher(config, store)
        if chat is None:
            raise ConfigError("there is no judge: teacher.url is empty", "set teacher.url and teacher.model")
        if files:
            choices = _spread([choice for path in files for choice in _read(path)], limit)
        else:
            choices = _alternating(_spread(corrections(store, config.model.served_name), limit))
        if not choices:
            raise InputError(
                "nothing to compare the judge with: nobody has corrected an answer in this store",
                "give a file of preferences, or run logtune cycle after users have corrected answers",
            )
        say.progress(f"{counted(len(choices), 'pair')}, {2 * samples * len(choices):,} calls")
        found = asyncio.run(measure(chat, choices, samples, say, config.teacher.model))
    say.answer(found, told(found))
    return OK if found.usable else NOT_PASSED


def _read(path: Path) -> "Iterator[HumanChoice]":
    from logtune.edges.preferences import read_choices

    return read_choices(path)


def _spread(choices: "Sequence[HumanChoice]", limit: int) -> "list[HumanChoice]":
    """At most `limit` of them, evenly over the whole."""
    step = max(1.0, len(choices) / limit)
    return [choices[int(number * step)] for number in range(min(limit, len(choices)))]


def _alternating(choices: "Sequence[HumanChoice]") -> "list[HumanChoice]":
    """Every other one with its answers swapped: a judge that prefers a side must not look like one that agrees."""
    return [
        replace(each, first=each.second, second=each.first, preferred=1 - each.preferred, writers=each.writers[::-1])
        if number % 2
        else each
        for number, each in enumerate(choices)
    ]


def corrections(store: "Store", served: str = "") -> "list[HumanChoice]":
    """What users who are believed preferred: their own answer to the one they got of the model `served`."""
    from logtune.edges.preferences import HumanChoice
    from logtune.records import PreferencePair, Standing
    from logtune.served import in_use
    from logtune.stages.pairs import USERS_OWN

    out = {item.lesson_id for item in in_use(store, Standing) if item.state == "held"}
    own = [pair for pair in in_use(store, PreferencePair) if pair.origin in USERS_OWN]
    pairs = [pair for pair in own if out.isdisjoint((pair.id, pair.interaction_id))]
    return [
        HumanChoice(
            query=pair.prompt[-1].content, first=pair.chosen, second=pair.rejected, preferred=1.0, writers=("", served)
        )
        for pair in pairs
    ]


async def measure(
    chat: "Chat", choices: "Sequence[HumanChoice]", samples: int, say: Console, judge: str = ""
) -> "Calibration":
    """Ask for every verdict, in both orders; a pair without one is told and left out. `judge`: its model's name."""
    from logtune.errors import ModelError
    from logtune.stages.judge import Question, Trial, pairwise
    from logtune.stages.judge import calibrate as compared

    async def one(choice: "HumanChoice") -> "Trial | ModelError":
        asked = Question(query=choice.query, rules="", first=choice.first, second=choice.second)
        try:
            verdict = await pairwise(chat, asked, samples)
        except ModelError as error:
            return error
        return Trial(
            human=choice.preferred, judged=verdict, lengths=(len(choice.first), len(choice.second)),
            writer=_writer(choice, judge),
        )  # fmt: skip

    results = await asyncio.gather(*map(one, choices))
    failed = [result for result in results if isinstance(result, ModelError)]
    if failed:
        say.progress(f"{counted(len(failed), 'pair')} without a verdict; first: {failed[0].what}")
    if len(failed) == len(results):
        raise failed[0]
    return compared([result for result in results if not isinstance(result, ModelError)])


def _writer(choice: "HumanChoice", judge: str) -> "Literal['first', 'second', 'neither']":
    """Which of the two the judge's own model wrote, where it wrote one."""
    mine = [bool(judge) and name == judge for name in choice.writers]
    return "neither" if mine[0] == mine[1] else "first" if mine[0] else "second"


def told(found: "Calibration") -> Iterator[str]:
    """The calibration in words."""
    yield f"{found.told[0].upper()}{found.told[1:]}."
    if found.kappa is not None:
        yield f"Cohen's kappa {found.kappa:.2f} (0 is chance, 1 is full agreement)."
    if found.flips is not None and found.ties is not None:
        yield f"The order of the answers decided {found.flips:.0%} of the verdicts in words; {found.ties:.0%} are ties."
    if found.longer_judge is not None and found.longer_human is not None:
        people = f"people in {found.longer_human:.0%}"
        yield f"It prefers the longer answer in {found.longer_judge:.0%} of the pairs, {people}."
    if found.own_judge is not None and found.own_human is not None:
        people = f"people in {found.own_human:.0%}"
        yield f"It prefers an answer of its own in {found.own_judge:.0%} of the pairs that have one, {people}."
    else:
        yield "Whether it prefers its own answers is not measured: no pair has one (model_1, model_2 name them)."
    if not found.usable:
        yield "The gate refuses its verdicts where it does no better there. Next: a larger teacher, or more pairs."


COMMANDS = {"judge": judge}
