import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.contamination import keys_of
from poolwise.data.corpus import Corpus
from poolwise.data.quality import (
    MOJIBAKE,
    CorpusKeys,
    NearCopies,
    badly_decoded,
    conflicting,
    corpus_figures,
    sample,
    scripts_of_texts,
    scripts_of_vocabulary,
    token_figures,
)

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good", "fair"])})


def texts(*rows: str) -> Dataset:
    return Dataset.from_dict({"text": list(rows)})


def labelled(*rows: tuple[str, int]) -> Dataset:
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]}, FEATURES)


CORPUS = Corpus(
    {"train": texts("a", "b!", "B", "caf\ufffd", "d", "e"), "dev": texts("D!")},
    {
        "train": labelled(("one", 0), ("two", 2), ("One.", 2), ("three", 1), ("two", 2)),
        "dev": labelled(("b", 0), ("ONE", 1), ("five", 0)),
        "test": labelled(("e", 0), ("three", 1), ("six", 0), ("A", 1)),
    },
    ("bad", "good", "fair"),
    left_out={"stage1": {"train": 4, "dev": 0}, "stage2": {"train": 2}},
)


def test_figures_of_a_corpus():
    figures = corpus_figures(CORPUS, CorpusKeys.of(CORPUS))
    assert figures["stage1"] == {
        "train": {"texts": 6, "empty": 4, "repeated": 1, "badly_decoded": 1},
        "dev": {"texts": 1, "empty": 0, "repeated": 0, "badly_decoded": 0},
    }
    assert figures["stage2"]["train"] == {"texts": 5, "empty": 2, "repeated": 2, "badly_decoded": 0}
    assert figures["copies"] == {
        "dev": {"in_train": 1, "in_stage1": 1},
        "test": {"in_train": 1, "in_stage1": 2},
        "text_dev": {"in_stage1": 1},
    }
    assert figures["conflicting_labels"] == 3


def test_the_same_text_with_another_label_is_named_beside_it():
    keys = CorpusKeys.of(CORPUS).labelled
    assert conflicting(CORPUS.labelled, keys) == [
        (("train", 0), ("train", 2)),
        (("train", 2), ("train", 0)),
        (("dev", 1), ("train", 0)),
    ]
    assert conflicting({}, {}) == []


def test_without_labels_the_dev_texts_of_stage_1_are_looked_for():
    corpus = Corpus(CORPUS.text, {}, ())
    keys = CorpusKeys.of(corpus)
    assert corpus_figures(corpus, keys)["copies"] == {"text_dev": {"in_stage1": 1}}
    assert {split: found.tolist() for split, found in keys.held_back.items()} == {"text_dev": keys_of(["d"]).tolist()}


def test_dev_texts_that_both_stages_have_are_looked_for_once():
    corpus = Corpus({**CORPUS.text, "dev": CORPUS.labelled["dev"].select_columns("text")}, CORPUS.labelled, ())
    assert list(corpus_figures(corpus, CorpusKeys.of(corpus))["copies"]) == ["dev", "test"]


def test_near_copies_of_dev_texts_of_stage_1_are_looked_for_in_its_texts_alone():
    near = "a text that is long enough to have a near-copy elsewhere"
    text = {"train": texts("nothing of this is known", f"{near} too"), "dev": texts(f"{near}!")}
    split = labelled((near, 0), ("another text, of another kind", 1))
    for of_labelled in ({}, {"train": split, "dev": split, "test": split}):
        corpus = Corpus(text, of_labelled, ())
        found = NearCopies.of(corpus, CorpusKeys.of(corpus))
        assert found.counts["text_dev"] == {"in_stage1": 1}
        assert found.stage1 == (1,)
        assert list(found.counts) == [*list(of_labelled)[1:], "text_dev"]


@pytest.mark.parametrize("text", ["café", "naïve \u2013 “quoted”…", "ÃÂ", "привет", "你好"])
def test_utf8_that_was_read_as_another_encoding_is_seen(text):
    for encoding in ("cp1252", "latin-1"):
        try:
            spoilt = text.encode().decode(encoding)
        except UnicodeDecodeError:
            continue
        assert MOJIBAKE.search(spoilt), spoilt


@pytest.mark.parametrize("text", ["„Spaß“ und »Spaß«", "déjà vu…", "NÃO à «ça»", "ÎLE \u2013 Évian", "Рядом", "好"])
def test_ordinary_text_is_not_taken_for_it(text):
    assert not MOJIBAKE.search(text)


def test_places_of_badly_decoded_texts():
    rows = texts("plain", "caf\ufffd", "caf\u00c3\u00a9", "caf\u00e9")
    assert badly_decoded(rows) == {"replaced": [1], "mojibake": [2]}
    assert badly_decoded(rows) is badly_decoded(rows)


def test_lengths_and_unknown_word_pieces_are_those_of_the_tokenizer(tokenizer):
    rows = texts("The kettle is good", "a 🙂 film 🙂 中", "dull " * 60)
    found = token_figures(rows, tokenizer)
    ids = [tokenizer(text, truncation=False)["input_ids"] for text in rows["text"]]
    assert found.lengths.tolist() == [len(each) for each in ids]
    assert found.unknown[:2] == ("🙂", "中")
    unknown = sum(each.count(tokenizer.unk_token_id) for each in ids)
    assert found.unknown_share == pytest.approx(unknown / sum(len(each) - 2 for each in ids))
    assert found.words == 4 + 5 + 60


def test_scripts_of_letters_and_of_word_pieces(tokenizer):
    assert scripts_of_texts(texts("abc", "где 12", "漢字")) == pytest.approx(
        {"Latin": 3 / 8, "Cyrillic": 3 / 8, "CJK": 2 / 8}
    )
    assert scripts_of_vocabulary(tokenizer) == {"Latin": 1.0}


def test_a_sample_is_spread_evenly(monkeypatch):
    monkeypatch.setattr("poolwise.data.quality.SAMPLE", 5)
    rows = texts(*(str(number) for number in range(9)))
    assert np.array_equal(sample(rows)["text"], ["0", "2", "4", "6", "8"])
