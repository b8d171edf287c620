"""Texts to token ids, once: a cache on disk whose key says all that the ids depend on.

Shapes: B texts, T tokens, N examples, P word pieces, W windows of all texts, R of some.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow
import pyarrow.compute
import tokenizers
from datasets import Dataset
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from poolwise import ranks
from poolwise.data.corpus import ROWS_AT_A_TIME, batches_of_rows, content_hash, each_text
from poolwise.data.masking import IGNORED_LABEL
from poolwise.durable import DIGEST_BYTES, is_kept, sealed_draft_of
from poolwise.settings import LongTexts, UserError
from poolwise.words import first_line

CODE_VERSION = 1
"""Raised by hand when this module's output changes for the same input; part of every cache key."""

VOCABULARY_VERSION = 1
"""The same of `train_wordpiece`."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET_SIZE = 1000
"""Characters kept at least, the most frequent ones; the default of `tokenizers`."""
ALPHABET_SHARE = 0.999
"""Of all characters of the texts, which those kept shall make up: in Chinese more than `ALPHABET_SIZE` do."""


@dataclass(frozen=True)
class TokenisedTexts:
    """N texts as one flat array of ids, with special tokens, cut or laid out in windows.

    Attributes:
        ids: all ids, one text after the other.
        offsets: (N + 1,), text i is `ids[offsets[i]:offsets[i + 1]]`.
        labels: (N,) class ids; empty for texts without labels.
        pad_id: what fills a batch up to its longest text.
        ratings: (N,) class ids of weak labels, -100 where unknown; None for texts without any.
        rating_names: what these ids stand for.
        window: how many tokens each window has of a text that is longer; its ids are its windows one after the other,
            each with special tokens. None where every text is one window.
    """

    ids: ndarray
    offsets: Int64[ndarray, " N1"]
    labels: Int64[ndarray, " N"]
    pad_id: int
    ratings: ndarray | None = None
    rating_names: tuple[str, ...] = ()
    window: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Int64[ndarray, " N"]:
        """(N,) word pieces a text, special tokens counted."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """The most word pieces of a text."""
        return int(self.lengths.max())

    @cached_property
    def window_offsets(self) -> Int64[ndarray, " N1"]:
        """(N + 1,), text i has the windows `window_offsets[i]` to `window_offsets[i + 1]`, the latter left out."""
        counts = np.ones(len(self), int) if self.window is None else np.maximum(self.lengths // self.window, 1)
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def windows(self) -> "TokenisedTexts":
        """The W windows as texts of their own, each with the label and the rating of its text."""
        if self.window is None:
            return self
        counts = np.diff(self.window_offsets)
        lengths = np.repeat(self.lengths // counts, counts)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            labels=np.repeat(self.labels, counts) if len(self.labels) else self.labels,
            ratings=None if self.ratings is None else np.repeat(self.ratings, counts),
        )

    def windows_of(self, examples: Int64[ndarray, " B"]) -> tuple[Int64[ndarray, " R"], Int64[ndarray, " B"]]:
        """The numbers (R,) of the windows of these texts, one text after the other, and how many each has (B,)."""
        if self.window is None:
            return examples, np.ones_like(examples)
        first, end = self.window_offsets[examples], self.window_offsets[examples + 1]
        return np.concatenate([np.arange(*span) for span in zip(first, end, strict=True)]), end - first

    def select(self, examples: Int64[ndarray, " n"]) -> "TokenisedTexts":
        """These texts alone, in this order."""
        kept = np.concatenate([np.arange(self.offsets[n], self.offsets[n + 1]) for n in examples])
        return replace(
            self,
            ids=self.ids[kept],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[examples])]),
            labels=self.labels[examples],
            ratings=None if self.ratings is None else self.ratings[examples],
        )

    def padded(self, examples: Int64[ndarray, " B"]) -> tuple[Int64[ndarray, "B T"], Bool[ndarray, "B T"]]:
        """Ids (B, T) padded to the longest of these texts, and where a token is present."""
        places, present = self.places(examples)
        return np.where(present, self.ids[places], self.pad_id).astype(np.int64), present

    def places(self, examples: Int64[ndarray, " B"]) -> tuple[Int64[ndarray, "B T"], Bool[ndarray, "B T"]]:
        """Where in `ids` the tokens of these texts lie (B, T), 0 at padding, and where a token is present."""
        starts, lengths = self.offsets[examples], self.lengths[examples]
        positions = np.arange(lengths.max())
        present = positions < lengths[:, None]
        return np.where(present, starts[:, None] + positions, 0), present


HEAD_SHARE = 128 / 510
"""Of what `head_tail` keeps: the first 128 and the last 382 word pieces (Sun et al. 2019, "How to Fine-Tune BERT for
Text Classification", section 5.3.1, where it is compared with `head` and `tail`)."""
HEAD_ONLY = LongTexts()


def tokenise(
    texts: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cache: Path,
    long_texts: LongTexts = HEAD_ONLY,
) -> TokenisedTexts:
    """Tokenise a data set with column `text` (and `label`, if it has one), or read what was kept in `cache`.

    Texts of more than `max_length` word pieces, special tokens counted, are cut to so many or laid out in windows of
    so many, as `long_texts` says; special tokens stand around what is kept, and around each window.
    """
    material = [CODE_VERSION, content_hash(texts), tokenizer_hash(tokenizer), max_length, *long_texts.material.values()]
    key = hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    flat, rows = cache / f"{key}.ids", cache / f"{key}.arrow"
    with ranks.first_alone():
        if not (is_kept(flat) and is_kept(rows)):
            _write(flat, rows, _encoded_batches(texts, tokenizer, max_length, long_texts))
    columns = pyarrow.ipc.open_stream(pyarrow.memory_map(str(rows))).read_all()
    lengths = columns.column("length").to_numpy()
    labels = columns.column("label").to_numpy() if "label" in columns.column_names else []
    return TokenisedTexts(
        ids=np.frombuffer(
            pyarrow.memory_map(str(flat)).read_buffer(flat.stat().st_size - DIGEST_BYTES), dtype=np.int32
        ),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        labels=np.array(labels, dtype=np.int64),
        pad_id=int(tokenizer.pad_token_id),
        window=long_texts.window(max_length),
    )


def tokenised_in_memory(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, long_texts: LongTexts
) -> TokenisedTexts:
    """What `tokenise` makes of texts without labels, kept nowhere."""
    ids, lengths = encoded(texts, tokenizer, max_length, long_texts)
    return TokenisedTexts(
        ids=ids,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.empty(0, dtype=np.int64),
        pad_id=int(tokenizer.pad_token_id),
        window=long_texts.window(max_length),
    )


def _encoded_batches(
    texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, long_texts: LongTexts
) -> Iterator[tuple[Int32[ndarray, " P"], pyarrow.RecordBatch]]:
    """The ids of some texts, with the length and the label, if they have any, of each; one batch at least."""
    for rows in batches_of_rows(texts) if len(texts) else [texts[:0]]:
        ids, lengths = encoded(rows["text"], tokenizer, max_length, long_texts)
        columns = {"length": pyarrow.array(lengths, pyarrow.int32())}
        if "label" in rows:
            columns["label"] = pyarrow.array(rows["label"], pyarrow.int64())
        yield ids, pyarrow.RecordBatch.from_pydict(columns)


def _write(flat: Path, rows: Path, batches: Iterator[tuple[ndarray, pyarrow.RecordBatch]]) -> None:
    """Write ids as they lie in memory, to be mapped, and an Arrow stream of the rest; each appears whole and sealed.

    Two processes may make them at once, and both make the same.
    """
    first_ids, first = next(batches)
    with (
        sealed_draft_of(rows) as rows_draft,
        sealed_draft_of(flat) as flat_draft,
        flat_draft.open("wb") as all_ids,
        pyarrow.OSFile(str(rows_draft), "wb") as sink,
        pyarrow.ipc.new_stream(sink, first.schema) as writer,
    ):
        for ids, batch in chain([(first_ids, first)], batches):
            all_ids.write(ids.data)
            writer.write_batch(batch)


def encoded(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, long_texts: LongTexts
) -> tuple[Int32[ndarray, " P"], Int64[ndarray, " B"]]:
    """The ids of B texts, one after the other, and how many each has.

    They are those of the tokenizer's own call, which also works out where in the text each piece stands and is slower
    (experiments/own_data/speed.py).
    """
    truncates = TruncationStrategy.LONGEST_FIRST if long_texts.read == "head" else TruncationStrategy.DO_NOT_TRUNCATE
    tokenizer.set_truncation_and_padding(PaddingStrategy.DO_NOT_PAD, truncates, max_length, 0, None, None)
    tokenizer.backend_tokenizer.encode_special_tokens = tokenizer.split_special_tokens
    rows = [found.ids for found in tokenizer.backend_tokenizer.encode_batch_fast(texts)]
    if long_texts.read != "head":
        special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        around = special.index(0), special[::-1].index(0)
        rows = [laid_out(ids, around, max_length, long_texts) for ids in rows]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum()), lengths


