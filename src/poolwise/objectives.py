"""Pooler objectives: the stage-1 losses beside MLM that read the pooler. One class each.

The keyword-only arguments of a class are the keys of its file in `conf/objective/`.
Shapes: B texts, T tokens, H hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from poolwise.settings import NonNegative, UserError

STOP_WORDS = (
    "a an the this that these those and or of to in on at by for from with as it its he she they them his her "
    "their we us our you your i me my is are was were be been being am do does did have has had there here "
    "what which who whom when where while than then so if into about over"
).split()
"""English function words; negations, contrasts and words of degree are left out: they carry sentiment."""


class Objective(nn.Module, ABC):
    """A loss that reads the pooler's output. A subclass enters `OBJECTIVES`.

    Attributes:
        name: as in `objective=`.
        weight: what the loss is multiplied by before it is added to the MLM loss.
    """

    name: ClassVar[str]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, weight: NonNegative) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(
        self,
        pooler_output: Float[Tensor, "B H"],
        token_ids: Int[Tensor, "B T"],
        mlm_head: nn.Module,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, a mean over its texts.

        Args:
            pooler_output: (B, H).
            token_ids: (B, T), the unmasked and truncated texts, padded.
            mlm_head: maps (B, H) to vocabulary logits (B, V).
        """


class NoObjective(Objective):
    """The usual remedy: a pooler is saved with the model, and no loss reads it. Its gradient is None."""

    name = "none"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, weight=0.0)

    def forward(
        self,
        pooler_output: Float[Tensor, "B H"],
        token_ids: Int[Tensor, "B T"],
        mlm_head: nn.Module,
    ) -> Float[Tensor, ""]:
        """Zero, without a gradient."""
        return pooler_output.new_zeros(())


class BagOfWords(Objective):
    """The pooler's output, through the tied MLM head, must predict which word pieces the text holds.

    Bag-of-words prediction as in Ma et al. 2024 ("Drop your Decoder", SIGIR), there on the raw [CLS] state,
    here through the pooler. With S the set of distinct word pieces of the unmasked, truncated text less special
    tokens, and p = softmax(mlm_head(pooler_output)), the loss is
    KL(uniform over S || p) = -log |S| - (1 / |S|) sum_{w in S} log p(w), in nats.
    """

    name = "bow"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight: NonNegative,
        train_mlm_head: bool,
        drop_stop_words: bool,
    ) -> None:
        """Args:
        tokenizer: names the special tokens, and the ids of stop words.
        weight: what the loss is multiplied by.
        train_mlm_head: whether the loss's gradient enters the MLM head and the embeddings tied to it.
        drop_stop_words: leave `STOP_WORDS` out of what must be predicted.
        """
        super().__init__(tokenizer, weight=weight)
        self.train_mlm_head = train_mlm_head
        dropped = torch.zeros(len(tokenizer), dtype=torch.bool)
        dropped[tokenizer.all_special_ids] = True
        if drop_stop_words:
            vocabulary = tokenizer.get_vocab()
            dropped[[vocabulary[word] for word in STOP_WORDS if word in vocabulary]] = True
        self.register_buffer("dropped", dropped, persistent=False)

    def forward(
        self,
        pooler_output: Float[Tensor, "B H"],
        token_ids: Int[Tensor, "B T"],
        mlm_head: nn.Module,
    ) -> Float[Tensor, ""]:
        """Mean KL divergence over the texts that hold a word piece to predict; 0 where none does."""
        words, wanted = distinct(token_ids, self.get_buffer("dropped"))
        sizes = wanted.sum(dim=1)
        logits = self._vocabulary_logits(pooler_output, mlm_head)
        log_probabilities = functional.log_softmax(logits.float(), dim=-1).gather(1, words)
        counts = sizes.clamp(min=1)
        divergence = -(log_probabilities * wanted).sum(dim=1) / counts - counts.log()
        return (divergence * (sizes > 0)).sum() / (sizes > 0).sum().clamp(min=1)

    def _vocabulary_logits(self, pooler_output: Float[Tensor, "B H"], mlm_head: nn.Module) -> Float[Tensor, "B V"]:
        if self.train_mlm_head:
            logits: Tensor = mlm_head(pooler_output)
        else:
            frozen = {name: p.detach() for name, p in mlm_head.named_parameters()}
            logits = functional_call(mlm_head, frozen, (pooler_output,))
        return logits


def distinct(
    token_ids: Int[Tensor, "B T"], dropped: Bool[Tensor, " V"]
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The ids of each row sorted, and where a wanted id stands for the first time in its row."""
    ordered, _ = token_ids.sort(dim=1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first & ~dropped[ordered]


OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (NoObjective, BagOfWords)}


def objective_class(name: str) -> type[Objective]:
    """The class of an objective.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective={name}: unknown; allowed: {', '.join(sorted(OBJECTIVES))}")
    return OBJECTIVES[name]


def build_objective(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Objective:
    """Build the objective that `settings["name"]` names from the other settings."""
    arguments = {key: value for key, value in settings.items() if key != "name"}
    return objective_class(settings["name"])(tokenizer, **arguments)
