"""Training in fewer operations: the same numbers as PEFT's layers give."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
peft = pytest.importorskip("peft", reason="needs the extra train")

from torch import nn  # noqa: E402
from torch.backends import cuda  # noqa: E402

from logtune.stages.lean_lora import SHORT, attention, make_lean  # noqa: E402


class Block(nn.Module):
    """Two layers and a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 48, bias=False), nn.Linear(48, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.up(x)))


def tuned(dtype: torch.dtype = torch.bfloat16, dropout: float = 0.0) -> "peft.PeftModel":
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules=["up", "down"])
    model = peft.get_peft_model(Block().to(dtype), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def passed(model: "peft.PeftModel", x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output, and the gradients of all weights that train."""
    model.zero_grad()
    out = model(x)
    out.float().pow(2).mean().backward()
    return out.detach().float(), {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def test_outputs_and_gradients_are_those_of_peft_but_for_rounding() -> None:
    plain, lean = tuned(), tuned()
    assert make_lean(lean) == 2
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    (wanted, steps), (found, mine) = passed(plain, x), passed(lean, x)
    assert (found - wanted).norm() / wanted.norm() < 0.01
    assert set(mine) == set(steps) == {name for name, _ in plain.named_parameters() if "lora" in name}
    for name, gradient in steps.items():
        assert mine[name].dtype == torch.float32
        assert (mine[name] - gradient).norm() / gradient.norm() < 0.02, name


def test_the_adapter_counts_and_switched_off_the_base_answers_alone() -> None:
    lean = tuned()
    make_lean(lean)
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    with torch.no_grad():
        on = lean(x)
        with lean.disable_adapter():
            off = lean(x)
        assert torch.equal(off, Block.forward(unwrapped(), x))
    assert (on - off).abs().max() > 0.05


def unwrapped() -> Block:
    torch.manual_seed(0)
    return Block().to(torch.bfloat16)


def test_it_is_saved_as_any_adapter(tmp_path: Path) -> None:
    lean = tuned()
    make_lean(lean)
    lean.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(unwrapped(), str(tmp_path))
    x = torch.randn(4, 32).to(torch.bfloat16)
    with torch.no_grad():
        assert (again(x) - lean(x)).abs().max() < 0.05


@pytest.mark.parametrize("other", [{"dtype": torch.float32}, {"dropout": 0.1}])
def test_other_layers_stay_as_they_are(other: dict[str, object]) -> None:
    assert make_lean(tuned(**other)) == 0  # type: ignore[arg-type]


def test_only_short_rows_attend_by_plain_products() -> None:
    short, long = torch.zeros(2, SHORT), torch.zeros(2, SHORT + 1)
    with attention(short, checkpointed=False):
        assert not cuda.flash_sdp_enabled()
    with attention(long, checkpointed=False):
        assert cuda.flash_sdp_enabled()
    with attention(short, checkpointed=True):
        assert cuda.flash_sdp_enabled()
