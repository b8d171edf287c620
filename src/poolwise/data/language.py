"""Which language texts are in, and which one a vocabulary was made for, as py3langid guesses (Lui & Baldwin 2012).

Languages are ISO 639 codes. A guess is of use for many texts together; that of a short one is often wrong.
"""

from collections.abc import Iterable

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from poolwise.data.corpus import each_text
from poolwise.data.quality import sample, shares

GUESSED_TEXTS = 500
GUESSED_BLOCKS = 40
WORDS_A_BLOCK = 50
LEAST_LETTERS = 4
"""Of a word; shorter ones are of any language."""


def languages_of_texts(texts: Dataset) -> dict[str, float]:
    """The share of texts in each language, the most frequent first; of many texts some, evenly spread."""
    return _guessed(text for text in each_text(sample(texts, GUESSED_TEXTS)) if any(map(str.isalpha, text)))


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

    return shares((py3langid.classify(text)[0], 1) for text in texts)
