"""The job of stage 1: which parts it is built of, and what is exported at its end."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from datasets import Dataset

from poolwise import checkpoints, encoder, ranks
from poolwise.card import model_card
from poolwise.command_line import overrides_in, stage2_command
from poolwise.controls import check_own_pooler, time_of
from poolwise.data.arrangement import Arrangement, BatchNeeds
from poolwise.data.batching import DevBatches, batches_an_epoch
from poolwise.data.corpus import TextStream
from poolwise.data.module import StreamedDataModule, TextDataModule, masked_data
from poolwise.data.streaming import BatchMaking
from poolwise.data.tokens import TokenisedTexts, tokenizer_hash, with_ratings
from poolwise.jobs.corpus import checked_corpus, corpus_of, stage1_text, stream_of, warnings_of
from poolwise.jobs.stage1 import ratings_of, stage1_identity, trains_nothing
from poolwise.jobs.start import (
    StartingPoint,
    check_words,
    first_of_stream,
    model_name,
    starting_point,
    starts_from_labels,
    states_key,
    tokenised,
    weights_bytes,
)
from poolwise.jobs.trainer import platform, shared_trainer
from poolwise.objectives import build_objective, label_of, reads_ratings
from poolwise.objectives.base import Surroundings
from poolwise.objectives.none import NoObjective
from poolwise.packing import flash_takes
from poolwise.provenance import AS_RELEASED, ProvenanceTracker, pooler_figures, pooler_warning
from poolwise.runs import EXPORT_FOLDER, RunRecord
from poolwise.settings import (
    HELD_BY_CONTROLS,
    DemoData,
    EqualTime,
    MLMSettings,
    PretrainedModel,
    ScratchModel,
    Stage1Choice,
    UserError,
)
from poolwise.stages.loop import Job, limited_batches
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.pooler import BatchesWithStates, PoolerTraining, kept_cls_states, same_rows_each_epoch
from poolwise.stages.stage import Stage
from poolwise.words import counted

log = logging.getLogger(__name__)

KEEPING_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""In which weights stay in fp32, as they are loaded."""
COMPUTED_IN = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "16-true": torch.float16,
}
"""Of Lightning's precisions, those in half precision."""


