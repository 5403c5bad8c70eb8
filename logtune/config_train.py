"""Settings of training: the adapter's size, its course, its limits, and how it is spread over hardware."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from logtune.config_gateway import Count, Positive, Settings, Share


class TrainSettings(Settings):
    """How adapters are trained."""

    budget: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Parameters of all live adapters of a project as a share of the base model's."""
    max_rank: Positive = 16
    """Highest rank; the rank is the highest power of two that the budget allows."""
    target_modules: Literal["all-linear", "attention"] = "all-linear"
    """Layers that get a LoRA."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls."""
    epochs: Positive = 8
    """Passes over the pairs, a checkpoint each; fewer where they would take more than `steps`."""
    steps: Positive = 400
    """Few pairs need many passes, many pairs few: passes beyond the third are made while they fit into these steps."""
    batch: Positive = 4
    """Pairs in one step. Few pairs need many steps: with 45 of them 4 taught ten points more than 8 did."""
    alpha_over_rank: Annotated[float, Field(gt=0)] = 2.0
    """lora_alpha divided by the rank."""
    dropout: Share = 0.0
    """LoRA dropout."""
    noising: Share = 0.0
    """Share of a request's words that each pass replaces by words of other requests, where several requests have the
    same right answer, as labels do; for experts. 0.15 learns labels better and forgets more of all else."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """DPO's beta."""
    sft_weight: Share = 0.5
    """Weight of the likelihood of chosen; DPO has the rest."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_prompt_tokens: Positive = 1024
    """Pairs with a longer prompt are left out and counted."""
    max_answer_tokens: Positive = 512
    """Pairs with a longer answer are left out and counted."""
    min_pairs: Positive = 8
    """Fewer pairs train nothing."""
    unfaded_pairs: Count = 300
    """So many pairs of a cluster all train, however old; of more the older ones fade by trust.half_life_days."""
    max_pairs: Positive = 2000
    """Pairs that train one adapter, at most; of more, newer ones are likelier to."""
    go_on: Share = 0.0
    """Share of new pairs up to which the next adapter goes on from the one that serves, on the new pairs and as many
    old ones; with more, or where something it has learned is believed no more, one is trained anew. 0: always anew."""
    go_on_times: Count = 3
    """So often in a row at most."""
    seed: int = 0
    """Seed of shuffling and initial weights."""
    processes: Positive = 1
    """Processes that share a training, a GPU each; `batch` is divided among them, rounded up."""
    gradient_checkpointing: bool = False
    """True: less memory for more time; for large models on a GPU."""
    accelerate: str | dict[str, JsonValue] | None = None
    """accelerate's settings (split_batches, even_batches, gradient_accumulation_kwargs...): a JSON file, or a table."""
    deepspeed: str | dict[str, JsonValue] | None = None
    """DeepSpeed's settings, such as a ZeRO stage: a JSON file, or a table; needs the package deepspeed and a GPU."""
