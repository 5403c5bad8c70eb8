"""Settings of how feedback is read."""

from typing import Literal, Self

from pydantic import model_validator

from logtune.config_gateway import Settings, Share


class SignalSettings(Settings):
    """How feedback is read."""

    min_confidence: Share = 0.5
    """Readings below this teach nothing."""
    detector: Literal["auto", "fast", "wording"] = "auto"
    """auto: turns after an answer are read by the packaged detector, where its embedder is the one in use; fast: by one
    over a small copy of the embedder, a little less exact and many times as fast; wording: by patterns of words."""
    ask_teacher: bool = False
    """Ask the teacher about turns of which the detector is unsure. Needs teacher.url."""
    unsure_from: Share = 0.2
    """Least share of feedback, as the detector sees it, of a turn that the teacher is asked about."""
    unsure_to: Share = 0.7
    """Share from which the detector is sure."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.unsure_from > self.unsure_to:
            raise ValueError(f"signals.unsure_from {self.unsure_from} is above signals.unsure_to {self.unsure_to}")
        return self
