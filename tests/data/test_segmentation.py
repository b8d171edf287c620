import logging
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertTokenizer

from helpers import MASKING, TEXTS
from poolwise.data import segmentation
from poolwise.data.batching import MaskedBatches
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


def test_chinese_words_are_those_of_jieba(chinese, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    segmentation._chinese_segmenter.cache_clear()
    texts, tokenizer = chinese
    starts = word_starts(texts, tokenizer)
    assert words(texts, tokenizer, starts, 0)[:6] == ["[CLS]", "我", "喜欢", "这部", "电影", "really"]
    assert words(texts, tokenizer, starts, 1) == ["[CLS]", "电影", "不好", "[SEP]"]
    assert not list(tmp_path.glob("jieba*"))
    assert capfd.readouterr().err == ""


def test_slices_and_a_mapped_file_give_what_the_whole_at_once_gives(chinese, tmp_path, monkeypatch, caplog):
    _, tokenizer = chinese
    rows = Dataset.from_dict({"text": [*CHINESE, *TEXTS, "", *reversed(CHINESE)]})
    texts = tokenise(rows, tokenizer, 32, tmp_path)
    expected = word_starts(texts, tokenizer)
    (tmp_path / "folder").mkdir()
    for texts_a_slice in (1, 3):
        monkeypatch.setattr(segmentation, "ROWS_AT_A_TIME", texts_a_slice)
        assert np.array_equal(word_starts(texts, tokenizer), expected)
        mapped = word_starts(texts, tokenizer, tmp_path / "folder")
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == bool
        assert np.array_equal(mapped, expected)
    assert not list((tmp_path / "folder").iterdir())
    monkeypatch.setattr(segmentation, "segmenter", lambda: None)
    word_starts(texts, tokenizer)
    assert caplog.text.count("masked by character") == 1


def words(texts, tokenizer, starts, number) -> list[str]:
    """The words of a text, as their starts cut it."""
    places = range(texts.offsets[number], texts.offsets[number + 1])
    found: list[str] = []
    for place in places:
        piece = tokenizer.convert_ids_to_tokens(int(texts.ids[place])).removeprefix("##")
        if starts[place]:
            found.append("")
        found[-1] += piece
    return found


def test_whole_chinese_words_are_masked(chinese):
    texts, tokenizer = chinese
    batches = MaskedBatches(texts, tokenizer, replace(MASKING, mask_probability=0.4, unit="word"), seed=1)
    starts = word_starts(texts, tokenizer)
    word_numbers = np.cumsum(starts)[texts.offsets[0] : texts.offsets[1]]
    wholly, partly = set(), set()
    for epoch in range(20):
        labelled = (batches[[(epoch, 0)]]["labels"][0] != -100).numpy()
        for number in word_numbers:
            of_word = labelled[word_numbers == number]
            (wholly if of_word.all() else partly if of_word.any() else set()).add(int(number))
    assert wholly == {2, 3, 4, 5, 6}  # 我 喜欢 这部 电影 really
    assert partly == set()


def test_the_segmenter_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None)
    assert segmenter() is None
    monkeypatch.setattr(segmentation, "find_spec", lambda name: name)
    monkeypatch.setattr(segmentation, "version", lambda name: "0.42.1")
    assert segmenter() == "jieba 0.42.1"
