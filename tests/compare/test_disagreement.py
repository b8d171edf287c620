import numpy as np
import pandas
import pytest

from helpers import EXAMPLES, settings, write_run
from poolwise.compare.disagreement import disputed_examples, disputed_texts
from poolwise.compare.records import Condition, read_runs
from poolwise.data.corpus import content_hash
from poolwise.data.sources import load_demo
from poolwise.settings import DemoData, typed

DEMO = {"source": "demo", "name": "demo", "text": 8, "text_dev": 8, "train": 8, "dev": 8, "test": EXAMPLES}
DEMO |= {"seed": 0, "label_noise": 0.0, "max_length": 64}


def test_examples_are_ordered_by_how_far_conditions_are_apart():
    shares = np.array([[1.0, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 0.9]])
    assert disputed_examples(shares) == [2, 1, 3]
    assert disputed_examples(shares, count=1) == [2]


@pytest.fixture
def conditions(tmp_path):
    corpus = load_demo(DemoData(**typed(DemoData, DEMO)))
    for seed in (1, 2):
        write_run(tmp_path, "cls", seed, [3], dev=0.9)
        write_run(tmp_path, "mean", seed, [3, 5] if seed == 1 else [3], dev=0.9)
    runs = read_runs(tmp_path, "sentiment")
    labelled = {"labelled": {"test": content_hash(corpus.labelled["test"])}}
    runs = runs.assign(
        config=[{"data": DEMO}] * len(runs), material=[{**material, **labelled} for material in runs["material"]]
    )
    return corpus, [Condition(runs[runs["repr"] == name]) for name in ("cls", "mean")]


def test_the_texts_are_those_that_the_runs_read(conditions):
    corpus, compared = conditions
    (disputed,) = disputed_texts(compared)
    assert disputed.text == corpus.labelled["test"][5]["text"]
    assert disputed.label == ["negative", "positive"][corpus.labelled["test"][5]["label"]]
    assert disputed.shares == {"cls": 1.0, "mean": 0.5}


def test_texts_that_changed_or_are_gone_are_not_shown(conditions):
    _, (first, second) = conditions
    changed = [{**material, "labelled": {"test": "other"}} for material in first.runs["material"]]
    assert disputed_texts([Condition(first.runs.assign(material=changed)), second]) is None
    files = [{"data": {**DEMO, "source": "files"}}] * 2
    assert disputed_texts([Condition(first.runs.assign(config=pandas.Series(files, first.runs.index))), second]) is None


def test_a_record_has_nothing_looked_up_on_the_hub(conditions, monkeypatch):
    """It may come from somebody else's project."""
    _, (first, second) = conditions
    asked = []
    monkeypatch.setattr("poolwise.data.parts._on_hub", asked.append)
    data = settings("data=files", "data.train=owner/name").config["data"]
    first = Condition(first.runs.assign(config=pandas.Series([{"data": data}] * 2, first.runs.index)))
    assert disputed_texts([first, second]) is None
    assert asked == []
