"""Another base model under the same lessons: what would be kept, dropped and trained again, before anything changes.

store, tools with the new model -> Plan        folders of both models -> what differs between them
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from logtune import knowing, rebasing
from logtune.edges.ledger import RuleLedger
from logtune.errors import InputError, ModelError
from logtune.records import Cluster, Deployment, PreferencePair, Rule, Standing
from logtune.statistics import uniform

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.store import CycleRow, Store
    from logtune.edges.weights import ModelFolder
    from logtune.ports import Tools

FACTS: Mapping[str, str] = {
    "model_type": "architecture", "num_hidden_layers": "layers", "hidden_size": "width", "vocab_size": "vocabulary",
    "max_position_embeddings": "context",
}  # fmt: skip
Said = Callable[[str], None]
SALT = "logtune-rebase"  # fixed: the same lessons are asked each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """A cluster's lessons on the new base model."""

    cluster: str  # its name
    serves: str | None  # adapter id, or kind of candidate, that is taken off; None: the base model serves there
    pairs: int  # that may be used
    asked: int  # of them put to the new model
    known: int  # of those asked: the better answer is what it says by itself
    left: int  # to learn again; estimated where not all were asked
    trains: bool  # as far as the number of lessons decides
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a new base model changes."""

    before: str | None  # fingerprint; None: not known
    after: str
    parameters: int
    rules: int  # kept, with all that people decided about them
    decided: int  # lines of the rules' ledger
    pairs: int
    clusters: tuple[Lessons, ...]
    done: bool  # this is the base model already, and a cycle has ended with it

    @property
    def off(self) -> dict[str, str]:
        """Cluster name -> what is taken off."""
        return {item.cluster: item.serves for item in self.clusters if item.serves is not None}

    @property
    def share_known(self) -> float | None:
        """Of the lessons asked; None: none was."""
        asked = sum(item.asked for item in self.clusters)
        return sum(item.known for item in self.clusters) / asked if asked else None


def plan(store: "Store", config: "Config", tools: "Tools", most: int) -> Plan:
    """What would be kept, dropped and trained again; the model of `tools` is asked up to `most` lessons a cluster.

    InputError where no cycle has ended.
    """
    cycle = next((row for row in store.cycles(None) if row.ended_at is not None), None)
    if cycle is None:
        raise InputError("no cycle has ended, so there are no lessons to keep", "set model.base and run logtune cycle")
    base = rebasing.now_on(store, tools.base_fingerprint, tools.clock.now())
    gone, before = rebasing.stale(store, base), rebasing.last(store)
    pairs = store.list(PreferencePair, limit=None, cycle_id=cycle.id)
    rules = store.list(Rule, limit=None, cycle_id=cycle.id)
    old = before.fingerprint if before else None
    done = old == base.fingerprint and not gone and cycle.receipt.get("base", old) == base.fingerprint
    usable = [] if done else _usable(store, cycle, pairs)
    return Plan(
        before=old, after=base.fingerprint, parameters=tools.base_parameters, pairs=len(pairs), done=done,
        rules=sum(bool(rule.merged_from) for rule in rules), decided=len(RuleLedger(store).every()),
        clusters=() if done else tuple(_by_cluster(store, config, tools, usable, gone, cycle, most)),
    )  # fmt: skip


def _usable(store: "Store", cycle: "CycleRow", pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Those that are believed; what an earlier base model knew is a lesson again."""
    standings = store.list(Standing, limit=None, cycle_id=cycle.id)
    held = {item.lesson_id for item in standings if item.state == "held" and item.reason != "known_already"}
    return [pair for pair in pairs if pair.id not in held and pair.interaction_id not in held]


def _by_cluster(
    store: "Store", config: "Config", tools: "Tools", pairs: Sequence[PreferencePair], gone: Mapping[str, Deployment],
    cycle: "CycleRow", most: int,
) -> list[Lessons]:  # fmt: skip
    clusters = store.list(Cluster, limit=None, cycle_id=cycle.id)
    places = {member: group.name for group in clusters for member in group.interaction_ids}
    mine: dict[str, list[PreferencePair]] = {group.name: [] for group in clusters}
    for pair in pairs:
        if pair.interaction_id in places:
            mine[places[pair.interaction_id]].append(pair)
    asked = {name: sorted(found, key=lambda pair: uniform(SALT, pair.id))[:most] for name, found in mine.items()}
    every = [pair for found in asked.values() for pair in found]
    knows = asyncio.run(knowing.knows(tools.student, every, config.evaluate.max_tokens))
    names = sorted({*mine, *gone}, key=lambda name: (-len(mine.get(name, ())), name))
    return [_lessons(name, mine.get(name, []), asked.get(name, []), knows, gone.get(name), config) for name in names]


def _lessons(
    name: str, pairs: Sequence[PreferencePair], asked: Sequence[PreferencePair], knows: Mapping[str, bool],
    gone: Deployment | None, config: "Config",
) -> Lessons:  # fmt: skip
    right = sum(knows[pair.id] for pair in asked)
    left = len(pairs) - round(len(pairs) * right / len(asked)) if asked else 0
    learn = round(left * (1 - config.evaluate.selection_share - config.evaluate.confirmation_share))
    trains = learn >= config.train.min_pairs
    reason = f"about {learn} lessons of users who do not vote at the gate, train.min_pairs is {config.train.min_pairs}"
    return Lessons(
        cluster=name, serves=(gone.adapter_id or gone.candidate) if gone else None, pairs=len(pairs), asked=len(asked),
        known=right, left=left, trains=trains, reason=reason if pairs else "no lesson of it is left in the last cycle",
    )  # fmt: skip


# --- the models themselves ---


def chat_model(model: str, progress: Said) -> "ModelFolder":
    """The new model, ready to load; ModelError where there is none, or where it is no chat model."""
    from logtune.edges.weights import base_model

    found = base_model(model, progress=progress)
    template = any((found.path / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))
    if not template and not _json(found.path / "tokenizer_config.json").get("chat_template"):
        raise ModelError(f"the tokenizer in {found.path} has no chat template", "use an instruct model")
    return found


def differences(old: str, new: "ModelFolder") -> dict[str, tuple[object, object]]:
    """What the settings of both models say otherwise; empty where the old one is not on this disk."""
    from logtune.app.doctor import on_disk
    from logtune.edges.weights import base_model

    if not on_disk(old):
        return {}
    found = base_model(old)
    theirs, ours = _json(found.path / "config.json"), _json(new.path / "config.json")
    told: dict[str, tuple[object, object]] = {"parameters": (found.parameters, new.parameters)}
    told |= {word: (theirs.get(name), ours.get(name)) for name, word in FACTS.items()}
    return {word: sides for word, sides in told.items() if sides[0] != sides[1]}


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def check_server(config: "Config", folder: "ModelFolder", progress: Said) -> None:
    """ModelError where the model server does not answer, or says that it serves another model."""
    from logtune.edges.adapter_server import HttpAdapterServer
    from logtune.edges.weights import identities

    model = config.model
    root = await HttpAdapterServer(model.url or "", model.api_key_env, base=model.served_name).root()
    served = identities(Path(root)) if root else frozenset()
    if served and folder.fingerprint not in served | identities(folder.path):
        raise ModelError(
            f"the model server at {model.url} serves {root}, not {folder.path}",
            "start it with the new model, or say where that is served: --url, --served-name",
        )
    if not served:
        progress(f"what {model.url} serves as {model.served_name} cannot be told here; it is taken for the new model")
