"""The first rows of the pipeline, from logs to clusters: a cycle's records -> units of work that call the stages.

A unit names in its inputs every id its result depends on; the runner skips those it has seen. No row writes anything.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from logtune import incumbents, sharing, sides
from logtune.edges import probe_sets
from logtune.ids import digest, identified
from logtune.knowing import base_answer
from logtune.ports import Vectors
from logtune.records import (
    Adapter,
    Cluster,
    Decision,
    Derived,
    Feedback,
    Interaction,
    PreferencePair,
    Rule,
    Signal,
)
from logtune.runner import Cycle, Unit
from logtune.stages import cluster as clustering
from logtune.stages import distill, implicit, ledger
from logtune.stages import filter as filtering
from logtune.stages import interactions as joining
from logtune.stages import pairs as pairing
from logtune.stages import revise as revising
from logtune.stages import signals as reading
from logtune.stages.prompted import in_words
from logtune.views import (
    ended,
    given,
    prompt_of,
    rules_by_interaction,
    signals_of,
    teaching,
    users_of,
    weighed_signals,
)

LEAST_RANK = 2  # rank 1 learns far slower than rank 2 of the same layers; clusters are joined until each affords it


def interactions(cycle: Cycle) -> Iterator[Unit]:
    """A unit a log with an answer."""
    for item in joining.join(list(cycle.logs.values()), cycle.feedback.values()):
        yield Unit((item.id,), given([item]))


def signals(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction: its feedback and what its user said next."""
    detector = cycle.tools.detector
    read_by = () if detector is None else (detector.fingerprint,)
    for item in cycle.board.all(Interaction):
        given = [cycle.feedback[name] for name in item.feedback_ids]
        inputs = (item.id, *(digest([f.kind, f.value, f.comment, f.correction, f.supersedes]) for f in given))

        async def work(item: Interaction = item, given: Sequence[Feedback] = given) -> Sequence[Derived]:
            turns = reading.turns_of(item)
            found = None if detector is None else await detector.detect(turns)
            detected = None if found is None else {t.text: d for t, d in zip(turns, found, strict=True)}
            return reading.read(item, given, cycle.config.signals, detected)

        yield Unit((*inputs, *(read_by if item.follow_ups else ())), work)


