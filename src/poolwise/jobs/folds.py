"""The job of a probe of data without splits: each text is predicted by a probe that has not read it.

Shapes: N examples, C classes.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, UInt64
from numpy import ndarray

from poolwise.data.contamination import near_groups, text_keys
from poolwise.data.corpus import labels_of
from poolwise.data.draws import folds_of_texts
from poolwise.jobs.probe import ProbeJob, some_of
from poolwise.jobs.sentiment import folds_of
from poolwise.runs import RunIdentity
from poolwise.settings import SentimentSettings
from poolwise.stages.loop import Output, plain
from poolwise.stages.probe import Probe, fit_folds
from poolwise.stages.sentiment import macro_f1, scores_of


class FoldsJob(ProbeJob):
    """Nested cross-validation of a probe: test figures are over all texts, dev figures a mean over inner folds."""

    def __init__(self, settings: SentimentSettings) -> None:
        super().__init__(settings)
        count = folds_of(settings.protocol)
        assert count is not None
        labels, names = labels_of(self.corpus.labelled["train"]), tuple(self.corpus.label_names)
        self.folds = folds_of_texts(labels, self.keys, names, count, settings.label_seed)

    @cached_property
    def keys(self) -> UInt64[ndarray, " N"]:
        """By which copies of a text, with `near_copies` near ones too, are known, which are in one fold."""
        texts = self.corpus.labelled["train"]
        return near_groups(texts) if self.settings.data.near_copies else text_keys(texts)

    def _identity(self) -> RunIdentity:
        """As of any probe; said of data with copies, as these were not always in one fold."""
        identity = super()._identity()
        if len(np.unique(self.keys)) == len(self.keys):
            return identity
        together = {"folds_of": "near-copies" if self.settings.data.near_copies else "texts"}
        return replace(
            identity,
            material={**identity.material, **together},
            condition_material={**identity.condition_material, **together},
        )

    def carry_out(self, output: Output) -> None:
        """Fit the probes of each fold, and predict every text once."""
        found, labels_of, _ = self.read(output)
        vectors, labels, classes = found["train"], labels_of["train"], len(self.corpus.label_names)

        def score_on(dev: Bool[ndarray, " N"], probe: Probe) -> float:
            return macro_f1(probe.logits(vectors[dev]), labels[dev])

        def figures_on(dev: Bool[ndarray, " N"], probe: Probe) -> dict[str, float]:
            return plain(scores_of("dev", probe.logits(vectors[dev]), labels[dev])[0])

        folds = fit_folds(vectors, labels, classes, self.folds, score_on, figures_on, self.strengths, self.weighted)
        logits = np.empty((len(labels), classes))
        for fold in folds:
            logits[fold.held_out] = fold.probe.logits(vectors[fold.held_out])
        test, predictions = scores_of("test", logits, labels)
        dev = {name: torch.tensor([fold.dev_figures[name] for fold in folds]).mean() for name in folds[0].dev_figures}
        record, probe = output.record, folds[0].probe
        record.results["strengths"] = [fold.probe.strength for fold in folds]
        record.results["parameters"] = probe.weights.size + probe.bias.size
        self.note_figures(record, {"dev": dev, "test": test}, {"test": predictions}, some_of(vectors))
        for logger in output.loggers:
            logger.log_metrics(record.results["metrics"], 0)
