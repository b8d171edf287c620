import copy
import json

import torch
from torch import nn

from helpers import SMALL_STAGE2
from poolwise.embedding import RowsEmbedding, kept_by_rows
from poolwise.stages import sentiment


def test_training_equals_that_with_torchs_embedding_bit_by_bit():
    torch.manual_seed(1)
    plain = nn.Embedding(50, 8, padding_idx=0)
    with torch.no_grad():
        plain.weight[0] = 1.0  # as a checkpoint may have it
    rows = kept_by_rows(copy.deepcopy(plain))
    optimisers = [torch.optim.AdamW(each.parameters(), lr=0.1, weight_decay=0.1, fused=True) for each in (plain, rows)]
    target = torch.randn(8)
    for step in range(6):
        ids = torch.randint(0, 50, (4, 7)) if step else torch.zeros(4, 7, dtype=torch.long)
        tables = []
        for embedding, optimiser in zip((plain, rows), optimisers, strict=True):
            (embedding(ids) - target).square().sum().backward()
            tables.append(embedding.weight.grad.clone())
            nn.utils.clip_grad_norm_(embedding.parameters(), 1.0)
            optimiser.step()
            if embedding is rows:
                kept = rows.clear()
                assert (kept == 0).all()
                optimiser.zero_grad()
                rows.weight.grad = kept
            else:
                optimiser.zero_grad()
        assert torch.equal(*tables)
        assert torch.equal(plain.weight, rows.weight)


def test_nothing_is_kept_where_nothing_trains():
    rows = kept_by_rows(nn.Embedding(5, 2))
    ids = torch.tensor([1, 2])
    with torch.no_grad():
        rows(ids)
    rows.eval()
    rows(ids).sum().backward()  # torch's own
    assert rows.written == []
    assert rows.weight.grad[1:3].eq(1).all()
    rows.weight.grad = None
    rows.train().weight.requires_grad_(False)
    assert not rows(ids).requires_grad
    assert rows.clear() is None


def test_an_embedding_that_is_no_plain_one_stays_as_it_is():
    class Other(nn.Embedding):
        pass

    for other in (Other(5, 2), nn.Embedding(5, 2, max_norm=1.0), nn.Embedding(5, 2, scale_grad_by_freq=True)):
        assert kept_by_rows(other) is None
        assert not isinstance(other, RowsEmbedding)


def test_fine_tuning_has_the_numbers_that_it_has_with_torchs(program, tmp_path, monkeypatch):
    kept, found = [], []

    def by_rows(embedding):
        kept.append(kept_by_rows(embedding) if not kept else None)
        return kept[-1]

    monkeypatch.setattr(sentiment, "kept_by_rows", by_rows)
    for name in ("rows", "torch"):
        runs = tmp_path / name
        given = ["encoder=base", "repr=mean", "seed=1", "logger=csv", f"runs_dir={runs}"]
        assert program("stage=sentiment", *given, *SMALL_STAGE2) == 0
        (file,) = runs.glob("sentiment/*/record.json")
        found.append(json.loads(file.read_text())["predictions_sha256"])
    assert found[0] == found[1]
    assert [type(each) for each in kept] == [RowsEmbedding, type(None)]
    assert kept[0].weight.grad is None
