from dataclasses import replace
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from helpers import REPOSITORY, settings
from poolwise.data import hub, parts
from poolwise.data.files import load_files
from poolwise.data.hub import load_hub
from poolwise.settings import FilesData, HubData, UserError

FEATURES = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
SETTINGS = HubData(
    source="hub",
    name="sst2",
    path="nyu-mll/glue",
    configuration="sst2",
    text=("train",),
    train="train",
    dev=None,
    test="validation",
    dev_share=0.2,
    text_column="sentence",
    label_column="label",
    max_length=64,
)


def split(prefix: str, size: int, label: int | None = None) -> Dataset:
    labels = [number % 2 if label is None else label for number in range(size)]
    return Dataset.from_dict({"sentence": [f"{prefix} {n}" for n in range(size)], "label": labels}, features=FEATURES)


@pytest.fixture
def splits(monkeypatch):
    """The hub's answer, in the form that `datasets` gives it; there is no network in tests."""
    found = {"train": split("train", 50), "validation": split("validation", 10), "test": split("test", 10, -1)}
    monkeypatch.setattr(hub, "load_dataset", lambda path, configuration, split: found[split])
    return found


def test_dev_is_carved_from_train_and_kept_out_of_stage_1(splits):
    corpus = load_hub(SETTINGS)
    train, dev = (set(corpus.labelled[name]["text"]) for name in ("train", "dev"))
    assert (len(train), len(dev), len(corpus.labelled["test"])) == (40, 10, 10)
    assert not train & dev
    assert set(corpus.text["train"]["text"]) == train
    assert set(corpus.text["dev"]["text"]) == dev
    assert corpus.label_names == ("negative", "positive")
    assert sorted(corpus.labelled["dev"]["label"]) == [0] * 5 + [1] * 5
    assert corpus.made_splits == {"dev": {"from": "train", "share": 0.2, "seed": 0, "stratified": True, "texts": 10}}


def test_hidden_test_labels_are_refused(splits):
    with pytest.raises(UserError, match="labels of its test split are hidden"):
        load_hub(HubData(**{**SETTINGS.__dict__, "test": "test"}))


def test_more_labels_than_the_head_has(splits):
    wide = Features({"sentence": Value("string"), "label": Value("int64")})
    splits["train"] = split("train", 50).cast(wide)
    splits["validation"] = Dataset.from_dict({"sentence": ["x", "y"], "label": [1, 4]}, features=wide)
    with pytest.raises(UserError, match="the test split has labels 4, and the head has the 2 classes 0, 1 only"):
        load_hub(SETTINGS)


def test_labels_that_are_words_or_start_at_one_become_class_ids(splits):
    for labels, names in ((["good", "bad"], ("bad", "good")), ([1, 2], ("1", "2"))):
        for name in ("train", "validation"):
            splits[name] = Dataset.from_dict({"sentence": [f"{name} {n}" for n in range(10)], "label": labels * 5})
        corpus = load_hub(SETTINGS)
        assert corpus.label_names == names
        assert set(corpus.labelled["test"]["label"]) == {0, 1}
        assert [names[label] for label in corpus.labelled["test"]["label"]] == [str(label) for label in labels * 5]


def test_further_text_is_read_by_stage_1(splits):
    corpus = load_hub(HubData(**{**SETTINGS.__dict__, "text": ("train", "test"), "dev": "validation"}))
    assert len(corpus.text["train"]) == 60
    assert len(corpus.labelled["train"]) == 50


def test_a_column_that_is_not_there_is_told(splits):
    with pytest.raises(UserError, match="no column text; it has sentence, label"):
        load_hub(HubData(**{**SETTINGS.__dict__, "text_column": "text"}))


def test_rows_without_text_or_label_are_left_out_and_told(splits, caplog):
    rows = {"sentence": ["x", " ", "y", None, "z"], "label": [0, 1, 1, 0, None]}
    splits["validation"] = Dataset.from_dict(rows, features=FEATURES)
    assert list(load_hub(SETTINGS).labelled["test"]["text"]) == ["x", "y"]
    corpus = load_hub(HubData(**{**SETTINGS.__dict__, "text": ("validation", "test"), "test": "train"}))
    assert list(corpus.text["train"]["text"]) == ["x", "y", "z", *splits["test"]["sentence"]]
    assert corpus.left_out["stage1"] == {"train": 2, "dev": 0}
    told = "nyu-mll/glue, split validation: {} left out"
    assert caplog.messages == [told.format("3 rows without text or label"), told.format("2 rows without text")]


