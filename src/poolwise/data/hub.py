"""Data sets of the Hugging Face hub."""

from datasets import Dataset, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError

from poolwise.data.corpus import Corpus, held_out
from poolwise.settings import HubData, UserError


def load_hub(data: HubData) -> Corpus:
    """Load a data set from the hub or its local cache.

    Where `data.dev` is null, a share of train is held out as dev, and stage 1 does not read it. Hidden test
    labels (-1, as in GLUE) are refused.

    Raises:
        UserError: the data set cannot be had, lacks a split or column, or its test labels are hidden.
    """
    wanted = {*data.text, data.train, data.test, *([data.dev] if data.dev else [])}
    splits = {name: _load_split(data, name) for name in wanted}
    train = splits[data.train]
    if data.dev is None:
        train, dev = held_out(train, data.dev_share)
    else:
        dev = splits[data.dev]
    labelled = {"train": train, "dev": dev, "test": splits[data.test]}
    for split, rows in labelled.items():
        if min(rows["label"]) < 0:
            raise UserError(f"{data.path}: the labels of its {split} split are hidden; name another split")
    texts = [train if name == data.train else splits[name] for name in data.text]
    text = concatenate_datasets([rows.select_columns("text") for rows in texts])
    names = getattr(train.features["label"], "names", None) or sorted(map(str, set(train["label"])))
    return Corpus({"train": text, "dev": dev.select_columns("text")}, labelled, tuple(names))


def _load_split(data: HubData, split: str) -> Dataset:
    try:
        rows = load_dataset(data.path, data.configuration, split=split)
    except (OSError, ValueError, DatasetNotFoundError) as error:
        raise UserError(
            f"data={data.name}: {data.path} (split {split}) could not be loaded ({error}). Without network, "
            "use data=demo, or your own files with data=files"
        ) from error
    lacking = {data.text_column, data.label_column} - set(rows.column_names)
    if lacking:
        raise UserError(
            f"data={data.name}: {data.path} has no column {', '.join(sorted(lacking))}; "
            f"it has {', '.join(rows.column_names)}"
        )
    rows = rows.select_columns([data.text_column, data.label_column])
    return (
        rows.rename_columns({data.text_column: "text", data.label_column: "label"})
        if ((data.text_column, data.label_column) != ("text", "label"))
        else rows
    )
