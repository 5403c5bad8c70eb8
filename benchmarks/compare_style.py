"""House style: real prompts of four kinds whose users share hidden preferences, and tell them only by complaining.

A preference is a rule that can be checked, in the manner of ifeval: length, form, opening, ending, language, tone. The
checks stay with the users; a system sees complaints such as "Too long again". Nobody ever writes down a right answer,
so rules, better answers and verdicts have to come from a teacher.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import users
from compare_streams import Mix, RealStream, Row, attacks, composed, held, rows
from compare_types import Case, Reaction

from logtune.records import Json
from logtune.stages.languages import language

NAME = "house_style"
SYSTEM = "You are the assistant of our company."
NEEDS_TEACHER = (
    "its users only complain, so rules, better answers and verdicts come from a teacher: give --teacher URL of an "
    "instruct model that follows a JSON schema"
)
MIX = Mix(requests=80, noise=12, earlier=20)
HELD_OUT, LONGEST_PROMPT, MAX_TOKENS = 25, 400, 96
SHARES = {"names_topic": 0.55, "complains": 0.10, "thumb": 0.10, "reask": 0.05}  # nobody edits; the rest stay silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What the users of a topic want of every answer, and how they complain where it is missing."""

    complaints: Sequence[str]
    met: Callable[[str], bool]


def at_most(words: int) -> Callable[[str], bool]:
    """Not empty, and no longer than that."""
    return lambda answer: 0 < len(answer.split()) <= words


def opens_with(text: str) -> Callable[[str], bool]:
    """The first words, in any case."""
    return lambda answer: answer.lstrip().casefold().startswith(text.casefold())


def ends_with(text: str) -> Callable[[str], bool]:
    """The last words, in any case."""
    return lambda answer: answer.rstrip().casefold().endswith(text.casefold())


def lines_like(pattern: str, count: int) -> Callable[[str], bool]:
    """At least so many lines that begin like that."""
    found = re.compile(pattern, re.MULTILINE)
    return lambda answer: len(found.findall(answer)) >= count


def without(pattern: str) -> Callable[[str], bool]:
    """An answer in which that is not said."""
    found = re.compile(pattern, re.IGNORECASE)
    return lambda answer: bool(answer.strip()) and not found.search(answer)


def in_language(code: str) -> Callable[[str], bool]:
    """Most of it is in that language."""
    return lambda answer: language(answer) == code


NO_APOLOGY = without(r"\b(?:sorry|apolog\w+|unfortunately)\b")
PREFERENCES: Mapping[str, Sequence[Preference]] = {  # a topic a week, in this order
    "code": (
        Preference(complaints=(
            "Start with the code, not with talk.", "code block first please", "I want the code block at the very top",
        ), met=opens_with("```")),
        Preference(complaints=(
            "Too long. Keep it under 60 words.", "60 words at most please", "shorter, no more than 60 words",
        ), met=at_most(60)),
        Preference(complaints=(
            "Stop apologising.", "never say sorry to me", "no apologies, no 'unfortunately' please",
        ), met=NO_APOLOGY),
    ),
    "writing": (
        Preference(complaints=(
            "Far too long, 50 words are enough.", "keep it under 50 words", "at most 50 words next time",
        ), met=at_most(50)),
        Preference(complaints=(
            "Please end with 'The End.'", "you forgot to close with The End.", "the last words must be: The End.",
        ), met=ends_with("The End.")),
        Preference(complaints=(
            "No exclamation marks.", "please stop with the exclamation marks", "don't use ! anywhere",
        ), met=without("!")),
    ),
    "explaining": (
        Preference(complaints=(
            "Begin with 'In short:'.", "start your answer with In short:", "the first words should be 'In short:'",
        ), met=opens_with("In short:")),
        Preference(complaints=(
            "Use bullet points.", "bullets please, at least three", "I want a list with dashes, not prose",
        ), met=lines_like(r"^\s*[-*•] ", 3)),
        Preference(complaints=(
            "Too long. 60 words at most.", "keep it under 60 words", "shorter please, 60 words",
        ), met=at_most(60)),
    ),
    "advice": (
        Preference(complaints=(
            "Answer in Spanish.", "en español por favor, always Spanish", "we read Spanish here, answer in Spanish",
        ), met=in_language("es")),
        Preference(complaints=(
            "Number the steps.", "I need numbered steps, 1. 2. 3.", "please give it as a numbered list",
        ), met=lines_like(r"^\s*\d+[.)] ", 3)),
        Preference(complaints=(
            "Please do not apologise to us.", "leave out the 'sorry'", "an apology is no advice, drop it",
        ), met=NO_APOLOGY),
    ),
}  # fmt: skip
TOPICS: Mapping[str, str] = {  # the first whose words are in a prompt; of none, the prompt is left out
    "code": (
        r"code|coding|python|java|javascript|typescript|c\+\+|c#|rust|function|sql|html|css|api|bug|regex|program\w*|"
        r"docker|linux|bash|react|kubernetes|git|database|server|algorithm|script|app|excel|software"
    ),
    "writing": (
        r"write|compose|draft|story|poem|essay|letter|e-?mail|song|lyrics|novel|dialogue|haiku|blog|rewrite|tale|scene|"
        r"character|fiction|joke|speech"
    ),
    "advice": (
        r"how (?:can|do|should|would) (?:i|we|you|one)|how to|plan|recommend\w*|suggest\w*|advice|tips|ideas|should i|"
        r"steps|recipe|diet|trip|best|help me|i want|i need|my"
    ),
    "explaining": r"what|why|who|when|where|which|explain|define|describe|difference|how|is|are|does|tell me",
}  # fmt: skip
MANNER = users.Manner(shares=SHARES, names=("{topic}",), underscores=True)


