"""The test texts on which representations disagree most. For local pages only: no text leaves the machine.

Shapes: R conditions, N test examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from poolwise.compare.records import Condition, right
from poolwise.settings import DATA_SOURCES, UserError, typed

SHOWN = 8
LONGEST = 300
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class DisputedText:
    """A test text, its label's name, and by condition the share of runs that answer it right."""

    text: str
    label: str
    shares: dict[str, float]


def disputed_examples(shares: Float[ndarray, "R N"], count: int = SHOWN) -> list[int]:
    """The examples on which the share of right runs differs most between conditions, of equal ones the first."""
    spread = shares.max(axis=0) - shares.min(axis=0)
    order = np.argsort(-spread, kind="stable")[:count]
    return [int(example) for example in order if spread[example] > 0]


def disputed_texts(conditions: Sequence[Condition]) -> list[DisputedText] | None:
    """The texts on which these conditions, on one test set, disagree most; None where the texts are not to be had.

    They are read from where the runs read them, and must still be the same ones. Nothing is fetched: texts of the hub
    are not shown.
    """
    run = conditions[0].runs.iloc[0]
    data = run["config"].get("data", {})
    if data.get("source") not in ("demo", "files"):
        return None
    from poolwise.data.corpus import SPLITS, content_hash  # here, as this takes libraries that records do not need
    from poolwise.data.parts import is_of_hub
    from poolwise.data.sources import load_corpus

    if any(is_of_hub(path) for name in ("text", "text_dev", *SPLITS) if isinstance(path := data.get(name), str)):
        return None  # a record may come from anywhere
    kind = DATA_SOURCES[data["source"]]
    try:
        corpus = load_corpus(kind(**typed(kind, data)))
    except (UserError, TypeError):
        return None
    labelled = run["material"]["labelled"]
    split = "test" if "test" in labelled else "train"  # of which a probe in folds predicts every text
    test = corpus.labelled.get("test") if split == "test" else corpus.unsplit
    if test is None or content_hash(test) != labelled[split]:
        return None
    shares = np.stack([np.mean([right(folder) for folder in each.runs["folder"]], axis=0) for each in conditions])
    return [
        DisputedText(
            _shortened(test[example]["text"]),
            corpus.label_names[test[example]["label"]],
            {each.label: float(share) for each, share in zip(conditions, shares[:, example], strict=True)},
        )
        for example in disputed_examples(shares)
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
