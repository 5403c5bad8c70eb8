"""A candidate without an adapter: the cluster's active rules are added to the prompt as a system message.

cluster id -> texts of its rules        body of the client, rules -> body for the model server

Only the model server sees the added text. The record keeps the body of the client, so no later cycle can take what we
said for what a user said.
"""

from collections.abc import Mapping

from logtune.app.identity import last_user_text
from logtune.edges.store import Store
from logtune.prompts import language_of, render
from logtune.records import Cluster, Json, Rule

MOST_RULES = 20  # those that most users stand behind; a longer list is followed less and costs at every request
ACTIVE = ("active", "pinned")
SYSTEM = ("system", "developer")  # OpenAI's newer models call it developer


def active_rules(store: Store, cluster_id: str) -> tuple[str, ...]:
    """The merged rules that rest on a cluster's interactions, pinned ones first, then by the users behind them."""
    (cluster,) = store.load(Cluster, [cluster_id])
    children = {child for member in cluster.interaction_ids for child in store.children(member)}
    found = store.load(Rule, sorted(child for child in children if child.startswith("rule-")))
    merged = [rule for rule in found if rule.merged_from]
    # A later cycle merges the same rules and more into a new record; its state holds.
    newest = [r for r in merged if not any(set(r.merged_from) < set(other.merged_from) for other in merged)]
    active = [rule for rule in newest if rule.state in ACTIVE]
    active.sort(key=lambda rule: (rule.state != "pinned", -rule.distinct_users, -len(rule.interaction_ids), rule.id))
    return tuple(dict.fromkeys(rule.text for rule in active))[:MOST_RULES]


def with_rules(body: Mapping[str, Json], rules: tuple[str, ...]) -> dict[str, Json]:
    """The body with the rules at the end of its system message, or as a system message of their own that comes first.

    Everything else stays, streaming and tools too.
    """
    messages = body.get("messages")
    if not rules or not isinstance(messages, list):
        return dict(body)
    text = render("follow", language_of(last_user_text(body)), rules="\n".join(f"- {rule}" for rule in rules))
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") in SYSTEM:
            longer: Json = {**message, "content": _appended(message.get("content"), text)}
            return {**body, "messages": [*messages[:number], longer, *messages[number + 1 :]]}
    return {**body, "messages": [{"role": "system", "content": text}, *messages]}


def _appended(content: Json, text: str) -> Json:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{content}\n\n{text}" if content else text
