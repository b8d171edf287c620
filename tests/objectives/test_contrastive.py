import logging
import math

import pytest
import torch
from torch.nn import functional

from helpers import objective_settings
from poolwise.objectives import build_objective
from poolwise.objectives.contrastive import info_nce, text_keys

IDS = torch.arange(12).view(12, 1)
"""Twelve rows that all differ."""


def same_texts(token_ids: torch.Tensor) -> torch.Tensor:
    keys = text_keys(token_ids, pad_id=0)
    return keys[:, None] == keys


def one_by_one(first: torch.Tensor, second: torch.Tensor, temperature: float, texts=range(99)) -> float:
    """InfoNCE in both directions by explicit loops; of equal `texts` no row is a negative of the other."""

    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    total = 0.0
    for one, other in ((first, second), (second, first)):
        for i in range(len(one)):
            scores = [math.exp(cosine(one[i], other[j]) / temperature) for j in range(len(other))]
            total += -math.log(scores[i] / sum(s for j, s in enumerate(scores) if j == i or texts[j] != texts[i]))
    return total / (2 * len(first))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_info_nce_is_that_of_explicit_loops(temperature):
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    assert info_nce(first, second, temperature).item() == pytest.approx(one_by_one(first, second, temperature))


def test_info_nce_of_equal_vectors_is_the_log_of_their_number():
    same = torch.ones(7, 3)
    assert info_nce(same, same, 0.05).item() == pytest.approx(math.log(7))
    assert info_nce(same[:1], same[:1], 0.05).item() == 0.0


def test_equal_texts_are_no_negatives_of_each_other():
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    ids = torch.tensor([[4, 7], [5, 0], [4, 7], [4, 8], [4, 7]])
    same = same_texts(torch.cat([ids, ids]))
    assert torch.equal(text_keys(torch.cat([ids, ids]), 0), text_keys(functional.pad(torch.cat([ids, ids]), (0, 3)), 0))
    texts = [0, 1, 0, 2, 0]
    assert same.tolist() == [[one == other for other in texts] for one in texts]
    found = info_nce(first, second, 0.5, same)
    assert found.item() == pytest.approx(one_by_one(first, second, 0.5, texts))
    assert found < info_nce(first, second, 0.5)
    # Halves are of one text only if both are equal.
    assert same_texts(torch.cat([ids, torch.tensor([[1, 1], [1, 1], [1, 2], [1, 1], [1, 1]])])).sum() == 5 + 2
    every = torch.ones(5, 5, dtype=torch.bool)
    assert info_nce(first, second, 0.5, every).item() == 0.0


def test_keys_of_many_texts_that_hardly_differ_all_differ():
    ids = torch.cartesian_prod(*(4 * [torch.arange(1, 16)]))
    halves = torch.cat([ids, ids.flip(1)])
    assert len(text_keys(halves, 0).unique()) == len(ids) == 15**4


@pytest.mark.parametrize("name", ["views", "halves", "simcse"])
def test_without_equal_texts_loss_and_gradient_are_as_if_none_were_looked_for(
    model, surroundings, training_batch, name, monkeypatch
):
    objective = build_objective(objective_settings(name), surroundings, seed=1)
    batch = training_batch(objective.needs)
    found = []
    for looked_for in (True, False):
        if not looked_for:
            monkeypatch.setattr(
                "poolwise.objectives.contrastive.text_keys", lambda ids, pad_id: torch.arange(len(ids) // 2)
            )
        torch.manual_seed(0)
        model.zero_grad()
        output = model(batch["input_ids"], batch["attention_mask"])
        loss = objective(output.pooler_output, batch, model)
        loss.backward()
        found.append((loss.detach(), model.bert.pooler.dense.weight.grad.clone()))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_info_nce_is_formed_in_fp32_under_autocast():
    torch.manual_seed(0)
    first, second = (1 + 0.1 * torch.randn(32, 64) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce(first, second, 0.05)
    assert found.item() == info_nce(first, second, 0.05).item()


@pytest.mark.parametrize("projection_size", [0, 12])
def test_views_contrast_the_two_copies_of_each_text(
    model, surroundings, training_batch, sends_gradient, projection_size
):
    objective = sends_gradient("views", projection_size=projection_size)
    assert len(list(objective.parameters())) == (4 if projection_size else 0)
    vectors = torch.randn(6, 16)
    copies = torch.cat([vectors, vectors[torch.arange(5, -1, -1)]])
    expected = one_by_one(*objective.projection(copies).detach().chunk(2), 0.05)
    assert objective(copies, {"original_ids": IDS}, model).item() == pytest.approx(expected, rel=1e-4)
    assert objective.notes()["views"] == {"further_encoder_passes": 0, "reads_labels": False}


def test_halves_contrast_the_two_parts_of_each_text_and_count_what_cannot_be_cut(
    model, surroundings, training_batch, sends_gradient, caplog
):
    with caplog.at_level(logging.WARNING):
        objective = sends_gradient("halves")
    assert "1 of 6 texts are too short to cut" in caplog.text
    rows = torch.randn(12, 16)
    found = objective(rows, {"original_ids": IDS}, model)
    assert found.item() == pytest.approx(one_by_one(rows[:6], rows[6:], 0.05), rel=1e-4)
    assert objective.notes()["halves"] == {
        "further_encoder_passes": 0,
        "reads_labels": False,
        "texts": 6,
        "texts_too_short_to_cut": 1,
    }


def test_the_projection_is_a_function_of_the_seed_and_leaves_torchs_generator_alone(surroundings):
    settings = objective_settings("views", projection_size=4)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, second, other = (build_objective(settings, surroundings, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [objective.projection[0].weight for objective in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_simcse_contrasts_two_dropout_views_of_the_unmasked_text(model, surroundings, training_batch, sends_gradient):
    objective = sends_gradient("simcse")
    batch = training_batch(objective.needs)
    ids, mask = batch["original_ids"], batch["attention_mask"]
    torch.manual_seed(5)
    found = objective(torch.zeros(6, 16), batch, model)
    torch.manual_seed(5)
    vectors = model.bert(torch.cat([ids, ids]), attention_mask=torch.cat([mask, mask])).pooler_output.detach()
    assert not torch.allclose(vectors[:6], vectors[6:])
    assert found.item() == pytest.approx(one_by_one(vectors[:6], vectors[6:], 0.05), rel=1e-4)
    assert objective.notes()["simcse"] == {
        "further_encoder_passes": 2,
        "reads_labels": False,
        "dropout_views_equal": False,
    }


def test_simcse_tells_of_an_encoder_without_dropout(surroundings, caplog):
    surroundings.config.hidden_dropout_prob = surroundings.config.attention_probs_dropout_prob = 0.0
    with caplog.at_level(logging.WARNING):
        objective = build_objective(objective_settings("simcse"), surroundings, seed=1)
    assert "no dropout" in caplog.text
    assert objective.notes()["simcse"]["dropout_views_equal"]
