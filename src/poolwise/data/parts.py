"""What a setting such as `data.train` names: a file, files by a pattern, a folder, or a data set of the hub."""

import glob
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_dataset_builder, load_from_disk
from pyarrow import Table

from poolwise.data.corpus import ROWS_AT_A_TIME, is_whole_stream
from poolwise.data.reading import (
    HEADLESS,
    READERS,
    PlacedRow,
    arrow_rows,
    class_names,
    damage_told,
    kind_of,
    plain,
    read_lines,
    read_rows,
    suffixes,
)
from poolwise.durable import hash_of_file
from poolwise.machine import is_plain_name, stay_offline_without_hub
from poolwise.settings import TextPer, UserError
from poolwise.words import first_line, some

log = logging.getLogger(__name__)

SPLIT_WORDS = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""How files, folders and data sets call the splits."""
UNLABELLED = "unsup"
"""The folder of texts without a class in the film reviews of Maas et al. 2011."""
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` of `datasets` writes into a folder: of one split, or of several."""
NO_DATA = re.compile(
    r"(readme|licen[cs]e|citation|requirements|urls|urls_(neg|pos|unsup)|imdber)\.txt"
    r"|(dataset_infos?|dataset_dict|dataset-metadata|state)\.json"
)
"""Names of files that are about data and hold none: common ones, those of aclImdb, of `datasets` and of Kaggle."""


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


@dataclass(frozen=True)
class Layout:
    """How files are laid out, where they do not say it themselves.

    Attributes:
        text_per: of `.txt` files, whether each line is a text or each file; None for a file in a folder, else a line.
        header: whether the first row of a table names its columns; where not, their names are 1, 2, 3, ...
        streaming: whether the first row must come before all of a file is read.
    """

    text_per: TextPer = None
    header: bool = True
    streaming: bool = False


ENDS = 65_536
"""Bytes of each end of a file that enter its fingerprint: a change between them that keeps its size is not seen."""

Found = dict[str, list[Part]]
"""Parts by split, or all of them under an empty name where no splits are told apart."""


def find_parts(path: str, layout: Layout = Layout()) -> Found:
    """What a path, a pattern or a name of the hub stands for; what is streamed of the latter is not downloaded.

    Raises:
        UserError: there is no such thing, or nothing in it that can be read.
    """
    try:
        is_folder, is_there = Path(path).is_dir(), Path(path).exists()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if is_folder:
        with damage_told(path):
            return _in_folder(Path(path), layout)
    if not is_there and glob.has_magic(path):
        files = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not files:
            raise UserError(f"{path}: no file has such a name")
        return {"": _files(path, list(map(Path, files)), layout)}
    if is_of_hub(path):
        return _streamed_from_hub(path) if layout.streaming else _on_hub(path)
    return {"": _files(path, [Path(path)], layout)}


def is_of_hub(path: str) -> bool:
    """Whether this is not on disk and has the form of a name of the hub: `OWNER/NAME`, `OWNER/NAME:CONFIGURATION`."""
    named = re.fullmatch(r"([\w.-]+/[\w.-]+)(:[\w.-]+)?", path)
    return not Path(path).exists() and named is not None and not suffixes(named[1])[0]


def parts_of_split(path: str, found: Found, split: str) -> list[Part]:
    """The parts of one split: all of them where no splits are told apart.

    Raises:
        UserError: there are splits, and this one is not among them.
    """
    if "" in found:
        return found[""]
    if split not in found:
        raise UserError(f"{path}: no split {split}; it has {some(found)}; name a file of it")
    return found[split]


def _file(file: Path, layout: Layout) -> Part:
    path, hashes = str(file), _hashes_of_files([str(file)])
    if not layout.header and kind_of(path) in HEADLESS:
        hashes = partial(_as, "headless", hashes[0]), partial(_as, "headless", hashes[1])
    is_text = kind_of(path) == ".txt"
    return Part(
        path,
        partial(read_rows, path, layout.header, layout.streaming),
        *hashes,
        is_text=is_text,
        columns_named=not is_text,
    )


def _files(path: str, files: list[Path], layout: Layout) -> list[Part]:
    """The files that a path or a pattern stands for, a part each; those of `.txt` as one where each is a text."""
    texts = [file for file in files if layout.text_per == "file" and kind_of(str(file)) == ".txt"]
    parts = [_texts(Path(path), {"": texts}, "file")] if texts else []
    return [*parts, *(_file(file, layout) for file in files if file not in texts)]


