"""What an adapter is asked before it serves: the shortest prompts of its own training, each with its right answer.

Adapter -> PreferencePair, Rule of the store -> Sample
"""

import logging
from dataclasses import dataclass

from logtune.edges.store import Store
from logtune.errors import StoreError
from logtune.records import Adapter, Message, PreferencePair, Rule
from logtune.stages.answer import critic_prompt, critique

LOOKED_AT, KEPT = 50, 3  # pairs read, and the shortest of them: a probe costs the server as much as a request
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt of an adapter's training and what it was trained to say."""

    prompt: tuple[Message, ...]
    answer: str


NO_PAIRS = Sample((Message(role="user", content="What can you do for me?"),), "")


def samples(store: Store, adapter: Adapter) -> list[Sample]:
    """At most KEPT; an adapter whose pairs are gone gets a prompt that has nothing to do with its training."""
    try:
        return _of_training(store, adapter) or [NO_PAIRS]
    except StoreError as error:  # forgotten on demand, or the store is busy; the adapter was proven on them before
        LOG.warning("adapter %s is proven without its training pairs: %s", adapter.id, error.what)
        return [NO_PAIRS]


def _of_training(store: Store, adapter: Adapter) -> list[Sample]:
    pairs = store.load(PreferencePair, adapter.pair_ids[:LOOKED_AT])
    pairs.sort(key=lambda pair: sum(len(m.content) for m in pair.prompt) + len(pair.chosen))
    return [_sample(store, adapter, pair) for pair in pairs[:KEPT]]


def _sample(store: Store, adapter: Adapter, pair: PreferencePair) -> Sample:
    if adapter.kind == "expert":
        return Sample(pair.prompt, pair.chosen)
    rules = [rule.text for rule in store.load(Rule, pair.rule_ids)]
    return Sample(critic_prompt(pair.prompt[-1].content, pair.rejected), critique(rules))
