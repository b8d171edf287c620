"""A person's own files: plain text for stage 1, labelled CSV, TSV or JSONL for stage 2."""

from collections.abc import Iterable
from functools import partial

from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.corpus import RATING, SPLITS, Corpus, check_filled, held_out, label_text, text_columns
from poolwise.data.reading import Row, kind_of, read_lines, read_rows
from poolwise.settings import FilesData, UserError, take_all
from poolwise.words import some


def load_files(data: FilesData) -> Corpus:
    """Read the files that `data` names; stage-1 text is `text`, or the training texts where it is not given.

    Raises:
        UserError: a file is missing, empty, not UTF-8, of an unknown kind, lacks a column, a text or a label, or
            splits are missing; what is wrong with all of the files is told together.
    """
    labelled: dict[str, list[Row]] = {}
    texts: dict[str, Dataset] = {}
    take_all(
        [
            lambda: labelled.update(_read_labelled(data)),
            *(partial(_read_texts_into, texts, name, data) for name in ("text", "text_dev")),
        ]
    )
    label_names = _label_names(data, labelled)
    splits = {split: _as_dataset(rows, data, label_names) for split, rows in labelled.items()}
    unrated = {split: rows.select_columns(["text", "label"]) for split, rows in splits.items()}
    return Corpus(_stage1_text(data, texts, splits), unrated, label_names)


def _stage1_text(data: FilesData, texts: dict[str, Dataset], labelled: dict[str, Dataset]) -> dict[str, Dataset]:
    if "text" in texts:
        text, source = texts["text"], f"data.text={data.text}"
    elif labelled:
        text, source = text_columns(labelled["train"]), f"data.train={data.train}"
    else:
        raise UserError("data=files needs data.text (stage 1), or data.train, data.dev and data.test")
    if "text_dev" in texts:
        dev = texts["text_dev"]
    elif "dev" in labelled:
        dev = text_columns(labelled["dev"])
    else:
        text, dev = held_out(text, data.text_dev_share, source)
    return {"train": text, "dev": dev}


def _read_labelled(data: FilesData) -> dict[str, list[Row]]:
    """The rows of the labelled files: of all three, or of train alone; none where no file is named."""
    paths = {split: _path(data, split) for split in SPLITS}
    missing = [f"data.{split}" for split, path in paths.items() if path is None]
    if len(missing) == len(SPLITS):
        return {}
    rows: dict[str, list[Row]] = {}

    def read(split: str, path: str) -> None:
        rows[split] = list(read_rows(path, (data.text_column, data.label_column, *_rating_columns(data))))
        named = (("text", data.text_column), ("label", data.label_column))
        check_filled(path, {what: [row[column] for row in rows[split]] for what, column in named})

    def check_given() -> None:
        if missing and missing != ["data.dev", "data.test"]:
            raise UserError(f"stage 2 needs three labelled files; not given: {', '.join(missing)}")

    take_all([check_given, *(partial(read, split, path) for split, path in paths.items() if path is not None)])
    return rows


def _label_names(data: FilesData, labelled: dict[str, list[Row]]) -> tuple[str, ...]:
    """The classes, sorted by name: those of train, which must be at least two and hold those of dev and test."""
    if not labelled:
        return ()
    found = {split: sorted({label_text(row[data.label_column]) for row in rows}) for split, rows in labelled.items()}
    names = tuple(found["train"])
    messages = [
        f"{getattr(data, split)}: {'labels' if len(unknown) > 1 else 'label'} {some(map(repr, unknown))} not in "
        f"{data.train}; the classifier knows {some(map(repr, names))}"
        for split, labels in found.items()
        if (unknown := [label for label in labels if label not in names])
    ]
    if len(names) < 2:
        messages.insert(0, f"{data.train}: all labels are {names[0]!r}; a classifier needs at least two classes")
    if messages:
        raise UserError(*messages)
    return names


def _as_dataset(rows: list[Row], data: FilesData, names: tuple[str, ...]) -> Dataset:
    """Columns `text` and `label` (class ids), and `rating` where `data` names its column."""
    features = {"text": Value("string"), "label": ClassLabel(names=list(names))}
    columns = {
        "text": [str(row[data.text_column]) for row in rows],
        "label": [names.index(label_text(row[data.label_column])) for row in rows],
        **_ratings(rows, data),
    }
    rated = {RATING: Value("string")} if data.rating_column is not None else {}
    return Dataset.from_dict(columns, Features(features | rated))


def _read_texts_into(texts: dict[str, Dataset], name: str, data: FilesData) -> None:
    path = _path(data, name)
    if path is not None:
        texts[name] = _read_texts(path, data)


def _path(data: FilesData, name: str) -> str | None:
    """The file that a setting names; none for `data.text=`, which makes no path or that of this folder."""
    path: str | None = getattr(data, name)
    return None if path in ("", ".") else path


def _read_texts(path: str, data: FilesData) -> Dataset:
    """A text a line in `.txt`, else the text column; blank texts are left out; with ratings if asked for."""
    if kind_of(path) == ".txt":
        if data.rating_column is not None:
            raise UserError(
                f"{path} has no column {data.rating_column} (data.rating_column): .txt files hold text only"
            )
        texts: Iterable[str] = (line.rstrip("\r\n") for line in read_lines(path))
        rows: list[Row] = []
    else:
        rows = list(read_rows(path, (data.text_column, *_rating_columns(data))))
        texts = (str(row[data.text_column]) for row in rows)
    columns = {"text": list(texts), **_ratings(rows, data)}
    kept = [number for number, text in enumerate(columns["text"]) if text.strip()]
    if not kept:
        raise UserError(f"{path} holds no text")
    return Dataset.from_dict({name: [column[number] for number in kept] for name, column in columns.items()})


def _ratings(rows: list[Row], data: FilesData) -> dict[str, list[str]]:
    return {} if data.rating_column is None else {RATING: [label_text(row[data.rating_column]) for row in rows]}


def _rating_columns(data: FilesData) -> tuple[str, ...]:
    return () if data.rating_column is None else (data.rating_column,)
