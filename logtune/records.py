"""Every record that crosses a stage boundary, frozen, in pipeline order.

    LogRecord, Feedback -> Interaction -> Signal -> Decision -> Rule -> PreferencePair -> Standing -> Cluster -> Gap
        -> Adapter -> Evaluation -> Verdict -> Deployment            (Failure: an item that a stage could not do)
    Evaluation -> Experiment -> Step -> Verdict -> Deployment        (where candidates are tested live)

Log records and feedback keep the id that the client knows. The id of a derived record is its kind and a hash of its
canonical content, so a second run writes nothing twice. Each record holds its parents' ids: lineage is a join.
Times are seconds since 1970 (UTC), durations carry their unit, shares lie in 0..1, a missing score is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Vector: TypeAlias = tuple[float, ...]

FeedbackKind = Literal["rating", "edit", "correction", "comment", "copy", "accept", "regenerate", "abandon"]
SignalKind = Literal[
    "rating", "edit", "correction", "complaint", "constraint", "reask", "doubt", "praise", "copy", "accept",
    "regenerate", "resend", "abandon", "quick_turn", "long_session",
]  # fmt: skip
Teaches = Literal["positive", "rule", "nothing"]
RuleState = Literal["active", "pinned", "vetoed", "expired"]
RuleAction = Literal["pin", "veto", "edit", "expire", "reset"]
PairOrigin = Literal["edit", "stated", "revised", "afresh", "on_policy", "propagated"]
Route = Literal["primary", "reflective"]
CandidateKind = Literal["base", "rules", "critic_prompt", "critic", "expert"]
AdapterKind = Literal["expert", "critic"]
Outcome = Literal["passed", "failed", "not_enough_data"]
Action = Literal["deploy", "keep", "rollback", "retire"]
StepAction = Literal["start", "ramp", "promote", "stop", "rollback", "end"]
UnitKind = Literal["user", "session", "request"]

DAY_S = 86_400.0
SHADOW = "shadow"  # source of answers that a candidate gave unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation; `content` is its text, parts that are not text left out."""

    role: str  # system, user, assistant or tool
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a request came into its arm: by lot, so what the arms make of their requests can be compared."""

    experiment: str  # id
    unit: UnitKind  # what drew the lot
    lot: float  # 0..1, the same for all requests of a unit
    propensity: float  # chance of this arm at that moment, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One call of the model as the gateway saw it, or as a file told it."""

    id: str  # known to the client: UUIDv7, or source and id when imported
    request: Mapping[str, Json]  # OpenAI chat request body
    response: Mapping[str, Json] | None  # OpenAI chat completion body; None: no answer was given
    at: float
    model: str = ""
    adapter: str | None = None  # adapter id that answered; None: the base model
    arm: str | None = None
    cluster: str | None = None  # where the router sent it; None: out of distribution
    user: str | None = None
    session: str | None = None
    user_source: str = ""  # where the gateway read the user: body.user, x-user-id...; "": none, or imported
    session_source: str = ""  # the same for the session; prefix: hash of the conversation's first messages
    source: str = "gateway"
    error: str | None = None  # why there is no answer
    route_reason: str = ""
    latency_ms: float | None = None
    usage: Mapping[str, Json] = field(default_factory=dict)
    traces: tuple[str, ...] = ()  # other ids its client knows it by: of the trace, span, message or request
    draw: Draw | None = None  # None: its arm was not drawn, all requests of its kind go there


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What somebody said or did about an answer. Stored by id: the same id again replaces it."""

    id: str
    target: str  # id of a log record, of a session or of a user
    at: float
    target_kind: Literal["record", "session", "user"] = "record"
    kind: FeedbackKind = "rating"
    value: float | None = None  # -1 bad .. 1 good; None: no rating, or revoked
    score: float | None = None  # a number as it was given, which says nothing yet: its range is not known
    comment: str | None = None
    correction: str | None = None  # the answer as it should have been
    source: str = "user"
    name: str = ""  # what was rated, where the client says it: accuracy, tone...; "": the answer as a whole
    user: str | None = None  # who said it; None: the user of the target
    supersedes: str | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """A user turn after an answer, and what the model said to it."""

    text: str
    answer: str | None
    log_id: str
    edited: str | None = None  # the earlier answer as the client sent it back, where it is not what the model said


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One query with its answer, what came before, and what the user said next."""

    id: str
    log_id: str  # parent
    context: tuple[Message, ...]  # everything before the query, the system prompt included
    query: str
    answer: str
    follow_ups: tuple[FollowUp, ...]
    feedback_ids: tuple[str, ...]
    user: str | None
    session: str | None
    adapter: str | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One reading of what a user thought of an answer."""

    id: str
    interaction_id: str  # parent
    feedback_id: str | None  # parent; None: read from the next turn
    kind: SignalKind
    polarity: float  # -1 bad .. 1 good
    confidence: float  # 0..1, the share of such readings that are right; of acts: of those beyond chance
    evidence: str  # the user's own words, the rating, or what was done
    correction: str | None  # the answer the user gave or named as right
    detector: str  # name and version of what read it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an interaction may teach, and why."""

    id: str
    interaction_id: str  # parent
    teaches: Teaches
    reason: str  # a code of stages.filter.REASONS
    scores: Mapping[str, float]  # what it rests on


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A short instruction that would have made answers better."""

    id: str
    text: str
    interaction_ids: tuple[str, ...]  # parents, the evidence
    signal_ids: tuple[str, ...]  # parents
    from_feedback: bool  # False: predicted without feedback
    covered: float | None  # 0..1, how far the model already knows it
    distinct_users: int
    state: RuleState = "active"
    merged_from: tuple[str, ...] = ()  # parents: single interactions' rules that say the same; empty: one of those


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """A better and a worse answer to the same prompt."""

    id: str
    interaction_id: str  # parent
    rule_ids: tuple[str, ...]  # parents: those of its own interaction before they were merged; propagated: of others
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    origin: PairOrigin
    margin: float | None  # judge's preference for chosen, 0..1; None: the user's own words
    votes: Mapping[str, Json] = field(default_factory=dict)  # origin -> preference; disagreement 0..1 on the chosen
    contrast: str = ""  # the base model's answer, where an adapter gave the rejected one; "": rejected is its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether what users said may be used, and on how many of them it rests."""

    id: str
    lesson_id: str  # parent: an interaction (all that its user said there), a merged rule, or a pair
    state: Literal["trusted", "held"]
    reason: str  # a code of stages.standing.REASONS
    users: int  # distinct users behind it who are believed; a burst counts as one
    scores: Mapping[str, float]  # what it rests on


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """A line of the rules ledger: what somebody decided about a rule. The newest line about a rule holds."""

    id: str
    action: RuleAction
    rule_id: str  # as it was then
    rule_text: str
    parts: tuple[str, ...]  # the single interactions' rules in it: a later cycle merges them into another record
    who: str
    at: float
    text: str = ""  # of edit: the new words
    until: float | None = None  # of expire: evidence up to here counts no more
    note: str = ""
    interaction_ids: tuple[str, ...] = ()  # what the rule rested on then; () in lines of earlier versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Interactions of one kind: what one adapter learns, and what the router sends to it."""

    id: str
    interaction_ids: tuple[str, ...]  # parents
    centroids: tuple[Vector, ...]  # unit vectors of the queries alone, one a topic inside the cluster
    radius: float  # cosine similarity to the nearest centroid below which a query is out of distribution
    label: str
    previous_id: str | None = None  # the cluster of an earlier cycle that this one continues
    name: str = ""  # stable over cycles


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far a cluster's lessons are from what the model knows."""

    id: str
    cluster_id: str  # parent
    rule_ids: tuple[str, ...]  # parents
    novelty: float | None  # 0 known .. 1 new; None: no rules to measure
    method: str
    route: Route
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A trained LoRA adapter, in our own store, safetensors only."""

    id: str
    cluster_id: str  # parent
    pair_ids: tuple[str, ...]  # parents: what it was trained on
    kind: AdapterKind
    base: str  # fingerprint of the base model
    rank: int
    parameters: int
    path: str  # relative to the adapter store
    sha256: str
    losses: tuple[float, ...]  # mean training loss of each epoch
    checks: Mapping[str, Json]  # what was checked, with the numbers
    epoch: int  # 1-based, which checkpoint this is
    previous_id: str | None = None  # parent: the adapter whose weights it went on from; None: it began anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A candidate against a baseline on held-out interactions."""

    id: str
    cluster_id: str  # parent
    candidate: CandidateKind
    adapter_id: str | None  # parent
    baseline: str  # adapter id, or the kind of a candidate without one, such as "base"
    interaction_ids: tuple[str, ...]  # parents: the held-out cases
    cases: int
    wins: int
    ties: int
    win_rate: float | None  # 0..1, ties count half
    lower: float | None
    upper: float | None
    guards: Mapping[str, Json]
    outcome: Outcome
    reason: str
    rule_ids: tuple[str, ...] = ()  # parents: the rules that were in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an experiment decided."""

    id: str
    cluster_id: str
    evaluation_id: str  # parent
    adapter_id: str | None
    arms: Mapping[str, Json]
    effect: float | None
    lower: float | None
    upper: float | None
    decision: Literal["promote", "extend", "stop", "rollback"]
    reason: str
    code: str = ""  # of the reason: stages.live.CODES of a live test, stages.experiment.CODES of a gate
    experiment_id: str | None = None  # parent; None: decided by the gate alone
    receipt: Mapping[str, Json] = field(default_factory=dict)  # what was compared, with all numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A live test: a candidate against what serves a cluster, on users drawn by lot."""

    id: str
    cluster_id: str  # parent
    evaluation_id: str  # parent: the gate that it passed
    adapter_id: str | None  # parent; None: a candidate without one
    baseline_id: str | None  # parent: the deployment that it has to beat; None: the base model
    cluster_name: str
    candidate: CandidateKind
    attempt: int  # 1-based, of this cluster
    plan: Mapping[str, Json]  # its settings, declared before it began
    config_hash: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was done with a live test, by whom and why. The newest step that has come into force holds."""

    id: str  # of the experiment and the number: of two steps made at once, the first one holds
    experiment_id: str  # parent
    number: int  # 0-based
    action: StepAction
    share: float  # of the units that get the candidate from then on, 0..1
    since: float  # when it comes into force; a little ahead, so that all processes know it by then
    verdict_id: str | None  # parent; None: no verdict was asked for
    by: str  # loop, guard, or who did it by hand
    reason: str
    at: float
    code: str = ""  # of the reason: of the verdict; of the first step, of the gate's


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Which candidate serves a cluster from now on. The newest one of a cluster name holds; older ones are kept."""

    id: str
    cluster_id: str  # parent
    cluster_name: str
    candidate: CandidateKind
    adapter_id: str | None  # None: the base model
    verdict_id: str | None  # parent; None: by hand
    previous_id: str | None
    action: Action
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An item that a stage could not do: kept, counted, never a score or an answer."""

    id: str
    record_id: str  # parent: the item
    stage: str
    error: str  # class of the error
    reason: str


Derived: TypeAlias = (
    Interaction | Signal | Decision | Rule | PreferencePair | Standing | Cluster | Gap | Adapter | Evaluation | Verdict
    | Experiment | Step | Deployment | Failure
)  # fmt: skip
Record: TypeAlias = LogRecord | Feedback | Derived
