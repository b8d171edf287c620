import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef, recall_score

from poolwise.card import (
    POOLER_IN_WORDS,
    balanced_accuracy,
    data_provenance,
    matthews,
    metadata,
    model_card,
    table_rows,
)
from poolwise.runs import RunIdentity

IDENTITY = RunIdentity(
    "mlm",
    "demo-tiny-bow-seed1",
    "demo-tiny-bow",
    {},
    {},
    {"model": "tiny", "data": "demo", "objective": "bow", "seed": 1},
)
POOLER = {"origin": "fresh (seed 1)", "losses": ["bow"], "mean_gradient_norm": 0.5, "distance_moved": 2.0}


GEOMETRY = {
    "texts": 500.0,
    "effective_rank": 12.3456,
    "mean_cosine": 0.5,
    "uniformity": -2.0,
    "alignment": 0.1,
    "saturated_share": 0.25,
}
PROVENANCE = {
    "pooler_status": "trained",
    "pooler_geometry": GEOMETRY,
    "cls_geometry": {**GEOMETRY, "effective_rank": 9.5},
    "loss_shares": {"mlm": 0.25, "bow": 0.75},
    "warning": None,
    "objectives": {"bow": {"reads_labels": False}},
    "parts": {"pooler": POOLER, "mlm_head": {**POOLER, "origin": "fresh (seed 1)"}},
}


@pytest.mark.parametrize("status", sorted(POOLER_IN_WORDS))
def test_card_says_what_became_of_the_pooler(status):
    card = model_card(
        IDENTITY, {**PROVENANCE, "pooler_status": status}, {"dev/perplexity": 2.5, "train/mlm_loss": 1.0}, {}
    )
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"Its pooler {POOLER_IN_WORDS[status]}." in card
    assert "| pooler | fresh (seed 1) | bow | 0.5 | 2 |" in card
    assert "| dev/perplexity | 2.5000 |" in card
    assert "train/mlm_loss" not in card
    assert "labels" not in card


def test_card_warns_of_an_encoder_that_learned_from_labels():
    notes = {"bow": {"reads_labels": False}, "rating": {"reads_labels": True}}
    card = model_card(IDENTITY, {**PROVENANCE, "objectives": notes, "warning": "it fell"}, {}, {})
    assert "\n\n**The objective rating learned from labels" in card
    assert "alone.**\n\n**Warning:** it fell.\n\n```python" in card


@pytest.mark.parametrize(
    ("origin", "losses", "fills"),
    [("fresh (seed 1)", ("bow",), False), ("fresh (seed 1)", ("mlm", "bow"), True), ("base", ("bow",), True)],
)
def test_only_a_head_that_an_mlm_loss_trained_is_offered_for_filling_masks(origin, losses, fills):
    parts = {"pooler": POOLER, "mlm_head": {**POOLER, "origin": origin}}
    card = model_card(IDENTITY, {**PROVENANCE, "parts": parts, "loss_shares": dict.fromkeys(losses, 0.5)}, {}, {})
    assert ("tags: [poolwise, fill-mask, feature-extraction]\n" in card) == fills
    assert ("tags: [poolwise, feature-extraction]\n" in card) != fills
    assert ("MLM head was drawn at random" in card) != fills


def test_card_shows_the_proof():
    card = model_card(IDENTITY, PROVENANCE, {}, {})
    assert "How the vectors of 500 dev texts lie:" in card
    assert "| effective rank (1 to the vector's size) | 12.346 | 9.500 |" in card
    assert "mean over probes: mlm 25%, bow 75%." in card
    assert "Warning" not in card
    assert "**Warning:** it fell.\n" in model_card(IDENTITY, {**PROVENANCE, "warning": "it fell"}, {}, {})


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({"model": {"source": "scratch"}, "data": {"source": "demo"}}, 'language: "en"\n'),
        (
            {"model": {"source": "pretrained", "path": "a/b"}, "data": {"source": "hub", "path": "c/d"}},
            'base_model: "a/b"\ndatasets: ["c/d"]\n',
        ),
        ({"model": {"source": "pretrained", "path": "/home/me/b"}, "data": {"source": "files"}}, ""),
        ({"model": {"source": "pretrained", "path": "runs/mlm/one/export"}, "data": {"source": "files"}}, ""),
        ({}, ""),
    ],
)
def test_the_hub_is_told_what_is_known_and_no_more(config, lines):
    assert metadata(config) == lines
    head = model_card(IDENTITY, PROVENANCE, {}, config).split("---\n")[1]
    assert head == f"library_name: transformers\ntags: [poolwise, fill-mask, feature-extraction]\n{lines}"


def test_a_card_names_the_data_without_the_folders_it_lay_in():
    config = {"data": {"source": "files", "text": "/home/me/all.txt", "text_dev": None, "train": "data/a|b.csv"}}
    counts = {"train": {"bad": 1200, "good": 3}, "test": {"bad": 1, "good": 1}}
    rows = data_provenance(config, {"train": "ab" * 32, "dev": {"fingerprint": "of a stream"}}, counts)
    assert rows == {
        "data": "text all.txt, train a|b.csv",
        "content (SHA-256, 16 digits)": "train abababababababab",
        "classes": "train: bad 1,200, good 3; test: bad 1, good 1",
    }
    assert "| data | text all.txt, train a\\|b.csv |" in table_rows({**rows, "seed": None})
    assert data_provenance({"data": {"source": "hub", "path": "c/d"}}, {}, {})["data"] == "hub: c/d"


def test_figures_of_bootstrap_samples_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    answers, labels = random.integers(3, size=(2, 50))
    labels[labels == 1] = 2
    assert matthews(answers, labels) == pytest.approx(matthews_corrcoef(labels, answers))
    recall = recall_score(labels, answers, average=None, labels=[0, 2])
    assert balanced_accuracy(answers, labels) == pytest.approx(recall.mean())
    assert matthews(labels * 0, labels) == 0.0
