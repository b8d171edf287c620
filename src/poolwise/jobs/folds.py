"""The job of a probe of data without splits: each text is predicted by a probe that has not read it.

Shapes: N examples, C classes.
"""

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from torch import Tensor

from poolwise.data.draws import stratified_folds
from poolwise.jobs.probe import ProbeJob, some_of
from poolwise.jobs.sentiment import folds_of
from poolwise.settings import SELECTION_METRIC, SentimentSettings
from poolwise.stages.loop import Output
from poolwise.stages.probe import Probe, fit_folds
from poolwise.stages.sentiment import scores_of


class FoldsJob(ProbeJob):
    """Nested cross-validation of a probe: test figures are over all texts, dev figures a mean over the folds."""

    def __init__(self, settings: SentimentSettings) -> None:
        super().__init__(settings)
        count = folds_of(settings.protocol)
        assert count is not None
        labels, names = np.array(self.corpus.labelled["train"]["label"]), tuple(self.corpus.label_names)
        self.folds = stratified_folds(labels, names, count, settings.label_seed)

    def carry_out(self, output: Output) -> None:
        """Fit the probes of each fold, and predict every text once."""
        found, labels_of = self.read(output)
        vectors, labels, classes = found["train"], labels_of["train"], len(self.corpus.label_names)

        def dev_figures(dev: Bool[ndarray, " N"], probe: Probe) -> dict[str, Tensor]:
            return scores_of("dev", probe.logits(vectors[dev]), labels[dev])[0]

        def score(dev: Bool[ndarray, " N"], probe: Probe) -> float:
            return float(dev_figures(dev, probe)[SELECTION_METRIC])

        folds = list(fit_folds(vectors, labels, classes, self.folds, score, self.strengths))
        logits = np.empty((len(labels), classes))
        for fold in folds:
            logits[fold.held_out] = fold.probe.logits(vectors[fold.held_out])
        of_folds = [dev_figures(fold.dev, fold.chosen) for fold in folds]
        mean = {name: torch.stack([figures[name] for figures in of_folds]).mean() for name in of_folds[0]}
        test, predictions = scores_of("test", logits, labels)
        record, probe = output.record, folds[0].probe
        record.results["strengths"] = [fold.probe.strength for fold in folds]
        record.results["parameters"] = probe.weights.size + probe.bias.size
        self.note_figures(record, {"dev": mean, "test": test}, {"test": predictions}, some_of(vectors))
        for logger in output.loggers:
            logger.log_metrics(record.results["metrics"], 0)
