"""Computing each prompt once changes no number: log-probabilities, loss and gradients are TRL's own."""

import random
from pathlib import Path

import pytest

from logtune.testing import tiny_model

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("trl", reason="needs the extra 'train'")


def batch(pairs: int, seed: int, alike: int = 0) -> dict[str, "torch.Tensor"]:
    """A right-padded DPO batch with prompts and answers of many lengths; some answers are a single token.

    `alike`: so many tokens begin every prompt, and one prompt has no others.
    """
    draw, rows, masks, labels = random.Random(seed), [], [], []
    first = [draw.randint(3, 200) for _ in range(alike)]
    prompts = [first + [draw.randint(3, 200) for _ in range(draw.randint(1, 12))] for _ in range(pairs)]
    prompts[0] = first or prompts[0]
    for _ in range(2):
        for prompt in prompts:
            answer = [draw.randint(3, 200) for _ in range(draw.randint(1, 7))]
            rows.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer)
    width = max(map(len, rows))
    masks = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {
        "input_ids": torch.tensor([row + [2] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor(masks),
        "labels": torch.tensor([row + [-100] * (width - len(row)) for row in labels]),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alike", [0, 9])
def test_numbers_and_gradients_are_those_of_trl(tmp_path: Path, seed: int, alike: int) -> None:
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from logtune.stages.shared_prompt import share_prompts

    folder, found = tiny_model(tmp_path), []
    for shared in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        if shared:
            share_prompts(model)
        output = model(**batch(3, seed, alike), fused_lm_head=True, use_cache=False)
        output.log_probs.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((output.log_probs, output.entropy, output.mean_logits, output.is_top1.float(), gradient))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4)  # float32 sums in another order


def test_pairs_whose_prompts_begin_alike_are_one_row_unless_that_row_is_long() -> None:
    from logtune.stages.shared_prompt import ONE_ROW, pack

    def shape(pairs: int, alike: int) -> tuple[int, ...]:
        made = batch(pairs, 1, alike)
        return tuple(pack(made["input_ids"], made["attention_mask"], made["labels"]).ids.shape)

    assert shape(4, 20)[0] == 1
    assert shape(4, 20)[1] <= 20 + 4 * (12 + 7 + 7)
    assert shape(4, 0)[0] == 1  # without padding it is shorter, too
    assert shape(1, 20)[0] == 1
    assert shape(40, ONE_ROW)[0] == 40


def test_other_calls_stay_as_they_were(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from logtune.stages.shared_prompt import share_prompts

    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    share_prompts(model)
    assert torch.equal(model(input_ids=ids).logits, before)