def _in_folder(folder: Path, layout: Layout) -> Found:
    if (folder / SAVED_SPLITS).is_file():
        saved = _saved(folder)
        names = _by_role(str(folder), saved)
        return {role: [_data_set(str(folder / name), saved[name])] for role, name in names.items()}
    if (folder / SAVED).is_file():
        return {"": [_data_set(str(folder), _saved(folder))]}
    own, folders = _readable(folder)
    if not own and list(folders) == ["data"]:
        return _in_folder(folder / "data", layout)
    if not own and folders and all(map(_split_named, folders)):
        return _by_split({str(folder / name): _of_one_split(folder / name, layout) for name in folders})
    if not own and not folders:
        raise UserError(f"{folder} is a folder without files that can be read; they end in {', '.join(READERS)}")
    kinds = Counter(suffixes(file.name)[0] for files in (own, *folders.values()) for file in files)
    if set(kinds) == {".txt"} and (not own or not folders or layout.text_per == "line"):
        files = {"": [*own, *chain(*folders.values())]} if own else folders
        return {"": [_texts(folder, files, layout.text_per or "file")]}
    if folders or (len(kinds) > 1 and kinds.keys() & {".txt", ".json"}):
        raise UserError(_mixed(folder, own, folders, kinds))
    return _by_split({str(file): [_file(file, layout)] for file in own})


