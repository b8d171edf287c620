"""What a person sees of a run: a start, a line of progress, an end. The same on a terminal and in a log."""

import math
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from poolwise import ranks
from poolwise.stages.stage import Stage
from poolwise.words import roughly

FIGURES = 80
"""Columns that the figures of a line of progress take; a bar stands before them where there is room, and where there
is less room the figures stand alone: epoch, step, time left, loss, thousand tokens per second."""
REDRAW_SECONDS = 0.25
FIRST_ESTIMATE_SECONDS = 3.0
"""How long training runs before it is said how long it will take: the first steps are slow ones."""
LOG_SECONDS = 30.0
"""The shortest time between two lines of progress where there is no terminal."""
LOG_LINES = 20
"""About how many such lines a long run prints."""


def show(title: str, facts: Mapping[str, str], places: Mapping[str, str] | None = None) -> None:
    """Print a title, and below it a fact a line.

    Args:
        title: one line.
        facts: prose; what is longer than the terminal is wide goes on below itself.
        places: paths and commands; they are left unbroken, so that they can be copied.
    """
    console = Console(highlight=False, quiet=not ranks.is_first())
    places = places or {}
    indent = max(map(len, [*facts, *places]), default=0) + 4
    console.print(Text(title, style="bold"), soft_wrap=True)
    for name, words in [*facts.items(), *places.items()]:
        wraps = console.is_terminal and name in facts
        lines = textwrap.wrap(words, max(console.width - indent, 20), break_on_hyphens=False) if wraps else [words]
        text = ("\n" + " " * indent).join(lines)
        console.print(Text.assemble((f"  {name:<{indent - 2}}", "dim"), text), soft_wrap=True)


class TrainingScreen(lightning.Callback):
    """One line of progress for all epochs: epoch, step, loss, tokens per second, time left.

    On a terminal it is drawn in place; elsewhere it is a line of log now and then. Reads the loss only when it
    shows it, so that training never waits for it.
    """

    def __init__(self, later: Callable[[], int]) -> None:
        """Args:
        later: counts the jobs of the sweep that come after this one, for the estimate of the whole; 0 of a single run.
        """
        self.later = later
        self.console = Console(highlight=False, quiet=not ranks.is_first())
        self.progress: Progress | None = None
        self.estimated = False
        self.batch_shape: tuple[int, ...] | None = None
        """(B, T) of the batch that is being computed; None before there is one."""

    def note_batch(self, batch: Any) -> None:
        """Remember the shape of a batch, which is told if memory does not suffice for it."""
        self.batch_shape = tuple(batch["input_ids"].shape)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch."""
        self.note_batch(batch)

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the batch."""
        self.note_batch(batch)

    on_test_batch_start = on_validation_batch_start

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and the drawing if there is a terminal."""
        assert isinstance(pl_module, Stage)
        self.stage = pl_module
        batches = trainer.num_training_batches
        self.batches_an_epoch = 0 if math.isinf(batches) else int(batches)  # of a stream, not known
        self.batches = self.batches_an_epoch * int(trainer.max_epochs or 1)
        if trainer.max_steps > 0:
            self.batches = min(self.batches, trainer.max_steps * trainer.accumulate_grad_batches)
        self.started = self.drawn = self.logged = time.perf_counter()
        self.first_step, self.share_at_start = trainer.global_step, 0.0
        if self.console.is_terminal:
            self.progress = Progress(
                *_columns(self.console.width), console=self.console, transient=True, auto_refresh=False
            )
            self.training = self.progress.add_task("training", total=1.0, facts="")
            self.progress.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show where training is, if the last showing is a while ago."""
        now = time.perf_counter()
        done = trainer.current_epoch * self.batches_an_epoch + batch_idx + 1
        if not self.batches_an_epoch:
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        share = done / self.batches if self.stage.budget is None else self.stage.progress
        if trainer.global_step <= self.first_step + 1:
            self.started, self.share_at_start = now, share  # the first step is slow, and says nothing of the others
        passed = share - self.share_at_start
        if passed <= 0 or now - self.drawn < REDRAW_SECONDS:
            return
        self.drawn = now
        seconds_left = (now - self.started) / passed * (1 - share)
        self._estimate(now, seconds_left)
        if self.progress is None:
            if now - self.logged <= max(LOG_SECONDS, (now - self.started + seconds_left) / LOG_LINES):
                return
            self.logged = now
        epoch, wide = self._epoch(trainer), self.progress is None or self.console.width >= FIGURES
        loss, speed, left = float(outputs["loss"]), self.stage.throughput, roughly(seconds_left)
        if self.stage.budget is not None:
            step = f"{done:,}, {share:.0%} done" if wide else f"{done} {share:.0%}"
        else:
            step = f"{done:,}/{self.batches:,}" if wide else f"{done}/{self.batches}"
        facts = (
            f"epoch {epoch}, step {step}, {left} left, loss {loss:.3f}, {speed:,.0f} tokens/s"
            if wide
            else f"{epoch} {step} {left.removeprefix('about ')} {loss:.2f} {speed / 1000:.1f}k/s"
        )
        if self.progress is not None:
            self.progress.update(self.training, completed=share, facts=facts, refresh=True)
        else:
            self.console.print(f"  {facts}", soft_wrap=True)

    def _epoch(self, trainer: lightning.Trainer) -> str:
        """Its number, and of how many where epochs say how long training is."""
        return f"{trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if self.stage.budget is None else "")

    def _estimate(self, now: float, seconds_left: float) -> None:
        if self.estimated or now - self.started < FIRST_ESTIMATE_SECONDS:
            return
        self.estimated = True
        whole = now - self.started + seconds_left
        words = f"  time    {roughly(whole)} by the speed of the first steps"
        if later := self.later():
            words += f"; {roughly(whole * (1 + later))} with the {later} after it"
        self.console.print(words, soft_wrap=True)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say why the steps stand still."""
        if self.progress is not None:
            facts = f"epoch {self._epoch(trainer)}: evaluating on dev"
            self.progress.update(self.training, facts=facts, refresh=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop drawing."""
        self.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Stop drawing, so that the terminal is left as it was."""
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _columns(width: int) -> list[ProgressColumn]:
    bar: list[ProgressColumn] = [BarColumn(min(width - FIGURES, 40))] if width >= FIGURES + 10 else []
    return [*bar, TextColumn("{task.fields[facts]}", markup=False)]
