"""Batches of texts of like length, padded to the longest text of the batch.

Shapes: B texts, T tokens, N examples.
"""

import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from poolwise.data.arrangement import BatchNeeds, SegmentPairs, halves, single
from poolwise.data.imbalance import balanced_order
from poolwise.data.masking import IGNORED_LABEL, all_masked, mask_batch, masking_at, plain, positions_of
from poolwise.data.segmentation import word_starts
from poolwise.data.tokens import TokenisedTexts
from poolwise.packing import Packing
from poolwise.settings import Masking

BATCHES_PER_POOL = 50
"""Texts are sorted by length within pools of this many batches: little padding, and a fresh mix each epoch."""

DEV_MASK_SEED = 0
"""Dev masks are the same in every epoch and for every seed and objective, so that dev losses compare."""

PLAIN = BatchNeeds()
FIRST_DRAW, SECOND_DRAW = 0, 2
"""Numbers of independent masks of one text in one epoch: 0 and 1 for its copies, 2 and 3 for second masks of these."""

READ_AT_ONCE = 64
"""Texts that an encoder reads at a time on a GPU where nothing is trained."""
STATES = 2**19
"""Numbers in a layer's states (B T H) of texts that are read at a time on a CPU, for its caches: by hand, minilm and
base read lines 1.55 and 1.30 times as fast as `sentence-transformers` so, and 1.25 and 0.94 times with four times as
many."""

Batch = Mapping[str, Any]
"""Tensors, and the plain number `tokens`."""
Request = tuple[int, int]
"""(epoch, example): the epoch travels with the request, so that a loader's workers never lag behind it."""


