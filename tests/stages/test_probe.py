"""The logistic regression on frozen vectors, against scikit-learn's."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from poolwise.stages import probe
from poolwise.stages.probe import (
    STRENGTHS,
    Fold,
    Probe,
    Standardised,
    fit,
    fit_best,
    fit_each,
    fit_folds,
    softmax_and_log,
)


def points(classes: int, examples: int = 300, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, examples)
    vectors = random.normal(3.0, 2.0, (examples, size)) + random.normal(size=(classes, size))[labels]
    return vectors.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_it_is_the_logistic_regression_of_scikit_learn(classes: int, strength: float) -> None:
    vectors, labels = points(classes)
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(scaler.transform(vectors), labels)
    probe = fit(vectors, labels, classes, strength)
    np.testing.assert_allclose(probe.weights, reference.coef_, atol=2e-3)
    wanted = reference.predict_proba(scaler.transform(vectors))
    odds = np.exp(probe.logits(vectors))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), wanted, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_are_those_of_scikit_learn(classes: int) -> None:
    vectors, labels = points(classes)
    kept = (labels != 0) | (np.arange(len(labels)) % 8 == 0)
    vectors, labels = vectors[kept], labels[kept]
    standard = StandardScaler().fit_transform(vectors.astype(np.float64))
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000, class_weight="balanced").fit(standard, labels)
    probe = fit(vectors, labels, classes, 0.1, weighted=True)
    np.testing.assert_allclose(probe.weights, reference.coef_, atol=2e-3)
    assert np.abs(fit(vectors, labels, classes, 0.1).weights - reference.coef_).max() > 0.01


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_are_those_of_scipy_bit_for_bit(classes: int) -> None:
    logits = 30 * np.random.default_rng(0).normal(size=(500, classes))
    logits[0] = 0.0
    for own, expected in zip(softmax_and_log(logits), (softmax, log_softmax), strict=True):
        np.testing.assert_array_equal(own, expected(logits, axis=1))


def test_a_fit_has_one_thread_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    seen: list[int] = []
    minimum = probe.minimize
    monkeypatch.setattr(probe, "minimize", lambda *given, **how: seen.extend(threads()) or minimum(*given, **how))
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        fit(np.eye(4), np.arange(4) % 2, 2, 1.0)
        assert threads() == before
    assert set(seen) == {1}


def test_a_unit_that_never_varies_changes_nothing() -> None:
    vectors, labels = points(2)
    constant = np.concatenate([vectors, np.full((len(vectors), 1), 7.0, dtype=np.float32)], axis=1)
    np.testing.assert_allclose(
        fit(constant, labels, 2, 0.1).logits(constant), fit(vectors, labels, 2, 0.1).logits(vectors), atol=1e-6
    )


def test_a_class_that_training_lacks_is_never_the_answer() -> None:
    vectors, labels = points(3)
    kept = labels != 1
    probe = fit(vectors[kept], labels[kept], 3, 1.0)
    assert set(probe.logits(vectors).argmax(axis=1)) == {0, 2}


def test_the_best_on_dev_is_taken_and_of_equals_the_strongest_penalty() -> None:
    vectors, labels = points(2)

    def near_one_tenth(probe: Probe) -> float:
        return -abs(np.log10(probe.strength) + 1)

    assert fit_best(vectors, labels, 2, near_one_tenth).strength == 0.1
    assert fit_best(vectors, labels, 2, lambda probe: 0.0).strength == 1e-4


@pytest.mark.parametrize("classes", [2, 3])
def test_each_strength_is_fitted_on_what_is_standardised_once(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = points(classes)
    alone: list[Probe] = []
    for strength in STRENGTHS:
        alone.append(fit(vectors, labels, classes, strength, alone[-1] if alone else None))
    calls, of = [], Standardised.of
    monkeypatch.setattr(Standardised, "of", lambda given: (calls.append(len(given)), of(given))[1])
    together = fit_each(vectors, labels, classes, STRENGTHS)
    assert calls == [len(vectors)]
    for one, other in zip(alone, together, strict=True):
        assert (one.weights == other.weights).all()
        assert (one.bias == other.bias).all()


def folds_of(vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> list[Fold]:
    def figures(dev: np.ndarray, probe: Probe) -> dict[str, float]:
        return {"f1": score(dev, probe)}

    def score(dev: np.ndarray, probe: Probe) -> float:
        return float(f1_score(labels[dev], probe.logits(vectors[dev]).argmax(axis=1), average="macro"))

    return fit_folds(vectors, labels, int(labels.max()) + 1, folds, score, figures)


@pytest.mark.parametrize("classes", [2, 3])
def test_folds_are_the_nested_cross_validation_of_scikit_learn(classes: int) -> None:
    vectors, labels = points(classes)
    folds = np.arange(300) % 3
    grid = {"logisticregression__C": STRENGTHS}
    for number, fold in enumerate(folds_of(vectors, labels, folds)):
        assert (fold.held_out == (folds == number)).all()
        others = ~fold.held_out
        model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=5000))
        reference = GridSearchCV(model, grid, cv=PredefinedSplit(folds[others]), scoring="f1_macro")
        reference.fit(vectors[others], labels[others])
        assert fold.dev_figures["f1"] == pytest.approx(reference.best_score_, abs=0.003)
        assert fold.probe.strength == reference.best_params_["logisticregression__C"]
        answers = fold.probe.logits(vectors[fold.held_out]).argmax(axis=1)
        assert (answers == reference.predict(vectors[fold.held_out])).mean() > 0.997


@pytest.mark.slow
def test_what_a_fold_holds_is_not_read_by_its_probes() -> None:
    vectors, labels = points(2)
    folds = np.arange(300) % 3
    before = folds_of(vectors, labels, folds)
    for number, fold in enumerate(before):
        other_vectors, other_labels = vectors.copy(), labels.copy()
        other_vectors[fold.held_out] += 5
        other_labels[fold.held_out] = 0
        again = folds_of(other_vectors, other_labels, folds)[number]
        assert again.probe.strength == fold.probe.strength
        assert (again.probe.weights == fold.probe.weights).all()
    assert (np.sum([fold.held_out for fold in before], axis=0) == 1).all()
