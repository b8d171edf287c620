from unittest.mock import Mock

import pytest
import torch

from helpers import MASKING, TEXTS
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.masking import IGNORED_LABEL
from poolwise.data.module import labelled_data, masked_data

SPLITS = ("train", "dev", "test")


def test_labelled_splits_hold_each_example_once_with_its_label(texts):
    data = labelled_data(dict.fromkeys(SPLITS, texts), batch_size=4, seed=1, workers=0)
    loaders = {data.train_dataloader(): [3, 3], data.val_dataloader(): [2, 4], data.test_dataloader(): [2, 4]}
    for loader, sizes in loaders.items():
        batches = list(loader)
        assert sorted(len(batch["labels"]) for batch in batches) == sizes
        assert sorted(label for batch in batches for label in batch["labels"].tolist()) == [0, 0, 0, 1, 1, 1]


def test_labelled_batches_of_like_numbers_of_tokens(texts):
    data = labelled_data(dict.fromkeys(SPLITS, texts), batch_size=1, seed=1, workers=0, batch_tokens=40)
    batches = list(data.train_dataloader())
    assert len(batches) == -(-texts.lengths.sum() // 40) < len(texts)
    assert sorted(example for batch in batches for example in batch["examples"].tolist()) == list(range(len(texts)))
    assert [len(batch["labels"]) for batch in data.val_dataloader()] == [1] * len(texts)
    assert data.a_batch == "40 tokens"


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False), (None, False)])
def test_batches_are_pinned_for_a_gpu_that_trains_and_not_for_one_that_is_there(texts, monkeypatch, device, pinned):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = labelled_data(dict.fromkeys(SPLITS, texts), batch_size=4, seed=1, workers=0)
    data.trainer = device and Mock(**{"strategy.root_device": torch.device(device)})
    assert data.train_dataloader().pin_memory == data.val_dataloader().pin_memory == pinned


def test_dev_masks_are_the_same_in_every_epoch_and_for_every_seed(texts, tokenizer):
    def dev_batches(seed: int) -> list:
        data = masked_data(
            dict.fromkeys(("train", "dev"), texts), tokenizer, MASKING, 4, seed, 0, needs=BatchNeeds(), epochs=2
        )
        loader = data.val_dataloader()
        return [batch["input_ids"].tolist() for _ in range(2) for batch in loader]

    first = dev_batches(1)
    assert first[:2] == first[2:]
    assert dev_batches(2) == first


def test_train_masks_change_with_the_epoch(texts, tokenizer):
    data = masked_data(
        dict.fromkeys(("train", "dev"), texts), tokenizer, MASKING, len(TEXTS), 1, 0, needs=BatchNeeds(), epochs=2
    )
    loader, masked = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        masked.append(sorted(map(str, (batch["labels"] != IGNORED_LABEL).int().tolist())))
        assert batch["input_ids"].shape == (len(TEXTS), texts.lengths.max())
    assert masked[0] != masked[1]
