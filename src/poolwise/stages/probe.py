"""Logistic regression on the vectors of a frozen encoder.

Shapes: N examples, D vector size, C classes, K rows of weights: 1 for two classes, else C.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from poolwise.data.imbalance import class_weights

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
        with one_thread():
            return _class_logits((vectors - self.middle) / self.scale @ self.weights.T + self.bias)

    @property
    def linear(self) -> tuple[Float[ndarray, "C D"], Float[ndarray, " C"]]:
        """Weight and bias of a linear layer that gives the same logits of vectors as they are."""
        weight = self.weights / self.scale
        return _class_logits(weight.T).T, _class_logits((self.bias - weight @ self.middle)[None])[0]


@dataclass(frozen=True)
class Standardised:
    """Vectors less `middle`, divided by `scale`, as in `Probe`.

    Attributes:
        vectors: (N, D), of mean 0 and, where they vary, of variance 1.
        middle, scale: (D,).
    """

    vectors: Float[ndarray, "N D"]
    middle: Float[ndarray, " D"]
    scale: Float[ndarray, " D"]

    @classmethod
    def of(cls, vectors: Float[ndarray, "N D"]) -> "Standardised":
        """Vectors by their own mean and standard deviation."""
        exact = vectors.astype(np.float64)
        middle, scale = exact.mean(axis=0), exact.std(axis=0)
        scale[scale == 0] = 1.0
        return cls((exact - middle) / scale, middle, scale)


def fit(
    vectors: Float[ndarray, "N D"] | Standardised,
    labels: Int[ndarray, " N"],
    classes: int,
    strength: float,
    start: Probe | None = None,
    weighted: bool = False,
) -> Probe:
    """Minimise half the squared norm of the weights plus `strength` times the summed cross entropy, by L-BFGS.

    Both are divided by `strength` x N, so that the tolerance means the same for all.

    Vectors are standardised first, if they are not yet. The penalty leaves the bias free; two classes share one row of
    weights. This is what `LogisticRegression(C=strength)` of scikit-learn minimises on standardised vectors. There is
    one minimum: `start`, a probe of the same vectors, changes how soon it is found. If `weighted`, the cross entropy of
    an example counts by the weight of its class (`class_weights`), as with `class_weight="balanced"` there.
    """
    by = vectors if isinstance(vectors, Standardised) else Standardised.of(vectors)
    standard = by.vectors
    rows, size = (1 if classes == 2 else classes), standard.shape[1]
    targets, penalty = np.eye(classes)[labels], 1 / (strength * len(labels))
    counts = (class_weights(labels, classes)[labels] if weighted else np.ones(len(labels)))[:, None]
    counted = targets * counts

    def loss_and_gradient(flat: ndarray) -> tuple[float, ndarray]:
        weights, bias = flat[: rows * size].reshape(rows, size), flat[rows * size :]
        probabilities, logarithms = softmax_and_log(_class_logits(standard @ weights.T + bias))
        errors = (counts * probabilities - counted)[:, -rows:]
        loss = penalty * (weights**2).sum() / 2 - (logarithms * counted).sum() / len(targets)
        slopes = penalty * weights + errors.T @ standard / len(targets)
        return float(loss), np.concatenate([slopes.ravel(), errors.mean(axis=0)])

    first = np.zeros(rows * (size + 1)) if start is None else np.concatenate([start.weights.ravel(), start.bias])
    options = {"maxiter": MOST_ITERATIONS, "gtol": TOLERANCE, "ftol": 0}
    with one_thread():
        found = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    return Probe(by.middle, by.scale, found.x[: rows * size].reshape(rows, size), found.x[rows * size :], strength)


def one_thread() -> AbstractContextManager[Any]:
    """Have numpy multiply with one thread, while its factors are as small as those of a fit.

    Milliseconds of the five fits of a probe with one thread and with two, on two cores, by N x D: 64 x 384: 20 and 20;
    1,024 x 384: 67 and 68; 2,048 x 384: 89 and 418; 6,161 x 384: 228 and 355; 1,024 x 768: 62 and 669; 6,161 x 768: 342
    and 507. The second thread waits busily between two products.
    """
    limits: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limits


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # which looks through all that are loaded, for two milliseconds


def softmax_and_log(logits: Float[ndarray, "N C"]) -> tuple[Float[ndarray, "N C"], Float[ndarray, "N C"]]:
    """Probabilities and their logarithms, bit for bit as `scipy.special` has them, in a quarter of its time for 64
    examples (24 of 97 microseconds): a fit asks at each step."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    return powers / sums, shifted - np.log(sums)


