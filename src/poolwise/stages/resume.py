"""Checkpoints from which a run goes on as if it had never been stopped.

One is written between two steps, as the next batch is about to be trained on, and never within an evaluation or while
gradients are accumulated. Lightning's part of it is weights, optimiser, schedule, scaler, callbacks and progress;
`resume` is all else that a later step depends on. Order and masks of the texts are functions of (seed, epoch, example),
so that epoch and batch are the position in them; in a stream, which is read from its beginning up to there, also the
block. A batch is that of all processes together, so that another number of them can go on.
"""

import logging
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from poolwise import ranks
from poolwise.durable import BrokenFileError, is_whole, load_checked, save_checked
from poolwise.runs import RESUMED, RunRecord
from poolwise.stages.stage import Stage
from poolwise.stages.stopping import Stopped, StopSignals

log = logging.getLogger(__name__)

CHECKPOINT, FORMER_CHECKPOINT = "resume.ckpt", "resume.former.ckpt"
BEST_CHECKPOINT = "best.ckpt"
RESUME = "resume"
"""The entry of a checkpoint that is not Lightning's."""
FORMAT = 2
"""Of that entry; raised by hand when what it holds changes."""


class CheckedFiles(TorchCheckpointIO):
    """Lightning's checkpoints as files that are whole or not there, and are checked when they are read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one."""
        save_checked(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        """Read one, onto the CPU, without running code."""
        return load_checked(Path(path))


class Checkpoints(lightning.Callback):
    """Writes a checkpoint now and then, and when the run is to stop; brings all back to where one was written."""

    def __init__(self, record: RunRecord, every_minutes: float, signals: StopSignals) -> None:
        """Take the record of the run, whose folder they lie in, and go on with it if there is a checkpoint."""
        self.record = record
        self.every_seconds = 60 * every_minutes
        self.signals = signals
        self.path, checkpoint = latest(record.folder, record.identity.key) if ranks.is_first() else (None, None)
        self.path = ranks.first_decides(lambda: self.path)
        if checkpoint is None and self.path is not None:
            checkpoint = load_checked(self.path)
        self.state: dict[str, Any] | None = None
        if checkpoint is not None:
            self.state = checkpoint[RESUME]
            record.go_on(checkpoint[RESUME]["record"], checkpoint["global_step"])

    @property
    def facts(self) -> dict[str, str]:
        """For the screen: where the run goes on, if it was stopped."""
        return {} if self.state is None else {"goes on": f"after step {self.record.results[RESUMED][-1]:,}"}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say where the order of the texts goes on, before it is read."""
        if RESUME in checkpoint:
            trainer.datamodule.start = tuple(checkpoint[RESUME]["position"])  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a signal waits for a checkpoint; Lightning has set handlers of its own, and one seed for all."""
        if ranks.rank():
            torch.manual_seed(torch.initial_seed() + ranks.rank() * 2**40)  # dropout of its own
        self.signals.waits = True
        self.signals.listen()
        self.written = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Bring all back that Lightning does not, or write a checkpoint if it is time or the run is to stop."""
        assert isinstance(pl_module, Stage)
        if self.state is not None:
            self._bring_back(self.state, trainer, pl_module)
            self.state = None
        is_due = self._is_due()
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._all_agree_to_write(is_due):
            pl_module.check_loss()
            pl_module.check_weights()
            with pl_module.off_the_clock():
                self._write(trainer)
            self.written = time.monotonic()
            self._stop_if_asked()

    def _all_agree_to_write(self, is_due: bool) -> bool:
        """Whether it is time by the clock of process 0, or one of the processes was asked to stop, and so all are."""
        found = ranks.greatest({"due": is_due and ranks.is_first(), "signal": self.signals.received or 0})
        if found["signal"]:
            self.signals.received = int(found["signal"])
        return bool(found["due"] or found["signal"])

    def _stop_if_asked(self) -> None:
        if self.signals.received is not None:
            raise Stopped(self.signals.received, by_all=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a signal stops the run at once; so does one that came after the last step."""
        self.signals.waits = False
        self._all_agree_to_write(is_due=False)
        self._stop_if_asked()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out, and have it count the batch that is fetched, and not begun, as one to come."""
        assert isinstance(pl_module, Stage)
        loop = trainer.fit_loop.epoch_loop
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (batches["current"], batches["total"]):
            count["ready"] = count["completed"]
        batches["is_last_batch"] = False
        own, *others = ranks.of_each(generators())
        checkpoint[RESUME] = {
            "has_best": bool(getattr(trainer.checkpoint_callback, "best_model_path", "")),
            "position": trainer.datamodule.position(  # type: ignore[attr-defined]
                trainer.current_epoch, batches["current"]["completed"]
            ),
            "logged_steps": loop._batches_that_stepped,
            "figures": dict(trainer.callback_metrics),
            "stage": pl_module.progress_state(),
            "generators": own,
            "generators_of_others": others,
            "record": self.record.progress(),
            "key": self.record.identity.key,
            "format": FORMAT,
        }

    def _bring_back(self, state: Mapping[str, Any], trainer: lightning.Trainer, stage: Stage) -> None:
        # Lightning begins no epoch where it goes on within one, and counts a step when it skips an evaluation.
        stage.on_train_epoch_start()
        stage.load_progress_state(state["stage"])
        trainer.fit_loop.epoch_loop._batches_that_stepped = state["logged_steps"]
        trainer.callback_metrics.update(state["figures"])
        of_ranks = [state["generators"], *state.get("generators_of_others", [])]
        if len(of_ranks) == ranks.size():
            set_generators(of_ranks[ranks.rank()])
        elif ranks.is_first():
            set_generators(of_ranks[0])

    def _write(self, trainer: lightning.Trainer) -> None:
        """Write a checkpoint; the one before it is kept, in case that this one is not finished or gets damaged."""
        path = self.record.folder / CHECKPOINT
        if ranks.is_first() and path.exists():
            path.replace(self.record.folder / FORMER_CHECKPOINT)
        trainer.save_checkpoint(path)

    def _is_due(self) -> bool:
        """Whether the last checkpoint is old; also where the clock went back, as nobody knows by how much."""
        return not 0 <= time.monotonic() - self.written < self.every_seconds


def latest(folder: Path, key: str) -> tuple[Path | None, dict[str, Any] | None]:
    """The path and the content of the last checkpoint in a folder that is whole, and of the run of this key.

    None where there is none.
    """
    for draft in folder.glob("*.draft"):  # of a process that was killed
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    for name in (CHECKPOINT, FORMER_CHECKPOINT):
        path = folder / name
        try:
            checkpoint = of_run(load_checked(path), key, path) if path.exists() else None
        except (BrokenFileError, OSError) as error:
            log.warning("WARNING: %s; the checkpoint before it is used, if there is one", error)
            path.unlink(missing_ok=True)  # so that it never takes the place of a good one
            continue
        if checkpoint is None:
            continue
        if checkpoint[RESUME]["has_best"] and not is_whole(folder / BEST_CHECKPOINT):
            log.warning("WARNING: %s is damaged: the run starts anew", folder / BEST_CHECKPOINT)
            return None, None
        return path, checkpoint
    return None, None


def of_run(checkpoint: Any, key: str, path: Path) -> dict[str, Any]:
    """A checkpoint, if it is what `Checkpoints` wrote for the run of this key.

    Raises:
        BrokenFileError: it is something else.
    """
    noted = checkpoint.get(RESUME) if isinstance(checkpoint, dict) else None
    if not isinstance(noted, dict) or noted.get("key") != key:
        raise BrokenFileError(f"{path} is no checkpoint of this run")
    if noted.get("format") != FORMAT:
        raise BrokenFileError(f"{path} was written by another version of poolwise")
    found: dict[str, Any] = checkpoint
    return found


def remove(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished: what it trained is kept in another form."""
    for name in (CHECKPOINT, FORMER_CHECKPOINT, BEST_CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def generators() -> dict[str, Any]:
    """The state of the global generators, as tensors and plain data."""
    name, words, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.array(words, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def set_generators(state: Mapping[str, Any]) -> None:
    """Set the global generators to what `generators` gave."""
    random.setstate(state["python"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["cuda"])