def laid_out(ids: list[int], around: tuple[int, int], max_length: int, long_texts: LongTexts) -> list[int]:
    """A text's ids, if there are more than `max_length`: what is kept of them, with the special tokens `around` it.

    Args:
        ids: of the whole text, with special tokens.
        around: how many special tokens stand before and after a text.
        max_length: tokens of what is kept, or of each window.
        long_texts: what is kept.
    """
    if len(ids) <= max_length:
        return ids
    before, after = around
    length = len(ids) - before - after
    kept = before + kept_pieces(length, max_length - before - after, long_texts)
    first, last = (
        np.tile(places, (len(kept), 1)) for places in (np.arange(before), before + length + np.arange(after))
    )
    rows: list[int] = np.array(ids)[np.hstack([first, kept, last])].ravel().tolist()
    return rows


def kept_pieces(length: int, room: int, long_texts: LongTexts) -> Int64[ndarray, "R room"]:
    """Which word pieces of a text of `length`, by number, are kept where `room` of them have place: a row a window.

    The last window ends where the text does, and shares more with the one before it, so that none is short.
    """
    if long_texts.read == "head_tail":
        head = max(int(room * HEAD_SHARE), 1)
        return np.concatenate([np.arange(head), np.arange(length - room + head, length)])[None]
    last = length - room
    step = room - int(long_texts.overlap * room)
    starts = np.arange(0, last, step) if long_texts.read == "windows" else np.arange(0)
    return np.append(starts, last)[:, None] + np.arange(room)


