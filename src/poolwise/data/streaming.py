"""Training batches of a stream of texts: block after block of it is read, tokenised and shuffled.

A block is the next `buffer` texts of the stream. Its batches, their order and their masks are those that an epoch of
the block's texts has: functions of (seed, pass, block), whatever the number of workers. Where a block holds the whole
stream, training is the same as on a corpus that is kept, bit for bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import Batch, LengthGroupedBatches, MaskedBatches, Request, loader
from poolwise.data.contamination import keys_of
from poolwise.data.corpus import TextStream
from poolwise.data.tokens import tokenised_in_memory
from poolwise.data.topics import topics_of
from poolwise.settings import LongTexts, Masking, UserError

PASSES = 2**32
"""More passes than there are: pass p of block b stands for epoch p + b * PASSES where order and masks are drawn."""


@dataclass(frozen=True)
class BatchMaking:
    """How the texts of a block become batches: as the arguments of the same names say in `batching`."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    long_texts: LongTexts
    masking: Masking
    seed: int
    needs: BatchNeeds
    batch_size: int
    batch_tokens: int | None
    shard: int = 0
    shards: int = 1

    def of(self, texts: list[str], epoch: int) -> tuple[MaskedBatches, list[list[Request]]]:
        """What makes the batches of some texts, and their order in an epoch; none of fewer texts than shards."""
        tokens = tokenised_in_memory(texts, self.tokenizer, self.max_length, self.long_texts).windows
        batches = MaskedBatches(tokens, self.tokenizer, self.masking, self.seed, self.needs)
        if len(tokens) < self.shards:
            return batches, []
        topics = topics_of(tokens, len(self.tokenizer)) if self.needs.topics else None
        order = LengthGroupedBatches(
            tokens.lengths, self.batch_size, self.seed, topics, self.batch_tokens, self.shard, self.shards
        )
        order.set_epoch(epoch)
        return batches, list(order)


@dataclass(frozen=True)
class Block:
    """Some texts of a stream as batches.

    Attributes:
        batches: makes them.
        order: which of the texts each batch holds.
        read: how many texts were read.
        copies: how many of them are copies of dev or test texts.
    """

    batches: Dataset[Batch]
    order: list[list[Request]]
    read: int
    copies: int


Place = tuple[int, int]
"""A pass and a block, counted from 0."""


class Blocks(Dataset[Block | UserError | None]):
    """The blocks of a stream by their place; None after the last one, or the mistake in the texts of one.

    Blocks are read one after the other; what lies between two that are asked for is read and dropped, and for an
    earlier one the stream begins anew. So each of several workers makes its own blocks and reads over the others.
    """

    def __init__(self, stream: TextStream, making: BatchMaking) -> None:
        self.stream = stream
        self.making = making
        self._next: Place = (0, 0)
        self._texts: Iterator[str] | None = None
        self._last: tuple[Place, Block | UserError | None] | None = None

    def __getitem__(self, place: Place) -> Block | UserError | None:
        # Lightning asks for the first block twice.
        if self._last is None or self._last[0] != place:
            try:
                block: Block | UserError | None = self._block(place)
            except UserError as error:  # a worker's error would be shown with its traceback
                block = error
            self._last = (place, block)
        return self._last[1]

    def _block(self, place: Place) -> Block | None:
        epoch, number = place
        texts = self._read(epoch, number)
        if not texts:
            return None
        read, copies = len(texts), 0
        if len(self.stream.held_back):
            copied = np.isin(keys_of(texts), self.stream.held_back)
            copies = int(copied.sum())
            if self.stream.drops:
                texts = [text for text, is_copy in zip(texts, copied, strict=True) if not is_copy]
        return Block(*self.making.of(texts, epoch + number * PASSES), read, copies)

    def _read(self, epoch: int, number: int) -> list[str]:
        before = number - self._next[1]
        if self._texts is None or epoch != self._next[0] or before < 0:
            self._texts = islice(self.stream.read(), self.stream.skip, None)
            before = number
        first = before * self.stream.buffer
        self._next = (epoch, number + 1)
        return list(islice(self._texts, first, first + self.stream.buffer))


@dataclass(frozen=True)
class Position:
    """Where a block of a stream begins.

    Attributes:
        epoch: the pass.
        block: of the pass.
        batches: of the pass, before this block.
        read: texts of the whole training, before this block.
        copies: of dev and test texts, among these.
    """

    epoch: int = 0
    block: int = 0
    batches: int = 0
    read: int = 0
    copies: int = 0


class _BlockOrder(Sampler[Place]):
    """The blocks from a place on, without end: how many there are is seen when the last one is read."""

    first: Place = (0, 0)

    def __iter__(self) -> Iterator[Place]:
        epoch, first = self.first
        return ((epoch, number) for number in count(first))


class StreamedBatches(Iterable[Batch]):
    """A loader over the batches of a stream, a pass each time; workers read and tokenise, and change speed only.

    Attributes:
        begun: where the blocks of this pass begin that were begun.
        end: where the next block would begin.
    """

    def __init__(self, blocks: Blocks, workers: int, start: tuple[int, ...] = (0, 0)) -> None:
        """Args:
        blocks: of the stream.
        workers: processes; 0 for this one.
        start: what `position` gave, where training goes on that was stopped; (0, 0) for the beginning.
        """
        self.order = _BlockOrder()
        self.blocks = loader(blocks, self.order, workers)
        epoch, self.done, *place = start
        self.begin = Position(epoch, *place)
        self.end = self.begin
        self.epoch = self.begin.epoch
        self.begun: list[Position] = []

    @property
    def sampler(self) -> "StreamedBatches":
        """What Lightning tells the epoch to."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass to come, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        resumes = self.epoch == self.begin.epoch
        place = self.begin if resumes else Position(self.epoch, read=self.end.read, copies=self.end.copies)
        skipped = self.done - place.batches if resumes else 0
        self.order.first = (place.epoch, place.block)
        self.begun = []
        for block in self.blocks:
            if block is None:
                break
            if isinstance(block, UserError):
                raise block
            self.begun.append(place)
            place = Position(
                place.epoch,
                place.block + 1,
                place.batches + len(block.order),
                place.read + block.read,
                place.copies + block.copies,
            )
            self.end = place
            for requests in block.order[skipped:]:
                yield block.batches[requests]
            skipped = 0
        if not place.batches:
            raise UserError(
                "data.text: nothing is left to train on: every text was held out as dev, or is a copy of a dev or "
                "test text (data.contamination=warn leaves them in)"
            )

    def position(self, done: int) -> tuple[int, ...]:
        """Where training goes on after so many batches of the pass; what lies before is then read, not tokenised."""
        place = next(place for place in reversed(self.begun) if place.batches <= done)
        epoch, *rest = astuple(place)
        return (epoch, done, *rest)
