"""Where words begin in tokenised texts, for masking by word and span.

Shapes: P word pieces of all texts.
"""

import importlib
import logging
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from poolwise.data.tokens import TokenisedTexts
from poolwise.settings import UserError

log = logging.getLogger(__name__)

SEGMENTER = "jieba"


def word_starts(texts: TokenisedTexts, tokenizer: PreTrainedTokenizerBase) -> Bool[ndarray, " P"]:
    """Where a word begins: at each piece but WordPiece's continuations (`##`).

    Tokenizers of other kinds mark words in ways of their own, and are refused.

    Chinese is written without blanks, and BERT makes a token of each character: words are found by jieba if it is
    installed; else each character is a word, and a notice says so.

    Raises:
        UserError: the tokenizer is no WordPiece.
    """
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind != "WordPiece":
        raise UserError(
            f"pretraining.masking.unit: word and span need a WordPiece tokenizer; this one is {kind}; allowed: token"
        )
    tokens = np.array(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    starts: ndarray = ~np.char.startswith(tokens, "##")[texts.ids]
    is_chinese = np.array([len(t) == 1 and "CJK UNIFIED" in unicodedata.name(t, "") for t in tokens.tolist()])
    chinese = is_chinese[texts.ids]
    if chinese.any():
        if segmenter() is None:
            log.warning("Chinese is masked by character: masking by word needs the package %s", SEGMENTER)
        else:
            _join_chinese(starts, chinese, tokens[texts.ids])
    return starts


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


def _join_chinese(starts: Bool[ndarray, " P"], chinese: Bool[ndarray, " P"], tokens: ndarray) -> None:
    """Take the starts away inside of Chinese words, run by run."""
    cut = _chinese_segmenter()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chinese, [False]])))
    for begin, end in edges.reshape(-1, 2):
        place = begin
        for word in cut("".join(tokens[begin:end])):
            starts[place + 1 : place + len(word)] = False
            place += len(word)
