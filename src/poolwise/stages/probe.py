"""Logistic regression on the vectors of a frozen encoder.

Shapes: N examples, D vector size, C classes, K rows of weights: 1 for two classes, else C.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The inverse weights of the penalty that are tried, as C of scikit-learn, for vectors of unit variance."""
MOST_ITERATIONS = 2000
TOLERANCE = 1e-5
"""The largest slope, in nats, that is left; scikit-learn stops at 1e-4."""


@dataclass(frozen=True)
class Probe:
    """A fitted logistic regression.

    Attributes:
        middle: (D,) what is taken off each vector: the mean of the training vectors.
        scale: (D,) what it is then divided by: their standard deviation; 1 where that is 0.
        weights: (K, D).
        bias: (K,).
        strength: inverse weight of the penalty.
    """

    middle: Float[ndarray, " D"]
    scale: Float[ndarray, " D"]
    weights: Float[ndarray, "K D"]
    bias: Float[ndarray, " K"]
    strength: float

    def logits(self, vectors: Float[ndarray, "N D"]) -> Float[ndarray, "N C"]:
        """Class logits; of two classes the first one's are 0."""
        return _class_logits((vectors - self.middle) / self.scale @ self.weights.T + self.bias)


def fit(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    strength: float,
    start: Probe | None = None,
) -> Probe:
    """Minimise half the squared norm of the weights plus `strength` times the summed cross entropy, by L-BFGS.

    Both are divided by `strength` x N, so that the tolerance means the same for all.

    Vectors are standardised first. The penalty leaves the bias free; two classes share one row of weights. This is
    what `LogisticRegression(C=strength)` of scikit-learn minimises on standardised vectors. There is one minimum:
    `start`, a probe of the same vectors or of most of them, changes how soon it is found.
    """
    exact = vectors.astype(np.float64)
    middle, scale = exact.mean(axis=0), exact.std(axis=0)
    scale[scale == 0] = 1.0
    standard = (exact - middle) / scale
    rows, size = (1 if classes == 2 else classes), vectors.shape[1]
    targets, penalty = np.eye(classes)[labels], 1 / (strength * len(labels))

    def loss_and_gradient(flat: ndarray) -> tuple[float, ndarray]:
        weights, bias = flat[: rows * size].reshape(rows, size), flat[rows * size :]
        logits = _class_logits(standard @ weights.T + bias)
        errors = (softmax(logits, axis=1) - targets)[:, -rows:]
        loss = penalty * (weights**2).sum() / 2 - (log_softmax(logits, axis=1) * targets).sum() / len(targets)
        slopes = penalty * weights + errors.T @ standard / len(targets)
        return float(loss), np.concatenate([slopes.ravel(), errors.mean(axis=0)])

    first = np.zeros(rows * (size + 1)) if start is None else np.concatenate([start.weights.ravel(), start.bias])
    options = {"maxiter": MOST_ITERATIONS, "gtol": TOLERANCE, "ftol": 0}
    found = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    return Probe(middle, scale, found.x[: rows * size].reshape(rows, size), found.x[rows * size :], strength)


def fit_best(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    score: Callable[[Probe], float],
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """The probe with the highest score on dev, of equal ones that with the strongest penalty."""
    probes: list[Probe] = []
    for strength in sorted(strengths):
        probes.append(fit(vectors, labels, classes, strength, probes[-1] if probes else None))
    return max(probes, key=score)


@dataclass(frozen=True)
class Fold:
    """What is fitted for one fold.

    Attributes:
        held_out: (N,) the fold's own examples: neither probe has read them.
        dev: (N,) those of the next fold, which `chosen` has not read.
        chosen: on all other folds, of the strength that is best on `dev`.
        probe: of this strength, on all folds but the one held out.
    """

    held_out: Bool[ndarray, " N"]
    dev: Bool[ndarray, " N"]
    chosen: Probe
    probe: Probe


def fit_folds(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    folds: Int[ndarray, " N"],
    score: Callable[[Bool[ndarray, " N"], Probe], float],
    strengths: Sequence[float] = STRENGTHS,
) -> Iterator[Fold]:
    """Nested cross-validation, a fold at a time: the strength is chosen without the fold that is then predicted.

    SentEval (Conneau and Kiela 2018) chooses it by a second cross-validation of the other folds. Here one of these
    serves as dev, each fold once, which takes a ninth of its fits for ten folds.

    Args:
        vectors: (N, D).
        labels: (N,) class ids.
        classes: C.
        folds: (N,) the fold of each example, numbered from 0.
        score: on some examples, (N,), of a probe; the higher the better.
        strengths: to choose from.
    """
    count = int(folds.max()) + 1
    for number in range(count):
        held_out, dev = folds == number, folds == (number + 1) % count
        rest = ~(held_out | dev)
        chosen = fit_best(vectors[rest], labels[rest], classes, partial(score, dev), strengths)
        probe = fit(vectors[~held_out], labels[~held_out], classes, chosen.strength, chosen)
        yield Fold(held_out, dev, chosen, probe)


def _class_logits(rows: Float[ndarray, "N K"]) -> Float[ndarray, "N C"]:
    return np.concatenate([np.zeros_like(rows), rows], axis=1) if rows.shape[1] == 1 else rows
