"""The answers in words: which representation to use, what that rests on, and what the runs cannot tell."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas

from poolwise.compare.inference import (
    LEVEL,
    Estimate,
    difference_of_differences,
    equivalent,
    holm,
    in_words,
    paired_difference,
    smallest_detectable,
)
from poolwise.compare.records import UNADAPTED, Condition, majority_share, paired_answers
from poolwise.settings import NO_OBJECTIVE
from poolwise.words import counted

MARGIN = 0.5
"""Points within which conditions count as equivalent."""
NO_BETTER = 1.0
"""Points; a classifier this close to a constant answer has learnt nothing that is worth comparing."""
HYPOTHESES = {"H1": ("pooler", "cls"), "H2": ("cls_linear", "cls")}
"""Claims that people repeat without figures: the first beats the second."""


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
    def best(self) -> Condition:
        """The best on dev."""
        return next(iter(self.encoders.values()))[0]

    def find(self, adaptation: str, representation: str) -> Condition | None:
        """The condition of this encoder and representation."""
        found = [each for each in self.encoders[adaptation] if each.representation == representation]
        return found[0] if found else None


def settings_of(runs: pandas.DataFrame) -> list[Setting]:
    """The settings in the order of their words; of labels, few before many."""
    found = []
    for _, rows in runs.groupby("setting"):
        first = rows.iloc[0]
        conditions = [Condition(group) for _, group in rows.groupby(["adaptation", "repr"])]
        conditions.sort(key=lambda condition: -condition.dev)
        encoders: dict[str, list[Condition]] = {}
        for condition in conditions:
            encoders.setdefault(condition.adaptation, []).append(condition)
        found.append(Setting(first["setting_label"], first["family"], float(first["labels"]), encoders))
    return sorted(found, key=lambda setting: (setting.label.split(" on ")[0], setting.family, _many(setting.labels)))


def _many(labels: float) -> float:
    return float("inf") if np.isnan(labels) else labels


@dataclass(frozen=True)
class Comparison:
    """Two conditions by name, and the first less the second (None where no runs can be paired).

    Attributes:
        between_encoders: whether it says something of stage 1, or of adapting.
        trusted: whether the first has no pooler that nothing trained, or that is not what it was.
    """

    first: str
    second: str
    gap: Estimate | None
    between_encoders: bool
    trusted: bool


def compare(first: Condition, second: Condition, named: Callable[[Condition], str]) -> Comparison:
    """First less second in test accuracy, paired by seeds and test examples."""
    answers = paired_answers([first, second])
    gap = None if answers is None else paired_difference(answers[0], answers[1])
    between, trusted = first.adaptation != second.adaptation, first.label == first.representation
    return Comparison(named(first), named(second), gap, between, trusted)


@dataclass
class Verdict:
    """The answer to one setting.

    Attributes:
        answer: which to use, and how sure that is.
        notes: paragraphs on each encoder, the hypotheses, and what stage 1 gave.
        hypotheses: the comparisons of H1 and H2, by name.
    """

    answer: str
    notes: list[str] = field(default_factory=list)
    hypotheses: dict[str, list[Comparison]] = field(default_factory=dict)


def verdict(setting: Setting) -> Verdict:
    """What the runs of a setting say."""
    found = Verdict(_use(setting))
    several = len(setting.encoders) > 1
    if len(setting.conditions) == 1:
        found.answer += " There is nothing to compare it with yet."
        return found
    within = {
        adaptation: [compare(conditions[0], other, lambda each: each.label) for other in conditions[1:]]
        for adaptation, conditions in setting.encoders.items()
    }
    across = [
        compare(setting.best, other, lambda each: each.name)
        for adaptation in list(setting.encoders)[1:]
        for other in _alike_and_best(setting, adaptation)
    ]
    *groups, between = sentences([*within.values(), across])
    found.answer = " ".join([found.answer, *groups[0]])
    for place, (adaptation, words) in enumerate(zip(within, groups, strict=True)):
        words = [*(words if place else []), *_hypotheses(setting, adaptation, found)]
        if words:
            found.notes.append(" ".join([f"{_capital(adaptation)}:", *words] if several else words))
    if across:
        found.notes.append(" ".join(["Between encoders:", *between]))
    found.notes += _stage1_gave(setting)
    return found


def _use(setting: Setting) -> str:
    best = setting.best
    name = best.name if len(setting.encoders) > 1 else best.label
    told = f"test accuracy {best.accuracy.points:.1f} % ({_spread_in_words(best)})"
    constant = 100 * majority_share(best.runs["folder"].iloc[0])
    if best.accuracy.points <= constant + NO_BETTER:
        return (
            f"Use none of these yet: the best on dev, {name}, has a {told}, and always answering the most frequent "
            f"class has {constant:.1f} %. Train longer, or on more text."
        )
    return f"Use {name}, the best on dev; {told}."


def _spread_in_words(condition: Condition) -> str:
    accuracy = condition.accuracy
    units = accuracy.stage1_runs if accuracy.stage1_runs > 1 else accuracy.stage2_runs
    interval = "95 % interval {:.1f} to {:.1f}".format(*condition.interval)
    if units == 1:
        return f"one run; {interval} by its test texts alone"
    kind = "stage-1 run" if accuracy.stage1_runs > 1 else condition.unit
    each = f" with {accuracy.stage2_runs} on each" if accuracy.stage1_runs > 1 and accuracy.stage2_runs > 1 else ""
    return f"{interval}; sd {accuracy.deviation:.1f} over {counted(units, kind)}{each}"


def _alike_and_best(setting: Setting, adaptation: str) -> list[Condition]:
    """Of another encoder: its best on dev, and the representation that is best of all."""
    alike = setting.find(adaptation, setting.best.representation)
    best = setting.encoders[adaptation][0]
    return [best] if alike is None or alike is best else [best, alike]


def sentences(groups: Sequence[Sequence[Comparison]]) -> list[list[str]]:
    """Sentences for each group of comparisons, with p-values that allow for the number of all of them (Holm)."""
    told = [each for group in groups for each in group if each.gap is not None]
    adjusted = holm(np.array([each.gap.p for each in told if each.gap is not None]))
    p_values = dict(zip(map(id, told), adjusted, strict=True))
    return [_group_in_words(group, p_values, max(len(told), 1)) for group in groups]


def _group_in_words(group: Sequence[Comparison], p_values: dict[int, float], pairs: int) -> list[str]:
    words, alike, open_ = [], [], []
    for each in group:
        if each.gap is None:
            words.append(f"{_capital(each.first)} and {each.second} have no runs that can be paired.")
        elif p_values[id(each)] <= LEVEL:
            words.append(_sentence(each, p_values[id(each)], pairs))
        elif equivalent(each.gap, MARGIN, LEVEL / pairs):
            alike.append(each)
        else:
            open_.append(each)
    if alike:
        words.append(f"{_capital(alike[0].first)} is equivalent within {MARGIN:g} to {_listed(alike)}.")
    if open_:
        smallest = [smallest_detectable(each.gap) for each in open_ if each.gap is not None]
        low, high = f"{min(smallest):.1f}", f"{max(smallest):.1f}"
        above = low if low == high else f"{low} to {high}"
        words.append(
            f"Cannot tell {open_[0].first} from {_listed(open_)}: these runs see differences above {above} only."
        )
    return words


def _listed(comparisons: Sequence[Comparison]) -> str:
    *before, last = (each.second for each in comparisons)
    return f"{', '.join(before)} or {last}" if before else last


def _sentence(comparison: Comparison, adjusted_p: float, pairs: int = 1) -> str:
    gap = comparison.gap
    assert gap is not None
    words = _capital(in_words(comparison.first, comparison.second, gap, adjusted_p, MARGIN, pairs))
    return f"{words}{_said_of(gap, comparison.between_encoders)}."


def _said_of(gap: Estimate, between_encoders: bool) -> str:
    """What a claim is limited to, where that is less than a reader would think."""
    if gap.stage1_runs > 1:
        return ""
    if between_encoders:
        return " (one stage-1 run of each encoder: said of these alone)"
    return " (one run each: said of these alone)" if gap.stage2_runs == 1 else ""


def _capital(words: str) -> str:
    first, _, rest = words.partition(" ")
    return f"{first.capitalize()} {rest}" if first in ("cannot", "after", "not", "encoder") else words


def _hypotheses(setting: Setting, adaptation: str, found: Verdict) -> list[str]:
    words = []
    for name, (first, second) in HYPOTHESES.items():
        conditions = [setting.find(adaptation, representation) for representation in (first, second)]
        if conditions[0] is None or conditions[1] is None:
            continue
        comparison = compare(conditions[0], conditions[1], lambda each: each.label)
        if comparison.gap is not None:
            found.hypotheses.setdefault(name, []).append(comparison)
            words.append(f"{name}, {first} beats {second}: {_sentence(comparison, comparison.gap.p)}")
    return words


def _stage1_gave(setting: Setting) -> list[str]:
    """What each objective did to the encoder and to the pooler, against MLM alone or else the unadapted encoder."""
    notes = []
    for adaptation in setting.encoders:
        baseline = _baseline(setting, adaptation)
        if baseline is None:
            continue
        words = [*_effect_on_encoder(setting, adaptation, baseline), *_worth_of_pooler(setting, adaptation, baseline)]
        if words:
            notes.append(" ".join([f"What stage 1 gave, {adaptation} against {baseline}:", *words]))
    return notes


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


def _effect_on_encoder(setting: Setting, adaptation: str, baseline: str) -> list[str]:
    pair = [setting.find(encoder, "cls") for encoder in (adaptation, baseline)]
    if pair[0] is None or pair[1] is None:
        return []
    gap = compare(pair[0], pair[1], lambda each: each.name).gap
    return [] if gap is None else [f"to the encoder, as cls shows it, {_change(gap)}."]


def _worth_of_pooler(setting: Setting, adaptation: str, baseline: str) -> list[str]:
    for control in ("cls_linear", "cls"):
        four = [
            setting.find(encoder, representation)
            for encoder in (adaptation, baseline)
            for representation in ("pooler", control)
        ]
        there = [each for each in four if each is not None]
        answers = paired_answers(there) if len(there) == len(four) else None
        if answers is not None:
            gap = difference_of_differences(answers[0], answers[1], answers[2], answers[3])
            return [f"To the pooler (pooler less {control}, with the objective less without it) {_change(gap)}."]
    return []


def _change(gap: Estimate) -> str:
    shown = "p < 0.001" if gap.p < 0.001 else f"p = {gap.p:.3f}"
    words = f"{gap.points:+.1f} points (95 % interval {gap.low:+.1f} to {gap.high:+.1f}, {shown})"
    return words + _said_of(gap, between_encoders=True)


def overview(verdicts: Iterable[tuple[Setting, Verdict]]) -> list[str]:
    """What several settings say together: how often each representation was best, and how the hypotheses fared."""
    told = list(verdicts)
    if len(told) < 2:
        return []
    winners = Counter(setting.best.representation for setting, _ in told)
    words = ", ".join(f"{name} in {count}" for name, count in winners.most_common())
    found = [f"Of {counted(len(told), 'setting')}, the best on dev was {words}."]
    for name, (first, second) in HYPOTHESES.items():
        comparisons = [each for _, each_verdict in told for each in each_verdict.hypotheses.get(name, [])]
        kinds = {"": [each for each in comparisons if each.trusted]}
        kinds[" with an untrained pooler"] = [each for each in comparisons if not each.trusted]
        asked_of = [f"asked {_times(len(asked))}{kind}: {_fared(asked)}" for kind, asked in kinds.items() if asked]
        if asked_of:
            found.append(f"{name}, {first} beats {second}, {'; '.join(asked_of)}.")
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _fared(comparisons: Sequence[Comparison]) -> str:
    gaps = [each.gap for each in comparisons if each.gap is not None]
    adjusted = holm(np.array([gap.p for gap in gaps]))
    counts = Counter(
        ("shown" if gap.points > 0 else "the opposite shown")
        if p <= LEVEL
        else (f"equivalent within {MARGIN:g}" if equivalent(gap, MARGIN, LEVEL / len(gaps)) else "open")
        for gap, p in zip(gaps, adjusted, strict=True)
    )
    mean = np.mean([gap.points for gap in gaps])
    return ", ".join(f"{what} {_times(count)}" for what, count in counts.items()) + f", on average {mean:+.1f} points"