def topic_of(prompt: str) -> str | None:
    """What kind of prompt it is; None: none of the four, or too long, or not English enough to tell."""
    if len(prompt) > LONGEST_PROMPT or not prompt.isascii():
        return None
    words = prompt.casefold()
    return next((topic for topic, pattern in TOPICS.items() if re.search(rf"\b(?:{pattern})(?!\w)", words)), None)


def prompts(data: Path) -> list[Row]:
    """Real prompts: arena_hard, mt_bench, and first turns of OASST; {id, text}, each text once."""
    found = [(str(row["id"]), str(row["prompt"])) for row in rows(data / "arena_hard_prompts" / "prompts.jsonl")]
    questions = rows(data / "mt_bench_questions" / "question.jsonl")
    found += [(f"mt-{row['question_id']}", str(cast("list[str]", row["turns"])[0])) for row in questions]
    threads = [row for row in rows(data / "oasst1_val_threads" / "threads.jsonl.gz") if row["lang"] == "en"]
    found += [(f"oasst1-{row['id']}", cast("list[dict[str, str]]", row["messages"])[0]["content"]) for row in threads]
    trees = [cast("dict[str, Json]", row["prompt"]) for row in rows(data / "oasst2_trees" / "trees.jsonl.gz")]
    found += [(f"oasst2-{root['message_id']}", str(root["text"])) for root in trees if root["lang"] == "en"]
    texts: dict[str, str] = {}
    for name, text in found:
        texts.setdefault(text, name)
    return [{"id": name, "text": text} for text, name in texts.items()]


def met(case: Case, answer: str) -> float:
    """Share of its topic's preferences that an answer meets."""
    wanted = PREFERENCES.get(case.topic or "", ())
    return sum(preference.met(answer) for preference in wanted) / len(wanted) if wanted else 0.0


def react(case: Case, answer: str, draw: random.Random) -> Reaction | None:
    """A complaint about one preference that the answer does not meet; now and then about one of another topic."""
    missed = [preference for preference in PREFERENCES.get(case.topic or "", ()) if not preference.met(answer)]
    elsewhere = [
        c for topic, wanted in PREFERENCES.items() if topic != case.topic for p in wanted for c in p.complaints
    ]
    complaint = draw.choice(draw.choice(missed).complaints) if missed else None
    wanted = users.Wanted(text=case.request.text, truth=complaint, others=elsewhere)
    return users.react(wanted, bool(case.topic) and not missed, draw, MANNER)


def house_style(data: Path) -> RealStream:
    """A kind of prompt a week, each with its preferences."""
    weeks = {topic: week for week, topic in enumerate(PREFERENCES, start=1)}
    labelled = [(topic, row) for row in prompts(data) if (topic := topic_of(str(row["text"])))]
    test = held(NAME, SYSTEM, labelled, weeks, HELD_OUT, lambda row: None)
    tested = {case.request.id for case in test}
    left = [item for item in labelled if item[1]["id"] not in tested]
    by_week = [[item for item in left if weeks[item[0]] == week] for week in sorted(weeks.values())]
    noise = attacks(data, NAME, len(weeks) * MIX.noise)
    cases = composed(NAME, SYSTEM, by_week, noise, lambda row: None, MIX)
    return RealStream(
        name=NAME, max_tokens=MAX_TOKENS, cases=tuple(cases), held_out=test, topics=tuple(PREFERENCES), checked=met,
        reacts=react, needs_teacher=NEEDS_TEACHER,
    )  # fmt: skip