def truncation(texts: Mapping[str, TokenisedTexts], max_length: int) -> dict[str, float]:
    """The share of each split's texts that fill `max_length`: all of them are cut but those of just this length.

    None of them is where texts are read in windows.
    """
    return {
        split: float(np.mean(of.lengths >= max_length)) if of.window is None else 0.0 for split, of in texts.items()
    }


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what the tokenizer does; truncation and padding, which calls change, are left out.

    Kept for each tokenizer, as a sweep asks several times a job, until a word is added to it.
    """
    pieces, known = _HASHES.get(tokenizer, (0, ""))
    if pieces != len(tokenizer):
        description: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        for changing in ("truncation", "padding"):
            description.pop(changing)
        known = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
        _HASHES[tokenizer] = (len(tokenizer), known)
    return known


_HASHES: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, str]] = WeakKeyDictionary()
"""How many word pieces a tokenizer had when it was asked, and its hash."""


def kept_wordpiece(
    texts: Dataset, vocabulary_size: int, max_length: int, cache: Path, lowercase: bool = True
) -> BertTokenizer:
    """What `train_wordpiece` makes of the texts, or the same of what was kept in `cache`; its last two arguments.

    Raises:
        UserError: nothing can be kept there.
    """
    material = [VOCABULARY_VERSION, tokenizers.__version__, vocabulary_size, content_hash(texts)]
    material += [] if lowercase else ["cased"]
    pieces = kept_json(
        cache, material, lambda: train_wordpiece(texts, vocabulary_size, max_length, lowercase).get_vocab()
    )
    return BertTokenizer(vocab=pieces, do_lower_case=lowercase, model_max_length=max_length)


def kept_json(cache: Path, material: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What `make` gives, or the same of what was kept in `cache`, by a hash of `material`.

    Of several processes one makes it.

    Raises:
        UserError: nothing can be kept there.
    """
    kept = cache / f"{hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]}.json"
    with ranks.first_alone():
        if not is_kept(kept):
            made = make()
            try:
                cache.mkdir(parents=True, exist_ok=True)
                with sealed_draft_of(kept) as draft:
                    draft.write_text(json.dumps(made), encoding="utf-8")
            except OSError as error:
                raise UserError(f"{cache} cannot be written: {error.strerror or first_line(error)}") from error
    return json.loads(kept.read_bytes()[:-DIGEST_BYTES])


