"""Sentence representations: from hidden states and pooler to one vector per text. One class each.

Shapes: B texts, T tokens, H hidden size, D vector size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from poolwise.encoder import draw_dense
from poolwise.settings import UserError

HiddenStates = Sequence[Float[Tensor, "B T H"]]
Pooler = Callable[[Float[Tensor, "B T H"]], Float[Tensor, "B H"]]


class Representation(nn.Module, ABC):
    """The map from hidden states, mask and pooler to one vector per text. A subclass enters `REPRESENTATIONS`.

    Attributes:
        name: as in `repr=`.
        formula: what is computed, kept in each run record, because names differ between systems.
        uses_pooler: whether the encoder's pooler is read; where it is not, stage 2 trains without one.
        dimension: D, the size of the vector.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    uses_pooler: ClassVar[bool] = False

    def __init__(self, hidden_size: int, initializer_range: float) -> None:
        super().__init__()
        self.dimension = hidden_size
        self.initializer_range = initializer_range

    @abstractmethod
    def forward(
        self,
        hidden_states: HiddenStates,
        attention_mask: Int[Tensor, "B T"],
        pooler: Pooler | None,
    ) -> Float[Tensor, "B D"]:
        """One vector per text.

        Args:
            hidden_states: outputs of layers in their order, (B, T, H) each; the last is the last layer's.
            attention_mask: (B, T), 1 at tokens, 0 at padding.
            pooler: maps the last layer's (B, T, H) to (B, H); None where `uses_pooler` is false.
        """


class Cls(Representation):
    """The last layer's state of token 0, raw."""

    name = "cls"
    formula = "h[0], the last layer's state of token 0 ([CLS]), without a dense layer"

    def forward(
        self, hidden_states: HiddenStates, attention_mask: Int[Tensor, "B T"], pooler: Pooler | None
    ) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        return hidden_states[-1][:, 0]


class PoolerOutput(Representation):
    """The encoder's own pooler, as stage 1 left it (`BertPooler` of transformers)."""

    name = "pooler"
    formula = "tanh(W h[0] + b) with the checkpoint's own pooler W, b"
    uses_pooler = True

    def forward(
        self, hidden_states: HiddenStates, attention_mask: Int[Tensor, "B T"], pooler: Pooler | None
    ) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H), each unit in [-1, 1].

        Raises:
            ValueError: no pooler was given.
        """
        if pooler is None:
            raise ValueError("the representation pooler needs the encoder's pooler")
        return pooler(hidden_states[-1])


class Mean(Representation):
    """The mean of the last layer's states over the tokens of a text, padding left out."""

    name = "mean"
    formula = "sum_t m[t] h[t] / sum_t m[t], the last layer's states over all tokens, padding left out (m)"

    def forward(
        self, hidden_states: HiddenStates, attention_mask: Int[Tensor, "B T"], pooler: Pooler | None
    ) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H); the vector of a text is the same alone and in a padded batch."""
        weights = attention_mask.unsqueeze(-1).to(hidden_states[-1].dtype)
        return (hidden_states[-1] * weights).sum(dim=1) / weights.sum(dim=1)


class ClsLinear(Representation):
    """The pooler's shape and initialisation, but drawn fresh in stage 2."""

    name = "cls_linear"
    formula = "tanh(W h[0] + b) with W, b drawn fresh in stage 2"

    def __init__(self, hidden_size: int, initializer_range: float) -> None:
        super().__init__(hidden_size, initializer_range)
        self.dense = nn.Linear(hidden_size, hidden_size)
        draw_dense(self.dense, initializer_range)

    def forward(
        self, hidden_states: HiddenStates, attention_mask: Int[Tensor, "B T"], pooler: Pooler | None
    ) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H), each unit in [-1, 1]."""
        return torch.tanh(self.dense(hidden_states[-1][:, 0]))


REPRESENTATIONS: dict[str, type[Representation]] = {kind.name: kind for kind in (Cls, PoolerOutput, Mean, ClsLinear)}


def representation_class(name: str) -> type[Representation]:
    """The class of a representation.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    if name not in REPRESENTATIONS:
        raise UserError(f"repr={name}: unknown; allowed: {', '.join(sorted(REPRESENTATIONS))}")
    return REPRESENTATIONS[name]
