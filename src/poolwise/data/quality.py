"""What can be wrong with a corpus, in figures: what is cheap enough for every run, and what takes a tokenizer.

Shapes: N texts, C classes, V vocabulary.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from jaxtyping import Int64, UInt64
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from poolwise.data.contamination import held_back, near_copies, signatures, text_keys
from poolwise.data.corpus import Corpus, batches_of_rows, each_text, found_once, labels_of

SAMPLE = 10_000
"""Texts of a split that are read for what takes a tokenizer; of more, so many, evenly spread."""
NAMED_UNKNOWN = 5
_LATER_BYTES = bytes(range(0x80, 0xC0))
_LATER = f"[{re.escape(_LATER_BYTES.decode('latin-1') + _LATER_BYTES.decode('cp1252', 'ignore'))}]"
MOJIBAKE = re.compile(
    f"[\u00c2\u00c3]{_LATER}|\u00e2\u20ac|(?:[\u00d0\u00d1]{_LATER}){{2}}|(?:[\u00e3-\u00e9]{_LATER}{{2}}){{2}}"
)
"""UTF-8 that was read as one of these: accented letters, quotes and dashes, two Cyrillic or two CJK characters.

Other lead bytes are left out, as they stand beside quotation marks in ordinary text."""

STAGE1_DEV = "text_dev"
"""How the dev texts of stage 1 are called where they are others than the labelled ones."""
Keys = dict[str, UInt64[ndarray, "_"]]
"""(N,) of each split."""
Pairs = dict[int, tuple[int, float]]
"""By the number of a text: that of the one that is nearest to it, and their similarity."""


@dataclass(frozen=True)
class CorpusKeys:
    """By which copies are found: `text_keys` of the splits of stage 1, and of the labelled ones."""

    text: Keys
    labelled: Keys

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusKeys":
        """Those of a corpus."""
        text, labelled = (
            {split: text_keys(rows) for split, rows in splits.items()} for splits in (corpus.text, corpus.labelled)
        )
        return cls(text, labelled)

    @property
    def held_back(self) -> Keys:
        """Those of what training must not have read: of labelled dev and test texts, and of `STAGE1_DEV`."""
        found = held_back(self.labelled)
        shared = "dev" in found and np.array_equal(found["dev"], self.text["dev"])
        return found if shared else found | {STAGE1_DEV: self.text["dev"]}


def training_places(split: str) -> tuple[str, ...]:
    """Where texts that are held back must not be: stage 2 may well train on what is dev of stage 1 alone."""
    return ("in_stage1",) if split == STAGE1_DEV else ("in_train", "in_stage1")


@dataclass(frozen=True)
class NearCopies:
    """What is nearly, and not exactly, in two places (see `contamination.near_copies`).

    Attributes:
        held_back: by split (see `CorpusKeys.held_back`) and by place, `in_train` or `in_stage1`: for each text of the
            split that is nearly among the training texts there, the number of the nearest and their similarity.
        stage1: numbers of the training texts of stage 1 that are nearly, or exactly, dev or test texts.
    """

    held_back: dict[tuple[str, str], Pairs]
    stage1: tuple[int, ...]

    @classmethod
    def of(cls, corpus: Corpus, keys: CorpusKeys, stage1: bool = True) -> "NearCopies":
        """Those of a corpus; the numbers in `stage1` only where they are wanted."""
        known = keys.held_back
        held = {split: corpus.text["dev"] if split == STAGE1_DEV else corpus.labelled[split] for split in known}
        signed = {split: signatures(rows) for split, rows in held.items()}
        training = [("in_train", corpus.labelled, keys.labelled), ("in_stage1", corpus.text, keys.text)]
        found: dict[tuple[str, str], Pairs] = {}
        before: UInt64[ndarray, " N"] | None = None
        for place, splits, of in training if corpus.labelled else training[1:]:
            others, other_keys = splits["train"], of["train"]
            is_same = before is not None and np.array_equal(before, other_keys)
            if not is_same:
                before, others_signed = other_keys, signatures(others)
            for split, rows in held.items():
                if is_same and (split, "in_train") in found:
                    found[split, place] = found[split, "in_train"]
                elif place in training_places(split):
                    exact = np.isin(known[split], other_keys)
                    near = near_copies(rows, others, signed[split], others_signed)
                    found[split, place] = {number: pair for number, pair in near.items() if not exact[number]}
        if not stage1:
            return cls(found, ())
        every = concatenate_datasets([rows.select_columns("text") for rows in held.values()])
        copies = near_copies(corpus.text["train"], every, others_signed, np.concatenate(list(signed.values())))
        return cls(found, tuple(copies))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many there are, by split and place."""
        found: dict[str, dict[str, int]] = {}
        for (split, place), pairs in self.held_back.items():
            found.setdefault(split, {})[place] = len(pairs)
        return found