def acts(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction after which something was done: how much that says is measured on all of them."""
    items = cycle.board.all(Interaction)
    done = implicit.acts_of(items, cycle.logs, cycle.feedback)
    measured = implicit.reliability(done, signals_of(cycle))
    weights = digest([[row.kind, row.weight] for row in measured])
    for item in items:
        if item.id in done:
            found = implicit.signals_of_acts(item, done[item.id], measured)
            yield Unit((item.id, "acts", digest([list(act) for act in done[item.id]]), weights), given(found))


def filter_noise(cycle: Cycle) -> Iterator[Unit]:
    """One unit: what is noise depends on all that this deployment is asked."""
    items, by_item = cycle.board.all(Interaction), weighed_signals(cycle)
    if not items:
        return

    async def work() -> Sequence[Derived]:
        vectors = cycle.tools.embedder.embed([item.query for item in items])
        surprise, scores = _surprise(cycle, items, by_item), _noise(cycle, items)
        return filtering.decide(items, by_item, vectors, surprise, cycle.config.filter, scores)

    made_by = (cycle.tools.embedder.fingerprint, cycle.tools.noise.name if cycle.tools.noise else "")
    yield Unit((*(i.id for i in items), *(s.id for s in cycle.board.all(Signal)), *made_by), work)


def _noise(cycle: Cycle, items: Sequence[Interaction]) -> Mapping[str, Mapping[str, float]] | None:
    """Each text's scores by the trained classifiers; None where there are none."""
    if cycle.tools.noise is None:
        return None
    texts, embedder = filtering.asked(items), cycle.tools.embedder
    read = cycle.tools.noise.by_class(texts, embedder.embed(texts), embedder.fingerprint)
    return dict(zip(texts, read, strict=True))


def _surprise(
    cycle: Cycle, items: Sequence[Interaction], by_item: Mapping[str, Sequence[Signal]]
) -> Sequence[float | None]:
    """Mean negative log-likelihood of the base model's praised answers; only those could become positives."""
    asked = [
        i
        for i, item in enumerate(items)
        if item.adapter is None and any(s.polarity > 0 for s in by_item.get(item.id, ()))
    ]
    found: list[float | None] = [None] * len(items)
    if cycle.tools.likelihood is not None and asked:
        prompts = [prompt_of(items[i]) for i in asked]
        for i, value in zip(asked, cycle.tools.likelihood.nll(prompts, [items[i].answer for i in asked]), strict=True):
            found[i] = value
    return found


def distill_rules(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction that may teach."""
    teacher, by_item = cycle.tools.teacher, signals_of(cycle)
    for item in teaching(cycle):
        found = by_item.get(item.id, [])

        async def work(item: Interaction = item, found: Sequence[Signal] = found) -> Sequence[Derived]:
            if teacher is not None:
                return await distill.distil(item, found, teacher, cycle.config.distill)
            return distill.extract(item, found, cycle.config.distill)

        yield Unit((item.id, *(s.id for s in found)), work)


def merge_rules(cycle: Cycle) -> Iterator[Unit]:
    """One unit: rules that say the same become one, as the ledger has it."""
    rules = [rule for rule in cycle.board.all(Rule) if not rule.merged_from]
    said_at = {item.id: item.at for item in cycle.board.all(Interaction)}

    async def work() -> Sequence[Derived]:
        users = users_of(cycle)
        merged = distill.merge(rules, users, cycle.tools.embedder)
        return ledger.amend(merged, rules, said_at, users, cycle.ledger)

    if rules:
        yield Unit((*(rule.id for rule in rules), *(entry.id for entry in cycle.ledger)), work)


def make_pairs(cycle: Cycle) -> Iterator[Unit]:
    """A unit an interaction that may teach: a better answer, from the user, an earlier success or the teacher."""
    by_item, rules_of, over = signals_of(cycle), rules_by_interaction(cycle), ended(cycle)
    heard = [s for item in teaching(cycle) for s in by_item.get(item.id, ())]
    settings, least = cycle.config.pairs, cycle.config.signals.min_confidence
    known = pairing.known_answers(heard, users_of(cycle), settings.min_support)
    sure = pairing.confirmed_answers(heard, users_of(cycle))
    kinds = ("edit",) if _only_long_answers(cycle, heard) else ("edit", "correction")
    decisions, own = {d.interaction_id: d for d in cycle.board.all(Decision)}, sharing.own_rules(cycle)
    for item in teaching(cycle):
        rules = rules_of.get(item.id, [])
        if not rules and item.id in over:
            continue  # all that it taught was vetoed or has expired
        mine = own.get(item.id, []) if rules else []
        named = [s for s in by_item.get(item.id, ()) if s.kind in kinds]
        own_words = pairing.from_users(item, named, mine, known, least, sure)
        pair = _edited(cycle, rules, mine, own_words)
        if pair is not None:
            yield _in_users_words(cycle, item, pair)
        elif decisions[item.id].teaches == "positive" and item.adapter is not None:
            yield Unit((item.id, "kept", cycle.tools.base_fingerprint), _keep(cycle, item))
        elif cycle.tools.teacher is not None and rules:
            said = (digest([rule.text for rule in rules]), *(rule.id for rule in mine))
            yield Unit((item.id, *said), _revise(cycle, item, rules, mine))


def _only_long_answers(cycle: Cycle, heard: Sequence[Signal]) -> bool:
    praised = {d.interaction_id for d in cycle.board.all(Decision) if d.teaches == "positive"}
    return pairing.whole_answers_are_long(
        [s.correction for s in heard if s.kind == "edit" and s.correction],
        [item.answer for item in teaching(cycle) if item.id in praised],
        sum(s.kind != "edit" and s.correction is not None for s in heard),
    )


def share_answers(cycle: Cycle) -> Iterator[Unit]:
    """A unit a complaint that names no answer, where others tell for sure which one; of users without a vote so far."""
    if cycle.config.pairs.propagate:
        for item, pair in sharing.pairs(cycle, sides.first_sides(cycle, teaching(cycle)).train):
            yield _in_users_words(cycle, item, pair)


def _in_users_words(cycle: Cycle, item: Interaction, pair: PreferencePair) -> Unit:
    """A unit of a pair that needs no model, but for what the base model says where an adapter answered."""
    if item.adapter is None:
        return Unit((item.id, pair.id), given([pair]))
    return Unit((item.id, pair.id, cycle.tools.base_fingerprint), _contrasted(cycle, item, pair))


def _edited(
    cycle: Cycle, rules: Sequence[Rule], own: Sequence[Rule], pair: PreferencePair | None
) -> PreferencePair | None:
    """The pair with the right answer as an operator put it, where its rule was edited."""
    if pair is None or not cycle.ledger:
        return pair
    merged = [rule for rule in cycle.board.all(Rule) if rule.merged_from]
    answers = [rule.text for rule in rules if not in_words(rule) and ledger.decided(rule, cycle.ledger, merged).edit]
    if not answers:
        return pair
    chosen = answers[0][len(distill.ANSWER) :].strip()
    item = cycle.board.get(Interaction, pair.interaction_id)
    return pairing.build(item, own, chosen, pair.rejected, pair.origin)


def _contrasted(cycle: Cycle, item: Interaction, pair: PreferencePair) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """The pair with what the base model says, which training starts from and which never said what an adapter said."""

    async def work() -> Sequence[Derived]:
        base = (await base_answer(cycle, item)).strip()
        known = base == pair.chosen.strip()
        return [pair if known else identified(replace(pair, id="", contrast=base))]

    return work


def _keep(cycle: Cycle, item: Interaction) -> Callable[[], Awaitable[Sequence[Derived]]]:
    """What an adapter already does right, against what the base model would say: so that the next one keeps it."""

    async def work() -> Sequence[Derived]:
        pair = pairing.build(item, (), item.answer, await base_answer(cycle, item), "on_policy")
        return [] if pair is None else [pair]

    return work


def _revise(
    cycle: Cycle, item: Interaction, rules: Sequence[Rule], own: Sequence[Rule]
) -> Callable[[], Awaitable[Sequence[Derived]]]:
    async def work() -> Sequence[Derived]:
        teacher, tools = cycle.tools.teacher, cycle.tools
        assert teacher is not None
        writers = revising.Writers(teacher=teacher, student=tools.student, model=await _answerer(cycle, item))
        pair = await revising.revise(item, rules, writers, cycle.config.pairs)
        named = None if pair is None else identified(replace(pair, id="", rule_ids=tuple(rule.id for rule in own)))
        return [] if named is None else [named]

    return work


async def _answerer(cycle: Cycle, item: Interaction) -> str:
    """The name of the loaded adapter that gave the answer; "" for the base model, also where it serves no more."""
    adapter = cycle.before.get(item.adapter or "")
    if not isinstance(adapter, Adapter):
        return ""
    await cycle.tools.adapters.load(adapter.path, str(Path(cycle.tools.adapters_dir) / adapter.path))
    return adapter.path


def cluster(cycle: Cycle) -> Iterator[Unit]:
    """One unit: every interaction with a rule or a pair."""
    rules_of, pair_of = rules_by_interaction(cycle), {p.interaction_id: p for p in cycle.board.all(PreferencePair)}
    items = [i for i in teaching(cycle) if i.id in rules_of or i.id in pair_of]
    before = _known_clusters(cycle)

    async def work() -> Sequence[Derived]:
        texts = {i.id: [r.text for r in rules_of.get(i.id, [])] or [f"Answer: {pair_of[i.id].chosen}"] for i in items}
        return clustering.group(
            [i.id for i in items],
            [i.query for i in items],
            cycle.tools.embedder.embed([i.query for i in items]),
            _mean_vectors(cycle, [texts[i.id] for i in items]),
            cycle.config.cluster,
            _affordable(cycle),
            before,
            _strangers(cycle),
        )

    if items:
        meaning = (cycle.tools.embedder.fingerprint, str(_affordable(cycle)), *(c.id for c in before))
        rows = [f"{i.id} {' '.join(r.id for r in rules_of.get(i.id, ()))} {_pair_id(pair_of.get(i.id))}" for i in items]
        yield Unit((*rows, *meaning), work)


def _known_clusters(cycle: Cycle) -> list[Cluster]:
    """Those of the cycle before, then those that serve under other names: what has merged may split again."""
    found = {row.name: row for name in cycle.earlier if isinstance(row := cycle.before.get(name), Cluster)}
    for name, cluster in sorted(incumbents.live_clusters(cycle).items()):
        found.setdefault(name, cluster)
    return list(found.values())


def _strangers(cycle: Cycle) -> Vectors | None:
    """Built-in requests of no topic in particular; without the questions by which a guard judges routes."""
    settings = cycle.config.cluster
    if settings.radius_most <= settings.radius_quantile or not cycle.config.trust.enabled:
        return None
    return cycle.tools.embedder.embed(probe_sets.prompts("everyday", "sycophancy", "safety"))


def _pair_id(pair: PreferencePair | None) -> str:
    return pair.id if pair else ""


def _mean_vectors(cycle: Cycle, texts: Sequence[Sequence[str]]) -> Vectors:
    """(N, D): the normalised mean of each row's texts."""
    flat = list(dict.fromkeys(text for row in texts for text in row))
    vectors = dict(zip(flat, cycle.tools.embedder.embed(flat), strict=True))
    means = np.stack([np.mean([vectors[text] for text in row], axis=0) for row in texts])
    return cast("Vectors", means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))


def _affordable(cycle: Cycle) -> int:
    """How many clusters the adapter budget can give an adapter of LEAST_RANK."""
    each = cycle.tools.lora_sizes.get(cycle.config.train.target_modules, 0) * LEAST_RANK
    return max(1, int(cycle.config.train.budget * cycle.tools.base_parameters // each)) if each else 1
