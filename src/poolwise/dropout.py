"""Dropout on a CPU, several times as fast as torch's: 16 random bits an element, four elements to a draw.

torch draws each element's fate alone, by one thread: of a step of minilm in bf16 that took 22 %, and attention with
dropout, which torch computes in fp32 there, another 15 % at 28 tokens a text and 35 % at 250.

Shapes: B texts, T tokens, D size of a head; `...` stands for any dimensions.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

QUICK = "quick_dropout"
"""What the attention is called in a model's config."""
VALUES = 2**16
"""Of the bits of an element: a probability is taken to the nearest of their shares."""
PER_DRAW = 4
"""Elements to 64 random bits."""


def dropped(states: Float[Tensor, "..."], probability: float) -> Float[Tensor, "..."]:
    """States of which each is 0 with `probability`, and else scaled so that the mean stays (Srivastava et al. 2014).

    The bits are drawn from torch's global generator.
    """
    zeroed = round(probability * VALUES)
    if zeroed == VALUES:
        return states * 0
    draws = torch.empty(-(-states.numel() // PER_DRAW), dtype=torch.int64)
    draws.random_(torch.iinfo(torch.int64).min, None)  # over all 64 bits
    bits = draws.view(torch.int16)[: states.numel()].view(states.shape)
    kept = bits.ge_(zeroed - VALUES // 2).to(states.dtype)
    return states * kept.mul_(VALUES / (VALUES - zeroed))


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropped`."""

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop while training."""
        return dropped(input, self.p) if self.training and self.p else input


def attention(
    module: nn.Module,
    query: Float[Tensor, "B heads T D"],
    key: Float[Tensor, "B heads T D"],
    value: Float[Tensor, "B heads T D"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T heads D"], None]:
    """Attention for transformers' models: as sdpa without dropout, and with it by `dropped`, the softmax in fp32.

    Args:
        module: the layer's attention.
        query, key, value: states.
        attention_mask: (B, 1, T, T), true where a key is seen, or added to scores; None where all are seen.
        dropout: of the weights.
        scaling: what scores are multiplied by; None for 1 / sqrt(D).
        kwargs: what else transformers tells an attention.
    """
    if not dropout:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (dropped(weights, dropout) @ value).transpose(1, 2).contiguous(), None


def drop_quickly(module: nn.Module) -> None:
    """Have all dropout of a module, in its encoders' attention too, drawn by `dropped`; for training on a CPU."""
    for parent in list(module.modules()):
        if isinstance(parent, PreTrainedModel) and parent.config._attn_implementation == "sdpa":
            parent.set_attn_implementation(QUICK)
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))


AttentionInterface.register(QUICK, attention)
AttentionMaskInterface.register(QUICK, sdpa_mask)
