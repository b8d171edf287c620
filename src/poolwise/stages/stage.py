"""What both stages share: optimiser, schedule, throughput."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from poolwise.data.batching import Batch
from poolwise.settings import Optimisation


class Stage(lightning.LightningModule, ABC):
    """A LightningModule with AdamW, linear warm-up and decay, and a count of real tokens per second.

    Attributes:
        throughput: real (non-padding) tokens per second of training so far; validation is left out.
    """

    def __init__(self, optimisation: Optimisation) -> None:
        super().__init__()
        self.optimisation = optimisation
        self._tokens = 0
        self._seconds = 0.0
        self._resumed_at = 0.0
        self._logs_this_step = False

    @abstractmethod
    def trained_modules(self) -> Iterable[nn.Module]:
        """The modules whose parameters the optimiser gets."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without weight decay on biases and layer norms (Devlin et al. 2019), and its schedule."""
        settings = self.optimisation
        optimizer = torch.optim.AdamW(
            weight_decay_groups(self.trained_modules(), settings.weight_decay),
            lr=settings.learning_rate,
            fused="mixed" not in str(self.trainer.precision),  # Lightning clips no fused optimiser under a scaler
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup_share * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def throughput(self) -> float:
        """Real tokens per second of training."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._resumed_at = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """See whether this step is logged: Lightning's bookkeeping costs a tiny BERT a fifth of each step."""
        self._logs_this_step = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def log_training(self, figures: Mapping[str, Tensor | float]) -> None:
        """Log figures of a training step, if this is one in `log_every_n_steps`."""
        if self._logs_this_step:
            self.log_dict({f"train/{name}": value for name, value in figures.items()})

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the batch, and log throughput and learning rate."""
        self._tokens += int(batch["tokens"])
        self._stop_clock()
        self._resumed_at = time.perf_counter()
        learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_training({"tokens_per_second": self.throughput, "learning_rate": learning_rate})

    def on_validation_start(self) -> None:
        """Stop the clock: throughput is training alone."""
        self._stop_clock()

    def on_validation_end(self) -> None:
        """Start the clock again."""
        self._resumed_at = time.perf_counter()

    def _stop_clock(self) -> None:
        self._seconds += time.perf_counter() - self._resumed_at


def weight_decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, list[Tensor] | float]]:
    """Every trained parameter once: matrices and embeddings with weight decay, biases and layer norms without."""
    with_decay: list[Tensor] = []
    without: list[Tensor] = []
    seen: set[int] = set()
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                (with_decay if parameter.ndim > 1 else without).append(parameter)
    return [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