def corpus_figures(corpus: Corpus, keys: CorpusKeys) -> dict[str, Any]:
    """What every run records of its data, as plain data.

    `stage1` and `stage2` hold by split the number of texts, how many more were left out because a text or a label is
    empty, how many repeat an earlier one, and how many were decoded wrongly once.
    `copies` holds how many dev and test texts are also among the training texts of either stage, and, where the dev
    texts of stage 1 are not the labelled ones, how many of them (`STAGE1_DEV`) are among those of stage 1.
    `conflicting_labels` counts labelled texts that have another label elsewhere, in whichever splits.
    """
    splits = (("stage1", corpus.text, keys.text), ("stage2", corpus.labelled, keys.labelled))
    figures: dict[str, Any] = {
        stage: {
            split: _split_figures(texts[split], of[split], corpus.left_out.get(stage, {}).get(split, 0))
            for split in texts
        }
        for stage, texts, of in splits
    }
    nothing = np.empty(0, dtype=np.uint64)
    training = {"in_train": keys.labelled.get("train", nothing), "in_stage1": keys.text["train"]}
    figures["copies"] = {
        split: {place: int(np.isin(found, training[place]).sum()) for place in training_places(split)}
        for split, found in keys.held_back.items()
    }
    figures["conflicting_labels"] = len(conflicting(corpus.labelled, keys.labelled))
    return figures


def _split_figures(texts: Dataset, keys: UInt64[ndarray, " N"], left_out: int) -> dict[str, int]:
    wrong = {number for numbers in badly_decoded(texts).values() for number in numbers}
    repeated = len(keys) - len(np.unique(keys))
    return {"texts": len(texts), "empty": left_out, "repeated": repeated, "badly_decoded": len(wrong)}


