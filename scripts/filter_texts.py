"""Training texts of the project's own for the noise classifiers: what is asked, in how it is asked.

`filter_texts.json` (phrases and frames) -> (text, label)*, drawn with a fixed seed. They teach what the public sets
have too few examples of: a harmful wish beside a harmless one in the same words, an instruction that hides in pasted
content, a rude sentence beside a sober one about the same people. They are for training alone.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Phrases = Mapping[str, Sequence[str]]


def texts(seed: int = 0, each: int = 350) -> list[tuple[str, str]]:
    """(text, label)*, with at most `each` of one kind; the same for the same seed."""
    draw = random.Random(seed)
    phrases: Phrases = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    made: list[tuple[str, str]] = []
    for label, found in (*_harm(phrases), *_attacks(phrases, draw), *_manners(phrases, draw)):
        kind = sorted(set(found))
        made += [(text, label) for text in draw.sample(kind, min(each, len(kind)))]
    return made


def _harm(phrases: Phrases) -> Iterator[tuple[str, list[str]]]:
    frames = phrases["frames"]
    yield "harmful_request", [frame.format(act) for frame in frames for act in phrases["harmful"]]
    yield "benign_hard", [frame.format(act) for frame in frames for act in phrases["harmless"]]
    yield "benign_hard", [frame.format(topic) for frame in phrases["questions"] for topic in phrases["topics"]]
    yield (
        "harmful_request",
        [f.format(m, c) for f in phrases["cause_frames"] for m in phrases["media"] for c in phrases["causes"]],
    )
    yield "harmful_request", [f"What is {p}'s {s}?" for p in phrases["persons"] for s in phrases["secrets"]][::3]


def _attacks(phrases: Phrases, draw: random.Random) -> Iterator[tuple[str, list[str]]]:
    drawn = phrases["draw_out"]
    yield "prompt_injection", [f"{o}. {d}" for o in phrases["override"] for d in drawn]
    yield "prompt_injection", [cover.format(d) for cover in phrases["covers"] for d in drawn]
    yield "prompt_injection", [*drawn, *phrases["rewrite"]]
    yield "prompt_injection", [f.format(a) for f in phrases["slip_in"] for a in phrases["advert"]]
    yield "prompt_injection", [f"{i}:\n```\n{c}\n```" for i in phrases["code_in"] for c in phrases["code"]]
    yield (
        "jailbreak",
        [
            f.format(p=p, h=draw.choice(phrases["harmful"]))
            for f in phrases["persona_frames"]
            for p in phrases["personas"]
        ],
    )


def _manners(phrases: Phrases, draw: random.Random) -> Iterator[tuple[str, list[str]]]:
    yield "toxic", [f.format(g) for f in phrases["hate"] for g in phrases["groups"]]
    yield "toxic", list(phrases["rude"])
    yield "benign_hard", [f.format(g) for f in phrases["sober"] for g in phrases["groups"]]
    yield "benign", [*phrases["calm"], *phrases["chatty"], *phrases["plain"]]
    yield "spam", [_numbered(f, o, draw) for f in phrases["spam"] for o in phrases["offers"]]


def _numbered(frame: str, offer: str, draw: random.Random) -> str:
    filled = offer.format(n=draw.choice((50, 100, 250, 500, 1000, 2000)))
    return frame.format(o=filled, d=draw.randrange(10**6, 10**7), e=draw.randrange(1000, 10000))
