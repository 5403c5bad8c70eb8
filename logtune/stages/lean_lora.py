"""Training on a processor in fewer operations: PEFT's LoRA layers without copies of their input, and short attention.

y = W x + (s B)(A x): over a bfloat16 base the two small products are bfloat16 too, and the second adds itself to the
first term. The adapter's weights, their gradients' sums and the optimiser stay float32. On a GPU nothing is changed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear as LoraLinear

SHORT, ALONE = 192, 512  # tokens of several rows, and of one, up to which plain products are faster (docs/log.md)


def make_lean(model: torch.nn.Module) -> int:
    """Replace the forward of each plain LoRA layer over a bfloat16 layer on the processor; how many those are."""
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _plain(module)]
    for layer in layers:
        layer.forward = _forward(layer)  # type: ignore[method-assign]  # for this module alone
    return len(layers)


def _plain(layer: "LoraLinear") -> bool:
    """Whether y = W x + s B A x is all that the layer computes."""
    weight, names = layer.get_base_layer().weight, layer.active_adapters
    return (
        len(names) == 1
        and weight.dtype is torch.bfloat16
        and weight.device.type == "cpu"
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[names[0]], torch.nn.Identity)
        and layer.lora_B[names[0]].bias is None
    )


def _forward(layer: "LoraLinear") -> Callable[..., torch.Tensor]:
    original = cast("Callable[..., torch.Tensor]", layer.forward)
    (name,) = layer.active_adapters

    def forward(self: "LoraLinear", x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if self.disable_adapters or self.merged or args or kwargs:  # the reference, and what only PEFT knows
            return original(x, *args, **kwargs)
        base = cast("torch.Tensor", self.base_layer(x))
        down = cast("torch.Tensor", self.lora_A[name].weight).to(x.dtype)
        up = (cast("torch.Tensor", self.lora_B[name].weight) * self.scaling[name]).to(x.dtype)
        both = torch.addmm(base.flatten(0, -2), linear(x, down).flatten(0, -2), up.t())
        return both.view_as(base)

    return MethodType(forward, layer)


def attention(ids: torch.Tensor, *, checkpointed: bool) -> AbstractContextManager[None]:
    """How rows of tokens (B, T) attend: the fused kernel's way back is slow on a processor when they are short.

    `checkpointed`: what a layer computed is computed again on the way back, outside of this, so by the usual kernel.
    """
    short = ids.device.type == "cpu" and not checkpointed and ids.shape[1] <= (SHORT if ids.shape[0] > 1 else ALONE)
    return cast("AbstractContextManager[None]", sdpa_kernel([SDPBackend.MATH])) if short else nullcontext()
