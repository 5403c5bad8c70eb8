"""Settings of the gate: who of the users decides, and what a candidate must reach."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from logtune.config_gateway import Positive, Settings, Share


class EvaluateSettings(Settings):
    """The gate."""

    selection_share: Share = 0.05
    """Share of users whose interactions choose the checkpoint; where these are fewer than ten of the new ones, they
    confirm and the last one is taken."""
    confirmation_share: Share = 0.2
    """Share of users whose interactions confirm it, once."""
    most_confirmation: Share = 0.4
    """Share of new users who confirm, at most, where `confirmation_share` of them are too few to decide anything."""
    test_then_train: bool = False
    """Users who have voted on what was proven train from the next cycle on, where enough new ones can vote; else a user
    has the same side in all cycles."""
    min_cases: Positive = 8
    """Fewer confirmation cases decide nothing (not_enough_data)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the interval, and of the lower bound that must be above 0.5: of candidates that are no better 1 - confidence
    pass, at most."""
    hoped_win_rate: Share = 0.9
    """Win rate of a candidate worth training for: users' own corrections, once learned, win about so often."""
    min_power: Share = 0.25
    """Least chance to prove such a candidate on the users there are; with less, nothing is trained."""
    min_win_rate: Share = 0.53
    """Least win rate (paper, section 4)."""
    rule: Literal["bound", "rate"] = "bound"
    """bound: the lower bound must be above 0.5 too; rate: the win rate alone decides (paper)."""
    unit: Literal["user", "case"] = "user"
    """What has one vote: a user (else a session, else a case), or each case (paper)."""
    min_length_ratio: Share = 0.1
    """Shorter answers than this share of the baseline's or reference's count as lost (paper)."""
    min_bleu: Share = 0.0
    """Answers with a lower BLEU against the baseline's count as lost (paper 0.05); 0 checks nothing."""
    max_degenerate: Share = 0.05
    """Largest share of empty or repeating answers above the baseline's, unless chance can do it; 1 checks nothing."""
    judge_samples: Positive = 1
    """Verdicts of the judge on each case without a user's own answer, in both orders each (paper 3)."""
    max_tokens: Positive = 256
    """Longest answer in an evaluation when the log names none."""

    @model_validator(mode="after")
    def _somebody_trains(self) -> Self:
        if self.selection_share + self.confirmation_share >= 1:
            shares = f"selection_share {self.selection_share} and confirmation_share {self.confirmation_share}"
            raise ValueError(f"evaluate.{shares} leave nobody to train on; together they must be below 1")
        return self
