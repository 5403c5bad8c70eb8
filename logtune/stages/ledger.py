"""Rule*, RuleEntry* -> Rule*: rules as people decided about them: pinned, vetoed, edited, expired.

A line of the ledger stays with its rule when a later cycle merges it with more evidence into another record: both share
parts, or their words. Where later cycles have read the same users anew and found other words, it stays with the rule
that rests on more than half of its interactions, unless another rule is the one that was meant. The newest line about
the state holds, so does the newest edit; a reset ends both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.ids import identified
from logtune.records import Rule, RuleEntry, RuleState
from logtune.stages.grading import normalise

STATES: Mapping[str, RuleState] = {"pin": "pinned", "veto": "vetoed", "expire": "expired"}


@dataclass(frozen=True, slots=True)
class Decided:
    """The lines that hold for a rule."""

    state: RuleEntry | None = None  # pin, veto or expire
    edit: RuleEntry | None = None


def decided(rule: Rule, entries: Iterable[RuleEntry], among: Sequence[Rule] | None = None) -> Decided:
    """What holds for a rule; `entries`: oldest first.

    `among`: all rules that there are; a line about none of them is about those with its interactions. None: it is not.
    """
    parts, names = set(rule.merged_from or (rule.id,)), {normalise(rule.text)}
    found = Decided()
    for entry in entries:
        if not _about(entry, rule, parts, names) and not _anew(entry, rule, among):
            continue
        if entry.action == "reset":
            found = Decided()
        elif entry.action == "edit":
            found = replace(found, edit=entry)
            names.add(normalise(entry.text))
        else:
            found = replace(found, state=entry)
    return found


def _about(entry: RuleEntry, rule: Rule, parts: set[str], names: set[str]) -> bool:
    shared = len(parts & set(entry.parts))
    return entry.rule_id == rule.id or 2 * shared > len(entry.parts) or normalise(entry.rule_text) in names


def _anew(entry: RuleEntry, rule: Rule, among: Sequence[Rule] | None) -> bool:
    """Whether the rule is what became of the one that was meant, from the same interactions in other words."""
    shared = len(set(rule.interaction_ids) & set(entry.interaction_ids))
    if among is None or 2 * shared <= len(entry.interaction_ids):
        return False
    return not any(_about(entry, one, set(one.merged_from or (one.id,)), {normalise(one.text)}) for one in among)


def amend(
    merged: Sequence[Rule], singles: Sequence[Rule], said_at: Mapping[str, float], users: Mapping[str, str],
    entries: Sequence[RuleEntry],
) -> list[Rule]:  # fmt: skip
    """Merged rules as the ledger has them; `said_at`, `users`: by interaction id.

    An expired rule keeps what was said until then; what users said later is a rule of its own, and active.
    """
    parts = {rule.id: rule for rule in singles}
    found: list[Rule] = []
    for rule in merged:
        lines = decided(rule, entries, merged)
        if lines.state is not None and lines.state.action == "expire" and lines.state.until is not None:
            until = lines.state.until
            mine = [parts[name] for name in rule.merged_from]
            old = [part for part in mine if all(said_at.get(i, 0.0) <= until for i in part.interaction_ids)]
            new = [part for part in mine if part not in old]
            found += [
                _amended(_of(rule, side, users), side_lines)
                for side, side_lines in ((old, lines), (new, Decided(edit=lines.edit)))
                if side
            ]
        else:
            found.append(_amended(rule, lines))
    return found


def _amended(rule: Rule, lines: Decided) -> Rule:
    state = STATES[lines.state.action] if lines.state is not None else rule.state
    text = lines.edit.text if lines.edit is not None else rule.text
    changed = (state, text) != (rule.state, rule.text)
    return identified(replace(rule, id="", state=state, text=text)) if changed else rule


def _of(rule: Rule, parts: Sequence[Rule], users: Mapping[str, str]) -> Rule:
    """The merged rule, of some of its parts alone."""
    interactions = tuple(dict.fromkeys(i for part in parts for i in part.interaction_ids))
    return identified(
        replace(
            rule, id="", interaction_ids=interactions, merged_from=tuple(part.id for part in parts),
            signal_ids=tuple(dict.fromkeys(s for part in parts for s in part.signal_ids)),
            distinct_users=len({users.get(i, i) for i in interactions}),
        )
    )  # fmt: skip
