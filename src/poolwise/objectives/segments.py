"""Objectives on pairs of segments: do they stand in order, does one follow the other."""

import logging
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from poolwise.data.arrangement import BatchNeeds, SegmentPairs
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler, draw_dense
from poolwise.objectives.base import PoolerLoss, Surroundings, count_known, mean_over_known
from poolwise.settings import UserError

log = logging.getLogger(__name__)


class SegmentPairLoss(PoolerLoss):
    """A linear head on the pooler's output tells two kinds of pairs apart: cross entropy in nats over two classes.

    Texts that cannot be split stand alone, are read by MLM only (if there is MLM), and are counted.
    """

    fewest_texts = 1
    """How many texts must be splittable."""

    def __init__(self, surroundings: Surroundings, **shared: Any) -> None:
        """Args:
        surroundings: the training texts, to count those too short to split.
        shared: as in `PoolerLoss`.

        Raises:
            UserError: too few texts hold two sentences.
        """
        super().__init__(surroundings, **shared)
        splits = {"training": surroundings.texts, "dev": surroundings.dev_texts}
        self.counts_by_split = {
            split: (len(texts), int((~SegmentPairs(texts, surroundings.tokenizer).splittable).sum()))
            for split, texts in splits.items()
            if texts is not None
        }
        count, unsplit = self.counts_by_split["training"]
        if count - unsplit < self.fewest_texts:
            raise UserError(
                f"objective={self.name} needs texts of several sentences; of {count} texts {count - unsplit} can be "
                "split after a sentence"
            )
        for split, (count, unsplit) in self.counts_by_split.items():
            if unsplit:
                log.warning(
                    "objective=%s: %d of %d %s texts are too short to split, and it leaves them out%s",
                    *(self.name, unsplit, count, split),
                    "; it has no dev figures" if count == unsplit else "",
                )
        self.head = nn.Linear(surroundings.config.hidden_size, 2)
        draw_dense(self.head, surroundings.config.initializer_range)

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """Mean over the texts that were split; 0 where none was."""
        return mean_over_known(self.head(pooler_output), batch["pair_labels"])

    def counted(self, batch: Batch) -> Int[Tensor, ""]:
        """Texts that were split."""
        return count_known(batch["pair_labels"])

    def own_notes(self) -> dict[str, Any]:
        """How many texts there are, of training and of dev, and how many were too short to split."""
        found: dict[str, int] = {}
        for split, (count, unsplit) in self.counts_by_split.items():
            prefix = "" if split == "training" else f"{split}_"
            found |= {f"{prefix}texts": count, f"{prefix}texts_too_short_to_split": unsplit}
        return found


class SegmentOrder(SegmentPairLoss):
    """Two segments of one text: in order or swapped? (ALBERT's sentence-order prediction, Lan et al. 2020.)"""

    name = "sop"
    needs = BatchNeeds(arrangement="order")


class NextSegment(SegmentPairLoss):
    """Does the second segment follow the first, or is it another text's? (BERT, Devlin et al. 2019.)

    The other text's segment is one of like length, in BERT any; it is what follows one of that text's own cuts.
    """

    name = "nsp"
    needs = BatchNeeds(arrangement="next")
    fewest_texts = 2