def _readable(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The files that can be read in a folder itself, and at any depth in those of its folders that have some."""
    places = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    below = {each.name: [file for file in sorted(each.rglob("*")) if _holds_data(file, each)] for each in places}
    folders = {each.name: below[each.name] for each in places if each.is_dir() and below[each.name]}
    return [each for each in places if _holds_data(each, folder)], folders


def _holds_data(file: Path, folder: Path) -> bool:
    """Whether a file can be read and is neither hidden, nor Excel's lock of another, nor by its name about the data."""
    is_hidden = any(part.startswith((".", "~$")) for part in file.relative_to(folder).parts)
    known = suffixes(file.name)[0] in READERS and not NO_DATA.fullmatch(file.name.lower())
    return known and not is_hidden and file.is_file()


def _of_one_split(folder: Path, layout: Layout) -> list[Part]:
    """The parts of a folder whose name tells their split.

    Raises:
        UserError: names in it tell another split.
    """
    found = _in_folder(folder, layout)
    own = _split_named(folder.name)
    if others := [split for split in found if split not in ("", own)]:
        raise UserError(f"{folder}: a folder of {own} by its name, with files of {some(others)} by theirs; name files")
    return [part for parts in found.values() for part in parts]


def _mixed(folder: Path, own: list[Path], folders: Mapping[str, list[Path]], kinds: Mapping[str, int]) -> str:
    """The message for a folder of which it is not clear what is meant."""
    there = some(f"{count:,} {kind}" for kind, count in kinds.items())
    places = [*(["itself"] if own else []), *folders]
    advice = f"a pattern in quotes, such as '{folder}/{'**/' if folders else ''}*{max(kinds, key=kinds.__getitem__)}'"
    return (
        f"{folder} holds files of several kinds or places ({there}; in {some(places)}), and which are meant is not "
        f"guessed: name a file, one of its folders, or {advice} (where each line of .txt files "
        "is a text, and with data.text_per=file each file)"
    )


def _by_split(parts: Mapping[str, list[Part]]) -> Found:
    """The parts by the split that their names tell.

    Raises:
        UserError: some names tell a split and others do not; what these are is not guessed.
    """
    splits = {path: _split_named(Path(path).name) or "" for path in parts}
    untold = [path for path, split in splits.items() if not split]
    if untold and any(splits.values()):
        meant = " ".join(f"data.{split}={path}" for path, split in splits.items() if split == "train")
        raise UserError(
            f"{some(untold)}: of train, dev or test? Other files there say it in their names; name files"
            + (f", such as {meant} (and data.dev, data.test if these have labels)" if meant else "")
        )
    found: Found = {}
    kinds: dict[str, dict[str, str]] = {}
    for path, several in parts.items():
        found.setdefault(splits[path], []).extend(several)
        kinds.setdefault(splits[path], {}).setdefault(re.sub(r"[\d_.-]", "", Path(path).name), path)
    for split, files in kinds.items():
        if split and len(files) > 1:
            raise UserError(
                f"{some(files.values())} may each be {split} by their names, and which is meant is not guessed; name "
                "a file or a pattern"
            )
    return found


def _by_role(path: str, splits: Iterable[str]) -> dict[str, str]:
    """The splits of a data set by what they serve as: the one that is called so, or the only one whose name holds it.

    Raises:
        UserError: several may be meant.
    """
    several: dict[str, list[str]] = {}
    for split in splits:
        several.setdefault(_split_named(split) or split, []).append(split)
    found = {}
    for role, names in several.items():
        exact = [name for name in names if name in SPLIT_WORDS.get(role, ())]
        if len(exact or names) > 1:
            raise UserError(
                f"{path}: {some(names)} may each be {role}; save the one that you mean as a file and name it"
            )
        found[role] = (exact or names)[0]
        if len(names) > 1:
            log.info("%s: split %s is %s, and not %s", path, found[role], role, some(set(names) - {found[role]}))
    return found


def _split_named(name: str) -> str | None:
    """The split that a name holds as a word: `train-00000-of-00002.parquet` is of train."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in SPLIT_WORDS.items() if words.intersection(known)), None)


def _texts(folder: Path, files: Mapping[str, list[Path]], text_per: Literal["line", "file"]) -> Part:
    """Texts of `.txt` files, a file or a line each, with the name of their folder as label where there are folders."""
    every = [file for several in files.values() for file in several]
    hashes = _hashes_of_files(list(map(str, every)), None if "" in files else folder)
    content, fingerprint = (partial(_as, f"a text a {text_per}", each) for each in hashes)
    rows = {"file": _whole_files, "line": _lines_of_files}[text_per]
    return Part(str(folder), partial(rows, files), content, fingerprint, is_text="" in files, columns_named=False)


def _as(form: str, of_files: Callable[[], str]) -> str:
    """The hash of files that are read in another form than others of the same content."""
    return f"{form} {of_files()}"


def _whole_files(files: Mapping[str, list[Path]]) -> Iterator[PlacedRow]:
    for label, several in files.items():
        for file in several:
            text = "".join(read_lines(str(file))).strip()
            yield str(file), {"text": text} | ({"label": label} if label else {})


def _lines_of_files(files: Mapping[str, list[Path]]) -> Iterator[PlacedRow]:
    """A row for each line that is not blank."""
    for label, several in files.items():
        for file in several:
            for place, row in read_rows(str(file)):
                if row["text"].strip():
                    yield f"{file}, {place}", row | ({"label": label} if label else {})


def _saved(folder: Path) -> Dataset | DatasetDict:
    with _breakage_told(f"{folder}: not a whole data set of save_to_disk"):
        check_saved(folder)
        return load_from_disk(str(folder))


@contextmanager
def _breakage_told(what: str) -> Iterator[None]:
    """Raise a UserError that begins so where a data set cannot be read; what one raises has no type of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({first_line(error)})") from error


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
        found = load_dataset(*name.split(":"))
    except Exception as error:  # of network, service and data set, each with types of its own
        raise UserError(
            f"{name} cannot be read: No such file or directory, and the hub does not give it ({first_line(error)})"
        ) from error
    splits = _by_role(name, found)
    return {role: [_data_set(f"{name}, split {split}", found[split])] for role, split in splits.items()}


def _streamed_from_hub(name: str) -> Found:
    stay_offline_without_hub()
    try:
        builder = load_dataset_builder(*name.split(":"))
        found = builder.as_streaming_dataset()
    except Exception as error:  # as in `_on_hub`
        raise UserError(f"{name} cannot be streamed: the hub does not give it ({first_line(error)})") from error
    revision = json.dumps([builder.hash, builder.config.name])

    def part(split: str) -> Part:
        path, fingerprint = f"{name}, split {split}", partial(str, [revision, split])
        return Part(path, partial(_placed, path, found[split]), fingerprint, fingerprint)

    return {role: [part(split)] for role, split in _by_role(name, found).items()}


def _data_set(path: str, rows: Dataset) -> Part:
    _, fingerprint = _hashes_of_files([file["filename"] for file in rows.cache_files])
    return Part(path, partial(_placed, path, rows), partial(_hash_of_tables, path, rows), fingerprint)


def _placed(path: str, rows: Dataset | IterableDataset) -> Iterator[PlacedRow]:
    with _breakage_told(f"{path}: its rows cannot be read"):
        yield from arrow_rows(_batches(rows), class_names(rows.features.arrow_schema) if rows.features else {})


def _batches(rows: Dataset | IterableDataset) -> Iterator[Table]:
    """Some rows at a time, checked: a text that lies beyond the end of a damaged file would end the process."""
    for batch in rows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME):
        batch.validate(full=True)
        yield batch


def _hashes_of_files(paths: list[str], folder: Path | None = None) -> tuple[Callable[[], str], Callable[[], str]]:
    """The hash and the fingerprint; a name is that below `folder`, of which the first is a class, or has one folder."""
    names = {
        path: str(Path(path).relative_to(folder)) if folder else f"{Path(path).parent.name}/{Path(path).name}"
        for path in paths
    }
    return partial(_hash_of_files, names), partial(_fingerprint_of_files, names)


def _fingerprint_of_files(names: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for path, name in names.items():
        with damage_told(path), Path(path).open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            own = hashlib.sha256(stream.read(ENDS))
            stream.seek(max(length - ENDS, 0))
            own.update(stream.read(ENDS))
        digest.update(f"{name} {length} {own.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _hash_of_files(names: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for path, name in names.items():
        with damage_told(path):
            own = hash_of_file(Path(path))
        digest.update(f"{name} {own}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _hash_of_tables(path: str, rows: Dataset) -> str:
    digest = hashlib.sha256(str(rows.features).encode())
    with _breakage_told(f"{path}: its rows cannot be read"):
        for batch in _batches(rows):
            digest.update(repr(list(map(plain, batch.columns))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
