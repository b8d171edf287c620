"""The corpus as runs read it, without what contaminates stage 1, and what they record and warn of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from poolwise.data.contamination import without_copies
from poolwise.data.corpus import Corpus, TextStream
from poolwise.data.quality import STAGE1_DEV, CorpusKeys, NearCopies, corpus_figures
from poolwise.data.sources import load_corpus
from poolwise.settings import DataSettings, UserError
from poolwise.words import counted

REPEATED_SHARE = 0.01
"""Of texts that repeat an earlier one of their split, above which a run warns."""
PLACES = {"in_train": "data.train", "in_stage1": "the texts of stage 1"}
"""Where training may have read a dev or test text."""
SPLIT_NAMES = {STAGE1_DEV: "stage-1 dev"}
"""How sentences call what is not called so itself."""


@dataclass(frozen=True)
class CheckedCorpus:
    """A corpus to train on, and `corpus_figures` before any text was dropped, with what was done."""

    corpus: Corpus
    report: dict[str, Any]


@lru_cache(maxsize=4)
def checked_corpus(data: DataSettings, cache: Path | None = None) -> CheckedCorpus:
    """The corpus that the settings name, with `data.contamination` acted on; the jobs of one sweep share it.

    With `drop`, texts of stage 1 that are dev or test texts (with `near_copies`, or nearly so) are left out of stage 1,
    so that the vocabulary, the weights and the key of a stage-1 run are those of the texts that are left. Of
    `data.train` stage 2 reads all.

    Raises:
        UserError: it cannot be read, or `contamination` is `error` and there is some.
    """
    corpus = load_corpus(data, cache)
    keys = CorpusKeys.of(corpus)
    held_back = np.concatenate(list(keys.held_back.values()))
    near = NearCopies.of(corpus, keys) if data.near_copies else None
    report = {"contamination": data.contamination, **corpus_figures(corpus, keys), "dropped_from_stage1": 0}
    report |= {} if near is None else {"near_copies": near.counts}
    found = [words for place in PLACES if (words := contamination_in_words(report, place))]
    if data.contamination == "error" and found:
        raise UserError(
            f"data.contamination=error: {'; '.join(found)}. Take them out (python -m poolwise.inspect_data shows "
            "them), or use drop or warn"
        )
    if data.contamination == "drop":
        further = () if near is None else near.stage1
        left = without_copies(corpus.text["train"], keys.text["train"], held_back, further)
        report["dropped_from_stage1"] = len(corpus.text["train"]) - len(left)
        corpus = replace(corpus, text={**corpus.text, "train": left})
    if corpus.stream is not None:
        report["first_texts_of_stream"] = len(corpus.text["train"])
        stream = replace(corpus.stream, held_back=held_back, drops=data.contamination == "drop")
        corpus = replace(corpus, stream=stream)
    return CheckedCorpus(corpus, report)


def corpus_of(data: DataSettings, cache: Path | None = None) -> Corpus:
    """The corpus that a run of these settings reads.

    Raises:
        UserError: see `checked_corpus`.
    """
    return checked_corpus(data, cache).corpus


def stream_of(data: DataSettings, cache: Path | None = None) -> TextStream | None:
    """The training texts of stage 1 where they are a stream; else None.

    Raises:
        UserError: see `checked_corpus`.
    """
    return corpus_of(data, cache).stream


def stage1_text(data: DataSettings, cache: Path | None = None) -> dict[str, Dataset]:
    """The texts of stage 1 by split, as a run of these settings reads them; of a stream, the first ones.

    Raises:
        UserError: see `checked_corpus`; or all of them were dropped.
    """
    text = corpus_of(data, cache).text
    if not len(text["train"]):
        raise UserError(
            "data.contamination=drop: every text of stage 1 is a dev or test text, and none is left; give other texts "
            "(data.text), or data.contamination=warn"
        )
    return text


def contamination_in_words(report: Mapping[str, Any], place: str) -> str:
    """Which dev and test texts are also, or nearly, at a place, a key of `PLACES`; empty where none is."""
    first = report.get("first_texts_of_stream") if place == "in_stage1" else None
    where = PLACES[place] if first is None else f"the first {counted(first, 'text')} of stage 1"
    kinds = {"also": report["copies"], "nearly also": report.get("near_copies", {})}
    words = {how: numbers_in_words(found, place) for how, found in kinds.items()}
    return ", ".join(f"{found} {how} in {where}" for how, found in words.items() if found)


def numbers_in_words(found: Mapping[str, Mapping[str, int]], place: str) -> str:
    """How many texts of each split are at a place: `1 dev text and 2 test texts`; empty where none is."""
    counts = {SPLIT_NAMES.get(split, split): at[place] for split, at in found.items() if at.get(place)}
    return " and ".join(counted(count, f"{split} text") for split, count in counts.items())


def warnings_of(report: Mapping[str, Any], stage: str) -> Iterator[str]:
    """What a person should know of the data before a run of a stage, a sentence each.

    Args:
        report: of a `CheckedCorpus`.
        stage: `mlm` or `sentiment`.
    """
    splits = report["stage1" if stage == "mlm" else "stage2"]
    place = contamination_in_words(report, "in_stage1" if stage == "mlm" else "in_train")
    if place:
        left_out = stage == "mlm" and report["contamination"] == "drop"
        dropped = counted(report["dropped_from_stage1"], "text")
        better = "good" if stage == "mlm" else "high"  # of a dev loss that is too low
        yield f"{place}; " + (f"{dropped} left out there" if left_out else f"figures on these may be too {better}")
    if stage == "sentiment" and report["conflicting_labels"]:
        yield f"{counted(report['conflicting_labels'], 'labelled text')} with another label elsewhere"
    kinds = {
        "repeated": ("repeated texts", REPEATED_SHARE),
        "badly_decoded": ("texts that were decoded wrongly once (U+FFFD, or UTF-8 read as another encoding)", 0.0),
    }
    if stage == "sentiment":  # a blank line between texts of stage 1 is nothing to warn of
        kinds["empty"] = ("rows without text or label, left out", 0.0)
    for what, (words, least) in kinds.items():
        found = {split: of[what] for split, of in splits.items() if of[what] > least * of["texts"]}
        if found:
            yield f"{words}: " + ", ".join(f"{split} {count:,}" for split, count in found.items())