def test_near_copies_of_dev_go_with_it_where_they_are_looked_for(splits):
    texts = [f"a long enough film of the year {100 + 7 * n} was seen by number {n}" for n in range(50)]
    texts[10:20] = [f"{text} times" for text in texts[:10]]
    splits["train"] = Dataset.from_dict({"sentence": texts, "label": [n % 2 for n in range(50)]}, features=FEATURES)
    across = []
    for near in (False, True):
        labelled = load_hub(HubData(**{**SETTINGS.__dict__, "near_copies": near})).labelled
        train, dev = (set(labelled[name]["text"]) for name in ("train", "dev"))
        assert len(train | dev) == 50
        across.append(sum((texts[n] in dev) != (texts[n + 10] in dev) for n in range(10)))
    assert across[0] > 0 == across[1]


def test_a_column_of_lists_is_refused(splits):
    splits["train"] = Dataset.from_dict({"sentence": [["x"]], "label": [0]})
    with pytest.raises(UserError, match="column sentence of nyu-mll/glue holds lists"):
        load_hub(SETTINGS)


@pytest.mark.parametrize("error", [RuntimeError("scripts are no longer supported"), DatasetGenerationError("cut off")])
def test_whatever_the_hub_fails_with_is_one_message(monkeypatch, error):
    def fail(*given, **further):
        raise error

    monkeypatch.setattr(hub, "load_dataset", fail)
    with pytest.raises(UserError, match=rf"nyu-mll/glue \(split .*\) could not be loaded \(.*{error}\)"):
        load_hub(SETTINGS)


def test_without_network_the_message_says_what_to_do_instead():
    with pytest.raises(UserError, match="use data=demo"):
        load_hub(SETTINGS)


TEXT, NUMBER = Value("string"), Value("int64")
PUBLISHED: dict[str, tuple[dict, dict[str, bool]]] = {
    "sst2": (
        {"sentence": TEXT, "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32")},
        {"train": True, "validation": True, "test": False},
    ),
    "imdb": (
        {"text": TEXT, "label": ClassLabel(names=["neg", "pos"])},
        {"train": True, "test": True, "unsupervised": False},
    ),
    "rotten_tomatoes": (
        {"text": TEXT, "label": ClassLabel(names=["neg", "pos"])},
        {"train": True, "validation": True, "test": True},
    ),
    "yelp_polarity": ({"text": TEXT, "label": ClassLabel(names=["1", "2"])}, {"train": True, "test": True}),
    "amazon_polarity": (
        {"label": ClassLabel(names=["negative", "positive"]), "title": TEXT, "content": TEXT},
        {"train": True, "test": True},
    ),
    "tweet_eval": (
        {"text": TEXT, "label": ClassLabel(names=["negative", "neutral", "positive"])},
        {"train": True, "validation": True, "test": True},
    ),
    "sst5": ({"text": TEXT, "label": NUMBER, "label_text": TEXT}, {"train": True, "validation": True, "test": True}),
    "chnsenticorp": (
        {"text": TEXT, "label": ClassLabel(names=["negative", "positive"])},
        {"train": True, "validation": True, "test": True},
    ),
}
"""Columns in their order, and splits with whether their labels are told, as the pages of these data sets have them."""


