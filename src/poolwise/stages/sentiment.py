"""Stage 2: sentiment classification from one representation.

Shapes: B texts, R windows of these, T tokens, H hidden size, D vector size, C classes, N examples, E of these whose
vectors are kept.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.functional.classification import multiclass_calibration_error
from transformers import PreTrainedModel

from poolwise import ranks
from poolwise.data.batching import Batch
from poolwise.encoder import PoolerAlone
from poolwise.families import family_of, first_places, last_layer_at
from poolwise.geometry import TEXTS, spread
from poolwise.representations import Representation, mean_over_windows
from poolwise.settings import SELECTION_METRIC, Optimisation
from poolwise.stages.stage import Stage, weight_decay_groups
from poolwise.stages.vectors import layers_of

LOSS = "loss"


class SentimentClassifier(nn.Module):
    """Encoder, representation, dropout and a linear head.

    Attributes:
        encoder: the body; None where stored states are read in its place.
    """

    def __init__(
        self,
        encoder: PreTrainedModel | PoolerAlone,
        representation: Representation,
        classes: int,
        dropout: float,
        reads_stored: bool = False,
    ) -> None:
        """Args:
        encoder: a body with a `pooler`, which moves here if the representation uses it, and is dropped if not; or the
            pooler alone, for stored states.
        representation: maps hidden states to vectors (B, D).
        classes: C.
        dropout: the probability that a unit of the vector is dropped in training.
        reads_stored: whether batches hold the encoder's stored states, so that it is not kept.
        """
        super().__init__()
        self.pooler = encoder.pooler if representation.uses_pooler else None
        encoder.pooler = None
        self.encoder: Any = None if reads_stored else encoder
        self.representation = representation
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(representation.dimension, classes)
        nn.init.normal_(self.head.weight, std=encoder.config.initializer_range)
        nn.init.zeros_(self.head.bias)

    @property
    def parameters_of_vectors(self) -> int:
        """How many parameters lie between hidden states and vectors: the representation's, and the pooler it reads."""
        between = [module for module in (self.representation, self.pooler) if module is not None]
        return sum(parameter.numel() for module in between for parameter in module.parameters())

    @property
    def reads_first_alone(self) -> bool:
        """Whether of the last layer the states of token 0 alone are read, and can be computed alone."""
        reads = self.representation.reads_first_alone and not self.representation.needs_all_states
        return reads and family_of(self.encoder.config).after_attention is not None

    def distance_of(self, name: str) -> int:
        """How far below the head a parameter lies: K - l for layer l, 0 to K, K the layer that stands for the last.

        -1 for what lies above the layers: head, representation, pooler, a final norm. Layers above K, which are not
        read, count like these.
        """
        part, _, key = name.partition(".")
        if self.encoder is None or part != "encoder":
            return -1
        layer = family_of(self.encoder.config).layer_of(key)
        return -1 if layer is None else max(self.representation.layer - layer, -1)

    def settle_dense(self, dense: Literal["as_named", "fixed", "trained"]) -> None:
        """Fix or train the dense layers between states and vectors; `as_named`: what comes from stage 1 is fixed."""
        if self.pooler is not None:
            self.pooler.requires_grad_(dense == "trained")
        self.representation.requires_grad_(dense != "fixed")

    def vectors(self, batch: Batch) -> Float[Tensor, "B D"]:
        """One vector per text: the mean over those of its `windows`."""
        return mean_over_windows(self.vectors_of_windows(batch), batch["windows"])

    def vectors_of_windows(self, batch: Batch) -> Float[Tensor, "R D"]:
        """One vector per window, from `input_ids` and `attention_mask` (R, T), or from stored states."""
        if self.encoder is None:
            stored: Tensor = self.representation.of_layers(layers_of(batch), self.pooler)
            return stored
        input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        vectors: Tensor
        if self.training and self.reads_first_alone:
            with last_layer_at(self.encoder, first_places(input_ids)):
                first = self.encoder(input_ids, attention_mask).last_hidden_state.transpose(0, 1)
            vectors = self.representation((first,), attention_mask[:, :1], self.pooler)
            return vectors
        every = self.representation.needs_all_states
        output = self.encoder(input_ids, attention_mask, output_hidden_states=every)
        states = output.hidden_states if every else (output.last_hidden_state,)
        vectors = self.representation(states, attention_mask, self.pooler)
        return vectors

    def logits(self, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Class logits (B, C) of vectors."""
        found: Tensor = self.head(self.dropout(vectors))
        return found

    def forward(self, batch: Batch) -> Float[Tensor, "B C"]:
        """Class logits (B, C) of a batch."""
        return self.logits(self.vectors(batch))


class Scores(nn.Module):
    """The figures and the predictions of one split: accuracy, macro F1, Matthews correlation, loss, calibration.

    Accuracy, balanced accuracy (the mean recall over the classes that there are), F1 and calibration error lie in
    [0, 1], Matthews in [-1, 1]; the loss is in nats. The calibration error is the expected one over 15 bins (Guo et al.
    2017), from torchmetrics as the rest.
    """

    def __init__(self, split: str, classes: int) -> None:
        super().__init__()
        self.figures = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "macro_f1": MulticlassF1Score(classes, average="macro"),
                "matthews": MulticlassMatthewsCorrCoef(classes),
                "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1"),
            },
            prefix=f"{split}/",
        )
        self.split = split
        self.loss = MeanMetric()
        self._collected: list[dict[str, Tensor]] = []
        self._probabilities: list[Tensor] = []

    def update(self, batch: Batch, logits: Float[Tensor, "B C"]) -> None:
        """Add the predictions (B, C) of a batch."""
        labels, logits = batch["labels"], logits.float()  # of bf16 logits a softmax makes unlike ones alike
        self._probabilities.append(logits.softmax(dim=-1))  # which metrics take at once: a call of theirs is slow
        self.loss.update(functional.cross_entropy(logits, labels), len(labels))
        columns = {"examples": batch["examples"], "labels": labels, "logits": logits}
        self._collected.append({name: column.cpu() for name, column in columns.items()})

    def finish(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The figures, and `examples` (N,), `labels` (N,) and `logits` (N, C) in the examples' order; start anew."""
        probabilities = torch.cat(self._probabilities)
        labels = torch.cat([part["labels"] for part in self._collected])
        self.figures.update(probabilities, labels.to(probabilities.device))
        figures = {**self.figures.compute(), f"{self.split}/loss": self.loss.compute()}
        figures = {name: value.float() for name, value in figures.items()}  # Matthews can be an integer 0
        columns = {
            name: ranks.gathered(torch.cat([part[name] for part in self._collected])) for name in self._collected[0]
        }
        guesses = columns["logits"].argmax(dim=1)
        if any((column == column[0]).all() for column in (guesses, columns["labels"])):
            # By definition (0 / 0 := 0); torchmetrics 1.9 gives a small positive number.
            figures[f"{self.split}/matthews"] = torch.zeros(())
        recall = recall_by_class(columns["labels"], columns["logits"])
        figures[f"{self.split}/balanced_accuracy"] = recall.nanmean()
        order = columns["examples"].argsort()
        self.figures.reset()
        self.loss.reset()
        self._collected, self._probabilities = [], []
        return figures, {name: column[order] for name, column in columns.items()}


def recall_by_class(labels: Int[Tensor, " N"], logits: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """The share of each class's examples that are answered right; NaN where it has none."""
    right = labels[logits.argmax(dim=1) == labels]
    counts = [torch.bincount(some, minlength=logits.shape[1]) for some in (right, labels)]
    return counts[0] / counts[1]


def macro_f1(logits: Float[ndarray, "N C"], labels: Int[ndarray, " N"]) -> float:
    """Of the most probable classes, bit for bit the `macro_f1` of `Scores`."""
    answers = torch.from_numpy(logits).softmax(dim=1).argmax(dim=1)
    return macro_f1_of(answers, torch.from_numpy(labels), logits.shape[1])


def macro_f1_of(answers: Int[Tensor, " N"], labels: Int[Tensor, " N"], classes: int) -> float:
    """The mean F1 over the classes that there are or that are answered."""
    pairs = labels * classes + answers
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    counts = confusion.sum(dim=0) + confusion.sum(dim=1)
    f1 = 2.0 * confusion.diagonal() / counts.clamp(min=1)
    seen = (counts > 0).float()
    return float((seen * f1 / seen.sum()).sum())


def scores_of(
    split: str, logits: Float[ndarray, "N C"], labels: Int[ndarray, " N"]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The figures and predictions of a split, as `Scores.finish` gives them, from logits of its examples in order."""
    scores = _scores_of_split(split, logits.shape[1])
    batch = {"labels": torch.from_numpy(labels), "examples": torch.arange(len(labels))}
    try:
        scores.update(batch, torch.from_numpy(logits))
        return scores.finish()
    except BaseException:
        _scores_of_split.cache_clear()  # it holds what it could not finish
        raise


@lru_cache(maxsize=8)  # torchmetrics takes as long to make its metrics as to compute them, and a sweep asks often
def _scores_of_split(split: str, classes: int) -> Scores:
    return Scores(split, classes)


def calibrated_figures(logits: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> dict[str, float]:
    """The figures of `Scores` that a temperature changes, of test logits that were divided by it; of this process."""
    error = multiclass_calibration_error(logits.softmax(dim=1), labels, logits.shape[1], n_bins=15, norm="l1")
    return {"test/loss": float(functional.cross_entropy(logits, labels)), "test/calibration_error": float(error)}


class Sentiment(Stage):
    """Fine-tunes a `SentimentClassifier` with cross entropy.

    With `layer_decay` d the learning rate of layer l is that of the head times d^(K - l), that of the embeddings times
    d^K (Howard & Ruder 2018, section 3.1, who take d = 1 / 2.6). With `gradual_unfreezing` the first epoch trains what
    lies above the layers, and each further one a layer more, the embeddings last (section 3.3 there).

    Attributes:
        figures: of each split: of dev in the best epoch so far, of test when it is read.
        predictions: the same for `examples` (N,), `labels` (N,) and `logits` (N, C).
        vectors: of test texts, evenly spread and at most `geometry.TEXTS`: `examples` (E,) and `vectors` (E, D).
    """

    def __init__(
        self,
        classifier: SentimentClassifier,
        optimisation: Optimisation,
        layer_decay: float = 1.0,
        gradual_unfreezing: bool = False,
        class_weights: Float[Tensor, " C"] | None = None,
    ) -> None:
        super().__init__(optimisation)
        self.classifier = classifier
        self.layer_decay = layer_decay
        self.gradual_unfreezing = gradual_unfreezing
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.dev_scores = Scores("dev", classifier.head.out_features)
        self.test_scores = Scores("test", classifier.head.out_features)
        self.figures: dict[str, dict[str, Tensor]] = {}
        self.predictions: dict[str, dict[str, Tensor]] = {}
        self.vectors: dict[str, Tensor] = {}
        self._kept: list[tuple[Tensor, Tensor]] = []

    def progress_state(self) -> dict[str, Any]:
        """As in `Stage`, with the figures and predictions of the best epoch so far."""
        return super().progress_state() | {"figures": self.figures, "predictions": self.predictions}

    def load_progress_state(self, state: Mapping[str, Any]) -> None:
        """As in `Stage`."""
        super().load_progress_state(state)
        self.figures, self.predictions = state["figures"], state["predictions"]

    def trained_modules(self) -> Iterable[nn.Module]:
        """Encoder, representation and head."""
        return (self.classifier,)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser trains, by learning rate, the head's first, and by weight decay.

        A representation that names a learning rate has a group of its own, the last, without weight decay.
        """
        own_rate = self.classifier.representation.learning_rate
        by_rate: defaultdict[float, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self.classifier.named_parameters():
            if own_rate is None or not name.startswith("representation."):
                distance = max(self.classifier.distance_of(name), 0)
                by_rate[self.optimisation.learning_rate * self.layer_decay**distance].append(parameter)
        groups = [
            {**group, "lr": rate}
            for rate, parameters in sorted(by_rate.items(), reverse=True)
            for group in weight_decay_groups(parameters, self.optimisation.weight_decay)
        ]
        if own_rate is not None:
            own = [each for each in self.classifier.representation.parameters() if each.requires_grad]
            groups.append({"params": own, "weight_decay": 0.0, "lr": own_rate})
        return groups

    def on_train_epoch_start(self) -> None:
        """Start the clock, and unfreeze a layer more; what is frozen has no gradient, and the optimiser skips it."""
        super().on_train_epoch_start()
        if self.gradual_unfreezing:
            for name, parameter in self.classifier.named_parameters():
                parameter.requires_grad_(self.classifier.distance_of(name) < self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy in nats, mean over the batch, and over all texts of batches that are accumulated."""
        losses = self.of_whole({LOSS: self.loss(self.classifier(batch), batch["labels"])}, batch)
        loss = losses[LOSS]
        if self.logs_this_step:
            self.log_training({"loss": ranks.mean(loss.detach())})
        return self.as_part(loss, LOSS, batch)

    def counts(self, batch: Batch) -> dict[str, Any]:
        """The texts."""
        return {LOSS: len(batch["labels"])}

    def loss(self, logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """Cross entropy in nats, mean over the batch; with `class_weights` each text's is multiplied by its class's.

        The sum is divided by B and not by the batch's own weights, which would leave a batch of one class unweighted.
        """
        if self.class_weights is None:
            return functional.cross_entropy(logits, labels)
        each = functional.cross_entropy(logits, labels, reduction="none")
        return (each * self.class_weights[labels]).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the dev predictions."""
        self._predict(batch, self.dev_scores)

    def on_test_start(self) -> None:
        """Choose the texts whose vectors are kept."""
        count = len(self.trainer.datamodule.texts["test"])  # type: ignore[attr-defined]
        self._to_keep = torch.from_numpy(spread(count, TEXTS))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the test predictions, and some of the vectors that they are made from."""
        vectors = self.classifier.vectors(batch)
        self.test_scores.update(batch, self.classifier.logits(vectors))
        examples = batch["examples"].cpu()
        kept = torch.isin(examples, self._to_keep)
        self._kept.append((examples[kept], vectors.float().cpu()[kept]))

    def on_validation_epoch_end(self) -> None:
        """Log the dev figures."""
        self._finish(self.dev_scores)

    def on_test_epoch_end(self) -> None:
        """Log the test figures, and put the vectors that were kept into the examples' order."""
        self._finish(self.test_scores)
        examples, vectors = (ranks.gathered(torch.cat(parts)) for parts in zip(*self._kept, strict=True))
        order = examples.argsort()
        self.vectors = {"examples": examples[order], "vectors": vectors[order]}
        self._kept = []

    def _predict(self, batch: Batch, scores: Scores) -> None:
        scores.update(batch, self.classifier(batch))

    def _finish(self, scores: Scores) -> None:
        figures, predictions = scores.finish()
        loss = f"{scores.split}/loss"
        self.check_measured_loss(figures[loss], loss)
        self.log_dict(figures)
        best = self.figures.get(scores.split, {}).get(SELECTION_METRIC)
        if best is None or figures[SELECTION_METRIC] > best:
            self.figures[scores.split], self.predictions[scores.split] = figures, predictions
