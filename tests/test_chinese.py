"""The way of Chinese text from a table and a vocabulary to a report."""

import json
import sys
from importlib.metadata import version
from itertools import pairwise

import pandas
import pytest

from helpers import SMALL_RUN
from poolwise import report

WORDS = {"good": ["很好", "喜欢", "漂亮"], "bad": ["很差", "讨厌", "难看"]}
THINGS = ["房间", "电影", "音乐", "手机", "服务", "早餐"]
PLACES = ["这家酒店的", "我买的", "昨天的", "朋友说的", "上海的"]


@pytest.mark.slow
def test_chinese_from_text_to_report(program, tmp_path, monkeypatch, capsys):
    rows = [
        (f"{place}{thing}{word}又{again}。", label)
        for label, words in WORDS.items()
        for word, again in pairwise(words)
        for thing in THINGS
        for place in PLACES
    ]
    characters = dict.fromkeys(character for text, _ in rows for character in text)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    table = "".join(f"{text}\t{label}\n" for text, label in rows)
    (tmp_path / "reviews.tsv").write_text("text\tlabel\n" + table, encoding="utf-8")
    own = [word for word in SMALL_RUN if word.startswith(("model.", "trainer")) and "vocabulary" not in word]
    own += ["data=files", f"data.train={tmp_path / 'reviews.tsv'}", f"model.vocabulary={tmp_path / 'vocab.txt'}"]
    own += ["logger=csv", "data.max_length=32"]
    assert program("stage=mlm", *own, "pretraining.masking.unit=word", "pretraining.epochs=2") == 0
    stage2 = [*own, "stage1.masking.unit=word", "stage1.epochs=2", "protocol.epochs=2", "seed=1", "-m"]
    assert program("stage=sentiment", *stage2, "repr=pooler,mean") == 0
    runs = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert sorted(run["repr"] for run in runs) == ["mean", "pooler"]
    assert {tuple(run["label_names"]) for run in runs} == {("bad", "good")}
    (first,) = (json.loads(file.read_text()) for file in (tmp_path / "runs/mlm").glob("*/record.json"))
    assert first["material"]["segmenter"] == f"jieba {version('jieba')}"
    predictions = [pandas.read_parquet(file) for file in (tmp_path / "runs/sentiment").glob("*/predictions.parquet")]
    assert all((of["split"] == "test").sum() == 24 for of in predictions)
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path / "runs")])
    report.main()
    page = (tmp_path / "runs/report/index.html").read_text(encoding="utf-8")
    assert "pooler" in page
    assert "mean" in page
