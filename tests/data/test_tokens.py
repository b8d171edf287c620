import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from helpers import TEXTS
from poolwise.data import tokens
from poolwise.data.tokens import (
    alphabet,
    encoded,
    kept_pieces,
    tokenise,
    tokenizer_hash,
    train_wordpiece,
    truncation,
    with_ratings,
)
from poolwise.settings import LongTexts, UserError

VOCABULARY_SCRIPT = """
from datasets import Dataset
from helpers import TEXTS
from poolwise.data.tokens import tokenizer_hash, train_wordpiece
print(tokenizer_hash(train_wordpiece(Dataset.from_dict({"text": TEXTS}), 200, 32)))
"""


def rows(texts=TEXTS, **columns) -> Dataset:
    return Dataset.from_dict({"text": texts, **columns})


def test_ids_and_labels_are_the_tokenizers_own(tokenizer, texts):
    for number, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=32)["input_ids"]
        assert texts.ids[texts.offsets[number] : texts.offsets[number + 1]].tolist() == expected
    assert len(texts) == len(TEXTS)
    assert texts.labels.tolist() == [0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_are_the_tokenizers_own_where_texts_name_special_tokens(tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    strange = ["", "a [MASK] film [SEP]", "\U0001f600 \u4e2d\u6587 e\u0301", LONG]
    ids, lengths = encoded(strange, tokenizer, 12, LongTexts())
    expected = tokenizer(strange, truncation=True, max_length=12)["input_ids"]
    assert np.split(ids, np.cumsum(lengths))[-1].size == 0
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]] == expected


def test_texts_are_truncated(tokenizer, tmp_path):
    assert tokenise(rows(), tokenizer, 8, tmp_path).lengths.max() == 8


def test_the_cache_is_read_and_its_key_is_explicit(tokenizer, tmp_path, monkeypatch):
    first = tokenise(rows(), tokenizer, 32, tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    monkeypatch.setattr("poolwise.data.tokens.encoded", None)  # a second tokenising would fail
    again = tokenise(rows(), tokenizer, 32, tmp_path)
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.offsets, again.offsets)


def test_ids_are_mapped_from_the_disk_and_not_read_into_memory(tokenizer, tmp_path):
    """A corpus may be larger than memory: the array's bytes are those of the file."""
    first = tokenise(rows(), tokenizer, 32, tmp_path)
    (file,) = tmp_path.glob("*.ids")
    assert not first.ids.flags.owndata
    with file.open("rb+") as stream:
        stream.write(np.int32(4711).tobytes())
    assert first.ids[0] == 4711


def test_no_texts_have_no_ids(tokenizer, tmp_path):
    nothing = tokenise(rows([]), tokenizer, 32, tmp_path)
    assert (len(nothing), nothing.ids.tolist(), nothing.offsets.tolist()) == (0, [], [0])


@pytest.mark.parametrize("change", ["text", "label", "length", "vocabulary"])
def test_what_the_ids_depend_on_makes_a_new_key(tokenizer, tmp_path, change):
    tokenise(rows(label=[0] * 6), tokenizer, 32, tmp_path)
    tokenise(
        rows(["Dull!", *TEXTS[1:]] if change == "text" else TEXTS, label=[int(change == "label")] * 6),
        train_wordpiece(rows(TEXTS[1:]), 200, 32) if change == "vocabulary" else tokenizer,
        16 if change == "length" else 32,
        tmp_path,
    )
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_tokenizer_hash_ignores_what_calls_change(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer(TEXTS, truncation=True, padding=True, max_length=5)
    assert tokenizer_hash(tokenizer) == before


def test_a_vocabulary_is_trained_once(tmp_path, monkeypatch, caplog):
    trained = []
    train = tokens.train_wordpiece
    monkeypatch.setattr(tokens, "train_wordpiece", lambda *given: (trained.append(given[1]), train(*given))[1])

    def kept(texts: list[str] = TEXTS, size: int = 200) -> dict[str, int]:
        return tokens.kept_wordpiece(rows(texts), size, 32, tmp_path / "vocabularies").get_vocab()

    assert kept() == kept() == train(rows(), 200, 32).get_vocab()
    assert kept(size=150) != kept(TEXTS[1:]) != kept()
    assert trained == [200, 150, 200]
    for file in (tmp_path / "vocabularies").iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    assert kept() == train(rows(), 200, 32).get_vocab()
    assert len(trained) == 4
    assert "it was broken" in caplog.text


def test_a_vocabulary_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/vocabularies cannot be written: Not a directory"):
        tokens.kept_wordpiece(rows(), 200, 32, tmp_path / "file/vocabularies")


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process():
    """Held away: the trainer numbers letters in an order that changes with each process."""
    command = [sys.executable, "-c", VOCABULARY_SCRIPT]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "", "HF_HUB_OFFLINE": "1"}
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert elsewhere == tokenizer_hash(train_wordpiece(rows(), 200, 32)) + "\n"


