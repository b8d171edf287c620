"""Prediction of a weak label that the texts carry, such as stars."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler, draw_dense
from poolwise.objectives.base import PoolerLoss, Surroundings, count_known, mean_over_known


class Rating(PoolerLoss):
    """A linear head on the pooler's output predicts the rating of the text: cross entropy over its C values.

    Weak supervision by ratings, one of several tasks in Zhou et al. 2020 ("SentiX"). It learns from labels that tell
    about the stage-2 task, so it is no match for objectives that see text alone, and every table says so. The head is
    not exported.
    """

    name = "rating"
    reads_labels = True
    needs = BatchNeeds(ratings=True)

    def __init__(self, surroundings: Surroundings, **shared: Any) -> None:
        """Args:
        surroundings: the texts say which ratings there are.
        shared: as in `PoolerLoss`.
        """
        super().__init__(surroundings, **shared)
        self.rating_names = surroundings.texts.rating_names
        self.head = nn.Linear(surroundings.config.hidden_size, len(self.rating_names))
        draw_dense(self.head, surroundings.config.initializer_range)

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """Mean cross entropy in nats over the texts whose rating is known; 0 where none is."""
        return mean_over_known(self.head(pooler_output), batch["ratings"])

    def counted(self, batch: Batch) -> Int[Tensor, ""]:
        """Texts whose rating is known."""
        return count_known(batch["ratings"])

    def own_notes(self) -> dict[str, Any]:
        """The ratings it knows."""
        return {"ratings": list(self.rating_names)}
