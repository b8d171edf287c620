"""Which column of a file holds texts, and which labels: as told, or by common names."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from poolwise.data.reading import SEPARATOR_NAMES, PlacedRow, other_sheets, suffixes
from poolwise.settings import UserError
from poolwise.words import nearest, some

COMMON_NAMES = {
    "text": "text texts review reviews sentence content comment tweet document body message review_text review_body "
    "reviewtext feedback 内容 文本 评论 句子".split(),
    "label": "label labels sentiment stars star_rating rating class polarity category target score 标签 情感 类别 "
    "评分".split(),
}
"""Names of columns of published data sets, without capitals; the first of each, where it is there, is meant."""

Wanted = Mapping[str, str | None]
"""The columns that are to be read, by what they hold: a name, or None for a common one."""


def found_columns(
    path: str, names: list[str], wanted: Wanted, rows: Callable[[], Iterator[PlacedRow]]
) -> dict[str, str]:
    """The columns of a file by what they hold: `text`, and `label` or `rating` where they are wanted.

    Args:
        path: for messages.
        names: of the file's columns.
        wanted: what is to be read.
        rows: reads them; asked only where several columns may be the label, as one that never changes is none.

    Raises:
        UserError: a column is not there, or several may be meant.
    """
    taken = {name for name in wanted.values() if name is not None}
    found = {}
    for what, name in wanted.items():
        if name is None:
            likely = _by_common_name([each for each in names if each not in taken], what)
            if what == "label" and len(likely) > 1:
                likely = _varied(likely, rows) or likely
            found[what] = _only(path, likely, what, names)
        elif name in names:
            found[what] = name
        else:
            raise UserError(f"{path}: no column {name}{_advice(path, name, names)}")
    return found


def _by_common_name(free: list[str], what: str) -> list[str]:
    """The columns of a common name, else those whose name, or its last word, is one or the plural of one."""
    common = COMMON_NAMES[what]
    spelt = {name: name.strip().lower() for name in free}
    last = {name: re.split(r"[^a-z]+", word)[-1] for name, word in spelt.items()}
    plural = {f"{name}s" for name in common} | {*common}
    return (
        [name for name in free if spelt[name] == common[0]]
        or [name for name in free if spelt[name] in common]
        or [name for name in free if spelt[name] in plural or last[name] in plural]
    )


def _varied(names: list[str], rows: Callable[[], Iterator[PlacedRow]]) -> list[str]:
    """The columns that hold more than one value."""
    first: dict[str, object] = {}
    varied: set[str] = set()
    for _, row in rows():
        varied.update(name for name in names if row.get(name) != first.setdefault(name, row.get(name)))
        if len(varied) == len(names):
            break
    return [name for name in names if name in varied]


def _only(path: str, likely: list[str], what: str, names: list[str]) -> str:
    if len(likely) > 1:
        raise UserError(f"{path}: {some(likely)} may each be the {what}; name one with data.{what}_column=")
    if not likely:
        raise UserError(f"{path}: no column {what}{_advice(path, what, names)}")
    return likely[0]


def _advice(path: str, name: str, names: Iterable[str]) -> str:
    names = list(names)
    separator = {".csv": ",", ".tsv": "\t", ".tab": "\t"}.get(kind := suffixes(path)[0])
    only = names[0] if len(names) == 1 else ""
    others = [words for mark, words in SEPARATOR_NAMES.items() if mark != separator and mark in only]
    if separator is not None and others:
        return f"; it seems to be separated by {others[0]}, and {kind} files are by {SEPARATOR_NAMES[separator]}"
    is_headless = names == [str(number) for number in range(1, len(names) + 1)]
    where = "" if separator is None or is_headless else " in its first line, which holds the names"
    where += "" if separator is None or is_headless else " (if it is data, data.header=false)"
    return (
        f"{nearest(name, names)}; it has {some(names)}{where} (name yours with data.text_column=, "
        f"data.stage1_text_column=, data.label_column= and data.rating_column=){other_sheets(path)}"
    )
