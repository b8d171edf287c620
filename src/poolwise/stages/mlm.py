"""Stage 1: masked language modelling with a pooler that is trained jointly.

Shapes: B texts, T tokens, H hidden size, V vocabulary, M masked positions.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from poolwise import ranks
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler
from poolwise.geometry import dev_geometries
from poolwise.objectives.base import Objective
from poolwise.provenance import ProvenanceTracker, gradient_norm, pooler_figures
from poolwise.settings import Budget, Optimisation
from poolwise.stages.stage import Stage, weight_decay_groups

MLM = "mlm"
"""The name of its loss, beside those of objectives."""
PROBES = 8
"""Steps, from the first to the last, at which the gradient of each loss alone is measured: one more backward pass a
loss, so with two losses about as long as 11 steps in all. (A backward pass takes two thirds of a step.)"""


class MaskedLanguageModelling(Stage):
    """Trains `MaskedLMWithPooler` with the MLM loss plus a pooler objective.

    Attributes:
        proof: after training, `ProvenanceTracker.summary`.
    """

    def __init__(
        self,
        model: MaskedLMWithPooler,
        objective: Objective,
        provenance: ProvenanceTracker,
        optimisation: Optimisation,
        budget: Budget | None = None,
        pooler_learning_rate: float | None = None,
    ) -> None:
        """Take the parts; `pooler_learning_rate` is that of the pooler and of what the objective may hold, None for
        the learning rate of all else."""
        super().__init__(optimisation, budget)
        self.pooler_learning_rate = pooler_learning_rate
        self.model = model
        self.objective = objective
        self.provenance = provenance
        self.proof: dict[str, Any] = {}
        self._probe_points: list[float] = []
        self._probed_to = -1.0
        self.dev_loss, self.dev_accuracy = MeanMetric(), MeanMetric()
        self.dev_objectives: Any = nn.ModuleDict({name: MeanMetric() for name in objective.weights()})

    def progress_state(self) -> dict[str, Any]:
        """As in `Stage`, with what was noted of gradients."""
        noted = {"probed_to": self._probed_to, "provenance": self.provenance.progress_state()}
        return super().progress_state() | noted

    def load_progress_state(self, state: Mapping[str, Any]) -> None:
        """As in `Stage`."""
        super().load_progress_state(state)
        self._probed_to = state["probed_to"]
        self.provenance.load_progress_state(state["provenance"])

    @property
    def leaves_out_padding(self) -> bool:
        """As in `Stage`."""
        return self.model.leaves_out_padding

    @property
    def compiles_layers(self) -> bool:
        """As in `Stage`."""
        return self.model.compiles_layers

    def compile_layers(self) -> None:
        """As in `Stage`, where no padding is computed: with it, passes wait for the GPU, however fast layers are."""
        if self.model.leaves_out_padding:
            self.model.compile_layers()

    def trained_modules(self) -> Iterable[nn.Module]:
        """The model, and what the objective may hold."""
        return (self.model, self.objective)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As in `Stage`; with another learning rate for the pooler and the objective's parts, if one is given."""
        groups = super().parameter_groups()
        if self.pooler_learning_rate is None:
            return groups
        own = [*self.model.pooling_layer.parameters(), *self.objective.parameters()]
        fresh = weight_decay_groups(own, self.optimisation.weight_decay)
        taken = {id(parameter) for group in fresh for parameter in group["params"]}
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
        return groups + [{**group, "lr": self.pooler_learning_rate} for group in fresh]

    def on_train_start(self) -> None:
        """Hold where the weights started in the precision that they are trained in; choose the probed steps."""
        self.provenance.settle_start()
        self._probe_points = self.spread(PROBES)

    def encode(self, batch: Batch) -> Any:
        """The `MaskedLMWithPoolerOutput` of one encoder pass: MLM loss, logits (M, V), pooler output (R, H)."""
        return self.model(
            batch["input_ids"],
            batch["attention_mask"],
            token_type_ids=batch.get("token_type_ids"),
            labels=batch["labels"],
            masked_only=True,
            masked_positions=batch["masked_positions"],
            only_read=self.model.reads_last_layer_in_part,
            packing=batch["packing"] if self.model.leaves_out_padding else None,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """MLM loss + weight x loss of each objective, at the weights of this share of training.

        Of batches that are accumulated for one step, each counts by its masked positions.
        """
        output = self.encode(batch)
        objectives = self.objective.losses(output.pooler_output, batch, self.model)
        losses = self.of_whole({MLM: output.loss, **objectives}, batch)
        mlm = losses.pop(MLM)
        weighted = {MLM: mlm, **self.weighted(losses)}
        self.probe(weighted)
        if self.logs_this_step:
            accuracy = self.of_whole({MLM: masked_accuracy(output.logits, targets(batch))}, batch)[MLM]
            mlm = ranks.mean(mlm.detach())
            self.log_training(
                {
                    "mlm_loss": mlm,
                    "perplexity": mlm.exp(),
                    "masked_accuracy": ranks.mean(accuracy),
                    **loss_figures({name: ranks.mean(loss.detach()) for name, loss in losses.items()}),
                }
            )
        return self.as_part(torch.stack(list(weighted.values())).sum(), MLM, batch)

    def counts(self, batch: Batch) -> dict[str, Any]:
        """Masked positions, and the rows that each objective is a mean over."""
        return {MLM: len(batch["masked_positions"]), **self.objective.counts(batch)}

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight x loss of each objective, at the weights of this share of training."""
        weights = self.objective.weights(self.progress)
        return {name: weights[name] * loss for name, loss in losses.items()}

    def probe(self, losses: Mapping[str, Tensor]) -> None:
        """Note the gradient of each weighted loss alone, if this is one of the `PROBES` steps."""
        progress = self.progress
        if any(self._probed_to < point <= progress for point in self._probe_points):
            self._probed_to = progress
            with self.off_the_clock():
                self.provenance.probe(losses)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note which parts got a gradient; log the norm that reached the pooler (0 without an objective)."""
        super().on_before_optimizer_step(optimizer)
        self.log_training({"pooler_gradient_norm": self.provenance.note_gradients()})

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """As in `Stage`, from the norms of the model's parts, which are known by then."""
        known = {id(parameter) for part in self.provenance.parts.values() for parameter in part}
        others = [each.grad for each in parameters if id(each) not in known and each.grad is not None]
        return gradient_norm([*self.provenance.step_norms.values(), *others])

    def on_train_end(self) -> None:
        """Measure what training made of the pooler, while the model is on its device, and log it."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        geometries = dev_geometries(self.model, data.batches["dev"], data.texts["dev"].lengths)
        self.proof = self.provenance.summary(*geometries)
        for logger in self.loggers:
            logger.log_metrics(pooler_figures(self.proof), self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect dev figures: MLM weighted by masked positions, objectives by the rows that they are means over.

        MLM is measured on the same masked texts whatever the objective; where the objective arranges texts in
        another way, it is measured on these in a pass of its own.
        """
        output = self.encode(batch)
        masked = len(batch["masked_positions"])
        self.dev_loss.update(output.loss, masked)
        self.dev_accuracy.update(masked_accuracy(output.logits, targets(batch)), masked)
        if "arranged" in batch:
            batch = batch["arranged"]
            output = self.encode(batch)
        self.note_dev_objectives(self.objective.losses(output.pooler_output, batch, self.model), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the dev figures; perplexity is exp of the mean loss over all masked positions."""
        loss = self.dev_loss.compute()
        if self.dev_loss.weight > 0:  # few short texts may have no masked position
            self.check_measured_loss(loss, "dev/mlm_loss")
        self.log_dict(
            {
                "dev/mlm_loss": loss,
                "dev/perplexity": loss.exp(),
                "dev/masked_accuracy": self.dev_accuracy.compute(),
            }
        )
        for metric in (self.dev_loss, self.dev_accuracy):
            metric.reset()
        self.log_dev_objectives()

    def note_dev_objectives(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Add the objectives' losses of a dev batch."""
        for name, count in self.objective.counts(batch).items():
            self.dev_objectives[name].update(losses[name], count)

    def log_dev_objectives(self) -> None:
        """Log the objectives' dev figures, less those that no dev text says anything of."""
        rows = ranks.totals({name: metric.weight for name, metric in self.dev_objectives.items()})
        known = {name: metric.compute() for name, metric in self.dev_objectives.items() if rows[name] > 0}
        figures = loss_figures(known) if known else {}
        self.log_dict({f"dev/{name}": value for name, value in figures.items()})
        for metric in self.dev_objectives.values():
            metric.reset()


def loss_figures(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`objective_loss`, the sum of unweighted losses, and where there are several, `NAME_loss` of each."""
    total = {"objective_loss": torch.stack(list(losses.values())).sum()}
    return total if len(losses) == 1 else total | {f"{name}_loss": loss for name, loss in losses.items()}


def targets(batch: Batch) -> Tensor:
    """(M,) the word pieces at the masked positions."""
    pieces: Tensor = batch["labels"].flatten().index_select(0, batch["masked_positions"])
    return pieces


def masked_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of the M masked positions whose word piece (M,) has the highest of the (M, V) logits; 0 where M is 0."""
    return (logits.argmax(dim=-1) == targets).sum() / max(len(targets), 1)
