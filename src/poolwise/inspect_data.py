"""`python -m poolwise.inspect_data KEY=VALUE ...`: what your data holds, before anything is trained on it."""

from poolwise import machine

if __name__ == "__main__":
    machine.prepare()  # before torch is imported, which reads settings of threads then: the estimates are by these

import argparse
import csv
import io
import re
import shlex
import shutil
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy import ndarray
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from poolwise import checkpoints
from poolwise.app import (
    COMPOSING_ERRORS,
    job_of,
    jobs_of,
    prepared,
    quieten,
    settings_of,
    sweep_of,
)
from poolwise.command_line import program, stage1_command
from poolwise.data.contamination import THRESHOLD
from poolwise.data.corpus import SPLITS, Corpus
from poolwise.data.imbalance import UNBALANCED, is_unbalanced
from poolwise.data.language import languages_of_texts, languages_of_vocabulary
from poolwise.data.listing import Doubtful, Row, beginning, doubtful, places_of
from poolwise.data.quality import (
    NAMED_UNKNOWN,
    SAMPLE,
    STAGE1_DEV,
    CorpusKeys,
    NearCopies,
    Pairs,
    TokenFigures,
    badly_decoded,
    corpus_figures,
    scripts_of_texts,
    scripts_of_vocabulary,
    token_figures,
)
from poolwise.data.sources import load_corpus
from poolwise.data.tokens import kept_pieces
from poolwise.jobs.corpus import PLACES, REPEATED_SHARE, contamination_in_words, numbers_in_words
from poolwise.jobs.start import SCRATCH_POSITIONS, starting_point
from poolwise.jobs.timing import time_in_words
from poolwise.jobs.trainer import shared_trainer
from poolwise.runs import write_atomically
from poolwise.settings import (
    CommonSettings,
    FilesData,
    MLMSettings,
    ScratchModel,
    SentimentSettings,
    UserError,
    leave,
)
from poolwise.stages.loop import TRUNCATED_SHARE
from poolwise.words import counted, roughly, some

Settings = MLMSettings | SentimentSettings

