"""Which column of a file holds texts, and which labels: as told, or by common names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from poolwise.data.reading import SEPARATOR_NAMES
from poolwise.settings import UserError
from poolwise.words import nearest, some

COMMON_NAMES = {
    "text": "text texts review reviews sentence content comment tweet document body message review_text review_body "
    "reviewtext".split(),
    "label": "label labels sentiment stars star_rating rating class polarity category target score".split(),
}
"""Names of columns of published data sets, without capitals; the first of each, where it is there, is meant."""

Wanted = Mapping[str, str | None]
"""The columns that are to be read, by what they hold: a name, or None for a common one."""


def found_columns(path: str, names: list[str], wanted: Wanted) -> dict[str, str]:
    """The columns of a file by what they hold: `text`, and `label` or `rating` where they are wanted.

    Args:
        path: for messages.
        names: of the file's columns.
        wanted: what is to be read.

    Raises:
        UserError: a column is not there, or several may be meant.
    """
    taken = {name for name in wanted.values() if name is not None}
    found = {}
    for what, name in wanted.items():
        if name is None:
            found[what] = _by_common_name(path, [each for each in names if each not in taken], what, names)
        elif name in names:
            found[what] = name
        else:
            raise UserError(f"{path}: no column {name}{_advice(path, name, names)}")
    return found


def _by_common_name(path: str, free: list[str], what: str, names: list[str]) -> str:
    common = COMMON_NAMES[what]
    known = [name for name in free if name.strip().lower() in common]
    likeliest = [name for name in known if name.strip().lower() == common[0]] or known
    if len(likeliest) > 1:
        raise UserError(f"{path}: {some(likeliest)} may each be the {what}; name one with data.{what}_column=")
    if not likeliest:
        raise UserError(f"{path}: no column {what}{_advice(path, what, names)}")
    return likeliest[0]


def _advice(path: str, name: str, names: Iterable[str]) -> str:
    names = list(names)
    separator = {".csv": ",", ".tsv": "\t"}.get(Path(path).suffix.lower())
    others = [words for mark, words in SEPARATOR_NAMES.items() if mark != separator and mark in names[0]]
    if separator is not None and others and len(names) == 1:
        return (
            f"; it seems to be separated by {others[0]}, and {Path(path).suffix} files are by "
            f"{SEPARATOR_NAMES[separator]}"
        )
    return (
        f"{nearest(name, names)}; it has {some(names)} (name yours with data.text_column=, data.label_column= and "
        "data.rating_column=)"
    )
