"""The LightningDataModule of both stages."""

from collections.abc import Mapping
from pathlib import Path

import lightning
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from poolwise import ranks
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import (
    Batch,
    DevBatches,
    LabelledBatches,
    LengthGroupedBatches,
    MaskedBatches,
    SortedBatches,
    loader,
)
from poolwise.data.corpus import TextStream
from poolwise.data.streaming import BatchMaking, Blocks, StreamedBatches
from poolwise.data.tokens import TokenisedTexts
from poolwise.data.topics import topics_of
from poolwise.settings import Masking
from poolwise.words import counted


class TextDataModule(lightning.LightningDataModule):
    """Loaders over `train`, `dev` and, in stage 2, `test`.

    Attributes:
        start: where training goes on that was stopped, as `position` gave it: an epoch, and how many of its batches
            are done.
    """

    start: tuple[int, ...]

    def __init__(
        self,
        texts: Mapping[str, TokenisedTexts],
        batches: Mapping[str, Dataset[Batch]],
        batch_size: int,
        seed: int,
        workers: int,
        topics: ndarray | None = None,
        batch_tokens: int | None = None,
        balanced: bool = False,
        passes: int = 1,
    ) -> None:
        """Args:
        texts: the tokenised texts of each split.
        batches: what makes batches of them.
        batch_size: texts a batch, at most.
        seed: of the order of training examples.
        workers: loader processes; changes speed only.
        topics: (N,), of the training texts, where a batch shall hold texts of one topic.
        batch_tokens: real tokens of a training batch, in place of `batch_size`.
        balanced: whether a pass through the training texts holds as many texts of each class.
        passes: how many of these a training epoch has.
        """
        super().__init__()
        self.texts = texts
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.topics = topics
        self.batch_tokens = batch_tokens
        self.balanced = balanced
        self.passes = passes
        self.start = (0, 0)

    @property
    def a_batch(self) -> str:
        """What a training batch holds, in words."""
        return f"{self.batch_size} texts" if self.batch_tokens is None else f"{self.batch_tokens:,} tokens"

    @property
    def all_of_train(self) -> str:
        """What training reads, in words."""
        train = self.texts["train"]
        often = "" if self.passes == 1 else f", read {self.passes} times an epoch"
        return f"{counted(len(train), 'text')}, {counted(len(train.ids), 'token')}{often}"

    @property
    def batches_an_epoch(self) -> int | None:
        """How many training batches there are, or None where that is not known."""
        return len(self.train_dataloader())

    def position(self, epoch: int, done: int) -> tuple[int, ...]:
        """What `start` must be to go on after so many batches of an epoch."""
        return (epoch, done)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Have the stage see what a training batch of this process counts in that of all, before it is on a GPU."""
        if ranks.size() == 1 or not self.trainer.training:  # type: ignore[union-attr]
            return batch
        whole: Batch = self.trainer.lightning_module.with_totals(batch)  # type: ignore[union-attr, operator]
        return whole

    @property
    def is_for_gpu(self) -> bool:
        """Whether batches go to a GPU: a machine that has one may train on its CPU."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> DataLoader[Batch]:
        """Length-grouped batches in a new order each epoch."""
        train, start = self.texts["train"], (self.start[0], self.start[1])
        balanced = train.labels if self.balanced else None
        sampler = LengthGroupedBatches(
            *(train.lengths, self.batch_size, self.seed, self.topics, self.batch_tokens, ranks.rank(), ranks.size()),
            balanced=balanced,
            start=start,
            passes=self.passes,
        )
        return loader(self.batches["train"], sampler, self.workers, self.is_for_gpu)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The dev split, always in the same order."""
        return self._in_order("dev")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split, always in the same order."""
        return self._in_order("test")

    def _in_order(self, split: str) -> DataLoader[Batch]:
        sampler = SortedBatches(self.texts[split].lengths, self.batch_size, ranks.rank(), ranks.size())
        return loader(self.batches[split], sampler, self.workers, self.is_for_gpu)


def masked_data(
    texts: Mapping[str, TokenisedTexts],
    tokenizer: PreTrainedTokenizerBase,
    masking: Masking,
    batch_size: int,
    seed: int,
    workers: int,
    needs: BatchNeeds,
    epochs: int,
    batch_tokens: int | None = None,
    folder: Path | None = None,
) -> TextDataModule:
    """Stage 1's data, as the objective `needs` it: masks change with each epoch in train, and never in dev.

    Args:
        texts: the tokenised texts of each split.
        tokenizer: their own.
        masking: which positions are masked.
        batch_size: texts a batch, at most.
        seed: of masks, pairs and the order of training examples.
        workers: loader processes; changes speed only.
        needs: what the objective reads.
        epochs: of the whole training.
        batch_tokens: real tokens of a training batch, in place of `batch_size`.
        folder: where a file may hold what is as long as the training texts; None for memory.
    """
    batches = {
        "train": MaskedBatches(texts["train"], tokenizer, masking, seed, needs, epochs, folder),
        "dev": DevBatches(texts["dev"], tokenizer, masking, needs),
    }
    topics = topics_of(texts["train"], len(tokenizer)) if needs.topics else None
    return TextDataModule(texts, batches, batch_size, seed, workers, topics, batch_tokens)


class StreamedDataModule(TextDataModule):
    """The same where the training texts are a stream: `texts["train"]` is what was read of them before training."""

    def __init__(
        self,
        texts: Mapping[str, TokenisedTexts],
        dev: Dataset[Batch],
        stream: TextStream,
        making: BatchMaking,
        workers: int,
    ) -> None:
        """Args:
        texts: the first training texts, and dev.
        dev: what makes batches of dev.
        stream: the training texts.
        making: how they become batches.
        workers: loader processes; changes speed only.
        """
        super().__init__(texts, {"dev": dev}, making.batch_size, making.seed, workers, batch_tokens=making.batch_tokens)
        self.blocks = Blocks(stream, making)
        self.loader: StreamedBatches | None = None

    @property
    def all_of_train(self) -> str:
        """What training reads, in words."""
        buffer, first = self.blocks.stream.buffer, len(self.texts["train"])
        return f"a stream, shuffled within {buffer:,} texts (what should know all of it knows the first {first:,})"

    @property
    def batches_an_epoch(self) -> None:
        """Not known."""

    @property
    def counts(self) -> dict[str, int]:
        """How many texts were read for training, and how many of them are copies of dev and test texts."""
        assert self.loader is not None
        return {"texts_read": self.loader.end.read, "copies": self.loader.end.copies}

    def position(self, epoch: int, done: int) -> tuple[int, ...]:
        """What `start` must be to go on after so many batches of the pass that is under way."""
        assert self.loader is not None
        return self.loader.position(done)

    def train_dataloader(self) -> StreamedBatches:  # type: ignore[override]
        """The stream, a pass an epoch."""
        self.loader = StreamedBatches(self.blocks, self.workers, self.start)
        return self.loader


def labelled_data(
    texts: Mapping[str, TokenisedTexts],
    batch_size: int,
    seed: int,
    workers: int,
    balanced: bool = False,
    batch_tokens: int | None = None,
    passes: int = 1,
) -> TextDataModule:
    """Stage 2's data; if `balanced`, a pass through train holds as many texts of each class."""
    batches = {split: LabelledBatches(texts[split]) for split in texts}
    return TextDataModule(
        *(texts, batches, batch_size, seed, workers), batch_tokens=batch_tokens, balanced=balanced, passes=passes
    )