UNKNOWN_SHARE = 0.01
"""Of word pieces, from which on another vocabulary is advised."""
FOREIGN_SHARE = 0.1
"""Of letters, from which on a script counts ..."""
FEW_PIECES = 0.03
"""... and the share of the vocabulary's pieces below which that script is strange to it."""
MAIN_LANGUAGE = 0.5
"""Share of texts, or of a vocabulary's words, from which on they are said to be in a language."""
MANY_PIECES = 1.5
"""Word pieces a word from which on a vocabulary is told to be made for other text. With the vocabulary of English BERT
film reviews have 1.06 and 1.11 and some tweets 1.4; French, Spanish and German of reviews have 1.6, 1.8 and 2.0."""
USUAL_PIECES = "1.0 to 1.4 are usual for text that the vocabulary was made for"
NEAR_TEXTS = 300_000
"""Training texts, of more of which near-copies are not looked for unasked: that takes 2 s for each 100,000 short ones,
and 384 bytes of memory for each."""
EDGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Of the histogram's bins, in word pieces."""
USUAL_LENGTHS = (128, 256, 512)
"""Of `data.max_length`, of each of which the share of texts that are longer is told."""
BAR = 40
WIDEST = 96
SHOWN_CLASSES = 8
SHOWN_SCRIPTS = 4
LEAST_SHOWN = 0.001
LEAST_GUESSED = 0.02
"""Share of a language; of short texts so many are guessed wrongly."""
SHOWN = 2
"""Texts of each kind, and copies of each split and place."""
BEGINNING = 200
"""Characters of a text in a list."""
SHOWN_LABEL = 30
COLUMNS = (
    *("kind", "split", "number", "other split", "other number", "label", "other label", "text beginning"),
    *("place", "other place"),
)
"""Of the list; numbers count from 1 within the split."""
WITHOUT_BLANKS = ("CJK", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
"""Scripts whose words no blank separates."""


def main() -> None:
    """Print the page; exit with 1 where training will refuse the data, 2 at a mistake."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.inspect_data", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=f"as {program()[-1]} takes them")
    parser.add_argument("-m", "--multirun", action="store_true", help="several values are several runs")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write all texts to look at, a row each, there")
    given = parser.parse_intermixed_args()
    try:
        if given.out is not None and not given.out.parent.is_dir():
            raise UserError(f"--out {given.out}: there is no folder {given.out.parent}")
        runs = settings_of_runs(given.settings, given.multirun)
        quieten()
        page = DataPage(runs)
        for line in page.lines():
            print(line)
        if given.out is not None:
            print(page.write(given.out))
        if not page.is_refused:
            print(f"\nnext      {next_command(given.settings, given.multirun, runs)}")
    except UserError as error:
        leave(error)
    except COMPOSING_ERRORS as error:
        leave(UserError(str(error)))
    raise SystemExit(1 if page.is_refused else 0)


def settings_of_runs(words: Sequence[str], sweeps: bool = False) -> list[Settings]:
    """The settings of each job that a command line asks for.

    Raises:
        UserError: one is wrong, or jobs differ in data or model.
    """
    settings = [word for word in prepared([*words, *(["-m"] if sweeps else [])]) if word != "-m"]
    every = settings_of(sweep_of(settings) if sweeps else jobs_of(settings))
    if any((each.data, each.model) != (every[0].data, every[0].model) for each in every):
        raise UserError(f"{' '.join(words)}: several data sets or models; inspect one at a time")
    return every


def stage1_of(settings: SentimentSettings) -> MLMSettings:
    """The settings of the stage-1 run that stage 2 reads."""
    shared = {each.name: getattr(settings, each.name) for each in fields(CommonSettings)}
    stage1 = settings.stage1
    return MLMSettings(
        **{**shared, "seed": stage1.seed, "trainer": shared_trainer(settings)},
        pretraining=stage1.pretraining,
        objective=stage1.objective,
        control=None,
    )


def next_command(words: Sequence[str], sweeps: bool, runs: Sequence[Settings]) -> str:
    """The command that trains first on this data: of stage 1 where stage 2 reads a run of it, else as this one is.

    Args:
        words: the settings, as typed.
        sweeps: whether several values are several runs.
        runs: what they ask for.
    """
    if not any(isinstance(run, SentimentSettings) and run.encoder == "stage1" for run in runs):
        return shlex.join([*program(), *words, *(["-m"] if sweeps else [])])
    command = stage1_command(prepared([*words, "-m"]))
    several = sweeps and len(settings_of_runs(shlex.split(command)[len(program()) :], sweeps)) > 1
    return f"{command} -m" if several else command


@dataclass(frozen=True)
class Split:
    """The texts of a split, which both stages may share.

    Attributes:
        stages: `1`, `2` or `1, 2`.
        name: `train`, `dev` or `test`.
        rows: its texts.
        keys: of these.
        figures: how many there are, and what is wrong with them (see `corpus_figures`).
    """

    stages: str
    name: str
    rows: Dataset
    keys: ndarray
    figures: Mapping[str, int]

    @property
    def setting(self) -> str:
        """The one that names it (see `listing.Row`)."""
        return self.name if "2" in self.stages else {"train": "text", "dev": "text_dev"}[self.name]

    @property
    def title(self) -> str:
        """How sentences call it."""
        return f"{self.name} of stage {self.stages.replace(', ', ' and ')}"


class DataPage:
    """All that is said of the data of a run, computed when it is asked for."""

    def __init__(self, runs: Sequence[Settings]) -> None:
        began = time.perf_counter()
        self.runs = runs
        self.empty, self.settings = _read_all_the_same(runs[0])
        settings = self.settings
        self.corpus: Corpus = load_corpus(settings.data, settings.rows_dir)
        self.keys = CorpusKeys.of(self.corpus)
        self.figures = corpus_figures(self.corpus, self.keys)
        refuses = settings.data.contamination == "error"
        self.reading_seconds = time.perf_counter() - began
        self.start = starting_point(
            replace(settings, data=replace(settings.data, contamination="warn")) if refuses else settings
        )
        self.tokenizer: PreTrainedTokenizerBase = self.start.tokenizer
        self.splits = list(self._splits())
        if settings.data.near_copies:
            self.figures["near_copies"] = self.near.counts
        began = time.perf_counter()
        self.tokens = [token_figures(split.rows, self.tokenizer) for split in self.splits]
        share = sum(len(tokens.lengths) for tokens in self.tokens) / max(
            sum(len(split.rows) for split in self.splits), 1
        )
        self.tokenising_seconds = (time.perf_counter() - began) / max(share, 1e-9)

    def _splits(self) -> Iterator[Split]:
        text, labelled = self.keys.text, self.keys.labelled
        shared = [name for name in text if name in labelled and np.array_equal(text[name], labelled[name])]
        for name, keys in text.items():
            stages, rows = ("1, 2", self.corpus.labelled) if name in shared else ("1", self.corpus.text)
            yield Split(stages, name, rows[name], keys, self.figures["stage1"][name])
        for name in (name for name in SPLITS if name in labelled and name not in shared):
            yield Split("2", name, self.corpus.labelled[name], labelled[name], self.figures["stage2"][name])

    @property
    def is_refused(self) -> bool:
        """Whether training will not take the data."""
        return bool(self.empty) or self._is_contaminated_and_refused

    @property
    def _is_contaminated_and_refused(self) -> bool:
        return self.settings.data.contamination == "error" and any(
            contamination_in_words(self.figures, place) for place in PLACES
        )

    @property
    def width(self) -> int:
        """Columns that a line may have."""
        return min(shutil.get_terminal_size().columns, WIDEST)

    def lines(self) -> Iterator[str]:
        """The page, line by line."""
        settings = self.settings
        pieces = counted(len(self.tokenizer), "word piece")
        yield f"{settings.data.name}, as model={settings.model.name} reads it ({pieces})"
        for part in (self.table, self.labels, self.histogram, self.copies, self.shown):
            yield ""
            yield from part()
        yield ""
        yield from self.facts()
        yield ""
        found = list(self.findings())
        yield "what to look at" if found else "nothing found that needs mending"
        for number, words in enumerate(found, start=1):
            yield from textwrap.wrap(words, self.width, initial_indent=f"{number:>3}. ", subsequent_indent=" " * 5)

    def table(self) -> Iterator[str]:
        """Sizes, lengths and unknown word pieces of each split."""
        longest = self.settings.data.max_length
        in_windows = self.settings.data.long_texts == "windows"
        column = "windows" if in_windows else "cut"
        rows = [["stage", "split", "texts", "empty", "repeated", "median", "95%", "longest", column, "unknown"]]
        for split, tokens in zip(self.splits, self.tokens, strict=True):
            figures, lengths = split.figures, tokens.lengths
            median, most = np.percentile(lengths, (50, 95)) if len(lengths) else (0, 0)
            rows.append(
                [
                    *(split.stages, split.name),
                    *(f"{figures[name]:,}" for name in ("texts", "empty", "repeated")),
                    *(f"{median:.0f}", f"{most:.0f}", f"{lengths.max(initial=0):,}"),
                    f"{self.windows(tokens):,}" if in_windows else _percent(_cut(tokens, longest)),
                    _percent(tokens.unknown_share),
                ]
            )
        yield from aligned(rows, left=2)
        sampled = f" (of {SAMPLE:,} texts a split)" if any(len(each.rows) > SAMPLE for each in self.splits) else ""
        if self.corpus.stream is not None:
            yield f"train of stage 1 is a stream: its first {counted(len(self.corpus.text['train']), 'text')} were read"
        explained = (
            f"windows: of data.max_length={longest} that they are read in, so that none is cut"
            if in_windows
            else f"cut: longer than data.max_length={longest}"
        )
        yield from textwrap.wrap(
            f"lengths in word pieces{sampled}, special ones counted; {explained}; "
            "unknown: share of word pieces that the vocabulary lacks; empty: further rows, left out as the text, or a "
            "label that is needed, is empty",
            self.width,
        )

    def windows(self, tokens: TokenFigures) -> int:
        """How many windows the texts make."""
        special = self.tokenizer.num_special_tokens_to_add()
        data = self.settings.data
        room = data.max_length - special
        longer = tokens.lengths[tokens.lengths > data.max_length] - special
        return len(tokens.lengths) - len(longer) + sum(len(kept_pieces(n, room, data.reading)) for n in longer.tolist())

    @cached_property
    def balance(self) -> dict[str, ndarray]:
        """The share of each class in each labelled split."""
        classes = len(self.corpus.label_names)
        return {
            split: np.bincount(np.array(rows["label"]), minlength=classes) / max(len(rows), 1)
            for split, rows in self.corpus.labelled.items()
        }

    def labels(self) -> Iterator[str]:
        """The share of each class, of many classes the most frequent ones; these first, and numbers in their order."""
        if not self.balance:
            yield "no labels: stage 1 only"
            return
        names = self.corpus.label_names
        shown = np.argsort(-self.balance["train"], kind="stable")[:SHOWN_CLASSES].tolist()
        if all(map(is_number, names)):
            shown.sort(key=lambda c: float(names[c]))
        rows = [["label", *self.balance]]
        rows += [[names[c], *(_percent(of[c]) for of in self.balance.values())] for c in shown]
        yield from aligned(rows)
        if len(names) > SHOWN_CLASSES:
            yield f"and {len(names) - SHOWN_CLASSES} rarer ones"

    @property
    def positions(self) -> int:
        """How long a text may be for this encoder."""
        path = self.start.path
        return SCRATCH_POSITIONS if path is None else checkpoints.longest_text(path)

    def histogram(self) -> Iterator[str]:
        """How long the training texts of stage 1 are: up to the longest, or to what the encoder has positions for."""
        lengths, last, longest = self.tokens[0].lengths, self.positions, self.settings.data.max_length
        edges = sorted({edge for edge in EDGES if edge < last} | {longest, last})
        first, final = np.searchsorted(edges, (lengths.min(initial=last), lengths.max(initial=0)))
        edges = edges[first : final + 1]
        shares = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges)) / max(len(lengths), 1)
        names = [*(f"to {edge:,}" for edge in edges), f"over {last:,}"][: len(shares)]
        yield f"word pieces of {self.splits[0].title}"
        scale = BAR / max(shares.max(), 1e-9)
        for name, share in zip(names, shares, strict=True):
            yield f"  {name:>10}  {_percent(share):>6}  {'#' * round(share * scale)}".rstrip()
        usual = sorted({length for length in USUAL_LENGTHS if length <= last} | {longest})
        told = ", ".join(f"{length}: {_percent(_cut(self.tokens[0], length))}" for length in usual)
        yield from textwrap.wrap(
            f"longer than {told} (data.max_length is {longest}, and may be {last:,} with this model)", self.width
        )

    @cached_property
    def near(self) -> NearCopies:
        """Near-copies of dev and test texts that have no exact copy; of stage 1 they are not numbered."""
        if not self.looks_for_near:
            return NearCopies({(split, place): {} for split, at in self.figures["copies"].items() for place in at}, ())
        return NearCopies.of(self.corpus, self.keys, stage1=False)

    @property
    def near_pairs(self) -> dict[tuple[str, str], Pairs]:
        """The same by split and place, each place once (see `places`)."""
        return {(split, place): found for (split, place), found in self.near.held_back.items() if place in self.places}

    @property
    def looks_for_near(self) -> bool:
        """Whether near-copies are looked for; of very many texts only where training is asked to."""
        most = max(len(self.corpus.text["train"]), len(self.corpus.labelled.get("train", ())))
        return self.settings.data.near_copies or most <= NEAR_TEXTS

    @property
    def places(self) -> list[str]:
        """Where dev and test texts are looked for; once where both stages have the same texts."""
        if not self.keys.labelled:
            return ["in_stage1"]
        one = self.splits[0].stages == "1, 2" and STAGE1_DEV not in self.figures["copies"]
        return ["in_train"] if one else list(PLACES)

    def copies(self) -> Iterator[str]:
        """How many dev and test texts are also, or nearly, among the training texts of either stage."""
        copies, near = self.figures["copies"], self.near.counts

        def counts(split: str, place: str) -> tuple[str, str]:
            return f"{copies[split][place]:,}", f"{near[split][place]:,}" if self.looks_for_near else "?"

        labelled = [split for split in copies if split != STAGE1_DEV]
        rows = [["also in", *(f"{split}, {kind}" for split in labelled for kind in ("exact", "near"))]]
        rows += [[PLACES[place], *(w for split in labelled for w in counts(split, place))] for place in self.places]
        yield from aligned(rows) if labelled else ()
        if STAGE1_DEV in copies:
            exact, nearly = counts(STAGE1_DEV, "in_stage1")
            yield f"dev of stage 1, also in its training texts: {exact} exact, {nearly} near"
        yield from textwrap.wrap(
            "exact: the same but for case, punctuation, white space and forms of characters; near: at least "
            f"{THRESHOLD:.0%} of all strings of five characters are in both (a text within a longer one is not)"
            + (
                ""
                if self.looks_for_near
                else f"; ?: not looked for among more than {NEAR_TEXTS:,} texts, unless with data.near_copies=true"
            ),
            self.width,
        )

    @cached_property
    def doubtful(self) -> list[Doubtful]:
        """All texts to look at."""
        names = {"in_train": "train", "in_stage1": self.splits[0].setting}
        return list(
            doubtful(
                {split.setting: split.rows for split in self.splits},
                {split.setting: split.keys for split in self.splits},
                {(split, names[place]): pairs for (split, place), pairs in self.near_pairs.items()},
            )
        )

    def words_of(self, row: Row) -> tuple[str, str]:
        """The text of a row and the name of its label; that is empty where it has none."""
        found = next(split.rows for split in self.splits if split.setting == row.split)[row.number]
        return found["text"], self.corpus.label_names[found["label"]] if row.split in SPLITS else ""

    def shown(self) -> Iterator[str]:
        """The first texts of each kind to look at, where they stand, and what they are like."""
        shown = list(_first_ones(self.doubtful))
        words = {row: self.words_of(row) for each in shown for row in (each.row, each.other) if row is not None}
        places = places_of(self.settings.data, words)
        if shown:
            yield "first texts to look at"
        for each in shown:
            kind = f"near {each.similarity:.2f}" if each.kind == "near" else each.kind
            yield f"{kind}:"
            for row in (each.row, each.other):
                if row is None:
                    continue
                text, label = words[row]
                where = f"{row.split} {row.number + 1:,}" + (f" ({places[row]})" if row in places else "")
                labelled = f", labelled {beginning(label, SHOWN_LABEL)}" if label else ""
                yield from textwrap.wrap(
                    where + labelled, self.width, initial_indent="  ", subsequent_indent=" " * 4, break_on_hyphens=False
                )
                line = Text(beginning(text, self.width))
                line.truncate(self.width - 4, overflow="ellipsis")
                yield f"    {line.plain}"
        if shown:
            yield from textwrap.wrap(
                f"{', '.join(f'{number:,} {kind}' for kind, number in self.numbers.items())}; numbers of texts count "
                "within the split; --out FILE.csv lists all",
                self.width,
            )
        else:
            yield "no copies, no text with two labels, and none repeated or decoded wrongly"

    @property
    def numbers(self) -> Mapping[str, int]:
        """How many texts of each kind there are to look at."""
        return Counter(each.kind for each in self.doubtful)

    def write(self, file: Path) -> str:
        """Write all texts to look at to a table, and say so.

        Raises:
            UserError: the file cannot be written.
        """
        rows = {row for each in self.doubtful for row in (each.row, each.other) if row is not None}
        words = {row: self.words_of(row) for row in rows}
        places = places_of(self.settings.data, words)
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in self.doubtful:
            (text, label), other = words[each.row], each.other
            beside = (other.split, other.number + 1) if other else ("", "")
            found = (places.get(each.row, ""), places.get(other, "") if other else "")
            labels = (label, words[other][1] if other else "")
            writer.writerow(
                [each.kind, each.row.split, each.row.number + 1, *beside, *labels, beginning(text, BEGINNING), *found]
            )
        try:
            write_atomically(file, table.getvalue())
        except OSError as error:
            raise UserError(f"--out {file} cannot be written: {error.strerror}") from error
        return f"{counted(len(self.doubtful), 'row')} written to {file}"

    @cached_property
    def scripts(self) -> dict[str, float]:
        """Shares of letters of the training texts of stage 1."""
        return scripts_of_texts(self.corpus.text["train"])

    @cached_property
    def known_scripts(self) -> dict[str, float]:
        """Shares of the vocabulary's pieces."""
        return scripts_of_vocabulary(self.tokenizer)

    @cached_property
    def languages(self) -> dict[str, float]:
        """Shares of the training texts of stage 1, as they are guessed."""
        return languages_of_texts(self.corpus.text["train"])

    @cached_property
    def known_languages(self) -> dict[str, float]:
        """Shares of the vocabulary's words; empty where no blank separates these, in texts or vocabulary."""
        characters = any(next(iter(shares), "") in WITHOUT_BLANKS for shares in (self.scripts, self.known_scripts))
        return {} if characters else languages_of_vocabulary(self.tokenizer)

    def facts(self) -> Iterator[str]:
        """Encoding, scripts, language, words and time, a fact a line."""
        known = _shares(self.known_languages, LEAST_GUESSED) if self.known_languages else "not told"
        facts = {
            "encoding": "; ".join(self.encoding) or "no U+FFFD and no mojibake",
            "letters": f"texts {_shares(self.scripts)}; word pieces {_shares(self.known_scripts)}",
            "language": f"texts {_shares(self.languages, LEAST_GUESSED)}; words of the vocabulary {known}",
            "words": self.words(),
            "time": "; ".join(self.times()),
        }
        for name, words in facts.items():
            yield from textwrap.wrap(words, self.width, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)

    @cached_property
    def encoding(self) -> list[str]:
        """Texts that were decoded wrongly, with their places."""
        names = {"replaced": "with U+FFFD", "mojibake": "with mojibake"}
        return [
            f"{counted(len(numbers), 'text')} {names[kind]} in {split.title} ({some([n + 1 for n in numbers], 3)})"
            for split in self.splits
            for kind, numbers in badly_decoded(split.rows).items()
            if numbers
        ]

    @cached_property
    def pieces_a_word(self) -> float:
        """How finely words of stage 1's training texts are cut; 1 where words are not separated by blanks."""
        if next(iter(self.scripts), "") in WITHOUT_BLANKS:
            return 1.0
        tokens = self.tokens[0]
        pieces = tokens.lengths.sum() - len(tokens.lengths) * self.tokenizer.num_special_tokens_to_add()
        return float(pieces) / max(tokens.words, 1)

    def words(self) -> str:
        """The same in words."""
        if next(iter(self.scripts), "") in WITHOUT_BLANKS:
            return "not told by blanks in this script"
        return f"{self.pieces_a_word:.2f} word pieces each; {USUAL_PIECES}"

    def times(self) -> Iterator[str]:
        """How long reading and the runs of each stage should take; stage 2 is timed on the unadapted encoder."""
        yield f"reading took {_took(self.reading_seconds)}; tokenising: {_took(self.tokenising_seconds)}"
        if self.is_refused:
            yield "training: not known, as train.py refuses the data"
            return
        stage1 = [run for run in self.runs if isinstance(run, MLMSettings)]
        stage2 = [run for run in self.runs if isinstance(run, SentimentSettings)]
        stage1 += [stage1_of(run) for run in stage2 if run.encoder == "stage1"]
        for stage, runs in (("stage 1", stage1), ("stage 2", stage2)):
            if runs:
                unlabelled = stage == "stage 2" and not self.corpus.labelled
                yield f"{stage}: {'no labels' if unlabelled else time_in_words(runs, job_of)}"

    def findings(self) -> Iterator[str]:
        """What may spoil a run, with what can be done about it."""
        for words in self.empty:
            yield f"{words}. {program()[-1]} refuses the data until then; this page leaves them out"
        yield from self._contamination()
        conflicting = self.figures["conflicting_labels"]
        if conflicting:
            yield (
                f"{counted(conflicting, 'labelled text')} with another label elsewhere (see above): one may be wrong; "
                "they are alike but for case, blanks and signs, so that those with :) and :( count as alike"
            )
        longest = self.settings.data.max_length
        cut = self._above(TRUNCATED_SHARE, lambda tokens: _cut(tokens, longest))
        if cut and self.settings.data.long_texts != "windows":
            yield (
                f"longer than data.max_length={longest}, and the rest is not read: {cut}; a larger one takes longer, "
                "data.long_texts says what is read"
            )
        unknown = self._above(UNKNOWN_SHARE, lambda tokens: tokens.unknown_share)
        if unknown:
            named = dict.fromkeys(word for tokens in self.tokens for word in tokens.unknown)
            yield (
                f"unknown word pieces: {unknown} (often {' '.join(list(named)[:NAMED_UNKNOWN])}); "
                + self._other_vocabulary(
                    "take a model whose vocabulary knows them, add them to it (model.add_words=) or train one "
                    "(model.vocabulary_size=)"
                )
            )
        for split in self.splits:
            figures = split.figures
            if figures["empty"] and "2" in split.stages and not self.empty:
                yield (
                    f"{counted(figures['empty'], 'row')} of {split.title} without text or label, left out; unless with "
                    "data.empty=drop their places are told"
                )
            if figures["repeated"] > REPEATED_SHARE * figures["texts"]:
                yield (
                    f"{counted(figures['repeated'], 'repeated text')} in {split.title}: these count double "
                    "(--out FILE.csv lists these)"
                )
        if self.encoding:
            yield "texts that were decoded wrongly once (see encoding): read their source again in its own encoding"
        yield from self._foreign()
        yield from self._unbalanced()

    def _unbalanced(self) -> Iterator[str]:
        names = self.corpus.label_names
        if not names or not is_unbalanced(np.array(self.corpus.labelled["train"]["label"])):
            return
        shares = self.balance["train"]
        present = np.flatnonzero(shares)
        rare = present[shares[present] * UNBALANCED < shares.max()]
        times = shares.max() / shares[present].min()
        yield (
            f"few texts of {some(names[c] for c in rare)} (the largest class has {times:.1f} times as many as the "
            "smallest): read macro F1, which counts classes alike, and not accuracy; protocol.imbalance has training "
            "do so too"
        )

    def _above(self, least: float, share_of: Callable[[TokenFigures], float]) -> str:
        """Which splits have at least this share of something, in words; empty where none has."""
        shares = [(split, share_of(tokens)) for split, tokens in zip(self.splits, self.tokens, strict=True)]
        return some(f"{_percent(share)} of {split.title}" for split, share in shares if share >= least)

    def _contamination(self) -> Iterator[str]:
        policy = self.settings.data.contamination
        found = {place: words for place in self.places if (words := contamination_in_words(self.figures, place))}
        if found and policy == "error":
            yield f"{'; '.join(found.values())}: {program()[-1]} refuses that (data.contamination=error)"
        elif found:
            stage1 = "leaves these out of stage 1" if policy == "drop" else "reads these in stage 1"
            done = [
                *(["take them out of data.train, as figures on these may be too high"] if "in_train" in found else []),
                *([f"{program()[-1]} {stage1} (data.contamination={policy})"] if self.places[-1] in found else []),
            ]
            yield f"{'; '.join(found.values())}: {'; '.join(done)}"
        counts = self.near.counts
        near = [
            f"{words} nearly also in {PLACES[place]}"
            for place in (self.places if counts else ())
            if (words := numbers_in_words(counts, place))
        ]
        if near and not self.settings.data.near_copies:
            yield (
                f"{'; '.join(near)}: look at them; with data.near_copies=true data.contamination={policy} is about "
                "these too"
            )

    def _foreign(self) -> Iterator[str]:
        """The first sign there is that the vocabulary is not of these texts: script, language, or pieces."""
        for script, share in self.scripts.items():
            known = self.known_scripts.get(script, 0.0)
            if share >= FOREIGN_SHARE and known < FEW_PIECES:
                yield (
                    f"{_percent(share)} of the letters are {script}, as are {_percent(known)} of the word pieces: this "
                    "vocabulary seems to be made for another language"
                )
                return
        language, other = (_main(shares) for shares in (self.languages, self.known_languages))
        if language and other and self.known_languages.get(language, 0.0) < FEW_PIECES:
            yield (
                f"the texts seem to be in another language ({language}) than this vocabulary ({other}); "
                f"{self._other_vocabulary('take a model of theirs, or train a vocabulary (model.vocabulary_size=)')}"
            )
            return
        model = self.settings.model
        is_own = model.vocabulary is None if isinstance(model, ScratchModel) else model.vocabulary_size is not None
        if self.pieces_a_word >= MANY_PIECES and not is_own:
            yield (
                f"{self.pieces_a_word:.1f} word pieces a word ({USUAL_PIECES}): this vocabulary was made for other "
                "text, of another language or field; "
                f"{self._other_vocabulary('take a model of yours, or add its words (model.add_words=)')}"
            )

    def _other_vocabulary(self, of_pretrained: str) -> str:
        """How to come to another vocabulary: that of a pretrained model, or one from scratch, with other settings."""
        model = self.settings.model
        if not isinstance(model, ScratchModel):
            return of_pretrained
        if model.vocabulary is None:
            return "raise model.vocabulary_size="
        return "leave out model.vocabulary=, and one is made of your text"


def _read_all_the_same(settings: Settings) -> tuple[tuple[str, ...], Settings]:
    """Why training refuses rows in which something is empty, with their places, and settings that leave these out."""
    data = settings.data
    if not isinstance(data, FilesData) or data.empty == "drop":
        return (), settings
    try:
        load_corpus(data, settings.rows_dir)
    except UserError as refused:
        lenient = replace(settings, data=replace(data, empty="drop"))
        try:
            load_corpus(lenient.data, settings.rows_dir)
        except UserError:  # more is wrong; training tells all of it
            raise refused from None
        return refused.messages, lenient
    return (), settings


def _first_ones(doubtful: Sequence[Doubtful]) -> Iterator[Doubtful]:
    """The first texts of each kind but repeated ones; two that are alike, or conflict, are shown once."""
    numbers: Counter[tuple[str, ...]] = Counter()
    seen: set[tuple[str, Row]] = set()
    for each in doubtful:
        kind: tuple[str, ...] = (each.kind,)
        if each.kind in ("exact", "near") and each.other is not None:
            kind = (each.kind, each.row.split, each.other.split)
        both = {(each.kind, row) for row in (each.row, each.other) if row is not None}
        if each.kind == "repeated" or numbers[kind] == SHOWN or both & seen:
            continue
        numbers[kind] += 1
        seen |= both
        yield each


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """A table's lines: the first columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            word.ljust(width) if number < left else word.rjust(width)
            for number, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def is_number(name: str) -> bool:
    """Whether the name of a class is a number, of stars for example."""
    return re.fullmatch(r"[+-]?\d+(\.\d+)?", name) is not None


def _took(seconds: float) -> str:
    """A duration; what is too short to matter is not told exactly."""
    return "under 5 s" if seconds < 5 else roughly(seconds)


def _percent(share: float) -> str:
    """`0%` for none, else a digit behind the point: `0.0%` is some."""
    return f"{share:.1%}" if share else "0%"


def _cut(tokens: TokenFigures, longest: int) -> float:
    """The share of texts that are longer."""
    return float(np.mean(tokens.lengths > longest)) if len(tokens.lengths) else 0.0


def _main(shares: Mapping[str, float]) -> str | None:
    """The language that most are in, if one is."""
    return next((language for language, share in shares.items() if share >= MAIN_LANGUAGE), None)


def _shares(shares: Mapping[str, float], least: float = LEAST_SHOWN) -> str:
    """The most frequent ones, in words; a few letters of another script are left out."""
    shown = [f"{name} {_percent(share)}" for name, share in shares.items() if share >= least]
    return ", ".join(shown[:SHOWN_SCRIPTS]) or "none"


if __name__ == "__main__":
    main()
