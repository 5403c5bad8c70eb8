"""Rules in the prompt: which of a cluster's rules a model is told, and in which words.

Rule* -> the active ones that say how to answer        messages, rules -> messages for the model

The gate and the gateway both go by this module, so that what was proven is what serves.
"""

from collections.abc import Iterable, Sequence

from logtune.prompts import language_of, render
from logtune.records import Message, Rule
from logtune.stages.distill import ANSWER

MOST_RULES = 20  # those that most users stand behind; a longer list is followed less and costs at every request
ACTIVE = ("active", "pinned")
SYSTEM = ("system", "developer")  # OpenAI's newer models call it developer


def active(rules: Iterable[Rule], least_users: int = 1) -> tuple[Rule, ...]:
    """The merged rules that may be told, at most MOST_RULES: pinned ones first, then by the users behind them.

    Not told: what fewer than `least_users` stand behind (unless it is pinned), and right answers to single requests,
    which say nothing about the next one.
    """
    merged = [rule for rule in rules if rule.merged_from]
    # A later cycle merges the same rules and more into a new record; its state holds.
    newest = [r for r in merged if not any(set(r.merged_from) < set(other.merged_from) for other in merged)]
    found = [rule for rule in newest if rule.state in ACTIVE and in_words(rule)]
    found = [rule for rule in found if rule.state == "pinned" or rule.distinct_users >= least_users]
    found.sort(key=lambda rule: (rule.state != "pinned", -rule.distinct_users, -len(rule.interaction_ids), rule.id))
    by_text: dict[str, Rule] = {}
    for rule in found:
        by_text.setdefault(rule.text, rule)
    return tuple(by_text.values())[:MOST_RULES]


def in_words(rule: Rule) -> bool:
    """Whether a rule says how to answer, rather than being the right answer to one request."""
    return not rule.text.casefold().startswith(ANSWER.casefold())


def told(query: str, rules: Sequence[str]) -> str:
    """What a system prompt says of the rules, in the language of the query."""
    return render("follow", language_of(query), rules="\n".join(f"- {rule}" for rule in rules))


def with_rules(messages: Sequence[Message], rules: Sequence[str]) -> tuple[Message, ...]:
    """The messages with the rules at the end of the first system message, else as a system message that comes first."""
    if not rules:
        return tuple(messages)
    query = next((message.content for message in reversed(messages) if message.role == "user"), "")
    text = told(query, rules)
    for number, message in enumerate(messages):
        if message.role in SYSTEM:
            longer = Message(role=message.role, content=f"{message.content}\n\n{text}" if message.content else text)
            return (*messages[:number], longer, *messages[number + 1 :])
    return (Message(role="system", content=text), *messages)
