import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.decomposition import PCA

from helpers import MASKING
from poolwise import geometry
from poolwise.data.batching import MaskedBatches
from poolwise.geometry import (
    alignment,
    class_alignment,
    dev_geometries,
    effective_rank,
    geometry_and_components,
    mean_cosine,
    principal_components,
    saturated_share,
    spread,
    uniformity,
    vector_geometry,
)

VECTORS = torch.tensor(np.random.default_rng(0).normal(size=(40, 6)), dtype=torch.float32)
UNITS = (VECTORS / VECTORS.norm(dim=1, keepdim=True)).double().numpy()
PAIRS = [(i, j) for i in range(40) for j in range(i)]


def test_effective_rank_is_exp_of_the_entropy_of_singular_values():
    values = np.linalg.svd(VECTORS.double().numpy(), compute_uv=False)
    assert effective_rank(VECTORS) == pytest.approx(math.exp(entropy(values)))


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (torch.eye(5), 5.0),
        (torch.eye(3).repeat(4, 2), 3.0),
        (torch.ones(4, 1) * VECTORS[:1], 1.0),
        (torch.tensor([[1.0], [-1.0], [1.0]]) * VECTORS[:1], 1.0),
        (torch.zeros(4, 3), 0.0),
    ],
)
def test_effective_rank_counts_directions(vectors, expected):
    assert effective_rank(vectors) == pytest.approx(expected, abs=1e-5)
    assert effective_rank(7 * vectors) == pytest.approx(expected, abs=1e-5)


def test_mean_cosine_is_over_pairs():
    assert mean_cosine(VECTORS) == pytest.approx(np.mean([UNITS[i] @ UNITS[j] for i, j in PAIRS]))
    assert mean_cosine(torch.eye(3)) == pytest.approx(0.0)
    assert mean_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1.0)
    assert math.isnan(mean_cosine(VECTORS[:1]))


def test_uniformity_is_over_pairs():
    expected = math.log(np.mean([math.exp(-2 * ((UNITS[i] - UNITS[j]) ** 2).sum()) for i, j in PAIRS]))
    assert uniformity(VECTORS) == pytest.approx(expected)
    assert uniformity(torch.ones(3, 2)) == pytest.approx(0.0)
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8.0)
    assert math.isnan(uniformity(VECTORS[:1]))


def test_alignment_is_the_squared_distance_of_views():
    assert alignment(VECTORS, 3 * VECTORS) == pytest.approx(0.0)
    assert alignment(VECTORS, -VECTORS) == pytest.approx(4.0)
    expected = ((UNITS - UNITS[::-1]) ** 2).sum(axis=1).mean()
    assert alignment(VECTORS, VECTORS.flip(0)) == pytest.approx(expected)


def test_alignment_of_classes_is_over_pairs_with_one_label():
    labels = torch.arange(40) % 3
    apart = [((UNITS[i] - UNITS[j]) ** 2).sum() for i, j in PAIRS if i % 3 == j % 3]
    assert class_alignment(VECTORS, labels) == pytest.approx(np.mean(apart))
    assert class_alignment(VECTORS[:1].expand(4, 6), labels[:4]) == pytest.approx(0.0)
    assert class_alignment(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), labels[:1].repeat(2)) == pytest.approx(4.0)
    assert math.isnan(class_alignment(VECTORS[:3], labels[:3]))  # no class has two


@pytest.mark.parametrize("vectors", [VECTORS, VECTORS.T.contiguous()])
def test_principal_components_are_those_of_scikit_learn(vectors):
    reference = PCA(2, svd_solver="full").fit(vectors.double().numpy())
    expected = reference.transform(vectors.double().numpy())
    largest = reference.components_[np.arange(2), np.abs(reference.components_).argmax(axis=1)]
    np.testing.assert_allclose(principal_components(vectors), expected * np.sign(largest), atol=1e-5)