def conflicting(labelled: Mapping[str, Dataset], keys: Keys) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Each labelled text that has another label elsewhere, and the first copy that has; copies next to each other.

    Both are told by their split and their number in it.
    """
    if not labelled:
        return []
    labels = np.concatenate([labels_of(rows) for rows in labelled.values()])
    all_keys = np.concatenate([keys[split] for split in labelled])
    _, first, texts = np.unique(all_keys, return_index=True, return_inverse=True)
    unlike = np.flatnonzero(labels != labels[first][texts])
    several = np.flatnonzero(np.isin(texts, texts[unlike]))
    begins = np.cumsum([0, *map(len, labelled.values())])
    names = list(labelled)

    def place(number: int) -> tuple[str, int]:
        split = int(np.searchsorted(begins, number, side="right")) - 1
        return names[split], number - int(begins[split])

    # The first text that differs from the first copy is the other one of all texts that agree with that copy.
    first_unlike = dict(zip(texts[unlike][::-1].tolist(), unlike[::-1].tolist(), strict=True))
    found = []
    for number in several[np.argsort(texts[several], kind="stable")].tolist():
        text = int(texts[number])
        agrees = labels[number] == labels[first[text]]
        found.append((place(number), place(first_unlike[text] if agrees else int(first[text]))))
    return found


@dataclass(frozen=True)
class TokenFigures:
    """How a tokenizer takes the texts of a split, or a sample of them.

    Attributes:
        lengths: (N,) word pieces of each text before it is cut, special tokens counted.
        unknown_share: of the word pieces, special ones left out, that stand for what the vocabulary lacks.
        unknown: the most frequent of what these stand for.
        words: what the tokenizer cuts into pieces, counted: words, numbers and marks of punctuation.
    """

    lengths: Int64[ndarray, " N"]
    unknown_share: float
    unknown: tuple[str, ...]
    words: int


def token_figures(texts: Dataset, tokenizer: PreTrainedTokenizerBase) -> TokenFigures:
    """Tokenise a split, or `SAMPLE` of its texts."""
    lengths: list[int] = []
    words = 0
    unknown: Counter[str] = Counter()
    for rows in batches_of_rows(sample(texts)):
        found = tokenizer(rows["text"], truncation=False, padding=False, return_offsets_mapping=True, verbose=False)
        texts_of_rows = zip(rows["text"], found["input_ids"], found["offset_mapping"], strict=True)
        for number, (text, ids, places) in enumerate(texts_of_rows):
            lengths.append(len(ids))
            words += len({*found.word_ids(number)} - {None})
            if tokenizer.unk_token_id in ids:
                pairs = zip(ids, places, strict=True)
                unknown.update(text[begin:end] for id_, (begin, end) in pairs if id_ == tokenizer.unk_token_id)
    pieces = sum(lengths) - len(lengths) * tokenizer.num_special_tokens_to_add()
    named = tuple(word for word, _ in unknown.most_common(NAMED_UNKNOWN))
    return TokenFigures(np.array(lengths), unknown.total() / max(pieces, 1), named, words)


def sample(texts: Dataset, most: int | None = None) -> Dataset:
    """The texts, or so many of them, evenly spread; None for `SAMPLE`."""
    most = most or SAMPLE
    if len(texts) <= most:
        return texts
    return texts.select(np.linspace(0, len(texts) - 1, most).astype(int))


@found_once
def badly_decoded(texts: Dataset) -> dict[str, list[int]]:
    """The numbers of the texts with U+FFFD, and of those that look like UTF-8 read as Latin-1 or Windows-1252."""
    found: dict[str, list[int]] = {"replaced": [], "mojibake": []}
    for number, text in enumerate(each_text(texts)):
        if not text.isascii():
            if "\ufffd" in text:
                found["replaced"].append(number)
            if MOJIBAKE.search(text):
                found["mojibake"].append(number)
    return found


def scripts_of_texts(texts: Dataset) -> dict[str, float]:
    """The share of letters of each script in a split, or in a sample of it, the most frequent first."""
    letters: Counter[str] = Counter()
    for text in each_text(sample(texts)):
        letters.update(text)
    return shares((_script(letter), count) for letter, count in letters.items() if letter.isalpha())


def scripts_of_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """The share of word pieces of each script, of those that have a letter, the most frequent first."""
    pieces = tokenizer.backend_tokenizer.decode_batch([[id_] for id_ in range(len(tokenizer))])
    first = (next(filter(str.isalpha, piece), "") for piece in pieces)
    return shares((_script(letter), 1) for letter in first if letter)


def _script(letter: str) -> str:
    """What the name of a letter begins with in Unicode: `Latin`, `Cyrillic`, `CJK`, `Hiragana`."""
    word = unicodedata.name(letter, "other").split()[0]
    return word if word == "CJK" else word.capitalize()


def shares(counts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The share of each name in all counts, the most frequent first."""
    found: Counter[str] = Counter()
    for name, count in counts:
        found[name] += count
    return {name: count / found.total() for name, count in found.most_common()}
