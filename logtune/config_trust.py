"""Settings of trust: how far one user, or a few who act together, can move what is learned."""

from typing import Annotated

from pydantic import Field

from logtune.config_gateway import Positive, Settings, Share

Above = Annotated[float, Field(gt=0)]


class TrustSettings(Settings):
    """How far one user, or a few who act together, can move what is learned."""

    enabled: bool = True
    """False: every user is believed, and one may teach as much as they like; for comparisons alone."""
    half_life_days: Annotated[float, Field(ge=0)] = 180.0
    """Evidence that is older than the newest by so much counts half: in whose word holds, and in which of many pairs
    train (train.unfaded_pairs). 0: old evidence counts as much as new."""
    min_users: Positive = 2
    """Distinct users behind a rule before it enters a prompt; a pinned rule needs none."""
    min_users_trained: Positive = 1
    """Distinct users behind a rule, a right answer too, before its lessons train an adapter. 1 suits few users and free
    answers, which are each given once; 2 or more where answers come from a fixed list or strangers can sign up."""
    most_of_typical: Annotated[float, Field(ge=1)] = 3.0
    """Pairs of one user that train a cluster: at most so many times what its typical (median) user gives."""
    most_of_cluster: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of a cluster's pairs that may be one user's, where it has others."""
    always_allowed: Positive = 3
    """Pairs of one user that train a cluster whatever the two caps say."""
    neighbours: Positive = 5
    """Other users, those with the most similar requests, that may contradict an answer."""
    agreement: Annotated[float, Field(gt=0.5, le=1)] = 0.6
    """Share of these neighbours' weight that must stand behind one other answer."""
    unheard: Positive = 20
    """Wider circle of users around an answer; with fewer other users nobody is contradicted."""
    heard: Share = 0.02
    """Share of that circle's weight behind an answer above which it is not contradicted."""
    prior: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    """How often a user of whom nothing is known yet is taken to be right."""
    unbelieved_after: Positive = 3
    """Words of a user that others speak about too; where most of so many lose, nothing of theirs is believed."""
    prior_weight: Above = 2.0
    """How many readings this assumption weighs."""
    change_users: Positive = 5
    """Users who must have named a new answer, and hardly anybody the old one, for the facts to have changed."""
    change_days: Above = 2.0
    """... and days over which they must have done so."""
    burst_minutes: Above = 60.0
    """The same words of different users about nearly the same request within so many minutes are a burst."""
    burst_users: Positive = 4
    """Users that make a burst; together they count as one."""
    burst_similarity: Share = 0.95
    """Cosine from which two requests are nearly the same."""
    related: Share = 0.5
    """Cosine from which two rules that contradict each other are about requests of one kind."""
