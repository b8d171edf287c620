"""What is seen to before a job is planned."""

from functools import partial
from pathlib import Path

from poolwise import checkpoints
from poolwise.jobs.chosen import reinitialised_layers
from poolwise.jobs.corpus import corpus_of
from poolwise.jobs.trainer import check_trainer
from poolwise.machine import check_writable
from poolwise.settings import CommonSettings, PretrainedModel, SentimentSettings, UserError, take_all


def check_inputs(settings: CommonSettings) -> None:
    """See that the folders of a run can be written, its data and its encoder are there, and its trainer can be built.

    Raises:
        UserError: with all that is wrong.
    """
    take_all(
        [
            partial(check_writable, settings.runs_dir),
            partial(check_writable, settings.cache_dir),
            partial(corpus_of, settings.data, settings.rows_dir),
            partial(_check_encoder, settings),
            partial(check_trainer, settings),
        ]
    )


def _check_encoder(settings: CommonSettings) -> None:
    chosen = settings.encoder if isinstance(settings, SentimentSettings) else "stage1"
    if chosen not in ("base", "stage1"):
        if not Path(chosen).is_dir():
            raise UserError(f"encoder={chosen}: no such folder; allowed: stage1, base, or a folder")
        checkpoints.check_checkpoint(chosen, refuse_unexpected=True)
    elif isinstance(settings.model, PretrainedModel):
        checkpoints.check_checkpoint(checkpoints.locate(settings.model), refuse_unexpected=chosen == "base")
    if isinstance(settings, SentimentSettings):
        reinitialised_layers(settings)  # which settles the representation
