"""The operation on tensors behind `ranks.gathered`, apart from it, since it needs torch to be defined.

Shapes: n rows of each process, N of all.
"""

from typing import Any

import torch
from torch import Tensor, distributed


class Gathering(torch.autograd.Function):
    """The rows of all processes, one after the other, of which each has a number of its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        """(N, ...) of this process's (n, ...) and `counts`, the n of each process."""
        ctx.first, ctx.count = sum(counts[:rank]), counts[rank]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(n, ...), summed over the processes, each of which made something of these rows."""
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed[ctx.first : ctx.first + ctx.count], None, None
