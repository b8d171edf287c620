"""Bag of words: the pooler's output must tell which word pieces the text holds."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from poolwise.data.batching import Batch
from poolwise.data.tokens import document_frequencies
from poolwise.encoder import MaskedLMWithPooler
from poolwise.objectives.base import PoolerLoss, Surroundings
from poolwise.settings import Share


class BagOfWords(PoolerLoss):
    """The pooler's output, through the tied MLM head, must predict which word pieces the text holds.

    Bag-of-words prediction as in Ma et al. 2024 ("Drop your Decoder", SIGIR), there on the raw [CLS] state, here
    through the pooler; they mask 30 % and let its weight fall from 1 to 0.1. With S the set of distinct word pieces of
    the unmasked, truncated text less special tokens and those left out, and p = softmax(mlm_head(pooler_output)), the
    loss is KL(q || p) = sum_{w in S} q(w) (log q(w) - log p(w)), in nats: their cross entropy less the entropy of q, a
    constant. q is uniform over S, as theirs, or proportional to the inverse document frequency log(N / df(w)) (after
    Spärck Jones 1972) with N texts, df(w) of which hold w.
    """

    name = "bow"

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        train_mlm_head: bool,
        idf_weighted: bool,
        largest_document_share: Share,
        **shared: Any,
    ) -> None:
        """Args:
        surroundings: the tokenizer names special tokens; the texts give document frequencies.
        train_mlm_head: whether the loss's gradient enters the MLM head and the embeddings tied to it.
        idf_weighted: whether rarer pieces count for more.
        largest_document_share: leave out pieces that more than this share of the training texts hold.
        shared: as in `PoolerLoss`.
        """
        super().__init__(surroundings, **shared)
        tokenizer, texts = surroundings.tokenizer, surroundings.texts
        self.train_mlm_head = train_mlm_head
        weights = torch.ones(len(tokenizer))
        if idf_weighted or largest_document_share < 1:
            frequencies = torch.from_numpy(document_frequencies(texts, len(tokenizer)))
            if idf_weighted:
                weights = torch.log(len(texts) / frequencies.clamp(min=1)).float()
            weights[frequencies > largest_document_share * len(texts)] = 0.0
        weights[tokenizer.all_special_ids] = 0.0
        self.register_buffer("piece_weights", weights, persistent=False)
        self._is_predicted = weights > 0  # stays on the CPU, where several processes count before a batch is on its GPU

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """Mean KL divergence over the texts that hold a word piece to predict; 0 where none does."""
        pieces, first = distinct(batch["original_ids"])
        weights = self.get_buffer("piece_weights")[pieces] * first
        total = weights.sum(dim=1)
        some = total > 0
        total = torch.where(some, total, torch.ones_like(total))
        logits = self._vocabulary_logits(pooler_output, model.mlm_head)
        log_probabilities = functional.log_softmax(logits.float(), dim=-1).gather(1, pieces)
        negative_entropy = torch.xlogy(weights, weights).sum(dim=1) / total - total.log()
        divergence = -(log_probabilities * weights).sum(dim=1) / total + negative_entropy
        return (divergence * some).sum() / some.sum().clamp(min=1)

    def counted(self, batch: Batch) -> Int[Tensor, ""]:
        """Texts that hold a word piece to predict."""
        pieces: Tensor = batch["original_ids"]
        on_cpu = pieces.device.type == "cpu"
        is_predicted = self._is_predicted if on_cpu else self.get_buffer("piece_weights") > 0
        return is_predicted[pieces].any(dim=1).sum()

    def _vocabulary_logits(self, pooler_output: Float[Tensor, "R H"], mlm_head: nn.Module) -> Float[Tensor, "R V"]:
        if self.train_mlm_head:
            logits: Tensor = mlm_head(pooler_output)
        else:
            frozen = {name: p.detach() for name, p in mlm_head.named_parameters()}
            logits = functional_call(mlm_head, frozen, (pooler_output,))
        return logits


def distinct(token_ids: Int[Tensor, "R T"]) -> tuple[Int[Tensor, "R T"], Bool[Tensor, "R T"]]:
    """The ids of each row sorted, and where an id stands for the first time in its row."""
    ordered, _ = token_ids.sort(dim=1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first
