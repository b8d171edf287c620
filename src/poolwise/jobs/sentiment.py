"""The job of stage 2: what its numbers depend on, which parts it is built of, and what is noted at its end."""

import logging
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas
import torch
from numpy import ndarray
from torch import Tensor
from transformers import PreTrainedModel

from poolwise import checkpoints, encoder, ranks, representations
from poolwise.command_line import pooler_command, stage1_command
from poolwise.compare.records import DISTRUSTED_POOLERS
from poolwise.data.corpus import Corpus, content_hash, labels_of
from poolwise.data.draws import balanced_draw
from poolwise.data.imbalance import class_weights, given_weights, is_unbalanced
from poolwise.data.module import TextDataModule, labelled_data
from poolwise.data.sources import load_corpus
from poolwise.data.tokens import TokenisedTexts, tokenizer_hash
from poolwise.encoder import PoolerAlone
from poolwise.geometry import geometry_and_components
from poolwise.jobs.chosen import choose_encoder, reinitialised_layers, settled_representation, texts_in_stage1
from poolwise.jobs.corpus import checked_corpus, corpus_of, warnings_of
from poolwise.jobs.start import check_words, model_label, model_name, states_key, tokenised, weights_bytes
from poolwise.jobs.trainer import platform
from poolwise.power import power_in_words
from poolwise.representations import EncoderShape, Representation, build_representation, representation_class
from poolwise.runs import MODEL_FOLDER, PREDICTIONS_FILE, RunIdentity, RunRecord, without_nan, without_seeds
from poolwise.settings import (
    OFF,
    SELECTION_METRIC,
    Finetune,
    Frozen,
    Probe,
    ProtocolSettings,
    ScratchModel,
    SentimentSettings,
    TrainedProtocol,
    UserError,
)
from poolwise.stages.loop import Job, plain
from poolwise.stages.sentiment import Sentiment, SentimentClassifier, calibrated_figures, recall_by_class
from poolwise.stages.stage import Stage
from poolwise.stages.vectors import BatchesWithLayers, StatesOnDisk, states_in, stored_states
from poolwise.trained import Notes, fitted_temperature, place_from, save
from poolwise.words import some

log = logging.getLogger(__name__)

SHOWN_CLASSES = 12
"""At the end of a run."""
MISTAKES = 100
"""Dev texts that are uploaded, at most."""


