"""The answers in words: which representation to use, what that rests on, and what the runs cannot tell.

A difference has one p-value wherever it stands: Holm's (`holm`), of the family of comparisons that it belongs to. Each
setting has two families.

Planned, before any run: H1, H2 and representations against their controls on each encoder, and of each objective, what
it gave the encoder (cls, and mean, with it less without; mean less that of the unadapted encoder) and the pooler (the
difference of differences).

Unplanned: the best on dev against the others of its encoder, and the best of all against other encoders, less the pairs
that are planned. The runs that are tested are those that the best was chosen by, so that all pairs among which it was
chosen count, not only those that are told. Counting the told ones alone, alike conditions were called different in up
to 7 % of simulated settings of 4 representations, 11 % of 8 and 14 % of 13 (5 stage-1 runs, which are all that varies;
dev and test rank conditions alike).

Where a setting has both families each has half of the 5 %, so that alike conditions are called different in 5 % of
settings at most.

Over several settings each planned question has one answer more, of the mean of its comparisons (`PooledEstimate`), with
Holm's p-value of the questions that are asked so.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas

from poolwise.compare.inference import (
    LEVEL,
    Estimate,
    PooledEstimate,
    difference_of_differences,
    equivalent,
    holm,
    in_words,
    p_in_words,
    paired_difference,
    permutation_p,
    pooled,
    seen_in_words,
    smallest_detectable,
)
from poolwise.compare.records import UNADAPTED, Condition, majority_share, paired_answers
from poolwise.settings import NO_OBJECTIVE
from poolwise.words import counted, signed

MARGIN = 0.5
"""Points within which conditions count as equivalent."""
NO_BETTER = 1.0
"""Points; a classifier this close to a constant answer has learnt nothing that is worth comparing."""
HYPOTHESES = {
    "H1": ("pooler", "cls"),
    "H2": ("cls_linear", "cls"),
    "layer_mix": ("layer_mix", "cls_scaled"),
    "attention": ("attention", "mean_scaled"),
}
"""Claims that the first beats the second: two that people repeat without figures, and of each representation that adds
parameters that it beats its control, which has as many (that of `pooler` is `cls_linear`: see `PLANNED`)."""
PLANNED = {
    "H1": "H1 (pooler beats cls)",
    "H2": "H2 (cls_linear beats cls)",
    "layer_mix": "layer_mix beats cls_scaled, which has as many parameters",
    "attention": "attention beats mean_scaled, which has as many parameters",
    "encoder": "The objective helps the encoder (cls with it beats cls without)",
    "mean": "The objective helps mean (mean with it beats mean without)",
    "adapting": "Stage 1 with the objective helps mean (it beats mean of the unadapted encoder)",
    "pooler": "The objective trains the pooler (pooler less cls_linear gains by it)",
    "pooler, cls": "The objective trains the pooler (pooler less cls gains by it; there is no cls_linear)",
}
"""The planned questions, as claims."""
SHOWN, OPPOSITE, EQUIVALENT, OPEN = "shown", "the opposite", f"equivalent within {MARGIN:g}", "open"
"""What became of a claim."""


@dataclass(frozen=True)
class Setting:
    """What is compared: everything on one data set, from one model, by one protocol with one number of labels.

    Attributes:
        label: data, model and protocol in words.
        family: a key that settings share which differ in the number of labels only.
        labels: a class; NaN for all.
        encoders: conditions by encoder in words, the best on dev first, in both.
    """

    label: str
    family: str
    labels: float
    encoders: dict[str, list[Condition]]

    @property
    def conditions(self) -> list[Condition]:
        """All of them."""
        return [condition for conditions in self.encoders.values() for condition in conditions]

    @property
    def least_steps(self) -> int | None:
        """Of training on few labels; None where the protocol knows none."""
        steps: int | None = self.best.runs["config"].iloc[0].get("protocol", {}).get("least_steps")
        return steps

    @property
    def best(self) -> Condition:
        """The best on dev."""
        return next(iter(self.encoders.values()))[0]

    def find(self, adaptation: str, representation: str) -> Condition | None:
        """The condition of this encoder and representation."""
        found = [each for each in self.encoders[adaptation] if each.representation == representation]
        return found[0] if found else None


def settings_of(runs: pandas.DataFrame) -> list[Setting]:
    """The settings in the order of data, model and protocol; of labels, few before many."""
    found = []
    for rows in sorted((rows for _, rows in runs.groupby("setting")), key=_order):
        first = rows.iloc[0]
        conditions = [Condition(group) for _, group in rows.groupby(["adaptation", "repr"])]
        conditions.sort(key=lambda condition: -condition.dev)
        encoders: dict[str, list[Condition]] = {}
        for condition in conditions:
            encoders.setdefault(condition.adaptation, []).append(condition)
        found.append(Setting(first["setting_label"], first["family"], float(first["labels"]), encoders))
    return found


def _order(runs: pandas.DataFrame) -> tuple[Any, ...]:
    first = runs.iloc[0]
    labels = math.inf if np.isnan(first["labels"]) else first["labels"]
    return first["data"], first["model"], first["material"]["protocol"]["name"], first["family"], labels


@dataclass(frozen=True)
class Comparison:
    """A difference between conditions, told wherever it stands as it is here.

    Attributes:
        conditions: the first less the second; of four, less the third less the fourth.
        gap: the difference.
        permutation_p: of the check by `permutation_p`, which allows for nothing, as `gap.p` does.
        question: of `PLANNED`; empty for an unplanned one.
        family: how many comparisons `p` allows for, twice as many where half of the 5 % is another family's.
        p: adjusted.
    """

    conditions: tuple[Condition, ...]
    gap: Estimate
    permutation_p: float
    question: str
    family: int = 1
    p: float = math.nan

    @property
    def encoders(self) -> str:
        """The encoder in words, or one against another."""
        return " against ".join(dict.fromkeys(each.adaptation for each in self.conditions))

    @property
    def trusted(self) -> bool:
        """Whether the first has no pooler that nothing trained, or that is not what it was."""
        return bool(self.conditions[0].label == self.conditions[0].representation)

    @property
    def outcome(self) -> str:
        """What became of the claim that the first beats the second."""
        if self.p <= LEVEL:
            return SHOWN if self.gap.points > 0 else OPPOSITE
        return EQUIVALENT if equivalent(self.gap, MARGIN, LEVEL / self.family) else OPEN

    @property
    def sentence(self) -> str:
        """The difference in words; of what stage 1 gave, with its sign."""
        first, second = called(self.conditions[:2])
        if self.question in ("", *HYPOTHESES):
            limit = "" if self.outcome == OPEN else self.limit
            return in_words(first, second, self.gap, self.p, MARGIN, self.family) + limit
        interval = f"95 % interval {signed(self.gap.low)} to {signed(self.gap.high)}"
        return f"{signed(self.gap.points)} points ({interval}, {p_in_words(self.p)}){self.limit}"

    @property
    def limit(self) -> str:
        """What a claim is limited to, where that is less than a reader would think."""
        if self.gap.stage1_runs > 1:
            return ""
        if self.conditions[0].adaptation != self.conditions[-1].adaptation:
            return " (one stage-1 run of each encoder: said of these alone)"
        if self.gap.stage2_runs == 1:
            return " (one run each: said of these alone)"
        return " (one stage-1 run: said of this one alone)" if self.conditions[0].adapted else ""


def called(conditions: Sequence[Condition]) -> list[str]:
    """Names of conditions: the representation, with the encoder where they are on several."""
    several = len({each.adaptation for each in conditions}) > 1
    return [each.name if several else each.label for each in conditions]


def compare(conditions: Sequence[Condition | None], question: str = "") -> Comparison | None:
    """Two conditions, or four, paired by seeds and test examples; None where one is not there or no runs can be."""
    there = tuple(each for each in conditions if each is not None)
    paired = paired_answers(there) if len(there) == len(conditions) else None
    if paired is None:
        return None
    answers, axes = paired
    difference = paired_difference if len(answers) == 2 else difference_of_differences
    gap = difference(*answers, axes=axes)
    return Comparison(there, gap, permutation_p(*answers), question)


def planned(setting: Setting) -> list[Comparison]:
    """The planned comparisons, as far as there are runs for them; their p-values allow for nothing yet."""
    asked = []
    for adaptation in setting.encoders:
        for name, pair in HYPOTHESES.items():
            asked.append(compare([setting.find(adaptation, each) for each in pair], name))
        baseline = _baseline(setting, adaptation)
        if baseline is not None:
            for question, name in {"encoder": "cls", "mean": "mean"}.items():
                asked.append(compare([setting.find(each, name) for each in (adaptation, baseline)], question))
            if UNADAPTED in setting.encoders and baseline != UNADAPTED:
                asked.append(compare([setting.find(each, "mean") for each in (adaptation, UNADAPTED)], "adapting"))
            asked.append(_worth_of_pooler(setting, adaptation, baseline))
    return [each for each in asked if each is not None]


def unplanned(groups: Sequence[Sequence[Condition]], asked: Sequence[Comparison]) -> tuple[list[Comparison], int]:
    """The first of each group against the others, less what is asked as planned; their p-values allow for nothing yet.

    And the size of their family, all pairs in a group.
    """
    apart = {frozenset(each.conditions) for each in asked}
    family = {frozenset(pair) for group in groups for pair in combinations(group, 2)} - apart
    told = [(group[0], other) for group in groups for other in group[1:] if frozenset((group[0], other)) in family]
    return [each for pair in told if (each := compare(pair)) is not None], len(family)


def _adjusted(comparisons: Sequence[Comparison], family: int, families: int) -> list[Comparison]:
    """The comparisons with p-values that allow for a family of so many, of as many families as there are."""
    p_values = np.minimum(families * holm(np.array([each.gap.p for each in comparisons]), family), 1.0)
    return [replace(each, p=float(p), family=families * family) for each, p in zip(comparisons, p_values, strict=True)]


@dataclass
class Verdict:
    """The answer to one setting.

    Attributes:
        answer: which to use, and how sure that is.
        planned, unplanned: the two families of comparisons.
        notes: paragraphs on each encoder, the hypotheses, what stage 1 gave, and what p-values allow for.
    """

    answer: str
    planned: list[Comparison]
    unplanned: list[Comparison]
    notes: list[str] = field(default_factory=list)


def verdict(setting: Setting) -> Verdict:
    """What the runs of a setting say."""
    groups = [*setting.encoders.values(), _best_and_other_encoders(setting)]
    asked = planned(setting)
    others, pairs = unplanned(groups, asked)
    families = 2 if asked and others else 1
    asked, others = _adjusted(asked, len(asked), families), _adjusted(others, pairs, families)
    found = Verdict(_use(setting), asked, others)
    if len(setting.conditions) == 1:
        found.answer += " There is nothing to compare it with yet."
        return found
    told = {frozenset(each.conditions): each for each in [*found.planned, *found.unplanned]}
    (answer, *within), between = [_best_against_others(group, told) for group in groups[:-1]], groups[-1]
    found.answer = " ".join([found.answer, *answer])
    for adaptation, words in zip(setting.encoders, [[], *within], strict=True):
        asked_here = [each for each in asked if each.encoders == adaptation]
        words = [*words, *(f"{PLANNED[each.question]}: {each.sentence}." for each in asked_here)]
        if words:
            found.notes.append(" ".join([f"{adaptation[0].upper()}{adaptation[1:]}:", *words]))
    if len(between) > 1:
        found.notes.append(" ".join(["Between encoders:", *_best_against_others(between, told)]))
    return replace(found, notes=[*found.notes, *_stage1_gave(asked), *_how_tested(found)])


def _use(setting: Setting) -> str:
    best = setting.best
    told = f"test accuracy {best.accuracy.points:.1f} % ({_spread_in_words(best)})"
    constant = 100 * majority_share(best.runs["folder"].iloc[0])
    if best.accuracy.points <= constant + NO_BETTER:
        return (
            f"Use none of these yet: the best on dev, {best.name}, has a {told}, and always answering the most "
            f"frequent class has {constant:.1f} %. Train longer, or on more text."
        )
    return f"Use {best.name}, the best on dev; {told}."


def _spread_in_words(condition: Condition) -> str:
    accuracy = condition.accuracy
    units = accuracy.stage1_runs if accuracy.stage1_runs > 1 else accuracy.stage2_runs
    interval = "95 % interval {:.1f} to {:.1f}".format(*condition.interval)
    if units == 1:
        return f"one run; {interval} by its test texts alone"
    shared_draws = accuracy.draws and (accuracy.stage1_runs > 1 or accuracy.run_error > 0)
    kind = "stage-1 run" if accuracy.stage1_runs > 1 else "seed" if shared_draws else condition.unit
    each = f" with {accuracy.stage2_runs} on each" if accuracy.stage1_runs > 1 and accuracy.stage2_runs > 1 else ""
    each = f", on each the same {counted(accuracy.draws, condition.draw)}" if shared_draws else each
    return f"{interval}; sd {accuracy.deviation:.1f} over {counted(units, kind)}{each}"


def _best_and_other_encoders(setting: Setting) -> list[Condition]:
    """The best of all; of each other encoder its best on dev, and the representation that is best of all."""
    best, found = setting.best, [setting.best]
    for adaptation, conditions in setting.encoders.items():
        if adaptation != best.adaptation:
            alike = setting.find(adaptation, best.representation)
            found += [conditions[0]] if alike is None or alike is conditions[0] else [conditions[0], alike]
    return found


def _best_against_others(group: Sequence[Condition], told: Mapping[frozenset[Condition], Comparison]) -> list[str]:
    """Sentences on the first of a group against each other: each that is shown, and together what is not."""
    words, alike, unclear, smallest = [], [], [], []
    best, *others = called(group)
    for condition, name in zip(group[1:], others, strict=True):
        each = told.get(frozenset((group[0], condition)))
        if each is None:
            words.append(f"{best} and {name} have no runs that can be paired.")
        elif each.outcome == EQUIVALENT:
            alike.append(f"{name}{each.limit}")
        elif each.outcome == OPEN:
            unclear.append(name)
            smallest.append(smallest_detectable(each.gap, LEVEL / each.family))
        else:
            words.append(f"{replace(each, question='').sentence}.")
    if alike:
        words.append(f"{best} is {EQUIVALENT} to {_listed(alike)}.")
    if unclear:
        seen = seen_in_words(smallest)
        words.append(f"Cannot tell {best} from {_listed(unclear)}: these runs see differences {seen} only.")
    return words


def _listed(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} or {last}" if before else last


def _baseline(setting: Setting, adaptation: str) -> str | None:
    """What an encoder with an objective is held against: the plain MLM of the same budget, else the unadapted one."""
    parts = {
        encoder: (conditions[0].objective or "").partition("-")[::2] for encoder, conditions in setting.encoders.items()
    }
    name, budget = parts[adaptation]
    if name in ("", NO_OBJECTIVE):
        return None
    plain = [encoder for encoder, other in parts.items() if other == (NO_OBJECTIVE, budget)]
    if len(plain) == 1:
        return plain[0]
    any_plain = any(other == NO_OBJECTIVE for other, _ in parts.values())
    return UNADAPTED if UNADAPTED in setting.encoders and not any_plain else None


def _worth_of_pooler(setting: Setting, adaptation: str, baseline: str) -> Comparison | None:
    """Pooler less cls_linear, or where that was not run less cls, with the objective less the same without it."""
    for question, control in {"pooler": "cls_linear", "pooler, cls": "cls"}.items():
        pairs = [(encoder, name) for encoder in (adaptation, baseline) for name in ("pooler", control)]
        found = compare([setting.find(*each) for each in pairs], question)
        if found is not None:
            return found
    return None


def _stage1_gave(asked: Sequence[Comparison]) -> list[str]:
    """What each objective did to the encoder and to the pooler, against MLM alone or else the unadapted encoder."""
    notes: dict[str, list[str]] = {}
    for each in asked:
        if each.question not in HYPOTHESES:
            first, second = each.conditions[:2]
            to_whom = f"to the encoder, as {first.representation} shows it,"
            if len(each.conditions) > 2:
                to_whom = f"to the pooler (pooler less {second.representation}, with the objective less without it)"
            notes.setdefault(each.encoders, []).append(f"{to_whom} {each.sentence}")
    return [f"What stage 1 gave, {encoders}: {'; '.join(words)}." for encoders, words in notes.items()]


def _how_tested(found: Verdict) -> list[str]:
    """What the p-values allow for, and whether the permutation test agrees, where there is one pair of runs."""
    families = {
        ("planned comparison", "H1, H2, matched controls and what stage 1 gave"): found.planned,
        ("unplanned comparison", "all pairs among which the best was chosen"): found.unplanned,
    }
    halves = 2 if found.planned and found.unplanned else 1
    allowed = " and, apart, for ".join(
        f"{counted(family[0].family // halves, kind)} ({which})" for (kind, which), family in families.items() if family
    )
    every = [*found.planned, *found.unplanned]
    if not every:
        return []
    each_half = ", at 2.5 % each" if halves == 2 else ""
    words = [f"p-values allow for {allowed}{each_half}; intervals beside them do not."]
    of_one_run = [each for each in every if all(len(condition.runs) == 1 for condition in each.conditions)]
    if of_one_run:
        agree = sum((each.gap.p <= LEVEL) == (each.permutation_p <= LEVEL) for each in of_one_run)
        words.append(f"Before that, the permutation test agrees at {LEVEL:g} in {agree} of {len(of_one_run)}.")
    return [" ".join(words)]


@dataclass(frozen=True)
class PooledAnswer:
    """What the comparisons of a planned question say together.

    Attributes:
        question: of `PLANNED`.
        trusted: whether their first conditions have no pooler that nothing trained.
        gap: the mean of their differences.
        limited: how many of them are said of single runs, or single stage-1 runs, alone.
        p: adjusted.
        family: how many questions `p` allows for.
    """

    question: str
    trusted: bool
    gap: PooledEstimate
    limited: int
    p: float = math.nan
    family: int = 1

    @property
    def sentence(self) -> str:
        """The answer in words."""
        numbers = (
            f"{signed(self.gap.points)} points on average "
            f"(95 % interval {signed(self.gap.low)} to {signed(self.gap.high)}, {p_in_words(self.p)})"
        )
        single = "single runs or single stage-1 runs"
        limit = f" (said of {single} alone in {self.limited} of {len(self.gap.estimates)})" if self.limited else ""
        if self.p <= LEVEL:
            return f"{numbers}: {'yes' if self.gap.points > 0 else 'no, the opposite'}{limit}"
        if equivalent(self.gap, MARGIN, LEVEL / self.family):
            return f"{numbers}: no, {EQUIVALENT}{limit}"
        seen = seen_in_words([smallest_detectable(self.gap, LEVEL / self.family)])
        return f"{numbers}: cannot tell, as these runs together see differences {seen} only{limit}"


def mean_of(comparisons: Sequence[Comparison]) -> PooledEstimate:
    """Their mean; those of one data set share its texts and draws of labels, of one model of it their stage-1 runs.

    Where each run of any of them has a draw of its own, these are in its error of runs. All models of the data set then
    share that error, and what draws give in the other comparisons goes together with it.
    """
    runs = [each.conditions[0].runs for each in comparisons]
    data = [str(rows["data"].iloc[0]) for rows in runs]
    with_draws = {name for name, rows, each in zip(data, runs, comparisons, strict=True) if _has_draws(rows, each.gap)}
    models = ["" if name in with_draws else str(rows["model"].iloc[0]) for name, rows in zip(data, runs, strict=True)]
    gaps = [
        replace(each.gap, run_error=math.hypot(each.gap.run_error, each.gap.draw_error), draw_error=0.0, draws=0)
        if name in with_draws
        else each.gap
        for name, each in zip(data, comparisons, strict=True)
    ]
    return pooled(gaps, list(zip(data, models, strict=True)), data)


def _has_draws(runs: pandas.DataFrame, gap: Estimate) -> bool:
    """Whether draws of labels change with the units that the error of runs is of."""
    return not gap.draws and runs["label_seed"][runs["draws_labels"].astype(bool)].nunique() > 1


def pooled_answers(asked: Sequence[Comparison]) -> list[PooledAnswer]:
    """Of each planned question that several comparisons ask, their mean; those with an untrained pooler apart."""
    found = []
    for question in PLANNED:
        for trusted in (True, False):
            every = [each for each in asked if each.question == question and each.trusted == trusted]
            if len(every) > 1:
                limited = sum(bool(each.limit) for each in every)
                found.append(PooledAnswer(question, trusted, mean_of(every), limited))
    p_values = holm(np.array([each.gap.p for each in found]), len(found))
    return [replace(each, p=float(p), family=len(found)) for each, p in zip(found, p_values, strict=True)]


def overview(verdicts: Iterable[tuple[Setting, Verdict]]) -> list[str]:
    """The opening: of several settings how often each representation was best; and the answers to planned claims."""
    told = list(verdicts)
    winners = Counter(setting.best.representation for setting, _ in told)
    run_in = Counter(name for setting, _ in told for name in {each.representation for each in setting.conditions})
    words = ", ".join(
        f"{name} in {count}" + (f" of the {run_in[name]} where it was run" if run_in[name] < len(told) else "")
        for name, count in winners.most_common()
    )
    found = [f"Of {counted(len(told), 'setting')}, the best on dev was {words}."] if len(told) > 1 else []
    asked = [each for _, each_verdict in told for each in each_verdict.planned]
    together = {(each.question, each.trusted): each.sentence for each in pooled_answers(asked)}
    for question, claim in PLANNED.items():
        for trusted in (True, False):
            every = [each for each in asked if each.question == question and each.trusted == trusted]
            whose = claim if trusted else f"{claim}, with an untrained pooler"
            if len(every) == 1:
                found.append(f"{whose}, {every[0].encoders}: {every[0].sentence}.")
            elif every:
                found.append(f"{whose}: {together[question, trusted]}. By itself {_fared(every)}.")
    return found


def _fared(comparisons: Sequence[Comparison]) -> str:
    counts = Counter(each.outcome for each in comparisons)
    words = [f"{SHOWN} in {counts[SHOWN] or 'none'} of {len(comparisons)}"]
    words += [f"{outcome} in {counts[outcome]}" for outcome in (OPPOSITE, EQUIVALENT) if counts[outcome]]
    return ", ".join(words)
