import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset

from helpers import TEXTS
from poolwise.data.tokens import tokenise, tokenizer_hash, train_wordpiece

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


def test_texts_are_truncated(tokenizer, tmp_path):
    assert tokenise(rows(), tokenizer, 8, tmp_path).lengths.max() == 8


def test_the_cache_is_read_and_its_key_is_explicit(tokenizer, tmp_path, monkeypatch):
    first = tokenise(rows(), tokenizer, 32, tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    monkeypatch.setattr(type(tokenizer), "__call__", None)  # a second tokenising would fail
    again = tokenise(rows(), tokenizer, 32, tmp_path)
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.offsets, again.offsets)


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