class SentimentJob(Job):
    """Stage 2: train a classifier on one representation, keep the best epoch on dev, read test once."""

    selection_metric = SELECTION_METRIC
    headline: tuple[str, ...] = (SELECTION_METRIC, "test/accuracy", "test/macro_f1")

    def __init__(self, settings: SentimentSettings) -> None:
        self.settings: SentimentSettings = settings
        self.chosen = choose_encoder(settings)
        self.representation = settled_representation(settings)
        self.kind = representation_class(self.representation["name"])
        self.protocol = settled(settings.protocol, self.kind)
        self.representation_label = representations.label_of(self.representation)
        if isinstance(settings.protocol, TrainedProtocol):
            self.optimisation = settings.protocol.optimisation
            self.epochs = settings.protocol.epochs
        if isinstance(settings.protocol, Finetune):
            self.patience = settings.protocol.early_stopping
        self.corpus = labelled_corpus(settings)
        if isinstance(settings.protocol.imbalance, dict):
            given_weights(settings.protocol.imbalance, self.corpus.label_names)  # so that mistakes are told early
        self.data_report = checked_corpus(settings.data, settings.rows_dir).report
        self.data_warnings = list(warnings_of(self.data_report, "sentiment"))
        train, tokenizer = self.corpus.labelled["train"], self.chosen.tokenizer
        check_words(train, tokenizer, settings.data.max_length, settings.data.name)
        self.tested = self.corpus.labelled.get("test", self.corpus.labelled["train"])
        self.unbalanced = is_unbalanced(labels_of(self.tested))
        if self.unbalanced:
            self.headline = (*self.headline, "test/balanced_accuracy")
        self.drawn = drawn_examples(settings, self.corpus)
        self.passes = passes_an_epoch(settings, len(self.drawn))
        self.seeds = self._seeds()
        self.identity = self._identity()
        self.pooler_status = ""
        classes = len(self.corpus.label_names)
        start = self.chosen.path or f"{settings.model.name} from random weights"
        self.task = f"{settings.protocol.name} of {start} into {classes} classes, from {self.representation_label}"

    def kept_bytes(self) -> int:
        """The best checkpoint: as large as the encoder's weights."""
        return weights_bytes(self.settings, self.chosen.path, self.chosen.tokenizer)

    def can_show(self, sweep: Sequence[Job]) -> str | None:
        """By its test texts and its units: stage-1 runs where there are several, else seeds. None where labels are
        drawn, since how far their draws spread is not known before."""
        if any(job.identity.flat["label_seed"] is not None for job in sweep):
            return None
        stage1_seeds = {job.identity.flat["stage1_seed"] for job in sweep} - {None}
        largest = max(Counter(job.identity.group for job in sweep).values())
        settings: dict[tuple[str, ...], set[tuple[str, str]]] = {}
        for flat in (job.identity.flat for job in sweep):
            setting = settings.setdefault((flat["data"], flat["model"], flat["protocol"]), set())
            setting.add((flat["encoder_condition"], flat["repr"]))
        conditions = max(map(len, settings.values()))
        return power_in_words(len(self.tested), len(stage1_seeds) if len(stage1_seeds) > 1 else largest, conditions)

    @property
    def next_steps(self) -> dict[str, str]:
        """The report, and the command that makes it."""
        runs = self.settings.runs_dir
        elsewhere = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
        return {
            "report": f"{runs}/report/index.html, by the next command",
            "next": f"python -m poolwise.report{elsewhere}",
        }

    def further_facts(self, results: Mapping[str, Any]) -> dict[str, str]:
        """The recall of each class, where they are of unlike size."""
        recall = {name: value for name, value in results.get("test_recall", {}).items() if value is not None}
        words = some((f"{name} {value:.4f}" for name, value in recall.items()), SHOWN_CLASSES)
        return {"recall": f"{words} (on test)"} if self.unbalanced and recall else {}

    def _identity(self) -> RunIdentity:
        settings, chosen = self.settings, self.chosen
        count = settings.labels_per_class
        drawn = count is not None or folds_of(settings.protocol) is not None
        labels = {**({} if count is None else {"per_class": count}), "label_seed": settings.label_seed}
        labels |= {} if self.passes == 1 else {"passes_an_epoch": self.passes}
        # One `seed` where all are the same, as before there were several.
        seeds = {"seed": min(self.seeds.values())} if len(set(self.seeds.values())) == 1 else self.seeds
        material = {
            "stage": "sentiment",
            **seeds,
            **({"labels": labels} if drawn else {}),
            "weights": chosen.fingerprint,
            "tokenizer": tokenizer_hash(chosen.tokenizer),
            "labelled": {split: content_hash(rows) for split, rows in self.corpus.labelled.items()},
            "max_length": settings.data.max_length,
            **settings.data.reading.material,
            "representation": representations.material_of(self.representation),
            **({} if self.kind.learning_rate is None else {"representation_rate": self.kind.learning_rate}),
            "protocol": material_of(self.protocol),
            "platform": platform(settings.trainer),
        }
        condition = "-".join(
            (
                settings.data.name,
                chosen.flat.get("model", model_name(settings.model)),
                chosen.label,
                self.representation_label,
                self.protocol_label.replace(" ", "_"),
            )
        )
        stage1_seed = chosen.flat["stage1_seed"]
        words = [f"{name.replace('_', '')}{seed}" for name, seed in seeds.items()]
        words += [] if stage1_seed is None else [f"stage1seed{stage1_seed}"]
        words += [f"labelseed{settings.label_seed}"] if drawn else []
        return RunIdentity(
            stage="sentiment",
            name="-".join([condition, *words]),
            condition=condition,
            material=material,
            condition_material=without_seeds({**material, "weights": chosen.condition}),
            flat={
                "data": settings.data.name,
                "model": model_label(settings),
                **chosen.flat,
                "encoder_condition": chosen.condition,
                "repr": self.representation_label,
                "protocol": self.protocol_label,
                "seed": seeds.get("seed", settings.label_seed if drawn and not seeds else settings.seed),
                "label_seed": settings.label_seed if drawn else None,
                **{name: self.seeds.get(name) for name in ("head_seed", "order_seed", "pooler_seed")},
            },
        )

    @property
    def protocol_label(self) -> str:
        """How tables and names call the protocol: with the number of folds, and of labels where that is not all."""
        count, folds = self.settings.labels_per_class, folds_of(self.settings.protocol)
        in_folds = "" if folds is None else f" in {folds} folds"
        return self.settings.protocol.name + in_folds + ("" if count is None else f" on {count} labels a class")

    def _seeds(self) -> dict[str, int]:
        """The seeds that change a number, by name: in a probe, only where encoder or pooler are drawn by them."""
        path, trains = self.chosen.path, isinstance(self.protocol, TrainedProtocol)
        lacks_pooler = self.kind.uses_pooler and (path is None or not checkpoints.has_pooler(path))
        anew = isinstance(self.protocol, Finetune) and "reinitialise" in material_of(self.protocol)
        changes = {
            "seed": path is None,  # draws the encoder
            "head_seed": trains,
            "order_seed": trains,
            "pooler_seed": lacks_pooler or self.kind.drawn or anew,
        }
        return {name: getattr(self.settings, name) for name, does in changes.items() if does}

    @property
    def seed(self) -> int:
        """Of the global generators, from which head and dropout are drawn."""
        return self.settings.head_seed

    def texts(self) -> dict[str, TokenisedTexts]:
        """The labelled splits as token ids, all of them."""
        return tokenised(self.corpus.labelled, self.chosen.tokenizer, self.settings)

    def stored(self, model: Any, texts: Mapping[str, TokenisedTexts]) -> dict[str, StatesOnDisk]:
        """The frozen encoder's states of each split, read once."""
        device, found = self.identity.material["platform"]["device"], {}
        for split, folder in self.states_folders.items():
            with ranks.first_alone():
                found[split] = stored_states(model, texts[split], folder, device)
        return found

    @cached_property
    def states_folders(self) -> dict[str, Path]:
        """Where the frozen encoder's states of each split are kept."""
        settings, chosen = self.settings, self.chosen
        weights = [chosen.fingerprint, None if chosen.path else settings.seed]
        device = self.identity.material["platform"]["device"]
        tokenizer = tokenizer_hash(chosen.tokenizer)
        return {
            split: settings.cache_dir / "states" / states_key(settings, weights, tokenizer, rows, device)
            for split, rows in self.corpus.labelled.items()
        }

    def load_frozen(
        self, texts: Mapping[str, TokenisedTexts]
    ) -> tuple[PreTrainedModel | PoolerAlone, Representation, dict[str, StatesOnDisk]]:
        """What is left of a frozen encoder, the representation, and the encoder's states of each split.

        Of an encoder in a file that has a pooler this is all that is loaded, where its states are kept.
        """
        path = self.chosen.path
        found = {split: states_in(folder, texts[split]) for split, folder in self.states_folders.items()}
        kept = {split: states for split, states in found.items() if states is not None}
        are_kept = len(kept) == len(found)
        alone = are_kept and path is not None and checkpoints.has_pooler(path)
        model, representation = self.load(pooler_alone=alone)
        return model, representation, kept if are_kept else self.stored(model, texts)

    def encoder(self) -> tuple[Any, str]:
        """The encoder with its pooler, and the status of that pooler."""
        settings, chosen = self.settings, self.chosen
        if chosen.path is None:
            assert isinstance(settings.model, ScratchModel)
            model, other = (
                encoder.build_from_scratch(settings.model, chosen.tokenizer, seed).body
                for seed in (settings.seed, settings.pooler_seed)
            )
            model.pooler, status = other.pooler, "random"
        else:
            model, status = encoder.load_encoder(
                chosen.path, settings.pooler_seed, pooler_required=settings.encoder == "stage1"
            )
            if chosen.pieces is not None:
                encoder.set_vocabulary(model, chosen.pieces, chosen.tokenizer.pad_token_id)
        return model, status

    def load(self, pooler_alone: bool = False) -> tuple[Any, Representation]:
        """The encoder, and the representation; notes the pooler's status, and warns of one that nothing trained.

        Of the encoder, where told so, its pooler alone, which lies in its file.
        """
        settings, chosen = self.settings, self.chosen
        model, self.pooler_status = encoder.load_pooler(str(chosen.path)) if pooler_alone else self.encoder()
        shape = EncoderShape.of(model.config)
        build_representation(self.representation, shape)  # so that the head comes after it in its generator, as ever
        with encoder.drawn_with(settings.pooler_seed):
            representation = build_representation(self.representation, shape)
        drawn_anew = isinstance(self.protocol, Finetune) and self.protocol.reinitialise.pooler
        if representation.uses_pooler and self.pooler_status in DISTRUSTED_POOLERS and not drawn_anew:
            overrides = settings.overrides
            command = pooler_command(chosen.path, overrides) if chosen.path else stage1_command(overrides)
            log.warning(
                "WARNING: repr=%s reads a pooler that is %s; train it: %s",
                *(self.representation_label, self.pooler_status, command),
            )
        layers = reinitialised_layers(settings)
        if drawn_anew or layers:
            encoder.reinitialise(model, drawn_anew, layers, settings.pooler_seed)
        if drawn_anew:
            self.pooler_status = "random"
        elif layers and self.pooler_status not in DISTRUSTED_POOLERS:
            self.pooler_status = "stale"  # it knew other layers
        return model, representation

    def build(self) -> tuple[Stage, TextDataModule]:
        """Classifier and labelled batches; of a frozen encoder, with its stored states in its place."""
        settings, protocol = self.settings, self.settings.protocol
        assert isinstance(protocol, TrainedProtocol)
        is_frozen = isinstance(protocol, Frozen)
        every, drawn = self.texts(), self.drawn
        texts = every if settings.labels_per_class is None else {**every, "train": every["train"].select(drawn)}
        balanced = protocol.imbalance == "balanced_sampling"
        data = labelled_data(
            *(texts, protocol.batch_size, settings.order_seed, settings.workers, balanced, protocol.batch_tokens),
            passes=self.passes,
        )
        if is_frozen:
            model, representation, stored = self.load_frozen(every)
            examples = {split: drawn if split == "train" else np.arange(len(texts[split])) for split in texts}
            data.batches = {
                split: BatchesWithLayers(data.batches[split], states, examples[split], representation.needs_all_states)
                for split, states in stored.items()
            }
        else:
            model, representation = self.load()
        classes = len(self.corpus.label_names)
        classifier = SentimentClassifier(model, representation, classes, protocol.dropout, reads_stored=is_frozen)
        weights = None
        if isinstance(protocol.imbalance, dict):
            weights = torch.from_numpy(given_weights(protocol.imbalance, self.corpus.label_names)).float()
        elif protocol.imbalance == "class_weights":
            weights = torch.from_numpy(class_weights(texts["train"].labels, classes)).float()
        if isinstance(protocol, Frozen):
            classifier.settle_dense(protocol.dense)
        if isinstance(protocol, Finetune):
            decay, gradual = protocol.layer_decay, protocol.gradual_unfreezing
            return Sentiment(classifier, self.optimisation, decay, gradual, class_weights=weights), data
        return Sentiment(classifier, self.optimisation, class_weights=weights), data

    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Read test once, with the best checkpoint; keep every prediction."""
        assert isinstance(stage, Sentiment)
        if "dev" not in stage.figures:
            raise UserError("dev was never evaluated (see your +trainer settings), so no epoch can be chosen")
        best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        trainer.test(stage, data, ckpt_path=best, verbose=False, weights_only=True)
        if not ranks.is_first():
            return
        record.results["epochs"] = trainer.current_epoch
        record.results["parameters"] = sum(p.numel() for p in stage.classifier.parameters())
        self.note(record, stage.classifier.representation, stage.classifier.parameters_of_vectors)
        self.note_figures(record, stage.figures, stage.predictions, stage.vectors)
        self.keep(record, stage.classifier, stage.predictions)

    def keep(
        self, record: RunRecord, classifier: SentimentClassifier, predictions: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Write the classifier, calibrated on its dev predictions, to be used without the run's settings, if asked for.

        Test figures of the calibrated probabilities are noted beside those of the plain ones.
        """
        settings, chosen = self.settings, self.chosen
        dev, test = predictions["dev"], predictions["test"]
        temperature = fitted_temperature(dev["logits"].double().numpy(), dev["labels"].numpy())
        record.results["temperature"] = temperature
        record.results["calibrated"] = calibrated_figures(test["logits"].double() / temperature, test["labels"])
        if not settings.keep_model:
            return
        body = classifier.encoder
        if body is None and (chosen.path is None or chosen.pieces is not None):
            body, _ = self.encoder()
            body.pooler = None
        notes = Notes(
            representation=self.representation,
            formula=classifier.representation.formula_here,
            label_names=list(self.corpus.label_names),
            temperature=temperature,
            max_length=settings.data.max_length,
            long_texts=asdict(settings.data.reading),
            encoder=place_from(chosen.path, record.folder) if body is None and chosen.path else None,
            fingerprint=chosen.fingerprint if body is None else None,
        )
        save(record.folder / MODEL_FOLDER, notes, classifier, body, chosen.tokenizer)

    def note(self, record: RunRecord, representation: Representation, parameters: int) -> None:
        """Note what was classified from; `parameters` lie between hidden states and vectors."""
        in_windows = self.settings.data.long_texts == "windows"
        record.results["representation"] = {
            **self.representation,
            "layer": representation.layer,
            "formula": representation.formula_here + ("; mean over the windows of a text" if in_windows else ""),
            "parameters": parameters,
        }
        record.results["pooler_status"] = self.pooler_status
        record.results["stage1_provenance"] = self.chosen.provenance
        known = [
            corpus.text["train"] for corpus in (self.corpus, load_corpus(self.settings.data, self.settings.rows_dir))
        ]
        read = texts_in_stage1(self.settings.encoder, self.chosen.path, known, self.tested)
        record.results["stage1_saw_test_text"] = None if read is None else read > 0
        record.results["test_texts_in_stage1"] = read
        record.results["made_splits"] = self.corpus.made_splits
        names = record.results["label_names"] = list(self.corpus.label_names)
        record.results["class_counts"] = {
            split: dict(zip(names, np.bincount(labels_of(rows), minlength=len(names)).tolist(), strict=True))
            for split, rows in self.corpus.labelled.items()
        }
        stage1 = {} if self.chosen.path is None else checkpoints.provenance_of(Path(self.chosen.path))
        record.results["stage1_key"] = stage1.get("key")

    def mistakes(self) -> list[list[str]]:
        """Of the dev texts that were answered wrong the first ones; none where there is no dev split."""
        rows = pandas.read_parquet(self.folder / PREDICTIONS_FILE)
        rows = rows[rows["split"] == "dev"]
        answers = rows["logits"].map(np.argmax)
        wrong = rows.assign(answer=answers)[answers != rows["label"]].sort_values("example")[:MISTAKES]
        names, texts = self.corpus.label_names, self.corpus.labelled.get("dev")
        return [
            [texts[int(row.example)]["text"], names[row.label], names[row.answer]]
            for row in wrong.itertuples()
            if texts is not None
        ]

    def note_figures(
        self,
        record: RunRecord,
        figures: Mapping[str, dict[str, Tensor]],
        predictions: Mapping[str, dict[str, Tensor]],
        vectors: Mapping[str, Tensor],
    ) -> None:
        """Note the figures of dev and test and how the test vectors lie, and write every prediction.

        Args:
            record: of this run.
            figures: by split.
            predictions: by split, as `Scores.finish` gives them.
            vectors: of some test texts: `examples` (E,) and `vectors` (E, D).
        """
        record.results["metrics"] = plain({**figures["dev"], **figures["test"]})
        test = predictions["test"]
        recall = recall_by_class(test["labels"], test["logits"]).tolist()
        record.results["test_recall"] = without_nan(dict(zip(self.corpus.label_names, recall, strict=True)))
        places = torch.searchsorted(test["examples"], vectors["examples"])
        components = torch.full((len(test["examples"]), 2), torch.nan)
        if vectors["vectors"].isfinite().all():
            record.results["vector_geometry"], components[places] = geometry_and_components(
                vectors["vectors"], test["labels"][places]
            )
        columns = {f"component_{number}": column for number, column in enumerate(components.T, 1)}
        record.write_predictions({**predictions, "test": {**test, **columns}})


