"""Multiple choice by log-likelihood: what a model still knows, whatever it has learned since."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from logtune.records import Json, Message

TASKS = ("piqa", "arc_easy")  # of retention_mc: a model of 135M parameters is above chance on these two alone
Question = Mapping[str, Json]  # {id, task, question, choices, answer}


def asked(question: Question) -> tuple[Message, ...]:
    """A question as it is put to the model."""
    return (Message(role="user", content=str(question["question"])),)


def choices(question: Question) -> list[str]:
    """The answers that it offers."""
    return cast("list[str]", question["choices"])


def likeliest_is_right(questions: Sequence[Question], surprise: Sequence[float]) -> list[float]:
    """1 for a question whose right choice surprises least, else 0; `surprise`: of all choices, in order."""
    found, at = [], 0
    for question in questions:
        count = len(choices(question))
        found.append(float(int(np.argmin(surprise[at : at + count])) == question["answer"]))
        at += count
    return found
