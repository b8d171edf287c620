"""What a setting such as `data.train` names: a file, files by a pattern, a folder, or a data set of the hub."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_dataset_builder, load_from_disk

from poolwise.data.corpus import ROWS_AT_A_TIME, is_whole_stream
from poolwise.data.reading import (
    READERS,
    PlacedRow,
    arrow_rows,
    class_names,
    damage_told,
    kind_of,
    read_lines,
    read_rows,
    suffixes,
)
from poolwise.machine import is_plain_name, stay_offline_without_hub
from poolwise.settings import UserError
from poolwise.words import first_line, some

SPLIT_WORDS = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""How files, folders and data sets call the splits."""
UNLABELLED = "unsup"
"""The folder of texts without a class in the film reviews of Maas et al. 2011."""
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` of `datasets` writes into a folder: of one split, or of several."""


@dataclass(frozen=True)
class Part:
    """Some of the rows that a setting names.

    Attributes:
        path: for messages.
        rows: gives them, each with its place.
        content: gives a hash of all that they depend on.
        fingerprint: gives one for which little is read: of files their names, sizes, and `ENDS` at either end; of a
            streamed data set of the hub, the revision of its files.
        is_text: whether the rows have a text only.
        columns_named: whether a person's names of columns are meant for it.
    """

    path: str
    rows: Callable[[], Iterator[PlacedRow]]
    content: Callable[[], str]
    fingerprint: Callable[[], str]
    is_text: bool = False
    columns_named: bool = True


ENDS = 65_536
"""Bytes of each end of a file that enter its fingerprint: a change between them that keeps its size is not seen."""

Found = dict[str, list[Part]]
"""Parts by split, or all of them under an empty name where no splits are told apart."""


def find_parts(path: str, streaming: bool = False) -> Found:
    """What a path, a pattern or a name of the hub stands for; with `streaming` the latter is not downloaded.

    Raises:
        UserError: there is no such thing, or nothing in it that can be read.
    """
    try:
        is_folder, is_there = Path(path).is_dir(), Path(path).exists()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if is_folder:
        with damage_told(path):
            return _in_folder(Path(path))
    if not is_there and glob.has_magic(path):
        files = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not files:
            raise UserError(f"{path}: no file has such a name")
        return {"": [_file(name) for name in files]}
    if is_of_hub(path):
        return _streamed_from_hub(path) if streaming else _on_hub(path)
    return {"": [_file(path)]}


def is_of_hub(path: str) -> bool:
    """Whether this is not there on disk and has the form of a data set's name on the hub."""
    return not Path(path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not suffixes(path)[0]


def parts_of_split(path: str, found: Found, split: str) -> list[Part]:
    """The parts of one split: all of them where no splits are told apart.

    Raises:
        UserError: there are splits, and this one is not among them.
    """
    if "" in found:
        return found[""]
    if split not in found:
        raise UserError(f"{path}: no split {split}; it has {some(found)}")
    return found[split]


def _file(path: str) -> Part:
    return Part(path, partial(read_rows, path), *_hashes_of_files([path]), is_text=kind_of(path) == ".txt")


def _in_folder(folder: Path) -> Found:
    if (folder / SAVED_SPLITS).is_file():
        saved = _saved(folder)
        return {_split_named(name) or name: [_data_set(str(folder / name), saved[name])] for name in saved}
    if (folder / SAVED).is_file():
        return {"": [_data_set(str(folder), _saved(folder))]}
    if tables := _tables(folder) or _tables(folder / "data"):
        return _by_split({str(file): [_file(str(file))] for file in tables})
    folders = [each for each in sorted(folder.iterdir()) if each.is_dir() and any(each.rglob("*.txt"))]
    if folders and all(_split_named(each.name) for each in folders):
        return _by_split({str(each): _in_folder(each).get("", []) for each in folders})
    texts = {each.name: sorted(each.glob("*.txt")) for each in folders} or {"": sorted(folder.glob("*.txt"))}
    if not any(texts.values()):
        raise UserError(f"{folder} is a folder without files that can be read; they end in {', '.join(READERS)}")
    return {"": [_texts(folder, texts)]}


def _tables(folder: Path) -> list[Path]:
    """The files of a folder that hold rows; JSON only where there is nothing else, as it may describe the others."""
    files = sorted(each for each in folder.glob("*") if each.is_file() and not each.name.startswith("."))
    tables = [each for each in files if suffixes(str(each))[0] in READERS.keys() - {".txt"}]
    return [each for each in tables if suffixes(str(each))[0] != ".json"] or tables


def _by_split(parts: Mapping[str, list[Part]]) -> Found:
    """The parts by the split that their names tell.

    Raises:
        UserError: some names tell a split and others do not; what these are is not guessed.
    """
    splits = {path: _split_named(Path(path).name) or "" for path in parts}
    untold = [path for path, split in splits.items() if not split]
    if untold and any(splits.values()):
        raise UserError(f"{some(untold)}: of train, dev or test? Other files there say it in their names; name files")
    found: Found = {}
    for path, several in parts.items():
        found.setdefault(splits[path], []).extend(several)
    return found


def _split_named(name: str) -> str | None:
    """The split that a name holds as a word: `train-00000-of-00002.parquet` is of train."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in SPLIT_WORDS.items() if words.intersection(known)), None)


def _texts(folder: Path, files: Mapping[str, list[Path]]) -> Part:
    """A text a file, with the name of its folder as label where there are folders."""
    hashes = _hashes_of_files([str(file) for several in files.values() for file in several])
    return Part(str(folder), partial(_whole_files, files), *hashes, is_text="" in files, columns_named=False)


def _whole_files(files: Mapping[str, list[Path]]) -> Iterator[PlacedRow]:
    for label, several in files.items():
        for file in several:
            text = "".join(read_lines(str(file))).strip()
            yield str(file), {"text": text} | ({"label": label} if label else {})


def _saved(folder: Path) -> Dataset | DatasetDict:
    try:
        check_saved(folder)
        return load_from_disk(str(folder))
    except UserError:
        raise
    except Exception as error:  # what a broken folder raises has no type of its own
        raise UserError(f"{folder}: not a whole data set of save_to_disk ({first_line(error)})") from error


def check_saved(folder: Path) -> None:
    """Raise a UserError if a data set of save_to_disk names a file outside of its folder, or one is cut off."""
    if (folder / SAVED_SPLITS).is_file():
        splits = json.loads((folder / SAVED_SPLITS).read_text(encoding="utf-8"))["splits"]
        _refuse_leading_away(folder / SAVED_SPLITS, splits)
        for split in splits:
            check_saved(folder / split)
        return
    files = [each["filename"] for each in json.loads((folder / SAVED).read_text(encoding="utf-8"))["_data_files"]]
    _refuse_leading_away(folder / SAVED, files)
    for name in files:
        if not is_whole_stream(folder / name):
            raise UserError(f"{folder / name}: not a whole Arrow file (it is cut off); copy or save it again")


def _refuse_leading_away(file: Path, names: Iterable[object]) -> None:
    if leading_away := [name for name in names if not is_plain_name(name)]:
        raise UserError(f"{file} names files outside of its folder: {some(leading_away)}")


def _on_hub(name: str) -> Found:
    stay_offline_without_hub()
    try:
        found = load_dataset(name)
    except Exception as error:  # of network, service and data set, each with types of its own
        raise UserError(
            f"{name} cannot be read: No such file or directory, and the hub does not give it ({first_line(error)})"
        ) from error
    return {_split_named(split) or split: [_data_set(f"{name}, split {split}", found[split])] for split in found}


def _streamed_from_hub(name: str) -> Found:
    stay_offline_without_hub()
    try:
        builder = load_dataset_builder(name)
        found = builder.as_streaming_dataset()
    except Exception as error:  # as in `_on_hub`
        raise UserError(f"{name} cannot be streamed: the hub does not give it ({first_line(error)})") from error
    revision = json.dumps([builder.hash, builder.config.name])

    def part(split: str) -> Part:
        path, fingerprint = f"{name}, split {split}", partial(str, [revision, split])
        return Part(path, partial(_placed, path, found[split]), fingerprint, fingerprint)

    return {_split_named(split) or split: [part(split)] for split in found}


def _data_set(path: str, rows: Dataset) -> Part:
    fingerprint = partial(_fingerprint_of_files, [file["filename"] for file in rows.cache_files])
    return Part(path, partial(_placed, path, rows), partial(_hash_of_tables, rows), fingerprint)


def _placed(path: str, rows: Dataset | IterableDataset) -> Iterator[PlacedRow]:
    batches = rows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME)
    yield from arrow_rows(path, batches, class_names(rows.features.arrow_schema) if rows.features else {})


def _hashes_of_files(paths: list[str]) -> tuple[Callable[[], str], Callable[[], str]]:
    return partial(_hash_of_files, paths), partial(_fingerprint_of_files, paths)


def _fingerprint_of_files(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with damage_told(path), Path(path).open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            own = hashlib.sha256(stream.read(ENDS))
            stream.seek(max(length - ENDS, 0))
            own.update(stream.read(ENDS))
        name = f"{Path(path).parent.name}/{Path(path).name}"
        digest.update(f"{name} {length} {own.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _hash_of_files(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with damage_told(path), Path(path).open("rb") as stream:
            own = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{Path(path).parent.name}/{Path(path).name} {own}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _hash_of_tables(rows: Dataset) -> str:
    digest = hashlib.sha256(str(rows.features).encode())
    for batch in rows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME):
        digest.update(repr(batch.to_pylist()).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
