"""Batches without padding: the tokens of all texts in one row, and attention that stays within each text.

Shapes: B texts, T tokens of the longest, K tokens of all, H hidden size.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from numpy import ndarray
from torch import Tensor, nn
from torch.backends.cuda import is_flash_attention_available
from torch.nested import nested_tensor_from_jagged
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"
"""What the attention is called in a model's config."""
HALF = (torch.bfloat16, torch.float16)
HEAD_UNIT = 8
"""What flash attention takes: states in half precision, and a head's size that is a multiple of so many."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch lie.

    Attributes:
        places: (K,) of each token among the B T positions, row by row.
        offsets: (B + 1,) where each text begins among the K tokens; K at the end.
        longest: a power of two of tokens that no text has more of, so that what is compiled sees few numbers.
        shortest: in tokens.
    """

    places: Int64[Tensor, " K"]
    offsets: Int32[Tensor, " B_and_1"]
    longest: int
    shortest: int

    @classmethod
    def of(cls, present: Bool[ndarray, "B T"]) -> "Packing":
        """Of a batch that has tokens where `present` says so: known on the CPU, so that a GPU need not be asked."""
        lengths = present.sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        places = torch.from_numpy(np.flatnonzero(present))
        longest = 1 << (int(lengths.max()) - 1).bit_length()
        return cls(places, torch.from_numpy(offsets), longest, int(lengths.min()))

    def to(self, device: torch.device) -> "Packing":
        """The same on a device; Lightning moves batches by this, and says how to copy to tensors alone."""
        places, offsets = (part.to(device, non_blocking=device.type == "cuda") for part in (self.places, self.offsets))
        return Packing(places, offsets, self.longest, self.shortest)

    def pin_memory(self) -> "Packing":
        """The same in memory that a GPU copies from while it computes; the loader asks for this."""
        return Packing(self.places.pin_memory(), self.offsets.pin_memory(), self.longest, self.shortest)

    def packed(self, padded: Int64[Tensor, "B T"]) -> Int64[Tensor, "1 K"]:
        """The tokens of a padded batch in one row."""
        return padded.flatten().index_select(0, self.places).unsqueeze(0)

    def padded(self, packed: Float[Tensor, "1 K H"], shape: torch.Size) -> Float[Tensor, "B T H"]:
        """States of the tokens where they were in the padded batch of `shape` (B, T); 0 at padding."""
        empty = packed.new_zeros(shape.numel(), packed.shape[-1])
        return empty.index_copy(0, self.places, packed[0]).view(*shape, -1)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "B heads T D"],
    key: Float[Tensor, "B heads T D"],
    value: Float[Tensor, "B heads T D"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' models: within each text of a packed row, or with `packing` None as sdpa.

    On a GPU in half precision by flash attention itself (Dao 2023), which is told where texts begin; nested tensors,
    which lead there too, spent over half of a step of bert-base on the CPU. Else by these.

    Args:
        module: the layer's attention.
        query, key, value: of one row (B = 1, T = K) where `packing` is given.
        attention_mask: None there.
        dropout: of the weights.
        scaling: what scores are multiplied by; None for 1 / sqrt(D).
        packing: where texts begin.
        kwargs: what else transformers tells an attention.

    Returns:
        (B, T, heads, D), and None in place of the weights.
    """
    if packing is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    if flash_takes(query.dtype, query.shape[-1], query.device):
        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
        ends = (packing.offsets, packing.offsets, packing.longest, packing.longest)
        (attended, *_) = torch.ops.aten._flash_attention_forward(
            queries, keys, values, *ends, dropout, False, False, scale=scaling
        )
        return attended.unsqueeze(0), None
    queries, keys, values = (_by_text(states, packing) for states in (query, key, value))
    output = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).values().unsqueeze(0), None


def flash_takes(dtype: torch.dtype, head_size: int, device: torch.device) -> bool:
    """Whether attention in `dtype`, with heads of `head_size`, is computed by flash attention on a device."""
    return dtype in HALF and head_size % HEAD_UNIT == 0 and has_flash(device)


@cache
def has_flash(device: torch.device) -> bool:
    """Whether torch's flash attention runs there: on GPUs from NVIDIA's Ampere on, with a torch that has it, and on
    `meta` as on these."""
    if device.type != "cuda":
        return device.type == "meta"
    is_nvidia = torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0) and is_flash_attention_available()


def _by_text(states: Float[Tensor, "1 heads K D"], packing: Packing) -> Tensor:
    """(B, heads, T, D), T other for each text."""
    rows = states[0].transpose(0, 1)
    jagged: Tensor = nested_tensor_from_jagged(
        rows, packing.offsets.long(), min_seqlen=packing.shortest, max_seqlen=packing.longest
    )
    return jagged.transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