def published(folder: Path, name: str, configuration: str | None) -> None:
    """A small data set with the columns and splits of a published one."""
    columns, splits = PUBLISHED[name]
    classes = len(columns["label"].names) if isinstance(columns["label"], ClassLabel) else 5
    lines = ["---", "configs:", f"- config_name: {configuration or 'default'}", "  data_files:"]
    for split, is_told in splits.items():
        rows = {
            column: [f"{column} {split} {n}" for n in range(60)] if feature == TEXT else list(range(60))
            for column, feature in columns.items()
        } | {"label": [n % classes if is_told else -1 for n in range(60)]}
        features = Features({column: columns[column] for column in columns})
        Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
        lines += [f"  - split: {split}", f"    path: {split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_fits_the_data_set_as_it_is_published(name, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    data = settings("stage=mlm", f"data={name}", f"data.path={tmp_path / 'hub'}").data
    published(tmp_path / "hub", name, data.configuration)
    corpus = load_hub(data)
    column = {"sst2": "sentence", "amazon_polarity": "content"}.get(name, "text")
    known = PUBLISHED[name][0]["label"]
    named = {"sst5": ("very negative", "negative", "neutral", "positive", "very positive")}
    named["yelp_polarity"] = ("negative", "positive")
    assert corpus.label_names == named.get(name, tuple(known.names if isinstance(known, ClassLabel) else ()))
    test, dev = {"sst2": "validation"}.get(name, "test"), "train" if corpus.made_splits else "validation"
    assert corpus.labelled["test"]["text"][0] == f"{column} {test} 0"
    assert corpus.labelled["dev"]["text"][0].startswith(f"{column} {dev} ")
    texts = sum(len(rows) for rows in (corpus.text["train"], *(corpus.text["dev"] for _ in corpus.made_splits)))
    assert texts == (120 if name == "imdb" else 60)


def test_every_preset_of_the_hub_is_held_against_its_data_set():
    files = (REPOSITORY / "conf/data").glob("*.yaml")
    assert {file.stem for file in files if "source: hub" in file.read_text()} == {*PUBLISHED}


def test_classes_of_numbers_are_named_and_dev_is_drawn_by_its_seed(splits):
    named = load_hub(replace(SETTINGS, class_names=("bad", "good")))
    assert named.label_names == ("bad", "good")
    assert load_hub(SETTINGS).label_names == ("negative", "positive")
    dev = [load_hub(replace(SETTINGS, split_seed=seed)).labelled["dev"]["text"][:] for seed in (0, 0, 1)]
    assert dev[0] == dev[1] != dev[2]
    with pytest.raises(UserError, match=r"data.class_names=\['bad'\]: nyu-mll/glue has 2 classes"):
        load_hub(replace(SETTINGS, class_names=("bad",)))


def own(**given: str) -> FilesData:
    names = "text text_dev train dev test text_column label_column rating_column".split()
    shares = {"text_dev_share": 0.1, "dev_share": 0.1, "test_share": 0.2, "split_seed": 0}
    return FilesData(**(dict.fromkeys(names) | shares | {"source": "files", "name": "own", "max_length": 16} | given))


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """Publishes a data set as `owner/NAME`; a folder stands in for the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(parts, "load_dataset", lambda name, *further: load_dataset(str(tmp_path / name), *further))

    def publish(name: str, configuration: str | None = None) -> None:
        (tmp_path / "owner" / name).mkdir(parents=True)
        published(tmp_path / "owner" / name, name, configuration)

    return publish


def test_a_name_of_the_hub_stands_for_its_splits_and_classes(on_hub, tmp_path):
    on_hub("rotten_tomatoes")
    corpus = load_files(own(train="owner/rotten_tomatoes"), tmp_path / "rows")
    first = {split: (len(rows), rows[0]["text"]) for split, rows in corpus.labelled.items()}
    assert first == {"train": (60, "text train 0"), "dev": (60, "text validation 0"), "test": (60, "text test 0")}
    assert corpus.label_names == ("neg", "pos")
    assert corpus.labelled["test"]["label"][:4] == [0, 1, 0, 1]
    assert corpus.made_splits == {}
    assert list(corpus.text["train"]["text"]) == list(corpus.labelled["train"]["text"])


def test_a_name_of_the_hub_without_dev_has_one_made(on_hub):
    on_hub("imdb")
    corpus = load_files(own(train="owner/imdb"))
    assert {split: len(rows) for split, rows in corpus.labelled.items()} == {"train": 54, "dev": 6, "test": 60}
    assert list(corpus.made_splits) == ["dev"]


def test_a_name_of_the_hub_with_a_configuration_and_a_hidden_test(on_hub, tmp_path):
    on_hub("sst2", "sst2")
    name = "owner/sst2:sst2"
    corpus = load_files(own(text=name, text_dev=name))
    assert [(len(rows), rows[0]["text"]) for rows in corpus.text.values()] == [
        *((60, "sentence train 0"), (60, "sentence validation 0"))
    ]
    with pytest.raises(UserError, match=rf"{name}, split test, row 1: the label in label is hidden \(-1\)"):
        load_files(own(train=name))
    (tmp_path / "test.csv").write_text("text,label\ndull,negative\nfine,positive\n")
    corpus = load_files(own(train=name, test=str(tmp_path / "test.csv")))
    assert corpus.label_names == ("negative", "positive")
    assert [len(corpus.labelled[split]) for split in ("train", "dev", "test")] == [60, 60, 2]
    with pytest.raises(UserError, match=r"owner/sst2:sst3 cannot be read: .* the hub does not give it \(.*sst3"):
        load_files(own(train="owner/sst2:sst3"))


def test_a_name_that_the_hub_does_not_give_is_one_message():
    told = r"^nobody/nothing cannot be read: No such file or directory, and the hub does not give it \(.+\)$"
    with pytest.raises(UserError, match=told):
        load_files(own(train="nobody/nothing"))
