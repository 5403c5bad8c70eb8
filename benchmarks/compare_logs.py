"""The logs of a system without a gateway of its own, and what logtune's own first stages read out of them.

    Request, Reply, Reaction -> LogRecord, Feedback -> Lessons: examples with a wanted answer, rules, pairs

So every system learns from the same reading of feedback, and none is held back by a poorer one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import poison
from compare_types import Prompt, Reaction, Reply, Request, Setting

from logtune import pipeline
from logtune.app import build
from logtune.config import Config, load
from logtune.edges.store import Store, UnitResult
from logtune.ports import Tools
from logtune.records import Decision, Derived, Feedback, Interaction, Json, LogRecord, PreferencePair, Rule, Signal
from logtune.runner import Board, Cycle, run_stage
from logtune.stages.prompted import active
from logtune.views import held, prompt_of, rules, signals_of

REACTS_AFTER_S = 60.0
LESSONS = "lessons"  # in place of the id of a cycle
RATED = {True: "This is right.", False: "This is wrong."}
REASKED = "-again"  # ends the id of a log whose user asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """An exchange and what its user said or did about it, in words."""

    id: str
    prompt: Prompt
    answer: str
    said: str  # "": nothing in words, and no thumb
    edited: str  # the answer as its user left it; "": untouched
    liked: bool
    user: str
    at: float

    @property
    def query(self) -> str:
        """What was asked."""
        return self.prompt[-1].content

    @property
    def told(self) -> str:
        """All that its user said or did, in words; "": nothing."""
        edit = f"The right answer is: {self.edited}" if self.edited else ""
        return " ".join(text for text in (edit, self.said) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request with the answer that its user wanted: their own, or the one that they praised."""

    id: str  # of the interaction
    prompt: Prompt
    wanted: str
    given: str
    user: str
    at: float

    @property
    def query(self) -> str:
        """What was asked."""
        return self.prompt[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What the logs so far say."""

    dialogues: tuple[Dialogue, ...]  # all that were not taken for noise, oldest first
    examples: tuple[Example, ...]  # of these, those with a wanted answer
    rules: tuple[Rule, ...]  # merged, best first; right answers to single requests too
    worded: tuple[Rule, ...]  # of these, those that say how to answer, as logtune would put them in a prompt
    pairs: tuple[PreferencePair, ...]
    signals: dict[str, list[Signal]]


NOTHING = Lessons(dialogues=(), examples=(), rules=(), worded=(), pairs=(), signals={})


def settings_of(setting: Setting, **more: Json) -> Config:
    """logtune's settings for a system that lives in `setting.folder`; `more`: dotted keys with __ for the dot."""
    own: dict[str, Json] = {
        "store.url": f"sqlite:///{setting.folder / 'logs.db'}", "store.home": str(setting.folder), "serve.poll_s": 1,
    }  # fmt: skip
    if setting.teacher:
        own["teacher.url"] = setting.teacher
    return load(None, {**setting.settings, **own, **{key.replace("__", "."): value for key, value in more.items()}})


class LogBook:
    """The store of a system: what it was asked, what it said, and what was said of that."""

    def __init__(self, setting: Setting, config: Config | None = None) -> None:
        setting.folder.mkdir(parents=True, exist_ok=True)
        self.config = config or settings_of(setting)
        self.store: Store = build.store(self.config)
        self.tools: Tools = build.with_settings(setting.engine.tools, self.config, setting.replies or self.store)
        self._say = setting.say

    def add(self, request: Request, messages: Prompt, reply: Reply, log_id: str, adapter: str | None = None) -> None:
        """An answered request; `messages` as the user sent them."""
        again = log_id.endswith(REASKED)
        self.store.add_logs([log_record(request, messages, reply, log_id, adapter, 2 * REACTS_AFTER_S * again)])

    def react(self, request: Request, log_id: str, reaction: Reaction) -> None:
        """What the user did, unless they asked again: that is a log."""
        if reaction.kind != "reask":
            self.store.put_feedback([feedback_of(request, log_id, reaction)])

    async def lessons(self, *, filtered: bool = True) -> Lessons:
        """logtune's first stages over all logs, up to pairs; `filtered` False: no noise filter and no trust."""
        cycle = Cycle(
            id=LESSONS, config=self.config if filtered else unguarded(self.config), tools=self.tools, board=Board(),
            logs={log.id: log for log in self.store.logs()}, serving={}, before={}, progress=self._say,
            feedback={item.id: item for item in self.store.feedback()},
        )  # fmt: skip
        rows = pipeline.STAGES if filtered else poison.unfiltered_stages()
        last = next(number for number, stage in enumerate(rows) if stage.name == "pairs") + 1  # and its trust
        for stage in rows[: last + 1]:
            await run_stage(stage, cycle, self._done, self._keep)
        return _read(cycle)

    def _done(self, stage: str, keys: Sequence[str]) -> dict[str, Sequence[Derived]]:
        """What an earlier week, or a cycle over the same store, has worked out already."""
        found = self.store.units(stage, keys)
        return {key: pipeline.records(self.store, outputs) for key, outputs in found.items()}

    def _keep(self, stage: str, done: Sequence[tuple[str, Sequence[Derived]]]) -> None:
        of, at = self.config.config_hash, self.tools.clock.now()
        self.store.commit_units(
            [
                UnitResult(stage=stage, key=key, outputs=tuple(made), cycle_id=LESSONS, config_hash=of, at=at)
                for key, made in done
            ]
        )

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


def log_record(
    request: Request, messages: Prompt, reply: Reply, log_id: str, adapter: str | None, later_s: float = 0.0
) -> LogRecord:  # fmt: skip
    """An exchange as a gateway would have logged it."""
    asked: list[Json] = [{"role": m.role, "content": m.content} for m in messages]
    said: dict[str, Json] = {"role": "assistant", "content": reply.text}
    choice: dict[str, Json] = {"index": 0, "message": said, "finish_reason": "stop"}
    return LogRecord(
        id=log_id, request={"messages": asked}, response={"id": log_id, "choices": [choice]}, at=request.at + later_s,
        user=request.user, session=f"talk-{request.id}", adapter=adapter, source="compare",
        usage={"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
    )  # fmt: skip


def feedback_of(request: Request, log_id: str, reaction: Reaction) -> Feedback:
    """A rating, an edit or a comment."""
    kind = reaction.kind
    assert kind != "reask"
    return Feedback(
        id=f"{log_id}-said", target=log_id, at=request.at + REACTS_AFTER_S, kind=kind, value=reaction.value,
        comment=reaction.comment, correction=reaction.correction, user=request.user, source="compare",
    )  # fmt: skip


def unguarded(config: Config) -> Config:
    """The settings with trust off."""
    return config.model_copy(update={"trust": config.trust.model_copy(update={"enabled": False})})


def _read(cycle: Cycle) -> Lessons:
    board, said = cycle.board, signals_of(cycle)
    decisions = {decision.interaction_id: decision for decision in board.all(Decision)}
    out = held(cycle)
    items = [i for i in board.all(Interaction) if i.id not in out and _usable(decisions[i.id])]
    pairs = [p for p in board.all(PreferencePair) if p.interaction_id not in out and p.id not in out]
    ranked = sorted(rules(cycle), key=lambda r: (-r.distinct_users, -len(r.interaction_ids), r.text))
    return Lessons(
        dialogues=tuple(_dialogue(item, said.get(item.id, ())) for item in items),
        examples=tuple(_examples(items, pairs, decisions)), rules=tuple(ranked),
        worded=active(ranked, cycle.config.trust.min_users if cycle.config.trust.enabled else 1),
        pairs=tuple(pairs), signals=said,
    )  # fmt: skip


def _usable(decision: Decision) -> bool:
    """Not taken for noise: what teaches nothing for want of feedback is a dialogue all the same."""
    return decision.teaches != "nothing" or decision.reason in ("no_feedback", "mixed_feedback")


def _dialogue(item: Interaction, said: Sequence[Signal]) -> Dialogue:
    edits = [s.correction or "" for s in said if s.kind == "edit"]
    return Dialogue(
        id=item.id, prompt=prompt_of(item), answer=item.answer, said=in_words(said), edited=edits[-1] if edits else "",
        liked=not edits and sum(s.polarity for s in said) > 0, user=item.user or item.id, at=item.at,
    )  # fmt: skip


def in_words(said: Sequence[Signal]) -> str:
    """What a user said of an answer beside an edit: their words, or their thumb."""
    told = [RATED[s.polarity > 0] if s.kind == "rating" else s.evidence for s in said if s.kind != "edit"]
    return " ".join(dict.fromkeys(text for text in told if text))


def _examples(
    items: Sequence[Interaction], pairs: Sequence[PreferencePair], decisions: dict[str, Decision]
) -> list[Example]:  # fmt: skip
    chosen = {pair.interaction_id: pair.chosen for pair in pairs}
    praised = {item.id: item.answer for item in items if decisions[item.id].teaches == "positive"}
    wanted = praised | chosen
    return [
        Example(
            id=item.id, prompt=prompt_of(item), wanted=wanted[item.id].strip(), given=item.answer,
            user=item.user or item.id, at=item.at,
        )
        for item in items
        if item.id in wanted
    ]  # fmt: skip
