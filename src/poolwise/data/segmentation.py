"""Where words begin in tokenised texts, for masking by word and span.

Shapes: P word pieces of all texts, p of some, V vocabulary.
"""

import importlib
import logging
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Bool, Int32, Shaped
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from poolwise.data.corpus import ROWS_AT_A_TIME
from poolwise.data.tokens import TokenisedTexts
from poolwise.settings import UserError

log = logging.getLogger(__name__)

SEGMENTER = "jieba"


def word_starts(
    texts: TokenisedTexts, tokenizer: PreTrainedTokenizerBase, folder: Path | None = None
) -> Bool[ndarray, " P"]:
    """Where a word begins: at each piece but WordPiece's continuations (`##`).

    Tokenizers of other kinds mark words in ways of their own, and are refused.

    Chinese is written without blanks, and BERT makes a token of each character: words are found by jieba if it is
    installed; else each character is a word, and a notice says so.

    Args:
        texts: which special tokens keep apart.
        tokenizer: their own.
        folder: of a file without a name that holds what is found and is mapped into memory, for corpora larger than
            that; None for an array in memory.

    Raises:
        UserError: the tokenizer is no WordPiece.
    """
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind != "WordPiece":
        raise UserError(
            f"pretraining.masking.unit: word and span need a WordPiece tokenizer; this one is {kind}; allowed: token"
        )
    parts = _starts_of_slices(texts, np.array(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))))
    if folder is None:
        return np.concatenate([np.empty(0, dtype=bool), *parts])
    with TemporaryFile(dir=folder) as stream:
        for part in parts:
            stream.write(part.data)
        stream.flush()
        return np.memmap(stream, dtype=bool, mode="r")


def _starts_of_slices(texts: TokenisedTexts, vocabulary: Shaped[ndarray, " V"]) -> Iterator[Bool[ndarray, " p"]]:
    """The same, some texts at a time: what is worked out for each piece takes more memory than what comes of it."""
    continues = np.char.startswith(vocabulary, "##")
    is_chinese = np.array([len(t) == 1 and "CJK UNIFIED" in unicodedata.name(t, "") for t in vocabulary.tolist()])
    is_told = False
    for first in range(0, len(texts), ROWS_AT_A_TIME):
        begin, end = texts.offsets[[first, min(first + ROWS_AT_A_TIME, len(texts))]]
        ids = texts.ids[begin:end]
        starts, chinese = ~continues[ids], is_chinese[ids]
        if chinese.any() and segmenter() is not None:
            _join_chinese(starts, chinese, vocabulary, ids)
        elif chinese.any() and not is_told:
            log.warning("Chinese is masked by character: masking by word needs the package %s", SEGMENTER)
            is_told = True
        yield starts


def segmenter() -> str | None:
    """Name and version of the Chinese segmenter; None if none is installed. It changes masks, so it enters run keys."""
    return f"{SEGMENTER} {version(SEGMENTER)}" if find_spec(SEGMENTER) else None


@cache
def _chinese_segmenter() -> Callable[[str], list[str]]:
    """From a text to its words, by the default dictionary.

    Read from the package itself: `jieba.lcut` keeps it in the shared folder for temporary files, as a `marshal` file
    that anybody may have put there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its escape sequences are wrong for newer Pythons, and pkg_resources is old
        jieba = importlib.import_module(SEGMENTER)
    found = jieba.Tokenizer()
    found.FREQ, found.total = found.gen_pfdict(found.get_dict_file())
    found.initialized = True
    cut: Callable[[str], list[str]] = found.lcut
    return cut


def _join_chinese(
    starts: Bool[ndarray, " p"],
    chinese: Bool[ndarray, " p"],
    vocabulary: Shaped[ndarray, " V"],
    ids: Int32[ndarray, " p"],
) -> None:
    """Take the starts away inside of Chinese words, run by run."""
    cut = _chinese_segmenter()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chinese, [False]])))
    for begin, end in edges.reshape(-1, 2):
        place = begin
        for word in cut("".join(vocabulary[ids[begin:end]])):
            starts[place + 1 : place + len(word)] = False
            place += len(word)