def train_wordpiece(texts: Dataset, vocabulary_size: int, max_length: int, lowercase: bool = True) -> BertTokenizer:
    """A WordPiece tokenizer trained on the texts by the Rust library `tokenizers`.

    The library numbers the continuing letters (`##a`) in the order of a hash map that changes with each process,
    and breaks ties between merges by these numbers. Named up front, they are in a fixed order, and the
    vocabulary is the same each time.
    """
    trainer = BertWordPieceTokenizer(lowercase=lowercase)
    letters: Counter[str] = Counter()
    for text in each_text(texts):
        letters.update(trainer.normalizer.normalize_str(text))
    kept = alphabet(letters, vocabulary_size)
    continuing = [f"##{letter}" for letter in kept if not _stands_alone(letter)]
    trainer.train_from_iterator(
        each_text(texts),
        vocab_size=vocabulary_size,
        limit_alphabet=max(len(kept), ALPHABET_SIZE),
        initial_alphabet=kept,
        special_tokens=[*SPECIAL_TOKENS, *continuing],
        show_progress=False,
    )
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=lowercase, model_max_length=max_length)


def alphabet(letters: Counter[str], vocabulary_size: int) -> list[str]:
    """The characters that get word pieces, in their order: the most frequent `ALPHABET_SIZE` of them.

    More are kept until they make up `ALPHABET_SHARE` of all, as long as all their pieces have room: one each, and one
    more for those that may stand inside of a word.
    """
    by_count = sorted(letters, key=lambda letter: (-letters[letter], letter))
    most = ALPHABET_SHARE * letters.total()
    covered, pieces, kept = 0, len(SPECIAL_TOKENS), 0
    for letter in by_count:
        pieces += 1 if _stands_alone(letter) else 2
        if covered >= most or pieces > vocabulary_size:
            break
        covered += letters[letter]
        kept += 1
    return sorted(by_count[: max(kept, ALPHABET_SIZE)])


def _stands_alone(letter: str) -> bool:
    """Whether BERT's pre-tokenizer makes a word of this character: blanks, punctuation, Chinese characters."""
    is_punctuation = unicodedata.category(letter)[0] in "PZ"
    is_ascii_sign = letter.isascii() and not letter.isalnum()
    return is_punctuation or is_ascii_sign or "CJK" in unicodedata.name(letter, "")


def document_frequencies(texts: TokenisedTexts, vocabulary_size: int) -> Int64[ndarray, " V"]:
    """How many of the texts hold each of the V word pieces."""
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for start in range(0, len(texts), ROWS_AT_A_TIME):
        end = min(start + ROWS_AT_A_TIME, len(texts))
        numbers = np.repeat(np.arange(end - start), texts.lengths[start:end])
        ids = texts.ids[texts.offsets[start] : texts.offsets[end]]
        counts += np.bincount(np.unique(numbers * vocabulary_size + ids) % vocabulary_size, minlength=vocabulary_size)
    return counts


def with_ratings(texts: Mapping[str, TokenisedTexts], ratings: Mapping[str, list[str]]) -> dict[str, TokenisedTexts]:
    """Tokenised splits with their ratings; the ids are those of the ratings in `train`, others are unknown."""
    names = tuple(sorted(set(ratings["train"])))
    ids = {name: number for number, name in enumerate(names)}
    return {
        split: replace(
            texts[split],
            ratings=np.array([ids.get(rating, IGNORED_LABEL) for rating in ratings[split]], dtype=np.int64),
            rating_names=names,
        )
        for split in texts
    }