class MLMJob(Job):
    """Stage 1: train encoder, MLM head and pooler (or the pooler alone) on text, and export the last step."""

    headline = ("dev/perplexity", "dev/masked_accuracy", "dev/objective_loss")

    def __init__(self, settings: MLMSettings) -> None:
        self.start = starting_point(settings)
        if self.start.tokenizer.mask_token_id is None:
            raise UserError(
                f"{self.start.path}: its tokenizer has no mask token, which masked language modelling needs"
            )
        self.rows = stage1_text(settings.data, settings.rows_dir)
        self.stream = stream_of(settings.data, settings.rows_dir)
        check_words(self.rows["train"], self.start.tokenizer, settings.data.max_length, settings.data.name)
        self.settings: MLMSettings = settled(settings, self.start)
        settings = self.settings
        choice = Stage1Choice(settings.pretraining, settings.objective, settings.seed)
        self.identity = stage1_identity(settings, choice, settings.trainer)
        self.data_report = checked_corpus(settings.data, settings.rows_dir).report
        self.data_warnings = [*demo_by_default(settings), *warnings_of(self.data_report, "mlm")]
        self.optimisation = settings.pretraining.optimisation
        self.epochs, self.budget = settings.pretraining.epochs, settings.pretraining.budget
        self.trains = not trains_nothing(choice)
        self.pooler_only = settings.pretraining.trainable == "pooler"
        self.platform: dict[str, Any] = self.identity.material["platform"]
        precision = self.platform["precision"]
        if self.pooler_only and precision not in KEEPING_PRECISIONS:
            raise UserError(
                f"trainable=pooler keeps the encoder's tensors as they are, and trainer.precision={precision} converts "
                f"them; allowed: {', '.join(KEEPING_PRECISIONS)}"
            )
        self.task = self._task()

    def _task(self) -> str:
        path, name = self.start.path, label_of(self.settings.objective)
        start = f"{model_name(self.settings.model)} " + ("from random weights" if path is None else f"from {path}")
        if not self.trains:
            return f"{start}: as it is, nothing is trained; pooler_init={self.settings.pretraining.pooler_init}"
        if self.pooler_only:
            return f"{start}: the pooler alone, by the objective {name}"
        beside = "no pooler objective" if name == NoObjective.name else f"pooler objective {name}"
        return f"{start}: masked language modelling, {beside}"

    def kept_bytes(self) -> int:
        """The export."""
        return weights_bytes(self.settings, self.start.path, self.start.tokenizer)

    @property
    def export(self) -> Path:
        """The folder of the exported checkpoint."""
        return self.folder / EXPORT_FOLDER

    @property
    def next_steps(self) -> dict[str, str]:
        """The export, and the sweep that compares representations of it."""
        return {"export": str(self.export), **self.next_steps_of([self], self.settings.overrides)}

    def next_steps_of(self, sweep: Sequence[Job], overrides: Sequence[str]) -> dict[str, str]:
        """The sweep that compares representations of all of these encoders."""
        labelled = bool(corpus_of(self.settings.data, self.settings.rows_dir).labelled)
        presets = {tuple(job.preset_words()) for job in sweep if isinstance(job, MLMJob)}
        differ = len(presets) > 1
        further = [] if differ else self.preset_words()
        if not labelled or differ or self.platform != platform(shared_trainer(self.settings)):
            # A dev split, several controls, trainer settings of its own: stage 2 cannot work the run out from settings.
            further.append("encoder=" + ",".join(str(job.folder / EXPORT_FOLDER) for job in sweep))
        if not labelled:
            further.append("data.train=TRAIN.csv")
        note = "" if labelled else "  # with labelled texts"
        return {"next": stage2_command(overrides, further) + note}

    def preset_words(self) -> list[str]:
        """How stage 2 writes what the control of this run stands for; nothing where there is none."""
        control, pretraining = self.settings.control, self.settings.pretraining
        if control is None:
            return []
        held = {key: getattr(pretraining, key) for key in HELD_BY_CONTROLS[control.name]}
        return ["objective@stage1.objective=none", *(f"stage1.{key}={value}" for key, value in held.items())]

    def build(self) -> tuple[Stage, TextDataModule]:
        """Model, objective and masked batches.

        For the pooler alone the encoder is frozen, and reads each text once where the objective allows.
        """
        settings, start = self.settings, self.start
        if start.path is None:
            assert isinstance(settings.model, ScratchModel)
            model = encoder.build_from_scratch(settings.model, start.tokenizer, settings.seed)
        else:
            model = encoder.load_for_pretraining(start.path, settings.pretraining.pooler_init, settings.seed)
            if start.pieces is not None:
                encoder.set_vocabulary(model, start.pieces, start.tokenizer.pad_token_id)
        if self.platform["device"] == "cuda" and self.packing_pays(model):
            model.leave_out_padding()
        rows, stream = self.rows, self.stream
        texts = (tokenised if stream is None else first_of_stream)(rows, start.tokenizer, settings)
        if reads_ratings(settings.objective):
            texts = with_ratings(texts, ratings_of(rows))
        texts = {split: of.windows for split, of in texts.items()}
        surroundings = Surroundings(start.tokenizer, model.config, texts["train"], texts["dev"])
        objective = build_objective(settings.objective, surroundings, settings.seed)
        before = {} if start.path is None else checkpoints.provenance_of(Path(start.path))
        provenance = ProvenanceTracker(model, start.source, settings.seed, before.get("pooler_status", AS_RELEASED))
        frozen = self.pooler_only and self.trains
        kind = PoolerTraining if frozen else MaskedLanguageModelling
        rate = settings.pretraining.pooler_learning_rate
        stage = kind(model, objective, provenance, self.optimisation, self.budget, rate)
        if stream is not None:
            return stage, self._streamed(stream, texts, objective.needs)
        data = masked_data(
            texts,
            start.tokenizer,
            settings.pretraining.masking,
            settings.pretraining.batch_size,
            settings.seed,
            settings.workers,
            objective.needs,
            self.mask_epochs(texts["train"], 2 if objective.needs.arrangement == "views" else 1),
            settings.pretraining.batch_tokens,
            settings.cache_dir,
        )
        device, arrangement = self.platform["device"], objective.needs.arrangement
        if frozen:
            encoder.freeze_all_but_pooler(model)
        if frozen and same_rows_each_epoch(arrangement):
            files = {split: self.states_file(of_split, arrangement) for split, of_split in rows.items()}
            data.batches = {
                split: BatchesWithStates(
                    batches, kept_cls_states(model, texts[split], files[split], device, arrangement)
                )
                for split, batches in data.batches.items()
            }
        return stage, data

    def packing_pays(self, model: encoder.MaskedLMWithPooler) -> bool:
        """Whether a GPU computes batches faster without padding: where flash attention does.

        By nested tensors, which it takes else, bert-base trained on long texts at 0.75 of the rate with padding.
        """
        head_size = model.config.hidden_size // model.config.num_attention_heads
        dtype = COMPUTED_IN.get(self.platform["precision"], torch.float32)
        return model.family.can_leave_out_padding and flash_takes(dtype, head_size, torch.device("cuda"))

    def states_file(self, rows: Dataset, arrangement: Arrangement | None) -> Path:
        """Where the states of these texts are kept that the frozen encoder reads, for other seeds and objectives."""
        settings, start = self.settings, self.start
        tokenizer, device = tokenizer_hash(start.tokenizer), self.platform["device"]
        key = states_key(settings, [start.fingerprint, None], tokenizer, rows, device)
        return settings.cache_dir / "states" / f"{key}.cls{'_of_halves' if arrangement == 'halves' else ''}.npy"

    def _streamed(self, stream: TextStream, texts: dict[str, TokenisedTexts], needs: BatchNeeds) -> StreamedDataModule:
        settings, pretraining = self.settings, self.settings.pretraining
        making = BatchMaking(
            self.start.tokenizer,
            settings.data.max_length,
            settings.data.reading,
            pretraining.masking,
            settings.seed,
            needs,
            pretraining.batch_size,
            pretraining.batch_tokens,
            ranks.rank(),
            ranks.size(),
        )
        dev = DevBatches(texts["dev"], self.start.tokenizer, pretraining.masking, needs)
        return StreamedDataModule(texts, dev, stream, making, settings.workers)

    def _note_stream(self, counts: dict[str, int], record: RunRecord) -> None:
        """Note how many texts were read, and what was done about dev and test texts among them."""
        drops = self.settings.data.contamination == "drop"
        record.results["data_report"]["stream"] = counts
        record.results["data_report"]["dropped_from_stage1"] = counts["copies"] if drops else 0
        if counts["copies"]:
            done = "left out" if drops else "figures on these may be too good"
            log.warning(
                "WARNING: %s of the %s that were read are copies of dev or test texts; %s",
                *(f"{counts['copies']:,}", counted(counts["texts_read"], "text"), done),
            )

    def mask_epochs(self, texts: TokenisedTexts, copies: int) -> int:
        """Over how many epochs masks are planned.

        Raises:
            UserError: the mask probability is to change from epoch to epoch, and there is one.
        """
        epochs = self.planned_epochs(texts, copies)
        final = self.settings.pretraining.masking.final_mask_probability
        if final is not None and epochs < 2:
            raise UserError(
                f"pretraining.masking.final_mask_probability={final}: changes from epoch to epoch, and training has "
                "one; allowed: two epochs or more"
            )
        return epochs

    def planned_epochs(self, texts: TokenisedTexts, copies: int) -> int:
        """How many epochs are begun, over which a scheduled mask probability changes.

        For a budget of tokens each text is read `copies` times an epoch; one of time is taken for one epoch.
        """
        if self.budget is None:
            return self.epochs
        pretraining = self.settings.pretraining
        batches = batches_an_epoch(texts.lengths, pretraining.batch_size, pretraining.batch_tokens, ranks.size())
        share = max(limited_batches(self, batches), 1) / batches
        steps = batches * share / self.settings.trainer.get("accumulate_grad_batches", 1)
        an_epoch = {"steps": math.ceil(steps), "tokens": share * copies * len(texts.ids), "seconds": self.budget.amount}
        return math.ceil(self.budget.amount / float(an_epoch[self.budget.unit]))

    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Export the model with its provenance."""
        assert isinstance(stage, MaskedLanguageModelling)
        if not ranks.is_first():
            return
        asked_for = isinstance(stage.objective, NoObjective)
        warning = pooler_warning(stage.proof, wants_training=not asked_for)
        hidden = stage.model.family.hidden_pooler
        provenance = {
            **stage.proof,
            "warning": warning,
            "objectives": stage.objective.notes(),
            checkpoints.READ_BEFORE: starts_from_labels(self.settings),
            **({"hidden_pooler": hidden} if hidden else {}),
            **self.identity.flat,
            "key": self.identity.key,
            "condition": self.identity.group,
        }
        record.results["provenance"] = provenance
        record.results["made_splits"] = corpus_of(self.settings.data, self.settings.rows_dir).made_splits
        if isinstance(data, StreamedDataModule):
            self._note_stream(data.counts, record)
        record.results["metrics"] |= pooler_figures(stage.proof)
        card = model_card(self.identity, provenance, record.results["metrics"], record.config)
        encoder.export(stage.model, self.start.tokenizer, provenance, card, self.export)
        if warning:
            log.warning("WARNING: %s", warning)
        if hidden:
            log.info("%s", hidden)
        log.info("pooler: %s%s", provenance["pooler_status"], ", as objective=none asks for" if asked_for else "")


def demo_by_default(settings: MLMSettings) -> list[str]:
    """A warning that a checkpoint of other origin is about to be trained on the demo, as no data was named."""
    named = any(override.root == "data" for override in overrides_in(settings.overrides))
    if named or not isinstance(settings.data, DemoData) or not isinstance(settings.model, PretrainedModel):
        return []
    if checkpoints.provenance_of(Path(checkpoints.locate(settings.model))).get("data") == settings.data.name:
        return []
    return ["generated reviews, as no data is named; name your own: data=files data.text=my_texts.txt"]


def settled(settings: MLMSettings, start: StartingPoint) -> MLMSettings:
    """The settings with the budget that their control asks for.

    Raises:
        UserError: the run or the pooler that the control is about is not what it must be.
    """
    control = settings.control
    if control is not None and control.name == "own_pooler":
        assert start.path is not None
        check_own_pooler(checkpoints.weights_file(start.path))
    if not isinstance(control, EqualTime):
        return settings
    choice = Stage1Choice(settings.pretraining, settings.objective, settings.seed)
    budget = time_of(Path(control.run), stage1_identity(settings, choice, settings.trainer).material)
    return replace(settings, pretraining=replace(settings.pretraining, budget=budget))
