"""Stage 1: masked language modelling with a pooler that is trained jointly.

Shapes: B texts, T tokens, H hidden size, V vocabulary, M masked positions.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from poolwise.data.batching import Batch
from poolwise.data.masking import IGNORED_LABEL
from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.objectives import Objective
from poolwise.provenance import ProvenanceTracker
from poolwise.settings import Optimisation
from poolwise.stages.stage import Stage


class MaskedLanguageModelling(Stage):
    """Trains `BertForMaskedLMWithPooler` with the MLM loss plus a pooler objective."""

    def __init__(
        self,
        model: BertForMaskedLMWithPooler,
        objective: Objective,
        provenance: ProvenanceTracker,
        optimisation: Optimisation,
    ) -> None:
        super().__init__(optimisation)
        self.model = model
        self.objective = objective
        self.provenance = provenance
        self.dev_loss, self.dev_accuracy, self.dev_objective = MeanMetric(), MeanMetric(), MeanMetric()

    def trained_modules(self) -> Iterable[nn.Module]:
        """The model, and what the objective may hold."""
        return (self.model, self.objective)

    def on_train_start(self) -> None:
        """Remember where the weights start, in the precision that they are trained in."""
        self.provenance.remember_start()

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The MLM loss and the objective's, unweighted, from one encoder pass; and the masked accuracy."""
        output = self.model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"], masked_only=True)
        objective = self.objective(output.pooler_output, batch["original_ids"], self.model.cls)
        accuracy = masked_accuracy(output.logits, batch["labels"])
        return {"mlm": output.loss, self.objective.name: objective}, accuracy

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """MLM loss + weight x objective loss."""
        losses, accuracy = self.losses(batch)
        if self.global_step == 0 and batch_idx == 0:
            self.provenance.probe({**losses, self.objective.name: self.objective.weight * losses[self.objective.name]})
        objective = losses[self.objective.name]
        self.log_training(
            {
                "mlm_loss": losses["mlm"].detach(),
                "perplexity": losses["mlm"].detach().exp(),
                "masked_accuracy": accuracy,
                "objective_loss": objective.detach(),
            }
        )
        return losses["mlm"] + self.objective.weight * objective

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note which parts got a gradient; log the norm that reached the pooler (0 without an objective)."""
        self.log_training({"pooler_gradient_norm": self.provenance.note_gradients()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect dev figures: MLM weighted by masked positions, the objective by texts."""
        losses, accuracy = self.losses(batch)
        masked = (batch["labels"] != IGNORED_LABEL).sum()
        self.dev_loss.update(losses["mlm"], masked)
        self.dev_accuracy.update(accuracy, masked)
        self.dev_objective.update(losses[self.objective.name], len(batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Log the dev figures; perplexity is exp of the mean loss over all masked positions."""
        loss = self.dev_loss.compute()
        self.log_dict(
            {
                "dev/mlm_loss": loss,
                "dev/perplexity": loss.exp(),
                "dev/masked_accuracy": self.dev_accuracy.compute(),
                "dev/objective_loss": self.dev_objective.compute(),
            }
        )
        for metric in (self.dev_loss, self.dev_accuracy, self.dev_objective):
            metric.reset()


def masked_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the M masked positions whose word piece has the highest of the (M, V) logits; 0 where M is 0."""
    targets = labels[labels != IGNORED_LABEL]
    return (logits.argmax(dim=-1) == targets).sum() / max(len(targets), 1)
