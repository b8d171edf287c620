from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from helpers import MASKING
from poolwise.data import batching
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import (
    PLAIN,
    DevBatches,
    LabelledBatches,
    LengthGroupedBatches,
    MaskedBatches,
    SortedBatches,
    batches_to_read,
    loader,
)
from poolwise.data.masking import IGNORED_LABEL
from poolwise.data.module import labelled_data, masked_data

LENGTHS = np.random.default_rng(0).integers(5, 120, size=1003)


def epoch_of(sampler: LengthGroupedBatches, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert {request[0] for batch in batches for request in batch} == {epoch}
    return [[example for _, example in batch] for batch in batches]


def test_every_example_is_seen_once_an_epoch():
    sampler = LengthGroupedBatches(LENGTHS, 16, seed=1)
    for epoch in range(3):
        batches = epoch_of(sampler, epoch)
        assert len(batches) == len(sampler) == 63
        assert Counter(example for batch in batches for example in batch) == Counter(range(1003))


def test_an_epoch_of_several_passes_goes_through_all_texts_each_time():
    few = LENGTHS[:20]
    sampler = LengthGroupedBatches(few, 16, seed=1, passes=3)
    batches = epoch_of(sampler, 1)
    assert len(batches) == len(sampler) == 6
    by_pass = [batches[first : first + 2] for first in (0, 2, 4)]
    assert by_pass[0] == epoch_of(LengthGroupedBatches(few, 16, seed=1), 1)
    assert all(Counter(example for batch in each for example in batch) == Counter(range(20)) for each in by_pass)
    assert len({frozenset(each[0]) for each in by_pass}) > 1
    gone_on = LengthGroupedBatches(few, 16, seed=1, start=(1, 3), passes=3)
    assert epoch_of(gone_on, 1) == batches[3:]


def test_order_is_a_function_of_seed_and_epoch():
    batches = epoch_of(LengthGroupedBatches(LENGTHS, 16, seed=1), 0)
    assert batches == epoch_of(LengthGroupedBatches(LENGTHS, 16, seed=1), 0)
    assert batches != epoch_of(LengthGroupedBatches(LENGTHS, 16, seed=1), 1)
    assert batches != epoch_of(LengthGroupedBatches(LENGTHS, 16, seed=2), 0)


def test_batches_hold_texts_of_like_length_in_no_fixed_order():
    batches = epoch_of(LengthGroupedBatches(LENGTHS, 16, seed=1), 0)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert LENGTHS.sum() / padded > 0.9
    means = [LENGTHS[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def test_over_epochs_there_is_no_fixed_order():
    """Which texts share a batch, and when, is drawn anew."""
    sampler = LengthGroupedBatches(LENGTHS, 16, seed=1)
    epochs = [epoch_of(sampler, epoch) for epoch in range(4)]
    pairs = [{frozenset(pair) for batch in batches for pair in combinations(batch, 2)} for batches in epochs]
    assert all(len(one & other) / len(one) < 0.4 for one, other in combinations(pairs, 2))
    places = [{example: place for place, batch in enumerate(batches) for example in batch} for batches in epochs]
    order = np.array([[found[example] for example in range(1003)] for found in places])
    assert np.abs(np.corrcoef(order) - np.eye(4)).max() < 0.4


@pytest.mark.parametrize(("size", "tokens"), [(16, None), (1, 700)])
def test_batches_are_alike_in_size(size, tokens):
    sampler = LengthGroupedBatches(LENGTHS, size, 1, None, tokens)
    for epoch in range(3):
        batches = epoch_of(sampler, epoch)
        assert len(batches) == len(sampler)
        assert Counter(example for batch in batches for example in batch) == Counter(range(1003))
        if tokens is None:
            assert {len(batch) for batch in batches} <= {size - 1, size}
        else:
            held = [LENGTHS[batch].sum() for batch in batches]
            assert np.mean(held) <= tokens
            assert max(held) - min(held) <= 2 * LENGTHS.max()


@pytest.mark.parametrize("tokens", [None, 700])
def test_shards_hold_the_batches_of_one_in_like_shares(tokens):
    whole = LengthGroupedBatches(LENGTHS, 16, 1, None, tokens)
    shards = [LengthGroupedBatches(LENGTHS, 16, 1, None, tokens, shard, 3) for shard in range(3)]
    for epoch in range(2):
        expected, found = epoch_of(whole, epoch), [epoch_of(shard, epoch) for shard in shards]
        for batch, *parts in zip(expected, *found, strict=True):
            assert sorted(example for part in parts for example in part) == sorted(batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_shard_has_a_text_of_every_batch():
    """Held away: a process without a text would not take part in a step, and the others would wait for ever."""
    lengths = np.array([500] * 3 + [5] * 20)
    shards = [LengthGroupedBatches(lengths, 1, 1, None, 100, shard, 4) for shard in range(4)]
    for epoch in range(5):
        found = [epoch_of(shard, epoch) for shard in shards]
        assert {len(batches) for batches in found} == {5}
        assert min(len(part) for batches in found for part in batches) == 1
        assert Counter(example for batches in found for part in batches for example in part) == Counter(range(23))


@pytest.mark.parametrize(("texts", "size", "batches"), [(13, 6, [6, 7]), (14, 6, [6, 6, 2]), (2, 1, [2])])
def test_evaluation_is_shared_without_drops_or_copies(texts, size, batches):
    """A last batch with fewer texts than shards joins the one before."""
    shards = [[[n for _, n in part] for part in SortedBatches(LENGTHS[:texts], size, shard, 2)] for shard in range(2)]
    assert [len(first) + len(second) for first, second in zip(*shards, strict=True)] == batches
    assert sorted(n for parts in shards for part in parts for n in part) == list(range(texts))


def test_a_text_longer_than_a_batch_shall_be_has_a_batch_of_its_own():
    lengths = np.array([500, 5, 5, 5, 5])
    batches = epoch_of(LengthGroupedBatches(lengths, 1, 1, batch_tokens=130), 0)
    assert len(batches) == 4
    assert sorted(example for batch in batches for example in batch) == [0, 1, 2, 3, 4]
    assert [0] in batches


def test_evaluation_batches_are_sorted_and_complete():
    batches = [[example for _, example in batch] for batch in SortedBatches(LENGTHS, 10)]
    flat = [example for batch in batches for example in batch]
    assert sorted(flat) == list(range(1003))
    assert (np.diff(LENGTHS[flat]) >= 0).all()


def test_a_batch_to_read_is_bounded_with_its_padding(monkeypatch):
    """One long text among many short ones: they would be padded to its length."""
    monkeypatch.setattr(batching, "STATES", 1000 * 16)
    lengths = np.array([5] * 700 + [400, 3000, 4] + [350] * 3)
    batches = batches_to_read(lengths, 16, "cpu")
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert [(len(batch), int(lengths[batch].max())) for batch in batches] == [
        *[(200, 5)] * 3,
        (101, 5),
        (2, 350),
        (2, 400),
        (1, 3000),
    ]
    of_gpu = batches_to_read(lengths, 16, "cuda")
    assert [len(batch) for batch in of_gpu] == [*[64] * 11, 2]
    assert (np.diff(lengths[np.concatenate(of_gpu)]) >= 0).all()
    for device in ("cpu", "cuda"):
        assert batches_to_read(lengths[:0], 16, device) == []


def test_labelled_batches_hold_the_texts(texts):
    batch = LabelledBatches(texts)[[(0, 3), (0, 1)]]
    assert batch["examples"].tolist() == [3, 1]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == texts.lengths[[3, 1]].tolist()
    assert batch["tokens"] == texts.lengths[[3, 1]].sum()
    start, end = texts.offsets[3], texts.offsets[4]
    assert batch["input_ids"][0, : end - start].tolist() == texts.ids[start:end].tolist()
    assert set(batch["input_ids"][0, end - start :].tolist()) == {texts.pad_id}


def test_masks_spare_special_tokens_and_padding(texts, tokenizer):
    masking = replace(MASKING, mask_probability=0.99, mask_token_share=0.0, random_token_share=1.0)
    batch = MaskedBatches(texts, tokenizer, masking, seed=1)[[(0, n) for n in range(len(texts))]]
    special = torch.isin(batch["original_ids"], torch.tensor(tokenizer.all_special_ids))
    assert (batch["labels"][special] == IGNORED_LABEL).all()
    assert torch.equal(batch["input_ids"][special], batch["original_ids"][special])
    replaced = batch["input_ids"][batch["labels"] != IGNORED_LABEL]
    assert len(replaced) > 20
    assert not torch.isin(replaced, torch.tensor(tokenizer.all_special_ids)).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_change_with_the_epoch_also_in_workers(texts, tokenizer, workers):
    """Held away: a collator with a stream of its own repeats its masks every epoch in each worker."""
    data = masked_data(
        {"train": texts, "dev": texts}, tokenizer, MASKING, 3, seed=1, workers=workers, needs=PLAIN, epochs=3
    )
    train, seen = data.train_dataloader(), []
    for epoch in range(3):
        train.sampler.set_epoch(epoch)
        seen.append(sorted(tuple(row) for batch in train for row in batch["labels"].tolist()))
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_dev_masks_are_the_same_for_every_seed_and_epoch(texts, tokenizer):
    def labels(seed: int) -> list[list[list[int]]]:
        data = masked_data(
            {"train": texts, "dev": texts}, tokenizer, MASKING, 3, seed=seed, workers=0, needs=PLAIN, epochs=3
        )
        return [batch["labels"].tolist() for batch in data.val_dataloader()]

    assert labels(1) == labels(2)


def test_loading_leaves_the_global_generator_alone(texts):
    data = labelled_data({"train": texts, "dev": texts, "test": texts}, 2, seed=1, workers=0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert len(list(batches)) == 3
    assert torch.equal(torch.rand(1), expected)


def test_workers_change_nothing(texts):
    order = SortedBatches(texts.lengths, 2)
    plain, worked = (
        [batch["input_ids"].tolist() for batch in loader(LabelledBatches(texts), order, workers)] for workers in (0, 2)
    )
    assert plain == worked


def everything(texts, tokenizer, needs, masking=MASKING, epoch=0):
    return MaskedBatches(texts, tokenizer, masking, 1, needs)[[(epoch, n) for n in range(len(texts))]]


def test_views_are_two_copies_with_masks_of_their_own(texts, tokenizer):
    often = replace(MASKING, mask_probability=0.5)
    plain = everything(texts, tokenizer, PLAIN, often)
    views = everything(texts, tokenizer, BatchNeeds("views"), often)
    first, second = (views["labels"][part] for part in (slice(0, 6), slice(6, 12)))
    assert torch.equal(first, plain["labels"])
    assert torch.equal(views["input_ids"][:6], plain["input_ids"])
    assert not torch.equal(first, second)
    assert torch.equal(views["original_ids"], torch.cat([plain["original_ids"]] * 2))
    chosen = second != IGNORED_LABEL
    assert torch.equal(second[chosen], plain["original_ids"][chosen])
    assert views["tokens"] == 2 * plain["tokens"]


def test_halves_have_masks_of_their_own_and_all_of_the_text(texts, tokenizer):
    often = replace(MASKING, mask_probability=0.5)
    batch = everything(texts, tokenizer, BatchNeeds("halves"), often)
    assert len(batch["labels"]) == 12
    cut_in_two, whole_twice = 5 * 2, 4  # more special tokens; "Dull." with its own
    assert batch["tokens"] == everything(texts, tokenizer, PLAIN)["tokens"] + cut_in_two + whole_twice
    chosen = batch["labels"] != IGNORED_LABEL
    assert torch.equal(batch["labels"][chosen], batch["original_ids"][chosen])
    assert not torch.equal(chosen[:6], chosen[6:])
    again = everything(texts, tokenizer, BatchNeeds("halves"), often)
    assert torch.equal(batch["input_ids"], again["input_ids"])


def test_dev_masks_are_the_same_for_every_objective(texts, tokenizer):
    def dev(needs):
        data = masked_data(
            {"train": texts, "dev": texts}, tokenizer, MASKING, 3, seed=1, workers=0, needs=needs, epochs=1
        )
        return list(data.val_dataloader())

    plain, views, second = dev(PLAIN), dev(BatchNeeds("views")), dev(BatchNeeds(second_mask=0.5))
    for one, other, third in zip(plain, views, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("input_ids", "labels"))
        assert all(torch.equal(one[key], third[key]) for key in ("input_ids", "labels"))
        assert len(other["arranged"]["labels"]) == 2 * len(one["labels"])
        assert "second_ids" in third


def test_pairs_and_words_go_together(texts, tokenizer):
    by_word = replace(MASKING, mask_probability=0.5, unit="word")
    batch = everything(texts, tokenizer, BatchNeeds("order"), by_word)
    continues = torch.tensor([token.startswith("##") for token in tokenizer.convert_ids_to_tokens(range(87))])
    inside = continues[batch["original_ids"]][:, 1:]
    chosen = batch["labels"] != IGNORED_LABEL
    assert inside.sum() > 20
    assert torch.equal(chosen[:, 1:][inside], chosen[:, :-1][inside])


def test_the_mask_probability_goes_to_its_final_value_and_dev_stays(texts, tokenizer):
    rising = replace(MASKING, mask_probability=0.1, final_mask_probability=0.9, unit="span")
    batches = MaskedBatches(texts, tokenizer, rising, 1, PLAIN, epochs=3)
    shares = [
        (batches[[(epoch, n) for n in range(6)]]["labels"] != IGNORED_LABEL).float().mean().item() for epoch in range(3)
    ]
    assert shares[0] < shares[1] < shares[2]
    requests = [(0, n) for n in range(6)]
    changed, fixed = (
        DevBatches(texts, tokenizer, masking, PLAIN)[requests]["labels"]
        for masking in (rising, replace(MASKING, mask_probability=0.1))
    )
    assert torch.equal(changed, fixed)
