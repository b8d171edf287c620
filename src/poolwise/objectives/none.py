"""No objective: MLM alone."""

from jaxtyping import Float
from torch import Tensor

from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler
from poolwise.objectives.base import PoolerLoss, Surroundings
from poolwise.settings import NO_OBJECTIVE


class NoObjective(PoolerLoss):
    """The usual remedy: a pooler is saved with the model, and no loss reads it. Its gradient is None."""

    name = NO_OBJECTIVE

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings, weight=0.0, weight_schedule="constant", schedule_share=0.5)

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """Zero, without a gradient."""
        return pooler_output.new_zeros(())
