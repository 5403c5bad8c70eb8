"""Settings of live tests: whether there are any, how the candidate's share grows, what decides, and what ends one."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from logtune.config_gateway import Count, Positive, Seconds, Settings, Share

Metric = Literal["satisfied", "thumbs", "reask", "edit"]
Hours = Annotated[float, Field(gt=0)]
Days = Annotated[float, Field(gt=0)]


class ExperimentSettings(Settings):
    """The live test of a candidate that has passed its gate."""

    mode: Literal["off", "shadow", "ab"] = "off"
    """off: what passed its gate serves at once; shadow: it first answers unseen, beside what serves; ab: it must win a
    live A/B test on real users. logtune simulate tells how many users that takes."""
    metric: Metric = "satisfied"
    """What decides, declared beforehand, by user: satisfied: share of answers without a dissatisfied reaction; thumbs:
    mean rating; reask: share of answers after which the same was not asked again; edit: how much of an accepted answer
    was left as it was."""
    window_hours: Hours = 24.0
    """How long after a user's first request their reactions count; then the user enters the comparison, once."""
    ramp: tuple[Share, ...] = (0.05, 0.2, 0.5)
    """Shares of the users who get the candidate, one step after the other."""
    ramp_users: tuple[Positive, ...] = (20, 80)
    """Users who must have had the candidate, and whose windows must be over, before each step but the first."""
    max_waiting: Positive = 60
    """Users who may have the candidate while their outcomes are not known: where more would come within a window, the
    share is smaller. It doubles with the users whose outcomes are known, as long as these tell nothing against it."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """A candidate that is as good as what serves is promoted or rolled back with at most the rest of this chance."""
    max_users: Positive = 20_000
    """Users after whom a test that has decided nothing ends, and what served serves on; counted as of even arms: who
    comes while the share is small tells less and counts for less."""
    max_days: Days = 56.0
    """Days after which it ends so."""
    begin_unprovable: bool = False
    """Begin a test also where the expected gain and the traffic say that it can never show anything in time."""
    hold_back: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """Share of the users who keep what served before for a while after a promotion; 0 watches nothing."""
    watch_days: Days = 7.0
    """How long the candidate is watched against them."""
    max_error_rate: Share = 0.02
    """Failed requests that the candidate may have beyond the base's share of them; more rolls it back at once."""
    max_slow_rate: Share = 0.1
    """Share of the candidate's answers that may be slower than `slow_factor` times the base's 95th percentile."""
    slow_factor: Annotated[float, Field(ge=1)] = 1.5
    """That factor; for candidates that take several calls an answer it is multiplied by their number."""
    max_odd_length: Share = 0.2
    """Empty or overlong answers beyond the base's; overlong: above `long_factor` times its 95th percentile."""
    long_factor: Annotated[float, Field(ge=1)] = 2.0
    """That factor."""
    max_refusals: Share = 0.05
    """Refusals beyond the base's share of them."""
    max_complaints: Share = 0.1
    """Answers that met with a complaint or a bad rating, beyond the base's share of them."""
    shadow_answers: Positive = 200
    """Answers in the shadow after which a candidate that broke no guard goes on."""
    shadow_per_minute: Positive = 30
    """Most answers in the shadow, of one process."""
    backoff_days: Annotated[float, Field(ge=0)] = 7.0
    """After a test that was lost, a cluster's next one waits so long; each loss in a row doubles it."""
    backoff_max_days: Days = 112.0
    """Longest such wait."""
    look_s: Seconds = 60.0
    """How often `logtune serve` looks at its tests, whatever the mode: it is for those that begin."""
    keep_looking: Count = 1
    """0: logtune serve does not look; logtune experiments look does, called by a timer of yours."""

    @model_validator(mode="after")
    def _climbs(self) -> Self:
        if not self.ramp or list(self.ramp) != sorted(set(self.ramp)) or not 0 < self.ramp[0] <= self.ramp[-1] <= 0.5:
            raise ValueError("experiment.ramp must rise, from above 0 to 0.5 at most")
        if len(self.ramp_users) != len(self.ramp) - 1 or list(self.ramp_users) != sorted(set(self.ramp_users)):
            raise ValueError("experiment.ramp_users needs one number less than experiment.ramp, each above the last")
        return self