def fit_best(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    score: Callable[[Probe], float],
    strengths: Sequence[float] = STRENGTHS,
    weighted: bool = False,
) -> Probe:
    """The probe with the highest score on dev, of equal ones that with the strongest penalty."""
    return max(fit_each(vectors, labels, classes, strengths, weighted), key=score)


def fit_each(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    strengths: Sequence[float],
    weighted: bool = False,
) -> list[Probe]:
    """A probe of each strength, the strongest penalty first; `weighted` as in `fit`."""
    probes: list[Probe] = []
    standardised = Standardised.of(vectors)
    for strength in sorted(strengths):
        probes.append(fit(standardised, labels, classes, strength, probes[-1] if probes else None, weighted))
    return probes


@dataclass(frozen=True)
class Fold:
    """What is fitted for one fold.

    Attributes:
        held_out: (N,) the fold's own examples.
        probe: on all others, of the strength that is best on these.
        dev_figures: of this strength, the mean over the other folds.
    """

    held_out: Bool[ndarray, " N"]
    probe: Probe
    dev_figures: dict[str, float]


def fit_folds(
    vectors: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    classes: int,
    folds: Int[ndarray, " N"],
    score_on: Callable[[Bool[ndarray, " N"], Probe], float],
    figures_on: Callable[[Bool[ndarray, " N"], Probe], Mapping[str, float]],
    strengths: Sequence[float] = STRENGTHS,
    weighted: bool = False,
) -> list[Fold]:
    """Nested cross-validation: the strength for a fold is chosen by cross-validation of the other folds.

    This is SentEval's (Conneau and Kiela 2018), except that these folds are not drawn anew inside: then what is fitted
    without folds i and j serves both, and K folds take K (K - 1) / 2 fits of each strength.

    Args:
        vectors: (N, D).
        labels: (N,) class ids.
        classes: C.
        folds: (N,) the fold of each example, numbered from 0; three or more.
        score_on: of a probe on some examples, (N,); the highest mean decides, of equal ones the strongest penalty.
        figures_on: the same of a probe that was chosen.
        strengths: to choose from.
        weighted: as in `fit`, by the classes of the examples that are fitted on.
    """
    numbers = range(int(folds.max()) + 1)
    inner: dict[tuple[int, int], list[Probe]] = {}
    for one, other in combinations(numbers, 2):
        rest = (folds != one) & (folds != other)
        inner[one, other] = inner[other, one] = fit_each(vectors[rest], labels[rest], classes, strengths, weighted)
    found = []
    for number in numbers:
        others = [dev for dev in numbers if dev != number]
        scores = [
            fmean(score_on(folds == dev, inner[number, dev][strength]) for dev in others)
            for strength in range(len(strengths))
        ]
        best = scores.index(max(scores))
        figures = [figures_on(folds == dev, inner[number, dev][best]) for dev in others]
        means = {name: fmean(each[name] for each in figures) for name in figures[0]}
        rest = folds != number
        probe = fit(vectors[rest], labels[rest], classes, sorted(strengths)[best], weighted=weighted)
        found.append(Fold(~rest, probe, means))
    return found


def _class_logits(rows: Float[ndarray, "N K"]) -> Float[ndarray, "N C"]:
    return np.concatenate([np.zeros_like(rows), rows], axis=1) if rows.shape[1] == 1 else rows