def test_the_vocabulary_has_the_asked_size_and_covers_the_text(tokenizer):
    larger = [f"{a}{b} text" for a in "abcdefgh" for b in "stuvwxyz"]
    assert len(train_wordpiece(rows(larger), 100, 32)) <= 100
    assert tokenizer.unk_token_id not in tokenizer(" ".join(TEXTS))["input_ids"]


LONG = " ".join(TEXTS)
READINGS = {
    "head": lambda pieces: [pieces[:10]],
    "tail": lambda pieces: [pieces[-10:]],
    "head_tail": lambda pieces: [pieces[:2] + pieces[-8:]],
    "windows": lambda pieces: [pieces[start : start + 10] for start in range(0, len(pieces) - 10, 7)] + [pieces[-10:]],
}


@pytest.mark.parametrize("read", READINGS)
def test_what_is_read_of_long_texts(tokenizer, tmp_path, read):
    """Windows of ten word pieces of which three are shared; the last one ends with the text. Short texts stay."""
    cls, *pieces, sep = tokenizer(LONG)["input_ids"]
    assert (len(pieces) - 10) % 7 != 0
    found = tokenise(rows(["Dull.", LONG, "Dull."]), tokenizer, 12, tmp_path, LongTexts(read, overlap=0.3))
    assert [found.ids[start:end].tolist() for start, end in zip(found.offsets, found.offsets[1:], strict=False)] == [
        tokenizer("Dull.")["input_ids"],
        [piece for window in READINGS[read](pieces) for piece in (cls, *window, sep)],
        tokenizer("Dull.")["input_ids"],
    ]
    count = len(READINGS[read](pieces))
    assert found.windows_of(np.array([2, 1]))[0].tolist() == [count + 1, *range(1, count + 1)]
    assert found.windows_of(np.array([2, 1]))[1].tolist() == [1, count]
    assert found.windows.lengths.tolist() == [4, *[12] * count, 4]
    assert truncation({"dev": found}, 12) == {"dev": 0.0 if read == "windows" else pytest.approx(1 / 3)}


@pytest.mark.parametrize("length", [11, 17, 18, 40])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.999])
def test_windows_hold_every_word_piece_and_none_is_short(length, overlap):
    kept = kept_pieces(length, 10, LongTexts("windows", overlap))
    assert kept.shape[1] == 10
    assert set(kept.ravel()) == set(range(length))
    assert (np.diff(kept[:, 0]) > 0).all()


def test_head_and_tail_are_the_published_ones():
    """Sun et al. 2019, section 5.3.1: of 510 the first 128 and the last 382."""
    (kept,) = kept_pieces(1000, 510, LongTexts("head_tail"))
    assert kept.tolist() == [*range(128), *range(1000 - 382, 1000)]


def test_labels_and_ratings_go_with_every_window(tokenizer, tmp_path):
    found = tokenise(rows(["Dull.", LONG], label=[1, 0]), tokenizer, 64, tmp_path, LongTexts("windows", 0.5))
    windows = with_ratings({"train": found}, {"train": ["bad", "good"]})["train"].windows
    count = len(windows) - 1
    assert count > 1
    assert (windows.labels.tolist(), windows.ratings.tolist()) == ([1, *[0] * count], [0, *[1] * count])


def test_every_way_to_read_long_texts_has_a_key_of_its_own(tokenizer, tmp_path):
    for read in READINGS:
        for overlap in (0.1, 0.2):
            tokenise(rows(), tokenizer, 12, tmp_path, LongTexts(read, overlap))
    assert len(list(tmp_path.glob("*.arrow"))) == 5  # the overlap is of windows alone


def test_the_alphabet_holds_nearly_all_of_a_chinese_text(monkeypatch):
    common = Counter({chr(0x4E00 + n): 2000 - n for n in range(1800)})
    assert len(alphabet(Counter("a film"), 100)) == 6
    assert alphabet(common, 1200) == sorted(chr(0x4E00 + n) for n in range(1195))
    kept = alphabet(common, 5000)
    assert sum(common[letter] for letter in kept) >= 0.999 * common.total() > sum(common[c] for c in kept[:-1])
    assert len(alphabet(common, 500)) == 1000  # as before there was a rule
    monkeypatch.setattr("poolwise.data.tokens.ALPHABET_SIZE", 3)
    assert len(alphabet(Counter("abcdefgh"), 15)) == 5  # ten pieces and the special ones
    chinese = ["".join(chr(0x4E00 + (7 * n + k) % 40) for k in range(20)) for n in range(30)]
    found = train_wordpiece(rows(chinese), 100, 32).get_vocab()
    assert {chr(0x4E00 + n) for n in range(40)} <= found.keys()
    assert len(found) == 46  # the special ones, and the blank that stands around Chinese characters
