"""How texts become the rows of a stage-1 batch: one row a text, two copies or halves of it, or a pair of segments.

Shapes: B texts, R rows, T tokens, N examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from poolwise.data.masking import IGNORED_LABEL, random_bits
from poolwise.data.tokens import TokenisedTexts
from poolwise.settings import UserError

Arrangement = Literal["single", "views", "halves", "order", "next"]
"""`single`: each text once. `views`: each twice, masked differently; row i and row B + i are one text.
`halves`: each text's first half in row i, its second in row B + i.
`order`: two segments of one text, in order or swapped. `next`: a segment, and the one that follows or another's."""


@dataclass(frozen=True)
class BatchNeeds:
    """What an objective reads in a batch beside masked texts.

    Attributes:
        arrangement: how texts become rows; None if any will do.
        second_mask: share of positions masked in a second, heavier masking of each row; None for none.
        ratings: whether it reads the rating of each text.
        topics: whether a training batch holds texts of one topic.
    """

    arrangement: Arrangement | None = None
    second_mask: float | None = None
    ratings: bool = False
    topics: bool = False


def agreed(needs: Mapping[str, BatchNeeds]) -> BatchNeeds:
    """One batch that serves all objectives, given by their names.

    Raises:
        UserError: two need different arrangements or different second masks.
    """
    return BatchNeeds(
        arrangement=_one_value({name: need.arrangement for name, need in needs.items()}, "arrangement of texts"),
        second_mask=_one_value({name: need.second_mask for name, need in needs.items()}, "second mask"),
        ratings=any(need.ratings for need in needs.values()),
        topics=any(need.topics for need in needs.values()),
    )


SHORTEST_HALF = 2
"""Word pieces. A shorter half says nothing of the other one."""


@dataclass(frozen=True)
class Rows:
    """Rows of a batch.

    Attributes:
        token_ids: (R, T), padded.
        places: (R, T), where in the texts' `ids` each token comes from.
        present: (R, T), where a token is present.
    """

    token_ids: Int64[ndarray, "R T"]
    places: Int64[ndarray, "R T"]
    present: Bool[ndarray, "R T"]


Span = Int64[ndarray, "2 B"]
"""Places where spans start, and where they have ended."""


def single(texts: TokenisedTexts, examples: Int64[ndarray, " B"]) -> Rows:
    """Each text as it is: R = B."""
    token_ids, present = texts.padded(examples)
    return Rows(token_ids, texts.places(examples)[0], present)


def uncut(lengths: Int64[ndarray, " N"]) -> Bool[ndarray, " N"]:
    """Which texts are too short to be cut in two."""
    return lengths - 2 < 2 * SHORTEST_HALF


def halves(texts: TokenisedTexts, examples: Int64[ndarray, " B"]) -> Rows:
    """[CLS] half [SEP] of the first halves of texts, then of their second ones: R = 2 B.

    Each text is cut in the middle, so that in a batch of texts of like length no half's length tells its partner. One
    that is too short stands whole in both rows.
    """
    opening, closing = texts.offsets[examples], texts.offsets[examples + 1] - 1
    whole = uncut(texts.lengths[examples])
    middle = (opening + 1 + closing) // 2
    start = np.concatenate([opening + 1, np.where(whole, opening + 1, middle)])
    end = np.concatenate([np.where(whole, closing, middle), closing])
    return joined(texts, np.tile(examples, 2), np.stack([start, end]), np.stack([end, end]))[0]


Choice = TypeVar("Choice")


def _one_value(choices: Mapping[str, Choice | None], what: str) -> Choice | None:
    wanted = {name: choice for name, choice in choices.items() if choice is not None}
    if len(set(wanted.values())) > 1:
        words = ", ".join(f"{name} needs {choice}" for name, choice in wanted.items())
        raise UserError(f"objectives that cannot share a batch, because each has its own {what}: {words}")
    return next(iter(wanted.values()), None)


SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "…")  # noqa: RUF001
SHORTEST_SEGMENT = 2
"""Word pieces; the separator that a pair needs may cost a full-length text one piece, and some must be left."""
NEIGHBOURS = 100
"""Another text's segment is one of so many shorter or longer ones in the order of length, so that the length of a pair
does not say whether its segments belong together."""
SWAP_STREAM, CUT_STREAM, PARTNER_STREAM = 1000, 1001, 1002
"""Streams of random bits, apart from those of masks."""


@dataclass(frozen=True)
class Pairs:
    """Texts as pairs of segments, as BERT takes them: [CLS] first [SEP] second [SEP], by the tokenizer's own names.

    Attributes:
        rows: B of them.
        token_types: (B, T), 1 from the second segment's start to its [SEP], else 0.
        labels: (B,), 0 where the second segment follows the first, 1 where the two are swapped (`order`) or of two
            texts (`next`), -100 where the text could not be split and stands alone.
    """

    rows: Rows
    token_types: Int64[ndarray, "B T"]
    labels: Int64[ndarray, " B"]


