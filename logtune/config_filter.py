"""Settings of the filter: what an interaction may teach, and where each class of noise begins."""

from typing import Annotated, Literal

from pydantic import Field

from logtune.config_gateway import Count, Positive, Settings, Share


class FilterSettings(Settings):
    """What an interaction may teach."""

    min_chars: Count = 8
    """Shorter queries teach nothing (too_short)."""
    max_chars: Positive = 8000
    """Longer queries or answers teach nothing (too_long)."""
    jailbreak: Share = 0.5
    """Score from which on a query that talks the model out of its rules teaches nothing; 1: never."""
    prompt_injection: Share = 0.5
    """The same for a query that overrides instructions or draws out secrets."""
    harmful_request: Share = 0.5
    """The same for a query that asks for help with harm or crime."""
    toxic: Share = 0.5
    """The same for abuse, hate and pornography."""
    spam: Share = 0.5
    """The same for advertising."""
    suspect: Share = 0.3
    """Score of an attack from which on praise teaches nothing, and a refusal is taken to be right."""
    false_positives: Share = 0.0
    """Above 0: each cycle moves the five scores above so that about this share of ordinary traffic is flagged."""
    languages: tuple[str, ...] = ()
    """Languages served, such as ["en", "de"]; queries in others teach nothing. Empty: all."""
    duplicate_similarity: Share = 0.98
    """Queries of the same user this similar (cosine) are duplicates."""
    near_copy: Share = 0.85
    """Queries of the same user with so large a share of equal 5-grams are near copies."""
    off_topic: Literal["auto", "off"] = "auto"
    """auto: queries far from what most users of this deployment ask teach nothing."""
    off_topic_z: Annotated[float, Field(gt=0)] = 3.0
    """How many robust standard deviations below the median closeness of benign traffic is off topic."""
    off_topic_min_logs: Positive = 40
    """Fewer interactions than this say too little of what the deployment is for."""
    max_answer_nll: Annotated[float, Field(gt=0)] = 6.0
    """Answers with a higher mean negative log-likelihood (nats a token) under the served model are no positives."""
    personal_data: Literal["drop", "keep"] = "drop"
    """drop: interactions with card numbers, addresses or identity numbers teach nothing."""
