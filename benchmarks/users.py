"""Simulated users: what somebody who knows the right answer does about the one that was given, drawn with a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compare_types import Reaction

# how users react to a wrong answer; the rest stay silent
REACTIONS = {"edit": 0.35, "names_topic": 0.25, "complains": 0.12, "thumb": 0.10, "reask": 0.06}
PRAISE = 0.4  # share of right answers that get a thumb up
WRONG = 0.05  # share of feedback that is wrong on purpose
NAMES_TOPIC = (
    "No, this is about {topic}.",
    "it should be {topic}",
    "wrong, I was asking about {topic}",
    "That's not it. The topic is {topic}.",
    "should have been {topic}",
    "I meant {topic}",
    "not right - this is a {topic} question",
    "The right answer is {topic}",
)
COMPLAINS = (
    "That's wrong.",
    "no",
    "this is not what I asked",
    "Useless answer",
    "nope, try again",
    "you did not understand me at all",
    "wrong again",
    "This doesn't help.",
)
REASKS = ("Again: {text}", "{text} Please answer properly.", "I asked: {text}", "{text}??")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How often the users of a service do what, and in which words."""

    shares: Mapping[str, float] = field(default_factory=lambda: REACTIONS)
    names: Sequence[str] = NAMES_TOPIC  # {topic}: what they say is right
    complains: Sequence[str] = COMPLAINS
    reasks: Sequence[str] = REASKS  # {text}: their request
    underscores: bool = False  # said as they are, not as spaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user asked and holds to be right."""

    text: str
    truth: str | None  # None: nobody knows what would be right, least of all this user
    others: Sequence[str]  # what is right elsewhere: what is taken for right by mistake or for want of a truth


def react(wanted: Wanted, right: bool, draw: random.Random, manner: Manner) -> Reaction | None:
    """What the user does about an answer, now and then wrongly; None: nothing."""
    lies = draw.random() < WRONG
    truth = wanted.truth or draw.choice(wanted.others)
    if lies:
        truth = draw.choice([other for other in wanted.others if other != truth])
    if right and not lies:
        return Reaction(kind="rating", value=1) if draw.random() < PRAISE else None
    drawn = draw.random()
    for kind, share in manner.shares.items():
        if drawn < share:
            return _say(kind, wanted.text, truth, draw, manner) if kind != "thumb" else _thumb(lies)
        drawn -= share
    return None


def _thumb(lies: bool) -> Reaction:
    return Reaction(kind="rating", value=1 if lies else -1)


def _say(kind: str, text: str, truth: str, draw: random.Random, manner: Manner) -> Reaction:
    if kind == "edit":
        return Reaction(kind="edit", correction=truth)
    if kind == "names_topic":
        said = truth if manner.underscores else truth.replace("_", " ")
        return Reaction(kind="comment", comment=draw.choice(manner.names).replace("{topic}", said))
    if kind == "complains":
        return Reaction(kind="comment", comment=draw.choice(manner.complains))
    return Reaction(kind="reask", reask=draw.choice(manner.reasks).replace("{text}", text))
