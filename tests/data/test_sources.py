from dataclasses import replace

import pytest
from datasets import Dataset

from poolwise.data.corpus import held_out
from poolwise.data.sources import load_corpus
from poolwise.settings import DemoData, UserError

DEMO = DemoData(
    source="demo",
    name="demo",
    text=60,
    text_dev=20,
    train=50,
    dev=20,
    test=30,
    seed=0,
    label_noise=0.0,
    max_length=96,
)


def test_demo_splits_are_disjoint_and_of_the_asked_sizes():
    corpus = load_corpus(DEMO)
    splits = [*corpus.text.values(), *corpus.labelled.values()]
    assert [len(split) for split in splits] == [60, 20, 50, 20, 30]
    assert len({text for split in splits for text in split["text"]}) == 180
    assert corpus.label_names == ("negative", "positive")


def test_label_noise_changes_labels_only():
    plain, noisy = load_corpus(DEMO), load_corpus(replace(DEMO, label_noise=0.4))
    assert list(plain.labelled["train"]["text"]) == list(noisy.labelled["train"]["text"])
    assert list(plain.labelled["train"]["label"]) != list(noisy.labelled["train"]["label"])


def test_jobs_of_a_process_share_a_corpus():
    assert load_corpus(DEMO) is load_corpus(replace(DEMO))


def test_held_out_is_a_seeded_share():
    texts = Dataset.from_dict({"text": [str(number) for number in range(40)]})
    stays, out = held_out(texts, 0.1)
    assert (len(stays), len(out)) == (36, 4)
    assert sorted([*stays["text"], *out["text"]], key=int) == list(texts["text"])
    assert list(held_out(texts, 0.1)[1]["text"]) == list(out["text"])
    assert len(held_out(texts, 0.001)[1]) == 1
    with pytest.raises(UserError, match="too few"):
        held_out(texts.select([0]), 0.1)
