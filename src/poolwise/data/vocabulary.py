"""A pretrained encoder's vocabulary made to fit a text: words added to it, or a new one in its place.

Either way a new piece begins as the mean of the old pieces that its letters were read as (Gee et al. 2022, "Fast
Vocabulary Transfer for Language Model Compression", section 3). Shapes: V vocabulary.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tokenizers
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.trainers import WordLevelTrainer
from transformers import BertTokenizer, PreTrainedTokenizerBase

from poolwise.data.corpus import content_hash, each_text
from poolwise.data.reading import read_lines
from poolwise.data.tokens import SPECIAL_TOKENS, kept_json, kept_wordpiece, tokenizer_hash
from poolwise.settings import UserError
from poolwise.words import counted, some

CODE_VERSION = 1
"""Raised by hand when this module gives another vocabulary or other pieces for the same input; part of run keys."""

CONTINUING = "##"
LEAST_OCCURRENCES = 2
"""Of a word that is added: from one alone nothing is learned."""
ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what its pieces are in the one that it was made from.

    Attributes:
        tokenizer: of V pieces.
        pieces: V tuples of ids in the old tokenizer, by id in the new one; one id where a piece is an old one.
        added: the words that were added, the most frequent first; empty for a new vocabulary.
    """

    tokenizer: PreTrainedTokenizerBase
    pieces: tuple[tuple[int, ...], ...]
    added: tuple[str, ...] = ()


def with_words(tokenizer: PreTrainedTokenizerBase, texts: Dataset, count: int, cache: Path) -> Vocabulary:
    """Add the most frequent words of the texts that the tokenizer splits or does not know, as whole word pieces.

    A word is what the tokenizer itself takes for one (lower-cased where it lower-cases, a Chinese character each). It
    is added if it has a letter and occurs `LEAST_OCCURRENCES` times; of equally frequent ones the first by alphabet.
    Old pieces keep their ids, and a text has new ids only where one of its words begins with an added one.

    Args:
        tokenizer: a WordPiece one; it stays as it is.
        texts: column `text`.
        count: of the words.
        cache: where they are kept.

    Raises:
        UserError: the tokenizer is no WordPiece, or the texts have fewer such words.
    """
    old = _wordpiece(tokenizer, f"model.add_words={count}")
    material = [CODE_VERSION, tokenizers.__version__, tokenizer_hash(tokenizer), count, content_hash(texts)]
    words = tuple(kept_json(cache, material, lambda: [*islice(_split_words(tokenizer, old, texts), count)]))
    if len(words) < count:
        raise UserError(
            f"model.add_words={count}: the texts of stage 1 have {counted(len(words), 'word')} that the tokenizer "
            f"splits or does not know and that occur at least {LEAST_OCCURRENCES} times; allowed: 0 to {len(words)}"
        )
    taken = max(tokenizer.get_vocab().values()) + 1
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    vocabulary |= {word: taken + number for number, word in enumerate(words)}
    extended = copy.deepcopy(tokenizer)
    extended.backend_tokenizer.model = WordPiece(
        vocabulary, unk_token=old.unk_token, max_input_chars_per_word=old.max_input_chars_per_word
    )
    own = [(id_,) for id_ in range(taken)]
    return Vocabulary(extended, (*own, *(_ids(old, word) for word in words)), words)


def retrained(tokenizer: PreTrainedTokenizerBase, texts: Dataset, size: int, cache: Path) -> Vocabulary:
    """A new WordPiece vocabulary of the texts, which lower-cases if the old tokenizer does.

    A piece inside of a word (`##ing`) is read as old pieces inside of a word, and the special tokens are the old ones
    of the same role.

    Args:
        tokenizer: a WordPiece one.
        texts: column `text`.
        size: at most so many pieces.
        cache: where they are kept.

    Raises:
        UserError: the tokenizer is no WordPiece.
    """
    old = _wordpiece(tokenizer, f"model.vocabulary_size={size}")
    lowercase = _normalised(tokenizer, "A") == "a"
    new = BertTokenizer(
        vocab=kept_wordpiece(texts, size, tokenizer.model_max_length, cache, lowercase).get_vocab(),
        do_lower_case=lowercase,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,  # DistilBERT takes no token types
    )
    inside = WordPiece(
        {
            old.unk_token: tokenizer.unk_token_id,
            **{
                piece.removeprefix(CONTINUING): id_
                for piece, id_ in tokenizer.get_vocab().items()
                if piece.startswith(CONTINUING)
            },
        },
        unk_token=old.unk_token,
        continuing_subword_prefix="",
    )
    special = {getattr(new, role): (tokenizer.convert_tokens_to_ids(getattr(tokenizer, role)),) for role in ROLES}

    def pieces_of(piece: str) -> tuple[int, ...]:
        if piece in special:
            return special[piece]
        return _ids(inside, piece.removeprefix(CONTINUING)) if piece.startswith(CONTINUING) else _ids(old, piece)

    return Vocabulary(new, tuple(pieces_of(piece) for piece in new.convert_ids_to_tokens(list(range(len(new))))))


