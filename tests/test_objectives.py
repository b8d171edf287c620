from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

from helpers import REPOSITORY, TEXTS
from poolwise.objectives import OBJECTIVES, STOP_WORDS, BagOfWords, build_objective, distinct
from poolwise.settings import UserError

BOW = {"name": "bow", "weight": 2.0, "train_mlm_head": True, "drop_stop_words": False}


def padded_ids(tokenizer) -> torch.Tensor:
    return tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"]


def test_bow_is_the_kl_divergence_from_the_uniform_distribution_over_the_distinct_pieces(model, tokenizer):
    model.eval()
    token_ids = padded_ids(tokenizer)
    pooled = torch.tanh(torch.randn(len(TEXTS), model.config.hidden_size))
    found = build_objective(BOW, tokenizer)(pooled, token_ids, model.cls)
    expected = []
    for row, ids in enumerate(token_ids.tolist()):
        pieces = sorted(set(ids) - set(tokenizer.all_special_ids))
        uniform = torch.zeros(len(tokenizer))
        uniform[pieces] = 1 / len(pieces)
        log_probabilities = functional.log_softmax(model.cls(pooled[row : row + 1])[0], dim=-1)
        expected.append(functional.kl_div(log_probabilities, uniform, reduction="sum"))
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_bow_is_zero_where_the_head_predicts_just_the_pieces(tokenizer):
    token_ids = padded_ids(tokenizer)[:1]
    pieces = sorted(set(token_ids[0].tolist()) - set(tokenizer.all_special_ids))
    logits = torch.full((1, len(tokenizer)), -1e4)
    logits[0, pieces] = 0.0

    class Head(torch.nn.Module):
        def forward(self, vectors):
            return logits + 0 * vectors.sum()

    loss = build_objective(BOW, tokenizer)(torch.zeros(1, 4), token_ids, Head())
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_texts_without_a_piece_to_predict_count_for_nothing(model, tokenizer):
    model.eval()
    objective = build_objective(BOW, tokenizer)
    token_ids = padded_ids(tokenizer)[:2]
    pooled = torch.tanh(torch.randn(2, model.config.hidden_size))
    empty = token_ids.clone()
    empty[1] = tokenizer.pad_token_id
    torch.testing.assert_close(objective(pooled, empty, model.cls), objective(pooled[:1], token_ids[:1], model.cls))
    nothing = torch.full_like(token_ids, tokenizer.pad_token_id)
    assert objective(pooled, nothing, model.cls).item() == 0.0


@pytest.mark.parametrize("train_mlm_head", [True, False])
def test_its_gradient_enters_the_mlm_head_on_request_only(model, tokenizer, train_mlm_head):
    objective = build_objective({**BOW, "train_mlm_head": train_mlm_head}, tokenizer)
    pooled = torch.tanh(torch.randn(len(TEXTS), model.config.hidden_size)).requires_grad_()
    objective(pooled, padded_ids(tokenizer), model.cls).backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.cls.parameters()]
    assert all(reached) if train_mlm_head else not any(reached)
    assert pooled.grad is not None
    assert pooled.grad.abs().sum() > 0


def test_stop_words_are_left_out_on_request(tokenizer):
    kept, dropped = (build_objective({**BOW, "drop_stop_words": drop}, tokenizer).dropped for drop in (False, True))
    vocabulary = tokenizer.get_vocab()
    newly = {index for index in range(len(tokenizer)) if dropped[index] and not kept[index]}
    assert newly == {vocabulary[word] for word in STOP_WORDS if word in vocabulary}
    assert vocabulary["the"] in newly
    assert not {"not", "no", "but", "never", "hardly"} & set(STOP_WORDS)


def test_distinct_marks_each_wanted_id_once():
    dropped = torch.tensor([True, False, False, False])
    ordered, wanted = distinct(torch.tensor([[2, 1, 2, 0], [3, 3, 3, 3]]), dropped)
    assert [sorted(row[keep].tolist()) for row, keep in zip(ordered, wanted, strict=True)] == [[1, 2], [3]]


def test_none_is_zero_without_a_gradient(model, tokenizer):
    pooled = torch.zeros(2, 4, requires_grad=True)
    loss = build_objective({"name": "none"}, tokenizer)(pooled, torch.zeros(2, 3, dtype=torch.long), model.cls)
    assert loss.item() == 0.0
    assert not loss.requires_grad


def test_each_has_a_config_file():
    files = {file.stem for file in Path(REPOSITORY, "conf/objective").glob("*.yaml")}
    assert files == set(OBJECTIVES)
    values = yaml.safe_load(Path(REPOSITORY, "conf/objective/bow.yaml").read_text())
    assert set(values) == set(BOW)
    assert OBJECTIVES["bow"] is BagOfWords


def test_unknown_name_lists_the_known_ones(tokenizer):
    with pytest.raises(UserError, match="allowed: bow, none"):
        build_objective({"name": "simcse"}, tokenizer)
