"""Stage 1: masked language modelling with a pooler that is trained jointly.

Shapes: B texts, T tokens, H hidden size, V vocabulary, M masked positions.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from poolwise.data.batching import Batch
from poolwise.data.masking import IGNORED_LABEL
from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.geometry import pooler_geometry
from poolwise.objectives import Objective
from poolwise.provenance import ProvenanceTracker, pooler_figures
from poolwise.settings import Optimisation
from poolwise.stages.stage import Stage

PROBES = 8
"""Steps, from the first to the last, at which the gradient of each loss alone is measured: one more backward pass a
loss, so with two losses about as long as 11 steps in all. (A backward pass takes two thirds of a step.)"""


class MaskedLanguageModelling(Stage):
    """Trains `BertForMaskedLMWithPooler` with the MLM loss plus a pooler objective.

    Attributes:
        proof: after training, `ProvenanceTracker.summary`.
    """

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
        self.proof: dict[str, Any] = {}
        self._probe_steps: set[int] = set()
        self.dev_loss, self.dev_accuracy, self.dev_objective = MeanMetric(), MeanMetric(), MeanMetric()

    def trained_modules(self) -> Iterable[nn.Module]:
        """The model, and what the objective may hold."""
        return (self.model, self.objective)

    def on_train_start(self) -> None:
        """Remember where the weights start, in the precision that they are trained in; choose the probed steps."""
        self.provenance.remember_start()
        last = int(self.trainer.estimated_stepping_batches) - 1
        self._probe_steps = set(np.linspace(0, last, PROBES).astype(int).tolist())

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The MLM loss and the objective's, unweighted, from one encoder pass; and the masked accuracy."""
        output = self.model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"], masked_only=True)
        objective = self.objective(output.pooler_output, batch["original_ids"], self.model.cls)
        accuracy = masked_accuracy(output.logits, batch["labels"])
        return {"mlm": output.loss, self.objective.name: objective}, accuracy

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """MLM loss + weight x objective loss."""
        losses, accuracy = self.losses(batch)
        self.probe({**losses, self.objective.name: self.objective.weight * losses[self.objective.name]})
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

    def probe(self, losses: Mapping[str, Tensor]) -> None:
        """Note the gradient of each weighted loss alone, if this is one of the `PROBES` steps."""
        if self.global_step in self._probe_steps:
            self._probe_steps.remove(self.global_step)  # accumulated batches share a step
            self.provenance.probe(losses)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note which parts got a gradient; log the norm that reached the pooler (0 without an objective)."""
        self.log_training({"pooler_gradient_norm": self.provenance.note_gradients()})

    def on_train_end(self) -> None:
        """Measure what training made of the pooler, while the model is on its device, and log it."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        geometry = pooler_geometry(self.model, data.batches["dev"], data.texts["dev"].lengths)
        self.proof = self.provenance.summary(geometry)
        for logger in self.loggers:
            logger.log_metrics(pooler_figures(self.proof), self.global_step)

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
