"""The gradient of word embeddings on a CPU, row by row, where a batch reads a few of many rows.

torch fills a table of the vocabulary's size with zeros each step, which takes a tenth of a fine-tuning step of minilm
on 16 short texts. Here the table is kept from step to step, and the rows that a step has written are zeroed after it.

Shapes: V word pieces, H hidden size, P word pieces of a batch; `...` stands for any dimensions.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class RowsEmbedding(nn.Embedding):
    """`nn.Embedding` whose gradient goes to `weight.grad` past autograd; `clear` is called in place of setting that to
    None."""

    written: list[Int[Tensor, " P"]]

    def forward(self, input: Int[Tensor, "..."]) -> Float[Tensor, "... H"]:
        """Rows of the table."""
        if not (self.training and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        found: Tensor = _Rows.apply(self.weight, input, self)  # type: ignore[no-untyped-call]
        return found

    def add(self, ids: Int[Tensor, "..."], gradient: Float[Tensor, "... H"]) -> None:
        """Add the gradient of these rows; padding has none."""
        rows, parts = ids.flatten(), gradient.reshape(-1, self.embedding_dim)
        if self.padding_idx is not None:
            real = rows != self.padding_idx
            rows, parts = rows[real], parts[real]
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, rows, parts)
        self.written.append(rows)

    def clear(self) -> Float[Tensor, "V H"] | None:
        """The gradient as it is before a step: all zero; None where there was none yet."""
        for rows in self.written:
            assert self.weight.grad is not None
            self.weight.grad.index_fill_(0, rows, 0.0)
        self.written = []
        return self.weight.grad


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Float[Tensor, "V H"], ids: Int[Tensor, "..."], embedding: RowsEmbedding
    ) -> Float[Tensor, "... H"]:
        ctx.ids, ctx.embedding = ids, embedding
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "... H"]) -> tuple[None, None, None]:
        ctx.embedding.add(ctx.ids, gradient)
        return None, None, None


def kept_by_rows(embedding: nn.Module) -> RowsEmbedding | None:
    """The same embedding, changed in place to keep its gradient so; None if it is no plain one."""
    if type(embedding) is not nn.Embedding or embedding.scale_grad_by_freq or embedding.max_norm is not None:
        return None
    embedding.__class__ = RowsEmbedding
    assert isinstance(embedding, RowsEmbedding)
    embedding.written = []
    return embedding
