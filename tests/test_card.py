import pytest

from poolwise.card import POOLER_IN_WORDS, model_card
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
    card = model_card(IDENTITY, {**PROVENANCE, "pooler_status": status}, {"dev/perplexity": 2.5, "train/mlm_loss": 1.0})
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"Its pooler {POOLER_IN_WORDS[status]}." in card
    assert "| pooler | fresh (seed 1) | bow | 0.5 | 2 |" in card
    assert "| dev/perplexity | 2.5000 |" in card
    assert "train/mlm_loss" not in card
    assert "labels" not in card


def test_card_warns_of_an_encoder_that_learned_from_labels():
    notes = {"bow": {"reads_labels": False}, "rating": {"reads_labels": True}}
    card = model_card(IDENTITY, {**PROVENANCE, "objectives": notes, "warning": "it fell"}, {})
    assert "\n\n**The objective rating learned from labels" in card
    assert "alone.**\n\n**Warning:** it fell.\n\n```python" in card


@pytest.mark.parametrize(
    ("origin", "losses", "fills"),
    [("fresh (seed 1)", ("bow",), False), ("fresh (seed 1)", ("mlm", "bow"), True), ("base", ("bow",), True)],
)
def test_only_a_head_that_an_mlm_loss_trained_is_offered_for_filling_masks(origin, losses, fills):
    parts = {"pooler": POOLER, "mlm_head": {**POOLER, "origin": origin}}
    card = model_card(IDENTITY, {**PROVENANCE, "parts": parts, "loss_shares": dict.fromkeys(losses, 0.5)}, {})
    assert ("tags: [poolwise, fill-mask, feature-extraction]\n" in card) == fills
    assert ("tags: [poolwise, feature-extraction]\n" in card) != fills
    assert ("MLM head was drawn at random" in card) != fills


def test_card_shows_the_proof():
    card = model_card(IDENTITY, PROVENANCE, {})
    assert "How the vectors of 500 dev texts lie:" in card
    assert "| effective rank (1 to the vector's size) | 12.346 | 9.500 |" in card
    assert "mean over probes: mlm 25%, bow 75%." in card
    assert "Warning" not in card
    assert "**Warning:** it fell.\n" in model_card(IDENTITY, {**PROVENANCE, "warning": "it fell"}, {})
