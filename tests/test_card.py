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


@pytest.mark.parametrize("status", sorted(POOLER_IN_WORDS))
def test_card_says_what_became_of_the_pooler(status):
    provenance = {"pooler_status": status, "parts": {"pooler": POOLER}, "objectives": {"bow": {"reads_labels": False}}}
    card = model_card(IDENTITY, provenance, {"dev/perplexity": 2.5, "train/mlm_loss": 1.0})
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"Its pooler {POOLER_IN_WORDS[status]}." in card
    assert "| pooler | fresh (seed 1) | bow | 0.5 | 2 |" in card
    assert "| dev/perplexity | 2.5000 |" in card
    assert "train/mlm_loss" not in card
    assert "labels" not in card


def test_card_warns_of_an_encoder_that_learned_from_labels():
    notes = {"bow": {"reads_labels": False}, "rating": {"reads_labels": True}}
    provenance = {"pooler_status": "trained", "parts": {"pooler": POOLER}, "objectives": notes}
    assert "**The objective rating learned from labels" in model_card(IDENTITY, provenance, {})
