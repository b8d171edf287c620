"""Which language texts are in, and which one a vocabulary was made for, as py3langid guesses (Lui & Baldwin 2012).

Languages are ISO 639 codes. A guess is of use for many texts together; that of a short one is often wrong.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

GUESSED_TEXTS = 500
GUESSED_BLOCKS = 40
WORDS_A_BLOCK = 50
LEAST_LETTERS = 4
"""Of a word; shorter ones are of any language."""


def languages_of_texts(texts: Dataset) -> dict[str, float]:
    """The share of texts in each language, the most frequent first; of many texts some, evenly spread."""
    numbers = np.linspace(0, len(texts) - 1, min(GUESSED_TEXTS, len(texts))).astype(int)
    return _guessed(text for text in texts.select(np.unique(numbers))["text"] if any(map(str.isalpha, text)))


def languages_of_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """The same of blocks of words that are one word piece each; empty where there are too few for a block.

    Languages whose words no blank separates are not told by it: their vocabularies hold single characters.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = tokenizer.backend_tokenizer.decode_batch([[id_] for id_ in range(len(tokenizer))])
    words = [
        piece
        for piece, name in zip(map(str.strip, pieces), names, strict=True)
        if piece.isalpha() and not name.startswith("##") and len(piece) >= LEAST_LETTERS
    ]
    stride = len(words) // WORDS_A_BLOCK
    return _guessed(" ".join(words[first::stride]) for first in range(min(stride, GUESSED_BLOCKS)))


def _guessed(texts: Iterable[str]) -> dict[str, float]:
    import py3langid

    found = Counter(py3langid.classify(text)[0] for text in texts)
    return {language: count / found.total() for language, count in found.most_common()}
