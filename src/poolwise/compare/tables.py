"""Tables of text cells."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Text cells under column names; `group` says of each row what it belongs to, empty where all are of one group."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    group: Sequence[str] = ()
    group_name: str = "encoder"

    @property
    def flat(self) -> list[Sequence[str]]:
        """Names of columns and rows, the groups as a column."""
        if not self.group:
            return [self.columns, *self.rows]
        rows = [[group, *row] for group, row in zip(self.group, self.rows, strict=True)]
        return [[self.group_name, *self.columns], *rows]


def markdown_text(words: str) -> str:
    """Prose in Markdown: what would begin an HTML tag or a link in it shows as text."""
    return re.sub(r"<(?=[A-Za-z/!?])|\](?=\()", r"\\\g<0>", words)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text cells in Markdown: the first is the head, and all columns but the first are set to the right."""
    lines = ["| " + " | ".join(re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", cell) for cell in row) + " |" for row in rows]
    rule = "|" + "|".join([":--", *("--:" for _ in rows[0][1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
