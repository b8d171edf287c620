"""Contrastive objectives: two views of a text must lie nearer to each other than to the other texts of the batch."""

import logging
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from poolwise import ranks
from poolwise.data.arrangement import BatchNeeds, uncut
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler, draw_dense
from poolwise.families import family_of
from poolwise.objectives.base import PoolerLoss, Surroundings
from poolwise.settings import NonNegativeCount, Positive

log = logging.getLogger(__name__)


def info_nce(
    first: Float[Tensor, "B D"],
    second: Float[Tensor, "B D"],
    temperature: float,
    same_text: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE over cosine similarities, in nats, the mean of both directions; 0 for a single text.

    With s(i, j) = cos(first_i, second_j) / temperature, one direction is the mean over i of
    -log(exp s(i, i) / sum_j exp s(i, j)) (van den Oord et al. 2018). Cosine and temperature are as in Chen et al.
    2020, where both views of the B - 1 other texts are negatives, here their second views alone. Another copy of text
    i is no negative of it: `same_text` marks pairs that j leaves out. Formed in fp32, as cosines near 1 are all the
    same in half precision.
    """
    targets = torch.arange(len(first), device=first.device)
    with torch.autocast(first.device.type, enabled=False):
        logits = (
            functional.normalize(first.float(), dim=1) @ functional.normalize(second.float(), dim=1).T / temperature
        )
        if same_text is not None:
            others = same_text & (targets[:, None] != targets)
            logits = logits.masked_fill(others, -torch.inf)
        return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


HASHED_BY = 6364136223846793005
"""The multiplier of Knuth's MMIX generator."""


def text_keys(token_ids: Int[Tensor, "R T"], pad_id: int) -> Int[Tensor, " B"]:
    """A 64-bit hash of each text, given by R = 2 B unmasked rows, row i and row B + i; padding does not enter it."""
    powers = torch.full((token_ids.shape[1],), HASHED_BY, device=token_ids.device).cumprod(dim=0)
    mixed = _mixed(token_ids.long() + 1).masked_fill(token_ids == pad_id, 0)
    first, second = (mixed * powers).sum(dim=1).chunk(2)
    return _mixed(first) + second


def _mixed(numbers: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Numbers whose sums and multiples have nothing to do with those of the given ones."""
    multiplied = numbers * HASHED_BY
    return (multiplied ^ (multiplied >> 29)) * HASHED_BY


class Contrast(PoolerLoss):
    """What all contrastive objectives share: temperature, projection, and which texts share a batch."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        temperature: Positive,
        projection_size: NonNegativeCount,
        topic_neighbours: bool,
        **shared: Any,
    ) -> None:
        """Args:
        surroundings: the encoder's sizes.
        temperature: what cosine similarities are divided by.
        projection_size: width D of the projection W2 ReLU(W1 v) between pooler and loss (Chen et al.
            2020), which is not exported; 0 for none.
        topic_neighbours: harder negatives: a training batch holds texts of one topic (see `data.topics`).
        shared: as in `PoolerLoss`.
        """
        super().__init__(surroundings, **shared)
        self.needs = replace(self.needs, topics=topic_neighbours)
        self.pad_id = surroundings.texts.pad_id
        self.temperature = temperature
        hidden, size = surroundings.config.hidden_size, projection_size
        self.projection = (
            nn.Sequential(nn.Linear(hidden, size), nn.ReLU(), nn.Linear(size, size)) if size else nn.Identity()
        )
        draw_dense(self.projection, surroundings.config.initializer_range)

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """InfoNCE between the two rows of each text."""
        return self.contrast(pooler_output, batch["original_ids"])

    def contrast(self, pooler_output: Float[Tensor, "R H"], token_ids: Int[Tensor, "R T"]) -> Float[Tensor, ""]:
        """InfoNCE between the two halves of 2 B rows: row i and row B + i are views of one text.

        Of several processes each sees the texts of all, with their gradients, and forms the loss of the whole batch.
        `token_ids` are those of the unmasked rows: batches of texts of like length bring equal ones together.
        """
        first, second = (ranks.gathered(part) for part in self.projection(pooler_output).chunk(2))
        keys = ranks.gathered(text_keys(token_ids, self.pad_id))
        return info_nce(first, second, self.temperature, keys[:, None] == keys)


class MaskedViews(Contrast):
    """Two differently masked copies of each text in one batch; InfoNCE between their pooler outputs.

    MLM trains on both copies, so no pass beyond MLM's own is made: the masks are the augmentation, as in Mirror-BERT
    (Liu et al. 2021), which masks one span in one of the two copies. Batches hold texts of like length, so length gives
    nothing away.
    """

    name = "views"
    needs = BatchNeeds(arrangement="views")


class Halves(Contrast):
    """The two halves of each text, a row each; InfoNCE between their pooler outputs; MLM on both.

    Two parts of one text share what it is about and how it speaks of it, and hardly a word, where `views` has the same
    words twice. Spans of one document are DeCLUTR's views (Giorgi et al. 2021), neighbouring sentences those of Quick
    Thoughts (Logeswaran and Lee 2018); here a text is cut in its middle, wherever that is, so that single sentences
    serve too. The two rows are together as long as the text and two special tokens.
    """

    name = "halves"
    needs = BatchNeeds(arrangement="halves")

    def __init__(self, surroundings: Surroundings, **shared: Any) -> None:
        """Args:
        surroundings: the training texts, to count those too short to cut.
        shared: as in `Contrast` and `PoolerLoss`.
        """
        super().__init__(surroundings, **shared)
        self.text_count, self.uncut_count = len(surroundings.texts), int(uncut(surroundings.texts.lengths).sum())
        if self.uncut_count:
            log.warning(
                "objective=halves: %d of %d texts are too short to cut; both rows hold them whole",
                self.uncut_count,
                self.text_count,
            )

    def own_notes(self) -> dict[str, Any]:
        """How many training texts there are, and how many were too short to cut."""
        return {"texts": self.text_count, "texts_too_short_to_cut": self.uncut_count}


class SimCSE(Contrast):
    """Two dropout views of the unmasked text, in a further encoder pass (Gao et al. 2021, equation 4).

    Unsupervised SimCSE with MLM as its authors set it: temperature 0.05, and contrastive loss + 0.1 x MLM loss. Here
    MLM has weight 1, so the equivalent weight of this loss is 10 (AdamW does not see the common factor; clipping
    does). Their dense layer with tanh is the pooler; they always draw it anew, and leave it out after training. They
    take the mean of one direction, here of both; their MLM reads both copies, here one. Dropout makes the views, so
    a frozen encoder (`trainable=pooler`) has it in training too.
    """

    name = "simcse"
    further_passes = 2
    needs = BatchNeeds(arrangement="single")

    def __init__(self, surroundings: Surroundings, **shared: Any) -> None:
        """Args:
        surroundings: the encoder's sizes and dropout.
        shared: as in `Contrast` and `PoolerLoss`.
        """
        super().__init__(surroundings, **shared)
        self.same_views = not any(family_of(surroundings.config).dropout(surroundings.config))
        if self.same_views:
            log.warning(
                "objective=simcse: the encoder has no dropout (model.dropout), so both views of a text are equal"
            )

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """InfoNCE between two dropout views; in evaluation there is no dropout, and views are equal."""
        token_ids, attention_mask = (torch.cat([batch[key]] * 2) for key in ("original_ids", "attention_mask"))
        return self.contrast(model.sentence_vectors(token_ids, attention_mask), token_ids)

    def own_notes(self) -> dict[str, Any]:
        """Whether the two views could differ."""
        return {"dropout_views_equal": self.same_views}