class LengthGroupedBatches(Sampler[list[Request]]):
    """Batches of examples of like length: every example once a pass, and but for `passes` there is one an epoch.

    The order is a function of (seed, epoch). An epoch has the same number of batches each time, with like numbers of
    texts, or of tokens (`batch_tokens`). With `topics` (N,), a batch holds texts of one topic first, and of like length
    second. Of several shards each yields its share of every batch: together they hold the batches that one alone would.
    """

    def __init__(
        self,
        lengths: Int64[ndarray, " N"],
        batch_size: int,
        seed: int,
        topics: Int64[ndarray, " N"] | None = None,
        batch_tokens: int | None = None,
        shard: int = 0,
        shards: int = 1,
        balanced: Int64[ndarray, " N"] | None = None,
        start: tuple[int, int] = (0, 0),
        passes: int = 1,
    ) -> None:
        """Args:
        lengths: (N,), in tokens.
        batch_size: the most texts a batch holds, where `batch_tokens` is None.
        seed: of the order.
        topics: (N,), or None for one topic.
        batch_tokens: the most real tokens a batch holds on average over an epoch.
        shard: which of the shards this is, counted from 0.
        shards: how many there are; a batch has a text for each of them at least.
        balanced: (N,), class ids; then an epoch holds as many texts of each class, some of them not or more than once.
        start: where a run goes on that was stopped: an epoch, and how many of its batches are done.
        passes: how often an epoch goes through the texts, each time in batches of their own.
        """
        self.lengths = lengths
        self.topics = topics
        self.by_tokens = batch_tokens is not None
        self.batches = batches_an_epoch(lengths, batch_size, batch_tokens, shards)
        self.seed = seed
        self.start = start
        self.epoch = start[0]
        self.shard, self.shards = shard, shards
        self.balanced = balanced
        self.passes = passes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to come, counted from 0; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.passes

    def __iter__(self) -> Iterator[list[Request]]:
        done = self.start[1] if self.epoch == self.start[0] else 0
        every = chain.from_iterable(self._of_pass(number) for number in range(self.passes))
        for batch in islice(every, done, None):
            yield [(self.epoch, int(example)) for example in batch[self.shard :: self.shards]]

    def _of_pass(self, number: int) -> Iterator[ndarray]:
        """The batches of one pass through the texts, for all shards together."""
        random = np.random.default_rng((self.seed, self.epoch, number) if number else (self.seed, self.epoch))
        order = (
            random.permutation(len(self.lengths)) if self.balanced is None else balanced_order(self.balanced, random)
        )
        pools = -(-self.batches // BATCHES_PER_POOL)
        firsts = [self.batches * pool // pools for pool in range(pools + 1)] if pools else []
        batches: list[ndarray] = []
        for first, last in pairwise(firsts):
            start, end = (len(order) * batch // self.batches for batch in (first, last))
            pool = order[start:end]
            keys = (self.lengths[pool],) if self.topics is None else (self.lengths[pool], self.topics[pool])
            alike = pool[np.lexsort(keys)]
            weights = self.lengths[alike] if self.by_tokens else np.ones_like(alike)
            batches += cut(alike, weights, last - first, self.shards)
        for place in random.permutation(len(batches)):
            yield batches[place]


def batches_an_epoch(
    lengths: Int64[ndarray, " N"], batch_size: int, batch_tokens: int | None = None, shards: int = 1
) -> int:
    """The fewest batches that hold so many texts at most, or so many tokens on average, and one for each shard."""
    least = len(lengths) / batch_size if batch_tokens is None else lengths.sum() / batch_tokens
    return min(math.ceil(least), len(lengths) // shards)


def cut(examples: Int64[ndarray, " N"], weights: Int64[ndarray, " N"], parts: int, least: int = 1) -> list[ndarray]:
    """Cut an order into so many parts of like weight, each of so many examples at least."""
    middles = np.cumsum(weights) - weights / 2
    bounds = np.searchsorted(middles, weights.sum() * np.arange(1, parts) / parts)
    taken = np.arange(1, parts) * least
    bounds = np.maximum.accumulate(np.maximum(bounds, taken) - taken) + taken
    return np.split(examples, np.minimum(bounds, len(examples) - parts * least + taken))


class SortedBatches(Sampler[list[Request]]):
    """Batches for evaluation: sorted by length, the same each time, epoch 0; of each, one shard's share."""

    def __init__(self, lengths: Int64[ndarray, " N"], batch_size: int, shard: int = 0, shards: int = 1) -> None:
        """Args:
        lengths: (N,), in tokens.
        batch_size: the most texts a batch holds, where there are as many as shards.
        shard: which of the shards this is, counted from 0.
        shards: how many there are, N at most; a last batch with no text for some of them joins the one before.
        """
        batches = _chunks(np.argsort(lengths, kind="stable"), max(batch_size, shards))
        if len(batches) > 1 and len(batches[-1]) < shards:
            batches[-2:] = [np.concatenate(batches[-2:])]
        self.batches = [batch[shard::shards] for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in self.batches:
            yield [(0, int(example)) for example in batch]


def _chunks(values: ndarray, size: int) -> list[ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def batches_to_read(lengths: Int64[ndarray, " N"], width: int, device: str) -> list[Int64[ndarray, " B"]]:
    """Texts, by number, in batches of like length, where nothing is trained.

    Args:
        lengths: (N,), in tokens.
        width: H, of a state.
        device: where they are read; on a CPU a batch is bounded with its padding.
    """
    order = np.argsort(lengths, kind="stable")
    if device != "cpu":
        return _chunks(order, READ_AT_ONCE)
    most = STATES // width
    firsts, first = [], 0
    for place, length in enumerate(lengths[order].tolist()):  # of a batch that ends here the longest
        if (place + 1 - first) * length > most and place > first:
            firsts.append(place)
            first = place
    return np.split(order, firsts) if len(order) else []


class LabelledBatches(Dataset[Batch]):
    """Stage 2's batches of B texts in R windows, those of a text one after the other.

    `input_ids` and `attention_mask` (R, T); `windows`, a list of how many each text has, or None where each has one, as
    loaders and Lightning look at each number of a list; `labels`, `examples` (B,); `tokens`, a count.
    """

    def __init__(self, texts: TokenisedTexts) -> None:
        self.texts = texts

    def __getitem__(self, requests: list[Request]) -> Batch:
        examples = np.array([example for _, example in requests])
        rows, counts = self.texts.windows_of(examples)
        token_ids, present = self.texts.windows.padded(rows)
        return {
            "input_ids": torch.from_numpy(token_ids),
            "attention_mask": torch.from_numpy(present.astype(np.int64)),
            "windows": None if self.texts.window is None else counts.tolist(),
            "labels": torch.from_numpy(self.texts.labels[examples]),
            "examples": torch.from_numpy(examples),
            "tokens": int(present.sum()),
        }


class MaskedBatches(Dataset[Batch]):
    """Stage 1's batches of R rows, which `needs` says how to make.

    Always `input_ids` masked, `labels`, `original_ids`, `attention_mask` (R, T), `masked_positions` (M,), the places of
    what is labelled among the R T positions, `packing`, those of the tokens, and `tokens`, a count. On request
    `second_ids` and `second_labels` (R, T), the second masking, and its `second_positions`; `ratings` (R,), class ids,
    -100 where unknown;
    of pairs of segments `token_type_ids` (R, T) and `pair_labels` (R,) (see `Pairs`).
    """

    def __init__(
        self,
        texts: TokenisedTexts,
        tokenizer: PreTrainedTokenizerBase,
        masking: Masking,
        seed: int,
        needs: BatchNeeds = PLAIN,
        epochs: int = 1,
        folder: Path | None = None,
    ) -> None:
        """Args:
        texts: of one split.
        tokenizer: their own.
        masking: which positions are masked.
        seed: of masks and pairs.
        needs: what the objective reads.
        epochs: of the whole training, over which a scheduled mask probability changes.
        folder: see `word_starts`.
        """
        self.texts = texts
        self.masking = masking
        self.epochs = epochs
        self.word_starts = None if masking.unit == "token" else word_starts(texts, tokenizer, folder)
        self.seed = seed
        self.needs = needs
        self.mask_id = int(tokenizer.mask_token_id)
        self.is_special = np.zeros(len(tokenizer), dtype=bool)
        self.is_special[tokenizer.all_special_ids] = True
        self.replacement_ids = np.flatnonzero(~self.is_special)
        self.pairs = SegmentPairs(texts, tokenizer) if needs.arrangement in ("order", "next") else None

    def __getitem__(self, requests: list[Request]) -> Batch:
        examples, epoch = np.array([example for _, example in requests]), requests[0][0]
        of_pairs: dict[str, torch.Tensor] = {}
        if self.needs.arrangement == "halves":
            rows = halves(self.texts, examples)
            examples = np.concatenate([examples, examples + len(self.texts)])  # each half has masks of its own
        elif self.pairs is None:
            rows = single(self.texts, examples)
        else:
            kind: Literal["order", "next"] = "order" if self.needs.arrangement == "order" else "next"
            pairs = self.pairs.make(examples, kind, self.seed, epoch)
            rows = pairs.rows
            of_pairs["token_type_ids"] = torch.from_numpy(pairs.token_types)
            of_pairs["pair_labels"] = torch.from_numpy(pairs.labels)
        token_ids, present = rows.token_ids, rows.present
        copies = 2 if self.needs.arrangement == "views" else 1

        starts = None if self.word_starts is None else self.word_starts[rows.places]

        def masked(masking: Masking, first_draw: int) -> tuple[torch.Tensor, torch.Tensor]:
            draws = [
                self.masked(token_ids, present, starts, examples, masking, epoch, first_draw + copy)
                for copy in range(copies)
            ]
            inputs, labels = (np.concatenate(parts) for parts in zip(*draws, strict=True))
            return torch.from_numpy(inputs), torch.from_numpy(labels)

        inputs, labels = masked(masking_at(self.masking, epoch, self.epochs), FIRST_DRAW)
        everywhere = np.tile(present, (copies, 1))
        batch: dict[str, Any] = {
            "input_ids": inputs,
            "attention_mask": torch.from_numpy(everywhere.astype(np.int64)),
            "packing": Packing.of(everywhere),
            "labels": labels,
            "masked_positions": positions_of(labels),
            "original_ids": torch.from_numpy(np.tile(token_ids, (copies, 1))),
            "tokens": int(everywhere.sum()),
            **of_pairs,
        }
        if self.needs.ratings:
            assert self.texts.ratings is not None
            batch["ratings"] = torch.from_numpy(np.tile(self.texts.ratings[examples % len(self.texts)], copies))
            if self.needs.arrangement == "next":  # a row of two texts has no rating
                batch["ratings"][of_pairs["pair_labels"] == 1] = IGNORED_LABEL
        if self.needs.second_mask is not None:
            batch["second_ids"], batch["second_labels"] = masked(all_masked(self.needs.second_mask), SECOND_DRAW)
            batch["second_positions"] = positions_of(batch["second_labels"])
        return batch

    def masked(
        self,
        token_ids: Int64[ndarray, "B T"],
        present: Bool[ndarray, "B T"],
        starts: Bool[ndarray, "B T"] | None,
        examples: Int64[ndarray, " B"],
        masking: Masking,
        epoch: int,
        draw: int,
    ) -> tuple[Int64[ndarray, "B T"], Int64[ndarray, "B T"]]:
        """Input ids and labels (B, T); masks fall on tokens that are neither special nor padding."""
        return mask_batch(
            token_ids,
            present & ~self.is_special[token_ids],
            examples,
            masking,
            mask_id=self.mask_id,
            replacement_ids=self.replacement_ids,
            seed=self.seed,
            epoch=epoch,
            draw=draw,
            word_starts=starts,
        )


class DevBatches(Dataset[Batch]):
    """Stage 1's dev batches: the same masked texts for every objective, with what it needs beside them.

    Where the objective arranges texts in a way of its own, `arranged` holds the batch that it reads.
    """

    def __init__(
        self, texts: TokenisedTexts, tokenizer: PreTrainedTokenizerBase, masking: Masking, needs: BatchNeeds
    ) -> None:
        masking = plain(masking)
        arranges = needs.arrangement not in (None, "single")
        self.plain = MaskedBatches(texts, tokenizer, masking, DEV_MASK_SEED, PLAIN if arranges else needs)
        self.arranged = MaskedBatches(texts, tokenizer, masking, DEV_MASK_SEED, needs) if arranges else None

    def __getitem__(self, requests: list[Request]) -> Batch:
        batch = self.plain[requests]
        return batch if self.arranged is None else {**batch, "arranged": self.arranged[requests]}


Item = TypeVar("Item")


def leave_only_with_parent(_: int) -> None:
    """Have a worker outlive a SIGTERM that is not its parent's.

    Systems send one to all processes of a job. The parent still needs batches until its checkpoint is written.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS has none
        return

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


def loader(batches: Dataset[Item], order: Sampler[Any], workers: int, for_gpu: bool = False) -> DataLoader[Item]:
    """A loader over whole batches, or blocks of them; `workers` and `for_gpu`, where a GPU copies them while the CPU
    goes on, change speed only.

    The order of batches is the loader's `sampler`, not its `batch_sampler`: Lightning tells the epoch only to the
    former, and without it every epoch has the same order and the same masks.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_only_with_parent,
        # The iterator draws a base seed; from its own generator it leaves torch's global one alone.
        generator=torch.Generator().manual_seed(0),
        pin_memory=for_gpu,
    )
