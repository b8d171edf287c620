from dataclasses import replace

from poolwise.data.sources import load_corpus
from poolwise.settings import DemoData

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
