"""Stage 2: sentiment classification from one representation.

Shapes: B texts, T tokens, H hidden size, D vector size, C classes, N examples.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from transformers import BertModel

from poolwise.data.batching import Batch
from poolwise.representations import Representation
from poolwise.settings import Optimisation
from poolwise.stages.stage import Stage

SELECTION_METRIC = "dev/macro_f1"
"""Which checkpoint of a run is kept: the one where this is highest; the earlier one of equals."""


class SentimentClassifier(nn.Module):
    """Encoder, representation, dropout and a linear head."""

    def __init__(
        self, encoder: BertModel, representation: Representation, classes: int, dropout: float
    ) -> None:
        """Args:
        encoder: its pooler moves here if the representation uses it, and is dropped if not.
        representation: maps hidden states to vectors (B, D).
        classes: C.
        dropout: the probability that a unit of the vector is dropped in training.
        """
        super().__init__()
        self.pooler = encoder.pooler if representation.uses_pooler else None
        encoder.pooler = None
        self.encoder = encoder
        self.representation = representation
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(representation.dimension, classes)
        nn.init.normal_(self.head.weight, std=encoder.config.initializer_range)
        nn.init.zeros_(self.head.bias)

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "B D"]:
        """One vector per text, from ids and mask (B, T)."""
        states = self.encoder(input_ids, attention_mask).last_hidden_state
        vectors: Tensor = self.representation((states,), attention_mask, self.pooler)
        return vectors

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "B C"]:
        """Class logits (B, C) from ids and mask (B, T)."""
        logits: Tensor = self.head(self.dropout(self.vectors(input_ids, attention_mask)))
        return logits


class Sentiment(Stage):
    """Fine-tunes a `SentimentClassifier` with cross entropy.

    Attributes:
        predictions: after an evaluation, example numbers (N,), labels (N,) and logits (N, C) of its split.
    """

    def __init__(self, classifier: SentimentClassifier, optimisation: Optimisation) -> None:
        super().__init__(optimisation)
        self.classifier = classifier
        classes = classifier.head.out_features
        self.metrics = nn.ModuleDict(
            {split: classification_metrics(classes, split) for split in ("dev", "test")}
        )
        self.mean_loss = nn.ModuleDict({split: MeanMetric() for split in ("dev", "test")})
        self.predictions: dict[str, dict[str, Tensor]] = {}
        self._collected: list[dict[str, Tensor]] = []

    def trained_modules(self) -> Iterable[nn.Module]:
        """Encoder, representation and head."""
        return (self.classifier,)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy in nats, mean over the batch."""
        logits = self.classifier(batch["input_ids"], batch["attention_mask"])
        loss = functional.cross_entropy(logits, batch["labels"])
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the dev predictions."""
        self._evaluate(batch, "dev")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the test predictions."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the dev figures."""
        self._finish("dev")

    def on_test_epoch_end(self) -> None:
        """Log the test figures."""
        self._finish("test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        logits = self.classifier(batch["input_ids"], batch["attention_mask"])
        labels = batch["labels"]
        self.metrics[split].update(logits.softmax(dim=-1), labels)
        self.mean_loss[split].update(functional.cross_entropy(logits, labels), len(labels))
        self._collected.append(
            {"examples": batch["examples"].cpu(), "labels": labels.cpu(), "logits": logits.float().cpu()}
        )

    def _finish(self, split: str) -> None:
        self.log_dict(self.metrics[split].compute())
        self.log(f"{split}/loss", self.mean_loss[split].compute())
        self.metrics[split].reset()
        self.mean_loss[split].reset()
        columns = {
            name: torch.cat([part[name] for part in self._collected]) for name in self._collected[0]
        }
        order = columns["examples"].argsort()
        self.predictions[split] = {name: column[order] for name, column in columns.items()}
        self._collected = []


def classification_metrics(classes: int, split: str) -> MetricCollection:
    """Accuracy, macro F1, Matthews correlation and calibration error (15 bins, Guo et al. 2017), in [0, 1]."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "macro_f1": MulticlassF1Score(classes, average="macro"),
            "matthews": MulticlassMatthewsCorrCoef(classes),
            "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1"),
        },
        prefix=f"{split}/",
    )
