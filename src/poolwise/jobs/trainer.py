"""Arguments of Lightning's trainer: which of them change numbers, and which are refused before work starts."""

import inspect
import json
from functools import lru_cache
from typing import Annotated, Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger

from poolwise.machine import trainer_arguments
from poolwise.settings import (
    Bounds,
    CommonSettings,
    Count,
    SentimentSettings,
    UserError,
    problems_with_value,
)
from poolwise.words import first_line

SPEED_ONLY_TRAINER_ARGUMENTS = set(
    "log_every_n_steps profiler benchmark accelerator devices precision strategy".split()
)
"""Left out of a run's key: they change no number, or enter it resolved (device class, precision)."""

NEUTRAL = {"accumulate_grad_batches": 1, "max_steps": -1, "overfit_batches": 0.0}
"""Values of Lightning's arguments that do what leaving them out does, where the default does not say so."""

NEEDED_IN_TRAINING = dict.fromkeys(("max_steps", "limit_train_batches"), "nothing would be trained")
NEEDED_IN_STAGE_2 = {
    "limit_val_batches": "without dev no epoch can be chosen",
    "limit_test_batches": "nothing would be told of test",
}
"""Arguments of Lightning's that must not be zero, and why."""

TRAINER_COUNTS = {
    "accumulate_grad_batches": Count,
    "check_val_every_n_epoch": Annotated[int | None, Bounds(at_least=1.0)],
    "log_every_n_steps": Count,
}
"""Arguments that Lightning takes unchecked, and fails on when it trains."""

SHARED = ("accelerator", "devices", "precision", "strategy")
CPU_PRECISIONS = ("32-true", "64-true", "bf16-true", "bf16-mixed")


def platform(trainer: dict[str, Any]) -> dict[str, Any]:
    """Device class and precision as Lightning resolves them, and trainer arguments that change numbers.

    Args:
        trainer: the arguments, plain data.

    Raises:
        UserError: Lightning or this machine does not take one of the arguments.
    """
    return dict(_platform(json.dumps(trainer, sort_keys=True)))


@lru_cache(maxsize=16)  # a trainer looks for plugins in all packages that are installed
def _platform(given: str) -> dict[str, Any]:
    trainer: dict[str, Any] = json.loads(given)
    try:
        resolved = lightning.Trainer(
            **trainer_arguments(trainer),
            logger=CSVLogger("."),  # writes nothing before it is logged to
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (TypeError, ValueError, RuntimeError, ImportError, AttributeError, MisconfigurationException) as error:
        given = ", ".join(f"trainer.{key}={value}" for key, value in trainer.items())
        raise UserError(f"{given}: Lightning does not take these ({first_line(error)})") from error
    device = resolved.strategy.root_device.type
    if device == "cpu" and resolved.precision not in CPU_PRECISIONS:
        raise UserError(
            f"trainer.precision={trainer['precision']}: must be one of {', '.join(CPU_PRECISIONS)} on a CPU"
        )
    defaults = inspect.signature(lightning.Trainer).parameters
    return {
        "device": device,
        "precision": resolved.precision,
        **{
            key: value
            for key, value in trainer.items()
            if key not in SPEED_ONLY_TRAINER_ARGUMENTS and value not in (None, defaults[key].default, NEUTRAL.get(key))
        },
    }


def shared_trainer(settings: CommonSettings) -> dict[str, Any]:
    """The trainer settings that both stages have; a stage-1 run with others is named by its folder in stage 2."""
    return {key: settings.trainer[key] for key in SHARED if key in settings.trainer}


def check_trainer(settings: CommonSettings) -> None:
    """Raise a UserError unless Lightning takes `trainer.*`, and something is left to train and evaluate."""
    needed = NEEDED_IN_TRAINING | (NEEDED_IN_STAGE_2 if isinstance(settings, SentimentSettings) else {})
    problems = [
        f"trainer.{key}={settings.trainer[key]}: {reason}"
        for key, reason in needed.items()
        if settings.trainer.get(key) == 0
    ]
    for key, hint in TRAINER_COUNTS.items():
        if key in settings.trainer:
            problems += problems_with_value(hint, settings.trainer[key], f"trainer.{key}")
    if problems:
        raise UserError(*problems)
    platform(settings.trainer)