def folds_of(protocol: ProtocolSettings) -> int | None:
    """How many folds of the training texts are made; None where the data's splits are used."""
    return protocol.folds if isinstance(protocol, Probe) else None


def settled(protocol: ProtocolSettings, kind: type[Representation]) -> ProtocolSettings:
    """The protocol without drawing a pooler anew that the representation does not read, as that is the same run."""
    if not isinstance(protocol, Finetune) or kind.uses_pooler:
        return protocol
    return replace(protocol, reinitialise=replace(protocol.reinitialise, pooler=False))


def material_of(protocol: ProtocolSettings) -> dict[str, Any]:
    """The settings as plain data, without those that are off, as before there were any.

    What `least_steps` comes to is noted with the labels.
    """
    settings = asdict(protocol).items()
    return {key: value for key, value in settings if key != "least_steps" and (key not in OFF or value != OFF[key])}


def labelled_corpus(settings: SentimentSettings) -> Corpus:
    """The corpus, if it has labels; without splits if folds are to be made.

    Raises:
        UserError: it has not; or it has splits, and folds are to be made.
    """
    corpus, folds = corpus_of(settings.data, settings.rows_dir), folds_of(settings.protocol)
    if not corpus.labelled:
        raise UserError("stage=sentiment needs labelled files: data.train; dev and test are made of it if not given")
    if folds is None:
        return corpus
    if corpus.unsplit is None:
        raise UserError(
            f"protocol.folds={folds}: data={settings.data.name} has dev and test, which a probe in folds does not "
            "read; allowed: data=files with data.train alone"
        )
    return replace(corpus, labelled={"train": corpus.unsplit}, unsplit=None, made_splits={})


def passes_an_epoch(settings: SentimentSettings, count: int) -> int:
    """How often an epoch reads `count` training texts: several times where they are few (see `least_steps`)."""
    protocol = settings.protocol
    if settings.labels_per_class is None or not isinstance(protocol, TrainedProtocol):
        return 1
    accumulated = int(settings.trainer.get("accumulate_grad_batches", 1))
    steps_of_a_pass = protocol.epochs * math.ceil(count / protocol.batch_size) / accumulated
    return max(math.ceil(protocol.least_steps / steps_of_a_pass), 1)


def drawn_examples(settings: SentimentSettings, corpus: Corpus) -> ndarray:
    """Which training texts are used, (n,) numbers.

    Raises:
        UserError: a class has fewer than are asked for.
    """
    labels, count = labels_of(corpus.labelled["train"]), settings.labels_per_class
    if count is None:
        return np.arange(len(labels))
    return balanced_draw(labels, tuple(corpus.label_names), count, settings.label_seed)
