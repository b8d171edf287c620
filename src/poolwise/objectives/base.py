"""What every pooler objective is: a loss beside MLM, what it needs of a batch, and its weight over training.

Shapes: B texts, R rows of a batch (B, or 2 B where each text gives two), T tokens, H hidden size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import Batch
from poolwise.data.masking import IGNORED_LABEL
from poolwise.data.tokens import TokenisedTexts
from poolwise.encoder import MaskedLMWithPooler
from poolwise.settings import NonNegative, OpenShare

WeightSchedule = Literal["constant", "decay", "warmup"]


@dataclass(frozen=True)
class Surroundings:
    """What an objective may be fitted to when it is built.

    Attributes:
        tokenizer: the encoder's own.
        config: the encoder's sizes, dropout and initialisation.
        texts: the training texts of stage 1.
        dev_texts: its dev texts; None where nothing is measured on any.
    """

    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    texts: TokenisedTexts
    dev_texts: TokenisedTexts | None = None


class Objective(nn.Module, ABC):
    """What stage 1 adds to the MLM loss: one loss (`PoolerLoss`), or several (`Combined`).

    Its parameters are trained with the model and are not exported.

    Attributes:
        needs: what it reads in a batch beside masked texts.
    """

    needs: BatchNeeds

    @abstractmethod
    def losses(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> dict[str, Float[Tensor, ""]]:
        """Each loss of a batch by its name, unweighted."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Int[Tensor, ""] | int]:
        """How many rows of a batch each loss is a mean over."""

    @abstractmethod
    def weights(self, progress: float | None = None) -> dict[str, float]:
        """What each loss is multiplied by at a share (0 to 1) of training; at full strength for None."""

    @abstractmethod
    def notes(self) -> dict[str, Any]:
        """What a reader of the run must know, by the name of each loss; plain data for provenance."""


class PoolerLoss(Objective):
    """One loss that reads the pooler's output. A subclass enters `OBJECTIVES`.

    Attributes:
        name: as in `objective=`.
        further_passes: encoder passes over B texts beyond MLM's own, in each step.
        reads_labels: whether it learns from labels that tell about the stage-2 task.
        needs: one copy of each text, unless a subclass says otherwise.
        weight: what the loss is multiplied by before it is added to the MLM loss.
    """

    name: ClassVar[str]
    further_passes: ClassVar[int] = 0
    reads_labels: ClassVar[bool] = False
    needs: BatchNeeds = BatchNeeds()

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        weight: NonNegative,
        weight_schedule: WeightSchedule,
        schedule_share: OpenShare,
    ) -> None:
        """Args:
        surroundings: what the objective may be fitted to.
        weight: what the loss is multiplied by, at full strength.
        weight_schedule: `constant`; `decay`: from full strength linearly to 0, then 0; `warmup`: from 0 linearly
            to full strength, then full.
        schedule_share: share of training in which the weight changes.
        """
        super().__init__()
        self.weight = weight
        self.weight_schedule = weight_schedule
        self.schedule_share = schedule_share

    @abstractmethod
    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """The loss of a batch, a mean over what `counted` says: its texts.

        Args:
            pooler_output: (R, H), of the one encoder pass over the masked rows.
            batch: `original_ids` (R, T), the unmasked and truncated texts, padded; `attention_mask` (R, T);
                and what `needs` asks for.
            model: for its MLM head, embeddings and, in a loss that says so, a further pass.
        """

    def losses(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> dict[str, Float[Tensor, ""]]:
        """The one loss."""
        return {self.name: self(pooler_output, batch, model)}

    def counts(self, batch: Batch) -> dict[str, Int[Tensor, ""] | int]:
        """The one count."""
        return {self.name: self.counted(batch)}

    def counted(self, batch: Batch) -> Int[Tensor, ""] | int:
        """What the loss of a batch is a mean over: all R rows, unless a subclass says otherwise.

        By it losses are weighed where a batch is dealt out to several processes.
        """
        return len(batch["labels"])

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """The one weight."""
        if progress is None or self.weight_schedule == "constant":
            strength = 1.0
        else:
            passed = min(progress / self.schedule_share, 1.0)
            strength = passed if self.weight_schedule == "warmup" else 1.0 - passed
        return {self.name: self.weight * strength}

    def notes(self) -> dict[str, Any]:
        """Further encoder passes, whether labels are read, and what a subclass adds by `own_notes`."""
        facts = {"further_encoder_passes": self.further_passes, "reads_labels": self.reads_labels, **self.own_notes()}
        return {self.name: facts}

    def own_notes(self) -> dict[str, Any]:
        """What only this loss has to tell."""
        return {}


def mean_over_known(logits: Float[Tensor, "R C"], labels: Int[Tensor, " R"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats over the rows whose label is known (not -100); 0 where none is."""
    total: Tensor = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / count_known(labels).clamp(min=1)


def count_known(labels: Int[Tensor, " R"]) -> Int[Tensor, ""]:
    """How many rows have a label that is known."""
    return (labels != IGNORED_LABEL).sum()
