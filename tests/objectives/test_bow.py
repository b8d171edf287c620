import math

import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from torch.nn import functional

from helpers import BOW, TEXTS
from poolwise.objectives import build_objective
from poolwise.objectives.bow import distinct


def batch_of(tokenizer, texts=TEXTS) -> dict[str, torch.Tensor]:
    return {
        "original_ids": tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")["input_ids"]
    }


def pooled(model, count=6) -> torch.Tensor:
    return torch.tanh(torch.randn(count, model.config.hidden_size))


def built(surroundings, **changes):
    return build_objective({**BOW, **changes}, surroundings, seed=1)


def expected_loss(model, tokenizer, vectors, weight_of) -> torch.Tensor:
    """Text by text, with torch's own KL divergence from the wanted distribution."""
    divergences = []
    for row, text in enumerate(TEXTS):
        wanted = torch.zeros(len(tokenizer))
        for piece in set(tokenizer(text, truncation=True, max_length=32)["input_ids"]) - set(tokenizer.all_special_ids):
            wanted[piece] = weight_of(piece)
        if wanted.sum() > 0:
            log_probabilities = functional.log_softmax(model.cls(vectors[row : row + 1])[0], dim=-1)
            divergences.append(functional.kl_div(log_probabilities, wanted / wanted.sum(), reduction="sum"))
    return torch.stack(divergences).mean()


def document_frequency(tokenizer):
    """Of each piece, counted by scikit-learn."""
    counter = CountVectorizer(
        analyzer=lambda text: tokenizer(text, truncation=True, max_length=32)["input_ids"], binary=True
    )
    counts = counter.fit_transform(TEXTS).toarray().sum(axis=0)
    return {piece: int(counts[column]) for piece, column in counter.vocabulary_.items()}


def test_bow_is_the_kl_divergence_from_the_uniform_distribution_over_the_distinct_pieces(
    model, tokenizer, surroundings
):
    model.eval()
    vectors = pooled(model)
    found = built(surroundings)(vectors, batch_of(tokenizer), model)
    torch.testing.assert_close(found, expected_loss(model, tokenizer, vectors, lambda piece: 1.0))


def test_targets_are_weighted_by_inverse_document_frequency_on_request(model, tokenizer, surroundings):
    model.eval()
    vectors, frequency = pooled(model), document_frequency(tokenizer)
    found = built(surroundings, idf_weighted=True)(vectors, batch_of(tokenizer), model)
    expected = expected_loss(model, tokenizer, vectors, lambda piece: math.log(len(TEXTS) / frequency[piece]))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("idf_weighted", [False, True])
def test_frequent_pieces_are_left_out_on_request(tokenizer, surroundings, idf_weighted):
    objective = built(surroundings, largest_document_share=0.5, idf_weighted=idf_weighted)
    frequency = document_frequency(tokenizer)
    left_out = {piece for piece, count in frequency.items() if objective.piece_weights[piece] == 0}
    frequent = {piece for piece, count in frequency.items() if count > len(TEXTS) / 2}
    assert left_out == frequent | (set(frequency) & set(tokenizer.all_special_ids))
    assert tokenizer.get_vocab()["."] in frequent
    assert tokenizer.get_vocab()["failure"] not in frequent


def test_bow_is_zero_where_the_head_predicts_just_the_pieces(model, tokenizer, surroundings):
    batch = batch_of(tokenizer, TEXTS[:1])
    pieces = sorted(set(batch["original_ids"][0].tolist()) - set(tokenizer.all_special_ids))
    logits = torch.full((1, len(tokenizer)), -1e4)
    logits[0, pieces] = 0.0

    class Head(torch.nn.Module):
        def forward(self, vectors):
            return logits + 0 * vectors.sum()

    model.cls = Head()
    loss = built(surroundings)(torch.zeros(1, 16), batch, model)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_texts_without_a_piece_to_predict_count_for_nothing(model, tokenizer, surroundings):
    model.eval()
    objective, vectors = built(surroundings), pooled(model, 2)
    token_ids = batch_of(tokenizer)["original_ids"][:2]
    empty = token_ids.clone()
    empty[1] = tokenizer.pad_token_id
    torch.testing.assert_close(
        objective(vectors, {"original_ids": empty}, model),
        objective(vectors[:1], {"original_ids": token_ids[:1]}, model),
    )
    nothing = torch.full_like(token_ids, tokenizer.pad_token_id)
    assert objective(vectors, {"original_ids": nothing}, model).item() == 0.0


@pytest.mark.parametrize("train_mlm_head", [True, False])
def test_its_gradient_enters_the_mlm_head_on_request_only(model, tokenizer, surroundings, train_mlm_head):
    objective = built(surroundings, train_mlm_head=train_mlm_head)
    vectors = pooled(model).requires_grad_()
    objective(vectors, batch_of(tokenizer), model).backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.cls.parameters()]
    assert all(reached) if train_mlm_head else not any(reached)
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0


def test_distinct_marks_each_id_once():
    ordered, first = distinct(torch.tensor([[2, 1, 2, 0], [3, 3, 3, 3]]))
    assert [sorted(row[keep].tolist()) for row, keep in zip(ordered, first, strict=True)] == [[0, 1, 2], [3]]