@pytest.mark.parametrize("vectors", [VECTORS[:1], VECTORS[:1].expand(5, 6), VECTORS[:, :1]])
def test_components_that_there_are_not_are_zero(vectors):
    found = principal_components(vectors)
    assert found.shape == (len(vectors), 2)
    assert found[:, 1].abs().max() == pytest.approx(0.0, abs=1e-6)


def test_the_geometry_of_vectors_is_told_by_these_measures():
    labels = torch.arange(40) % 2
    assert vector_geometry(VECTORS, labels) == {
        "texts": 40,
        "effective_rank": effective_rank(VECTORS),
        "mean_cosine": mean_cosine(VECTORS),
        "uniformity": uniformity(VECTORS),
        "alignment": class_alignment(VECTORS, labels),
    }


def test_jobs_that_classify_the_same_vectors_measure_them_once(monkeypatch):
    measured = []
    monkeypatch.setattr(geometry, "vector_geometry", lambda *given: measured.append(given) or vector_geometry(*given))
    labels = torch.arange(40) % 2
    for vectors in (VECTORS, VECTORS.clone(), VECTORS + 1, VECTORS):
        found, components = geometry_and_components(vectors, labels)
        assert found == vector_geometry(vectors, labels)
        assert torch.equal(components, principal_components(vectors))
        found.clear()  # which is the caller's own
    assert len(measured) == 2


def test_a_sample_is_spread_over_a_split():
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(1001, 6).tolist() == [0, 200, 400, 600, 800, 1000]


def test_saturated_share():
    assert saturated_share(torch.tensor([[0.995, -0.999], [0.98, 0.0]])) == 0.5


def test_the_poolers_outputs_are_those_of_the_unmasked_texts(model, texts, tokenizer):
    batches = MaskedBatches(texts, tokenizer, MASKING, seed=0)
    found, of_cls = dev_geometries(model, batches, texts.lengths)
    assert model.training
    model.eval()
    ids, present = texts.padded(np.arange(len(texts)))
    with torch.no_grad():
        output = model.bert(torch.tensor(ids), torch.tensor(present).long())
    vectors, cls = output.pooler_output, output.last_hidden_state[:, 0]
    assert found["texts"] == of_cls["texts"] == len(texts) == 6
    for name, measure in (
        ("effective_rank", effective_rank),
        ("mean_cosine", mean_cosine),
        ("uniformity", uniformity),
        ("saturated_share", saturated_share),
    ):
        assert found[name] == pytest.approx(measure(vectors), rel=1e-4)
        assert name == "saturated_share" or of_cls[name] == pytest.approx(measure(cls), rel=1e-4)
    assert 0 < found["alignment"] < 4
    assert 0 < of_cls["alignment"] < 4
    assert found.keys() - of_cls.keys() == {"saturated_share"}


def test_the_same_model_has_the_same_geometry_each_time(model, texts, tokenizer):
    batches = MaskedBatches(texts, tokenizer, MASKING, seed=0)
    assert dev_geometries(model, batches, texts.lengths) == dev_geometries(model, batches, texts.lengths)


def test_at_most_so_many_texts_are_read(model, texts, tokenizer, monkeypatch):
    monkeypatch.setattr("poolwise.geometry.TEXTS", 4)
    monkeypatch.setattr("poolwise.geometry.ALIGNED_TEXTS", 2)
    read = []
    batches = MaskedBatches(texts, tokenizer, MASKING, seed=0)
    original = MaskedBatches.__getitem__
    monkeypatch.setattr(MaskedBatches, "__getitem__", lambda self, r: read.append(r) or original(self, r))
    assert dev_geometries(model, batches, texts.lengths)[0]["texts"] == 4
    assert [len(requests) for requests in read] == [4, 2, 2]
    assert [{epoch for epoch, _ in requests} for requests in read] == [{0}, {0}, {1}]


def test_outputs_that_are_not_finite_are_told(model, texts, tokenizer):
    batches = MaskedBatches(texts, tokenizer, MASKING, seed=0)
    model.bert.pooler.dense.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="training has diverged"):
        dev_geometries(model, batches, texts.lengths)
