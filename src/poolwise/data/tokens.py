"""Texts to token ids, once: a cache on disk whose key says all that the ids depend on.

Shapes: B texts, T tokens, N examples.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Dataset
from jaxtyping import Bool, Int64
from numpy import ndarray
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerBase

CODE_VERSION = 1
"""Raised by hand when this module's output changes for the same input; part of every cache key."""

ROWS_AT_A_TIME = 1000


@dataclass(frozen=True)
class TokenisedTexts:
    """N texts as one flat array of ids, with special tokens, truncated.

    Attributes:
        ids: all ids, one text after the other.
        offsets: (N + 1,), text i is `ids[offsets[i]:offsets[i + 1]]`.
        labels: (N,) class ids; empty for texts without labels.
        pad_id: what fills a batch up to its longest text.
    """

    ids: ndarray
    offsets: Int64[ndarray, " N1"]
    labels: Int64[ndarray, " N"]
    pad_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[ndarray, " N"]:
        """(N,) word pieces a text, special tokens counted."""
        return np.diff(self.offsets)

    def padded(
        self, examples: Int64[ndarray, " B"]
    ) -> tuple[Int64[ndarray, "B T"], Bool[ndarray, "B T"]]:
        """Ids (B, T) padded to the longest of these texts, and where a token is present."""
        starts, lengths = self.offsets[examples], self.lengths[examples]
        positions = np.arange(lengths.max())
        present = positions < lengths[:, None]
        places = np.where(present, starts[:, None] + positions, 0)
        return np.where(present, self.ids[places], self.pad_id).astype(np.int64), present


def tokenise(
    texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path
) -> TokenisedTexts:
    """Tokenise a data set with column `text` (and `label`, if it has one), or read what was kept in `cache`.

    Texts are truncated to `max_length` word pieces, special tokens counted.
    """
    material = [CODE_VERSION, content_hash(texts), tokenizer_hash(tokenizer), max_length]
    key = hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        kept = tokenizer(
            rows["text"],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return {"input_ids": kept["input_ids"]}

    tokens = texts.map(
        encode,
        batched=True,
        batch_size=ROWS_AT_A_TIME,
        remove_columns=["text"],
        cache_file_name=str(cache / f"{key}.arrow"),
        new_fingerprint=key,
    )
    return _flat(tokens, int(tokenizer.pad_token_id))


def _flat(tokens: Dataset, pad_id: int) -> TokenisedTexts:
    lists = tokens.data.column("input_ids")
    lengths = pyarrow.compute.list_value_length(lists).to_numpy()
    labels = tokens["label"] if "label" in tokens.column_names else []
    return TokenisedTexts(
        ids=pyarrow.compute.list_flatten(lists).to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        labels=np.array(labels, dtype=np.int64),
        pad_id=pad_id,
    )


def content_hash(texts: Dataset) -> str:
    """SHA-256 over the texts and labels of a data set in their order; where they lie does not enter it."""
    digest = hashlib.sha256()
    for rows in batches_of_rows(texts):
        for text, label in zip(rows["text"], rows.get("label", rows["text"]), strict=True):
            kept = text.encode("utf-8", "surrogatepass")
            digest.update(len(kept).to_bytes(8, "little") + kept)
            if "label" in rows:
                digest.update(int(label).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what the tokenizer does; truncation and padding, which calls change, are left out."""
    description: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    for changing in ("truncation", "padding"):
        description.pop(changing)
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def train_wordpiece(texts: Dataset, vocabulary_size: int, max_length: int) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer trained on the texts (Rust library `tokenizers`; deterministic)."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        (row for rows in batches_of_rows(texts) for row in rows["text"]),
        vocab_size=vocabulary_size,
        show_progress=False,
    )
    return BertTokenizer(
        vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=max_length
    )


def batches_of_rows(texts: Dataset) -> Iterator[dict[str, list[Any]]]:
    """The data set in pieces, so that a corpus larger than memory passes through."""
    yield from texts.iter(batch_size=ROWS_AT_A_TIME)