class SegmentPairs:
    """Makes pairs of segments of texts that hold several sentences, as a function of (seed, epoch, example).

    A text is cut after one of its sentences but the last, drawn evenly; sentences end at `SENTENCE_ENDS`, and both
    segments have at least `SHORTEST_SEGMENT` word pieces. What follows the last end of a sentence, as truncation leaves
    it, is left out: else a segment that ends in mid-sentence would tell that it is the later one.

    Attributes:
        splittable: (N,), which texts can be cut.
    """

    def __init__(self, texts: TokenisedTexts, tokenizer: PreTrainedTokenizerBase) -> None:
        self.texts = texts
        ends_sentence = np.zeros(len(tokenizer), dtype=bool)
        ends_sentence[sentence_end_ids(tokenizer)] = True
        numbers = np.repeat(np.arange(len(texts)), texts.lengths)
        places = np.arange(len(texts.ids))
        ends = ends_sentence[texts.ids]
        ends[:-1] &= ~ends[1:]  # after the last of several signs
        self.closes = texts.offsets[1:] - 1
        """(N,), places where the second segment has ended: after the last sentence, or at [SEP] if none ends."""
        after = np.flatnonzero(ends) + 1
        self.closes[numbers[after - 1]] = after  # of several, the last is kept
        starts, closes = texts.offsets[numbers], self.closes[numbers]
        ends &= (places >= starts + SHORTEST_SEGMENT) & (places < closes - SHORTEST_SEGMENT)
        self.cuts = np.flatnonzero(ends) + 1
        """Places where a second segment may start, text after text."""
        self.cut_texts = numbers[self.cuts]
        self.cut_counts = np.bincount(self.cut_texts, minlength=len(texts))
        self.cut_offsets = np.cumsum(self.cut_counts) - self.cut_counts
        self.splittable = self.cut_counts > 0
        self.by_length = np.argsort(self.closes[self.cut_texts] - self.cuts, kind="stable")
        self.rank = np.argsort(self.by_length)

    def make(self, examples: Int64[ndarray, " B"], kind: Literal["order", "next"], seed: int, epoch: int) -> Pairs:
        """The pairs of these texts; half of those that can be split are swapped, or given another text's segment."""
        starts, ends = self.texts.offsets[examples] + 1, self.texts.offsets[examples + 1] - 1
        first, second = np.stack([starts, ends]), np.stack([ends, ends])
        labels = np.full(len(examples), IGNORED_LABEL, dtype=np.int64)
        split = self.splittable[examples]
        first[:, split], second[:, split], labels[split] = self._segments(examples[split], kind, seed, epoch)
        return Pairs(*joined(self.texts, examples, first, second), labels)

    def _segments(
        self, examples: Int64[ndarray, " B"], kind: Literal["order", "next"], seed: int, epoch: int
    ) -> tuple[Span, Span, Bool[ndarray, " B"]]:
        """First and second segment of texts that can be split, and whether they are changed."""
        number = _draws(seed, epoch, examples, CUT_STREAM) % self.cut_counts[examples].astype(np.uint64)
        cuts = self.cut_offsets[examples] + number.astype(np.int64)
        changed = _draws(seed, epoch, examples, SWAP_STREAM) % np.uint64(2) == 1
        first, second = np.stack([self.texts.offsets[examples] + 1, self.cuts[cuts]]), self._second(cuts)
        if kind == "order":
            return np.where(changed, second, first), np.where(changed, first, second), changed
        partners = self._partners(cuts, _draws(seed, epoch, examples, PARTNER_STREAM))
        changed &= self.cut_texts[partners] != examples
        return first, np.where(changed, self._second(partners), second), changed

    def _second(self, cuts: Int64[ndarray, " B"]) -> Span:
        """The segments that start at these cuts, given by number."""
        return np.stack([self.cuts[cuts], self.closes[self.cut_texts[cuts]]])

    def _partners(self, cuts: Int64[ndarray, " B"], draws: UInt64[ndarray, " B"]) -> Int64[ndarray, " B"]:
        """For each cut another one, whose second segment is near in length; it may be the same text's."""
        count, rank = len(self.cuts), self.rank[cuts]
        window = max(min(count // 2, NEIGHBOURS), 1)
        steps = (draws % np.uint64(2 * window)).astype(np.int64) - window
        steps += steps >= 0  # -window to -1, 1 to window
        near = np.where((rank + steps >= 0) & (rank + steps < count), rank + steps, rank - steps)
        partners: ndarray = self.by_length[near.clip(0, max(count - 1, 0))]
        return partners


def sentence_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `SENTENCE_ENDS` that are pieces of their own; byte-level tokenizers have two, with a blank before."""
    found = set()
    for sign in SENTENCE_ENDS:
        for text in (f"a{sign}", f"a {sign}"):
            last = tokenizer.tokenize(text)[-1]
            if tokenizer.convert_tokens_to_string([last]).strip() == sign:
                found.add(int(tokenizer.convert_tokens_to_ids(last)))
    return sorted(found)


def joined(
    texts: TokenisedTexts, examples: Int64[ndarray, " R"], first: Span, second: Span
) -> tuple[Rows, Int64[ndarray, "R T"]]:
    """Rows [CLS] first [SEP] second [SEP] with the texts' own special tokens, and the token types of the two spans.

    The second span is cut to what the longest text leaves room for; without one, the row ends after the first [SEP].
    """
    offsets, longest = texts.offsets, texts.longest
    size = (first[1] - first[0])[:, None]
    room = longest - 3 - size
    other = np.minimum((second[1] - second[0])[:, None], np.maximum(room, 0))
    total = 2 + size + np.where(other > 0, other + 1, 0)
    position = np.arange(total.max())
    in_first = (position >= 1) & (position <= size)
    in_second = (position > size + 1) & (position <= size + 1 + other)
    places = np.where(position == 0, offsets[examples][:, None], offsets[examples + 1][:, None] - 1)
    places = np.where(in_first, first[0][:, None] + position - 1, places)
    places = np.where(in_second, second[0][:, None] + position - size - 2, places)
    present = position < total
    token_ids = np.where(present, texts.ids[places], texts.pad_id).astype(np.int64)
    return Rows(token_ids, places, present), (present & (position > size + 1)).astype(np.int64)


def _draws(seed: int, epoch: int, examples: Int64[ndarray, " B"], stream: int) -> UInt64[ndarray, " B"]:
    """64 uniform bits for each example."""
    bits: ndarray = random_bits(seed, epoch, examples, 1, stream)[:, 0]
    return bits