def published(path: str, max_length: int) -> BertTokenizer:
    """The tokenizer of a published WordPiece vocabulary: a `vocab.txt`, the number of a line is the id of its piece.

    As in BERT a Chinese character is a word by itself. It lower-cases unless a piece has a capital of A to Z.

    Args:
        path: of the file.
        max_length: of a text, in word pieces.

    Raises:
        UserError: the file cannot be read, has a piece twice, an empty line, or lacks a special token.
    """
    pieces = [line.rstrip("\r\n") for line in read_lines(path)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    twice = next((number for number, piece in enumerate(pieces) if ids[piece] != number), None)
    if "" in ids:
        raise UserError(f"{path}, line {ids[''] + 1}: empty; model.vocabulary= takes a word piece a line")
    if twice is not None:
        raise UserError(f"{path}, line {twice + 1}: {pieces[twice]!r} is there again in line {ids[pieces[twice]] + 1}")
    if lacking := [token for token in SPECIAL_TOKENS if token not in ids]:
        raise UserError(
            f"{path} lacks {some(lacking)}; model.vocabulary= takes a WordPiece list (vocab.txt) with "
            f"{', '.join(SPECIAL_TOKENS)}"
        )
    plain = (piece for piece in pieces if not piece.startswith("["))
    lowercase = not any("A" <= letter <= "Z" for piece in plain for letter in piece)
    return BertTokenizer(vocab=ids, do_lower_case=lowercase, model_max_length=max_length)


def _wordpiece(tokenizer: PreTrainedTokenizerBase, setting: str) -> WordPiece:
    model = tokenizer.backend_tokenizer.model
    if not isinstance(model, WordPiece) or model.continuing_subword_prefix != CONTINUING:
        raise UserError(
            f"{setting}: needs a WordPiece tokenizer, as BERT and DistilBERT have; that of this model is "
            f"{type(model).__name__}; allowed with it: model.add_words=0 and model.vocabulary_size=null"
        )
    return model


def _split_words(tokenizer: PreTrainedTokenizerBase, model: WordPiece, texts: Dataset) -> Iterator[str]:
    return (word for word in _frequent_words(tokenizer, texts) if _is_split(model, word))


def _frequent_words(tokenizer: PreTrainedTokenizerBase, texts: Dataset) -> Iterator[str]:
    """The words that have a letter, the most frequent first, equally frequent ones by alphabet."""
    counting = Tokenizer(WordLevel())
    counting.normalizer = tokenizer.backend_tokenizer.normalizer
    counting.pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    all_words = WordLevelTrainer(vocab_size=2**32, min_frequency=LEAST_OCCURRENCES, show_progress=False)
    counting.train_from_iterator(each_text(texts), all_words)
    ranks = counting.get_vocab()
    return (word for word in sorted(ranks, key=ranks.__getitem__) if any(map(str.isalpha, word)))


def _is_split(model: WordPiece, word: str) -> bool:
    """Whether the model makes several pieces of a word or does not know it; a word that it never reads is neither."""
    if len(word) > model.max_input_chars_per_word:
        return False
    first, *further = model.tokenize(word)
    return bool(further) or first.value == model.unk_token


def _ids(model: WordPiece, word: str) -> tuple[int, ...]:
    return tuple(token.id for token in model.tokenize(word))


def _normalised(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))
