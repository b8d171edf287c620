"""What both stages share: optimiser, schedule, throughput."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from poolwise import ranks
from poolwise.data.batching import Batch
from poolwise.dropout import drop_quickly
from poolwise.settings import Budget, Optimisation, UserError

DIVERGED = (
    "Training diverged: a lower learning rate or more warm-up may help. The last checkpoint, if there is one, is kept"
)

CLIP_EPSILON = 1e-6
"""What torch adds to a norm before it divides by it."""


class SeenLoss(NamedTuple):
    """The loss of a step, which is not looked at yet.

    Attributes:
        number: of the step, from 1 on.
        loss: a scalar on the device.
        learning_rate: of the first group of parameters.
        norm_before: the gradient norm of the step before, before clipping; None where that is not known.
    """

    number: int
    loss: Tensor
    learning_rate: float
    norm_before: Tensor | None


class Stage(lightning.LightningModule, ABC):
    """A LightningModule with AdamW, linear warm-up and decay, and a count of real tokens per second.

    Attributes:
        tokens: real (non-padding) ones that training batches held so far.
        seconds: of training so far; validation and the probing of gradients are left out.
        logs_this_step: whether the step that runs is one in `log_every_n_steps`.
    """

    def __init__(self, optimisation: Optimisation, budget: Budget | None = None) -> None:
        """Take the settings; training stops when `budget` is spent, and without one when the trainer says so."""
        super().__init__()
        self.optimisation = optimisation
        self.budget = budget
        self.tokens = 0
        self.seconds = 0.0
        self._batch_tokens = 0
        self._resumed_at: float | None = None
        self.logs_this_step = False
        self._counted: int | float = 0
        self._whole: int | float = 1
        self._unchecked: list[SeenLoss] = []
        self._gradient_norm: Tensor | None = None
        self._finite_loss = float("nan")

    def progress_state(self) -> dict[str, Any]:
        """What a checkpoint within training holds of it beside its weights: tensors and plain data."""
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "finite_loss": self._finite_loss,
            "gradient_norm": self._gradient_norm,
        }

    def load_progress_state(self, state: Mapping[str, Any]) -> None:
        """Be where training was when `progress_state` gave this."""
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self._finite_loss, self._gradient_norm = state["finite_loss"], state["gradient_norm"]

    @property
    def leaves_out_padding(self) -> bool:
        """Whether its steps compute no padding."""
        return False

    @property
    def compiles_layers(self) -> bool:
        """Whether the encoder's layers are compiled."""
        return False

    def compile_layers(self) -> None:
        """Have the encoder's layers compiled, if that can make its steps faster."""

    @abstractmethod
    def trained_modules(self) -> Iterable[nn.Module]:
        """The modules whose parameters the optimiser gets."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without weight decay on biases and layer norms (Devlin et al. 2019), and its schedule."""
        settings = self.optimisation
        optimizer = torch.optim.AdamW(
            self.parameter_groups(),
            lr=settings.learning_rate,
            fused=fuses_optimiser(self.trainer.precision),
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1) if self.budget is None else 0
        self._whole = steps if self.budget is None else self.budget.amount
        warmup: int | float = settings.warmup_share * self._whole
        if self._counts_steps:
            warmup = round(warmup)
        schedule = LambdaLR(optimizer, lambda _: linear_schedule(self._done, warmup, self._whole))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, and in bf16 too, where it refuses to for a fused optimiser; notes the norm before it."""
        if self.trainer.precision != "16-mixed" and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            norm = self._gradient_norm = self.gradient_norm(parameters)
            # torch multiplies by 1 too, which reads and writes all gradients.
            if not (self.is_at_hand(norm) and float(norm) + CLIP_EPSILON <= gradient_clip_val):
                nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """L2 norm over all gradients of a step."""
        return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])

    @abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, Any]:
        """How many things of a training batch each of its losses is a mean over, by the loss's name."""

    def with_totals(self, batch: Batch) -> Batch:
        """A training batch of one of several processes, and what that counts in the whole batch.

        Adds `totals`, the counts of the whole batch, and `shares`, by which the mean over processes of what is a mean
        over the parts becomes the mean over the whole; `tokens` is then the whole batch's.
        """
        own = {name: int(count) for name, count in self.counts(batch).items()}
        totals = ranks.totals({**own, "tokens": batch["tokens"]})
        shares = {name: ranks.size() * count / max(totals[name], 1) for name, count in own.items()}
        return {**batch, "tokens": int(totals.pop("tokens")), "totals": totals, "shares": shares}

    @staticmethod
    def of_whole(losses: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses of this process's part of a batch, whose mean over processes is the loss of the whole batch."""
        shares = batch.get("shares")
        return dict(losses) if shares is None else {name: loss * shares[name] for name, loss in losses.items()}

    def as_part(self, loss: Tensor, name: str, batch: Batch) -> Tensor:
        """A batch's mean loss over what `counts` says of `name`, as its part of the mean over all that make one step.

        With `accumulate_grad_batches` Lightning divides each loss by the number of batches and adds up gradients, so
        that a batch of few tokens counts like one of many. What is there already makes room for this batch here.
        The counts are those of whole batches, in several processes too.

        Raises:
            UserError: a loss is not finite. A GPU, and other processes, are asked at logged steps only, as no other
                step waits for them.
        """
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._unchecked.append(SeenLoss(self.global_step + 1, loss.detach(), rate, self._gradient_norm))
        if self.logs_this_step or self.is_at_hand(loss):
            self.check_loss()
        batches = self.trainer.accumulate_grad_batches
        if batches == 1:
            return loss
        count: int | float = (batch["totals"] if "totals" in batch else self.counts(batch))[name]
        before, self._counted = self._counted, self._counted + count
        if before:
            gradients = [p.grad for module in self.trained_modules() for p in module.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, before / self._counted)
        weighted: Tensor = loss * (batches * count / max(self._counted, 1))
        return weighted

    @staticmethod
    def is_at_hand(loss: Tensor) -> bool:
        """Whether a loss can be looked at without waiting for a GPU or for another process."""
        return loss.device.type == "cpu" and ranks.size() == 1

    def check_loss(self) -> None:
        """See that each loss since the last look is a finite number.

        Raises:
            UserError: one is not; what is known of the steps before the first such one is told.
        """
        seen, self._unchecked = self._unchecked, []
        losses = ranks.mean(torch.stack([step.loss for step in seen])).tolist() if seen else []
        for step, loss in zip(seen, losses, strict=True):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of step {step.number} is {loss}; the last finite one was {self._finite_loss:.4f}; "
                    f"learning rate {step.learning_rate:.3g}; gradient norm of the step before it, before clipping, "
                    f"{in_words(step.norm_before)}. {DIVERGED}"
                )
            self._finite_loss = loss

    def check_weights(self) -> None:
        """Raise a UserError if a weight is not finite, as after a step too large: no checkpoint is made of these."""
        weights = [parameter for module in self.trained_modules() for parameter in module.parameters()]
        if not all(bool(weight.isfinite().all()) for weight in weights):
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise UserError(
                f"weights are no finite numbers after step {self.global_step}; the last finite loss was "
                f"{self._finite_loss:.4f}; learning rate {rate:.3g}; gradient norm of that step, before clipping, "
                f"{in_words(self._gradient_norm)}. {DIVERGED}"
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """A new step begins to count anew."""
        self._counted = 0

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Lightning's; then gradients, as large as the model, are let go: Lightning keeps them to the next backward
        pass, and so beside all that the forward pass holds."""
        super().optimizer_step(*arguments, **named)
        self.trainer.optimizers[0].zero_grad()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser trains, by weight decay."""
        parameters = (parameter for module in self.trained_modules() for parameter in module.parameters())
        return weight_decay_groups(parameters, self.optimisation.weight_decay)

    @property
    def progress(self) -> float:
        """The share of training, or of the budget, that is done: 0 to 1."""
        return min(self._done / self._whole, 1.0)

    def spread(self, points: int) -> list[float]:
        """Shares of training, from the first step on: to the last one where steps are counted, else evenly."""
        if self._counts_steps:
            return sorted({step / self._whole for step in np.linspace(0, self._whole - 1, points).astype(int).tolist()})
        return [point / points for point in range(points)]

    @property
    def _counts_steps(self) -> bool:
        return self.budget is None or self.budget.unit == "steps"

    @property
    def _done(self) -> int | float:
        if self._counts_steps:
            return int(self.global_step)
        assert self.budget is not None
        return self.tokens if self.budget.unit == "tokens" else self.seconds

    @property
    def throughput(self) -> float:
        """Real tokens per second of training so far."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_fit_start(self) -> None:
        """Draw dropout the quick way, on a CPU."""
        if self.trainer.strategy.root_device.type == "cpu":
            drop_quickly(self)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._resumed_at = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """See whether this step is logged: Lightning's bookkeeping costs a tiny BERT a fifth of each step."""
        self._batch_tokens = int(batch["tokens"])
        self.logs_this_step = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def log_training(self, figures: Mapping[str, Tensor | float]) -> None:
        """Log figures of a training step, if this is one in `log_every_n_steps`."""
        if self.logs_this_step:
            self.log_dict({f"train/{name}": value for name, value in figures.items()})

    def on_after_backward(self) -> None:
        """Count the batch: the learning rate of the next step is set before `on_train_batch_end`."""
        self.tokens += self._batch_tokens
        self._read_clock()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log throughput and learning rate; end training where the budget is spent, after a last look at dev.

        The clock is as it was when the learning rate was set, so that the last one is 0 (or next to it, where the
        moments between an epoch's last step and its look at dev spend the rest).
        """
        self._stop_where_spent()
        learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_training({"tokens_per_second": self.throughput, "learning_rate": learning_rate})

    def on_validation_start(self) -> None:
        """Stop the clock: throughput is training alone. Nothing is measured on what diverged, nor kept as the best."""
        self._stop_clock()
        self.check_loss()
        if self.trainer.optimizers:  # something is trained
            self.check_weights()

    def check_measured_loss(self, loss: Tensor, name: str) -> None:
        """Raise a UserError if a loss on dev or test is no finite number, as of weights far too large."""
        if not math.isfinite(loss):
            raise UserError(f"{name} is {float(loss)} after step {self.global_step}. {DIVERGED}")

    def on_validation_end(self) -> None:
        """Start the clock again; what was read of it before dev may have spent the budget."""
        self._resumed_at = time.perf_counter()
        self._stop_where_spent()

    def _stop_where_spent(self) -> None:
        if self.budget is not None and self.progress >= 1:
            self.trainer.should_stop = True

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Measure something without counting its time as training."""
        self._stop_clock()
        yield
        self._resumed_at = time.perf_counter()

    def _read_clock(self) -> None:
        """Add the time since the clock was last read, if it runs."""
        if self._resumed_at is not None:
            now = time.perf_counter()
            self.seconds += max(now - self._resumed_at, 0.0)  # on some virtual machines clocks go back
            if self.budget is not None and self.budget.unit == "seconds":
                self.seconds = ranks.first_decides(lambda: self.seconds)  # all stop at the same step
            self._resumed_at = now

    def _stop_clock(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # what it was given is training too
        self._read_clock()
        self._resumed_at = None


def fuses_optimiser(precision: str | int | None) -> bool:
    """Whether one kernel updates all weights: not with 16-mixed, whose scaler unscales gradients after clipping."""
    return precision != "16-mixed"


def in_words(norm: Tensor | None) -> str:
    """A gradient norm, which GPUs and the first step may not know."""
    return "not known" if norm is None else f"{float(norm):.4g}"


def linear_schedule(done: int | float, warmup: int | float, whole: int | float) -> float:
    """What the learning rate is multiplied by: from 0 linearly to 1 at `warmup`, and to 0 at `whole`."""
    if done >= whole:
        return 0.0
    return done / warmup if done < warmup else (whole - done) / (whole - warmup)


def weight_decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Every trained parameter once: matrices and embeddings with weight decay, biases and layer norms without."""
    with_decay: list[Tensor] = []
    without: list[Tensor] = []
    seen: set[int] = set()
    for parameter in parameters:
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            (with_decay if parameter.ndim > 1 else without).append(parameter)
    return [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
