import logging
import sys
from types import ModuleType

import pytest
from datasets import Dataset
from transformers import BertTokenizer

from helpers import TEXTS
from poolwise.data import segmentation
from poolwise.data.segmentation import segmenter, word_starts
from poolwise.data.tokens import tokenise, train_wordpiece

CHINESE = ["我喜欢这部电影 really", "电影不好"]


def test_words_start_at_all_but_continuations(texts, tokenizer):
    starts = word_starts(texts, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(texts.ids.tolist())
    assert starts.tolist() == [not token.startswith("##") for token in tokens]
    assert 20 < (~starts).sum() < len(starts)


@pytest.fixture
def chinese(tmp_path) -> tuple:
    rows = Dataset.from_dict({"text": CHINESE})
    tokenizer: BertTokenizer = train_wordpiece(Dataset.from_dict({"text": CHINESE + TEXTS}), 200, 32)
    return tokenise(rows, tokenizer, 32, tmp_path), tokenizer


def test_chinese_is_taken_by_character_with_a_notice_where_there_is_no_segmenter(chinese, caplog, monkeypatch):
    monkeypatch.setattr(segmentation, "segmenter", lambda: None)
    with caplog.at_level(logging.WARNING):
        starts = word_starts(*chinese)
    assert "masked by character" in caplog.text
    assert starts[:8].all()


def test_chinese_words_are_the_segmenters(chinese, monkeypatch):
    jieba = ModuleType("jieba")
    jieba.lcut = {"我喜欢这部电影": ["我", "喜欢", "这部", "电影"], "电影不好": ["电影", "不好"]}.__getitem__
    monkeypatch.setitem(sys.modules, "jieba", jieba)
    monkeypatch.setattr(segmentation, "segmenter", lambda: "jieba 1")
    texts, tokenizer = chinese
    starts = word_starts(texts, tokenizer)
    assert starts[:9].tolist() == [True, True, True, False, True, False, True, False, True]
    second = starts[texts.offsets[1] :]
    assert second.tolist() == [True, True, False, True, False, True]


def test_the_segmenter_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None)
    assert segmenter() is None
    monkeypatch.setattr(segmentation, "find_spec", lambda name: name)
    monkeypatch.setattr(segmentation, "version", lambda name: "0.42.1")
    assert segmenter() == "jieba 0.42.1"
