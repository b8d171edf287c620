"""The job of a probe: stage 2 without gradient descent.

Shapes: N examples, D vector size, E examples whose vectors are kept.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from poolwise.geometry import TEXTS, spread
from poolwise.jobs.sentiment import SentimentJob
from poolwise.jobs.start import MARGIN_BYTES
from poolwise.settings import Probe
from poolwise.stages.loop import Output
from poolwise.stages.probe import fit_best
from poolwise.stages.sentiment import SentimentClassifier, macro_f1, scores_of
from poolwise.stages.vectors import vectors_of
from poolwise.words import counted


class ProbeJob(SentimentJob):
    """Stage 2 as a logistic regression on the stored states of a frozen encoder."""

    def kept_bytes(self) -> int:
        """Predictions and logs; the states' room is asked for when they are made."""
        return MARGIN_BYTES

    @property
    def strengths(self) -> tuple[float, ...]:
        """Inverse weights of the penalty to choose from."""
        assert isinstance(self.settings.protocol, Probe)
        return self.settings.protocol.strengths

    @property
    def weighted(self) -> bool:
        """Whether classes of unlike size count alike."""
        return self.settings.protocol.imbalance == "class_weights"

    def read(self, output: Output) -> tuple[dict[str, ndarray], dict[str, ndarray], SentimentClassifier]:
        """By split the vectors (N, D) and labels (N,) of the texts that are used, and what forms them.

        Notes what they are made of. The classifier's head is as it was drawn.
        """
        texts = self.texts()
        model, representation, states = self.load_frozen(texts)
        used = {split: self.drawn if split == "train" else np.arange(len(texts[split])) for split in texts}
        texts_in_words = f"{self.settings.data.name}: {counted(len(self.drawn), 'text')}"
        output.announce(lambda: {"train": self.task, "on": texts_in_words})
        self.note_truncation(output.record, texts)
        classes = len(self.corpus.label_names)
        classifier = SentimentClassifier(model, representation, classes, dropout=0.0, reads_stored=True)
        found = {
            split: vectors_of(representation, classifier.pooler, of_split, used[split])
            for split, of_split in states.items()
        }
        self.note(output.record, representation, classifier.parameters_of_vectors)
        return found, {split: texts[split].labels[used[split]] for split in found}, classifier

    def carry_out(self, output: Output) -> None:
        """Fit a probe of each strength, keep the best on dev, read test once."""
        found, labels, classifier = self.read(output)

        best = fit_best(
            found["train"],
            labels["train"],
            len(self.corpus.label_names),
            lambda probe: macro_f1(probe.logits(found["dev"]), labels["dev"]),
            self.strengths,
            self.weighted,
        )
        record = output.record
        results = {split: scores_of(split, best.logits(found[split]), labels[split]) for split in ("dev", "test")}
        record.results |= {"strength": best.strength, "parameters": best.weights.size + best.bias.size}
        figures, predictions = ({split: pair[part] for split, pair in results.items()} for part in (0, 1))
        self.note_figures(record, figures, predictions, some_of(found["test"]))
        weight, bias = (torch.from_numpy(part).float() for part in best.linear)
        classifier.head.load_state_dict({"weight": weight, "bias": bias})
        self.keep(record, classifier, predictions)
        for logger in output.loggers:
            logger.log_metrics({**record.results["metrics"], "strength": best.strength}, 0)


def some_of(vectors: Float[ndarray, "N D"]) -> dict[str, Tensor]:
    """At most `geometry.TEXTS` of the vectors, evenly spread: `examples` (E,) and `vectors` (E, D)."""
    examples = spread(len(vectors), TEXTS)
    return {"examples": torch.from_numpy(examples), "vectors": torch.from_numpy(vectors[examples])}
