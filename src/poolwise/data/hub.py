"""Data sets of the Hugging Face hub."""

import logging
from functools import partial

import numpy as np
from datasets import ClassLabel, Dataset, Value, concatenate_datasets, load_dataset

from poolwise.data.contamination import near_groups, text_keys
from poolwise.data.corpus import SPLITS, Corpus, batches_of_rows, label_text, labels_of
from poolwise.data.draws import share_of_texts
from poolwise.machine import stay_offline_without_hub
from poolwise.settings import HubData, UserError, take_all
from poolwise.words import counted, first_line, some

log = logging.getLogger(__name__)


def load_hub(data: HubData) -> Corpus:
    """Load a data set from the hub or its local cache.

    Where `data.dev` is null, a share of train is held out as dev, and stage 1 does not read it. Hidden test
    labels (-1, as in GLUE) are refused.

    Raises:
        UserError: the data set cannot be had, lacks a split or a column, or its test labels are hidden.
    """
    stay_offline_without_hub()
    labelled_splits = dict.fromkeys((data.train, data.dev or data.train, data.test))
    empty: dict[str, int] = {}
    splits = {name: _load_split(data, name, name in labelled_splits, empty) for name in {*data.text, *labelled_splits}}
    given = {"train": splits[data.train], "test": splits[data.test]}
    given |= {"dev": splits[data.dev]} if data.dev is not None else {}
    names = _label_names(data, given["train"])
    take_all(partial(_check_labels, data, split, rows, names) for split, rows in given.items())
    labelled, made = {split: _as_ids(rows, names) for split, rows in given.items()}, {}
    if data.dev is None:
        train = labelled["train"]
        keys = near_groups(train) if data.near_copies else text_keys(train)
        out = share_of_texts(labels_of(train), keys, data.dev_share, data.split_seed)
        labelled |= {split: train.select(np.flatnonzero(at)) for split, at in (("train", ~out), ("dev", out))}
        found = len(labelled["dev"])
        how = {"share": data.dev_share, "seed": data.split_seed, "stratified": True}
        made["dev"] = {"from": "train", **how, "texts": found}
    texts = [labelled["train"] if name == data.train else splits[name] for name in data.text]
    text = concatenate_datasets([rows.select_columns("text") for rows in texts])
    labelled = {split: labelled[split] for split in SPLITS}
    left_out = {
        "stage1": {"train": sum(empty[name] for name in data.text), "dev": empty.get(data.dev or "", 0)},
        "stage2": {split: empty.get(getattr(data, split) or "", 0) for split in SPLITS},
    }
    text_splits = {"train": text, "dev": labelled["dev"].select_columns("text")}
    return Corpus(text_splits, labelled, data.class_names or names, made_splits=made, left_out=left_out)


def _label_names(data: HubData, train: Dataset) -> tuple[str, ...]:
    """The classes: as the data set names them, or else the labels of train, sorted."""
    names = getattr(train.features["label"], "names", None) or list(
        dict.fromkeys(map(label_text, sorted(set(train["label"]))))
    )
    if len(names) < 2:
        raise UserError(f"data={data.name}: all labels of {data.train} are {names[0]!r}; a classifier needs two")
    if data.class_names is not None and len(data.class_names) != len(names):
        raise UserError(
            f"data.class_names={list(data.class_names)}: {data.path} has {len(names)} classes ({some(names)})"
        )
    return tuple(map(str, names))


def _check_labels(data: HubData, split: str, rows: Dataset, names: tuple[str, ...]) -> None:
    """Raise a UserError if labels are hidden, or more than the head has classes."""
    numbered = hasattr(rows.features["label"], "names")
    found = set(rows["label"])
    if numbered and min(found) < 0:
        raise UserError(f"{data.path}: the labels of its {split} split are hidden; name another split")
    beyond = sorted(found - set(range(len(names)))) if numbered else sorted(set(map(label_text, found)) - set(names))
    if beyond:
        raise UserError(
            f"{data.path}: the {split} split has labels {some(beyond)}, and the head has the {len(names)} classes "
            f"{some(names)} only"
        )


def _as_ids(rows: Dataset, names: tuple[str, ...]) -> Dataset:
    """The rows with class ids 0 to C - 1 as labels."""
    if hasattr(rows.features["label"], "names"):
        return rows
    ids = [names.index(label_text(label)) for label in rows["label"]]
    return rows.remove_columns("label").add_column("label", ids).cast_column("label", ClassLabel(names=list(names)))


def _load_split(data: HubData, split: str, labelled: bool, empty: dict[str, int]) -> Dataset:
    """A split, without the rows that hold no text, or no label where there must be one: nobody can fill these in.

    How many these are is noted in `empty`.
    """
    try:
        rows = load_dataset(data.path, data.configuration, split=split)
    except Exception as error:  # of network, service and data set, each with types of its own
        raise UserError(
            f"data={data.name}: {data.path} (split {split}) could not be loaded ({first_line(error)}). Without "
            "network, use data=demo, or your own files with data=files"
        ) from error
    lacking = {data.text_column, data.label_column} - set(rows.column_names)
    if lacking:
        raise UserError(
            f"data={data.name}: {data.path} has no column {', '.join(sorted(lacking))}; "
            f"it has {', '.join(rows.column_names)}"
        )
    for column in (data.text_column, data.label_column):
        if not isinstance(rows.features[column], Value | ClassLabel):
            raise UserError(
                f"data={data.name}: column {column} of {data.path} holds lists; it must hold one value a row"
            )
    rows = rows.select_columns([data.text_column, data.label_column])
    renamed = {data.text_column: "text", data.label_column: "label"}
    rows = rows.rename_columns({old: new for old, new in renamed.items() if old != new})
    columns = ("text", "label") if labelled else ("text",)
    filled = np.array(
        [
            all(value is not None and str(value).strip() for value in values)
            for batch in batches_of_rows(rows)
            for values in zip(*(batch[what] for what in columns), strict=True)
        ]
    )
    empty[split] = int((~filled).sum())
    if filled.all():
        return rows
    without = counted(empty[split], "row")
    log.warning("%s, split %s: %s without %s left out", data.path, split, without, " or ".join(columns))
    return rows.select(np.flatnonzero(filled))
