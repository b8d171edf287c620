"""What the claims of a report do not hold for: a sentence for each limit that its runs have.

`runs` are rows of `records.with_chosen_learning_rates`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import pandas

from poolwise.compare.verdict import MARGIN, Setting
from poolwise.data.imbalance import are_unlike
from poolwise.words import counted, some

FEW_MISTAKES = 10
"""Of a condition on test, up to which an interval that takes accuracy as normal covers less often than it says: of an
accuracy of 98 % on 100 texts, which are all right in 13 % of draws, it does not reach 98 % then."""


def limits_of(runs: pandas.DataFrame, settings: Sequence[Setting]) -> list[str]:
    """What the claims do not hold for."""
    found = [
        "Rows are ordered by macro F1 on dev, by which a choice should be made; test was read once a run.",
        "Intervals take differences of runs as normal, and join the spread over runs with the draw of test texts; "
        "with few runs they are wide. p-values allow for the comparisons of one setting (Holm; planned and unplanned "
        f"ones apart), not for the number of settings. Conditions count as equivalent within {MARGIN:g} points.",
    ]
    told = chain((limit(runs) for limit in OF_RUNS), (limit(settings) for limit in OF_SETTINGS))
    return [*found, *chain.from_iterable(told)]


def of_one_stage1_run(runs: pandas.DataFrame) -> Iterator[str]:
    """Each encoder was adapted once."""
    if runs.groupby(["setting", "encoder_key"])["stage1_seed"].nunique().max() == 1:
        yield "There is one stage-1 run of each encoder: nothing here can rank the objectives of stage 1."


def of_one_draw_of_labels(runs: pandas.DataFrame) -> Iterator[str]:
    """Few labels were drawn once."""
    few = runs[runs["labels"].notna()]
    if few.groupby(["setting", "encoder_key"])["label_seed"].nunique().min() == 1:
        yield "Some comparisons of few labels are on one draw of these, and hold for this draw."


def of_one_training_set(runs: pandas.DataFrame) -> Iterator[str]:
    """Probes on all labels, whose spread is that of stage-1 runs alone."""
    whole = runs[(runs["material"].map(lambda material: material["protocol"].get("name")) == "probe")]
    whole = whole[~whole["draws_labels"].astype(bool)]
    if len(whole):
        yield (
            "Probes on all labels are of one training set each, and have no seed: their spread is that of stage-1 "
            "runs, and of one encoder that of test texts alone. labels_per_class=K label_seed=1,2,3,4,5 draws several "
            "sets."
        )


def of_missing_draws(settings: Sequence[Setting]) -> Iterator[str]:
    """Draws of labels that some runs lack."""
    partial = [each.name for setting in settings for each in setting.conditions if each.draws_left_out()]
    if partial:
        yield (
            "Some of a condition's stage-1 runs, or of its seeds on one encoder, lack draws of labels that others "
            "have, and where two draws are left that all have, the others are left out of its interval and of all "
            f"differences: {some(sorted(set(partial)), 4)}."
        )


def of_a_whole_dev(runs: pandas.DataFrame) -> Iterator[str]:
    """Few labels to train on, and all of dev to choose by."""
    if runs["labels"].notna().any():
        yield (
            "Where train has few labels, dev is whole all the same: penalties, epochs and learning rates were chosen "
            "on more labels than were trained on."
        )


def of_folds(runs: pandas.DataFrame) -> Iterator[str]:
    """Folds that share training texts."""
    if any(config.get("protocol", {}).get("folds") for config in runs["config"]):
        yield (
            "Texts that were predicted in folds count as independent, and so do draws of folds. The folds' probes "
            "share most of their training texts, so that other training texts may give more different answers than an "
            "interval says (Bengio and Grandvalet 2004)."
        )


def of_test_texts_that_stage1_read(runs: pandas.DataFrame) -> Iterator[str]:
    """Stage 1 has read what is tested."""
    saw = [value for value in runs.get("stage1_saw_test_text", ()) if isinstance(value, bool)]
    if any(saw):
        yield (
            f"Stage 1 had read test texts, without their labels, in {sum(saw)} of {len(runs)} runs: what an encoder "
            "gains on texts that it has read may be more than on others."
        )


def of_unknown_texts_of_stage1(runs: pandas.DataFrame) -> Iterator[str]:
    """Nobody knows whether it has."""
    unknown = ~runs.get("stage1_saw_test_text", pandas.Series(index=runs.index)).isin([True, False])
    if unknown.any():
        models = sorted(set(runs[unknown]["model"]))
        yield (
            f"Whether stage 1 had read test texts is not known of {unknown.sum()} of {len(runs)} runs "
            f"({some(models, 4)}): their encoder began from one of another stage 1, or from a folder of other origin."
        )


def of_unlike_rates(runs: pandas.DataFrame) -> Iterator[str]:
    """Conditions that chose from other learning rates than others."""
    for setting, by_rates in unlike_rates(runs).items():
        choices = "; ".join(f"{rates.replace(' ', ', ')} for {some(names, 4)}" for rates, names in by_rates.items())
        yield (
            f"Learning rates to choose from were not the same for all of {setting}: {choices}. More of them are an "
            "advantage."
        )


def of_one_rate(runs: pandas.DataFrame) -> Iterator[str]:
    """One learning rate for all."""
    alone = trained_at_one_rate(runs)
    if alone:
        yield (
            f"One learning rate was tried in {some(alone, 4)}: representations that another one suits are at a "
            "disadvantage. protocol=finetune_rates and protocol=frozen_rates, with -m, try three."
        )


def of_rates_at_an_end(runs: pandas.DataFrame) -> Iterator[str]:
    """A better rate may lie beyond those tried."""
    at_an_end = rates_at_an_end(runs)
    if at_an_end:
        yield (
            "The learning rate that is best on dev is in some conditions the lowest or the highest of those tried, so "
            f"that one beyond might be better: {some(at_an_end, 6)}."
        )


def of_penalties_at_an_end(runs: pandas.DataFrame) -> Iterator[str]:
    """A better penalty may lie beyond those tried."""
    at_an_end, probes = penalties_at_an_end(runs)
    if at_an_end:
        yield (
            f"Of {counted(probes, 'probe')} {at_an_end:,} chose the weakest or the strongest penalty of those tried, "
            "so that one beyond might be better; protocol.strengths names others."
        )


def of_dense_layers_trained_unlike(runs: pandas.DataFrame) -> Iterator[str]:
    """A fixed pooler beside a dense layer that stage 2 trains."""
    as_named = runs[[config.get("protocol", {}).get("dense") == "as_named" for config in runs["config"]]]
    both = [
        str(words) for words, rows in as_named.groupby("setting_label") if {"pooler", "cls_linear"} <= set(rows["repr"])
    ]
    if both:
        yield (
            f"In {some(both, 4)} stage 2 trained the dense layer of cls_linear and left that of the pooler as it was: "
            "the two do not differ in where they begin alone. protocol=frozen_rates trains both."
        )


def of_wider_heads(runs: pandas.DataFrame) -> Iterator[str]:
    """Vectors that are wider than the encoder's states have larger heads, and no control."""
    wider = sorted(set(runs["repr"]) & {"cls_last4", "cls_mean"})
    if wider:
        yield (
            f"The head on {' and '.join(wider)} has several times the parameters of others, as the vector is as much "
            "wider; there is no control of as many."
        )


def of_unbalanced_classes(runs: pandas.DataFrame) -> Iterator[str]:
    """Accuracy says little of rare classes."""
    found = []
    for data, rows in runs.groupby("data"):
        counts: Mapping[str, int] = next(
            (of["test"] for of in rows.get("class_counts", ()) if isinstance(of, dict) and "test" in of), {}
        )
        if are_unlike(counts.values()):
            found.append(f"{data} ({100 * max(counts.values()) / sum(counts.values()):.0f} % of test is one class)")
    if found:
        yield (
            f"Classes are unbalanced in {some(found, 4)}: claims and intervals are of accuracy, which frequent classes "
            "make; macro F1 stands in the tables, without intervals."
        )


def of_few_mistakes(settings: Sequence[Setting]) -> Iterator[str]:
    """Accuracies near 100 % of few texts."""
    found = [each.name for setting in settings for each in setting.conditions if each.mistakes < FEW_MISTAKES]
    if found:
        yield (
            f"Fewer than {FEW_MISTAKES} test texts a run are answered wrong (or right) by "
            f"{some(sorted(set(found)), 4)}: intervals then cover less often than 95 %."
        )


def of_a_pooler_drawn_once(runs: pandas.DataFrame) -> Iterator[str]:
    """One draw of an untrained pooler stands for all."""
    unadapted_pooler = runs["stage1_seed"].isna() & (runs["repr"] == "pooler")
    untrained = (runs["pooler_status"] == "random") & unadapted_pooler
    drawn = runs.assign(pooler_seed=runs.get("pooler_seed"))[untrained].groupby(["data", "model"])["pooler_seed"]
    drawn_once = drawn.agg(lambda seeds: len(seeds) > 1 and seeds.nunique() == 1)
    models = [", ".join(names) for names, once in drawn_once.items() if once]
    if models:
        yield (
            f"An untrained pooler of an encoder that is not adapted was drawn once for all runs ({some(models, 4)}): "
            "what is said of it holds for this draw."
        )
    of_checkpoints = runs[(runs["pooler_status"] == "never trained") & unadapted_pooler]
    if len(of_checkpoints):
        names = sorted(set(of_checkpoints["model"]))
        yield (
            "The pooler of an encoder that is not adapted is as the checkpoint has it, never trained "
            f"({some(names, 4)}): one draw of random weights, and what is said of it holds for this draw."
        )


def of_dealt_runs(runs: pandas.DataFrame) -> Iterator[str]:
    """An encoder without stage-1 runs beside those that have some."""
    unadapted = runs["stage1_seed"].isna()
    if unadapted.any() and not unadapted.all():
        yield (
            "An encoder that is not adapted has no stage-1 runs: its own runs are dealt out beside theirs, each once, "
            "and where nothing in them is random, the same one stands beside each. With fewer of its own, a difference "
            "is of as many of the others, and not that of the means in the table."
        )


OF_RUNS: tuple[Callable[[pandas.DataFrame], Iterator[str]], ...] = (
    of_one_stage1_run,
    of_one_draw_of_labels,
    of_one_training_set,
    of_a_whole_dev,
    of_folds,
    of_test_texts_that_stage1_read,
    of_unknown_texts_of_stage1,
    of_unlike_rates,
    of_one_rate,
    of_rates_at_an_end,
    of_penalties_at_an_end,
    of_dense_layers_trained_unlike,
    of_wider_heads,
    of_unbalanced_classes,
    of_a_pooler_drawn_once,
    of_dealt_runs,
)
OF_SETTINGS: tuple[Callable[[Sequence[Setting]], Iterator[str]], ...] = (of_missing_draws, of_few_mistakes)
"""What is looked for, in the order of a report: sentences, or none."""


def unlike_rates(runs: pandas.DataFrame) -> dict[str, dict[str, list[str]]]:
    """The settings whose conditions chose from unlike learning rates: by setting in words, these by their rates."""
    found = {}
    for _, rows in runs.groupby("setting"):
        several = rows["encoder_key"].nunique() > 1
        names = rows["repr"] + " " + rows["adaptation"] if several else rows["repr"]
        by_rates = {str(rates): sorted(set(of_rates)) for rates, of_rates in names.groupby(rows["tried"])}
        if len(by_rates) > 1:
            found[str(rows["setting_label"].iloc[0])] = by_rates
    return found


def trained_at_one_rate(runs: pandas.DataFrame) -> list[str]:
    """Settings in words that are trained, and in which all had the same one learning rate."""
    trained = runs[runs["tried"] != ""]
    by_setting = trained.groupby("setting_label", sort=False)["tried"]
    return [str(setting) for setting, tried in by_setting if len(set(" ".join(tried).split())) == 1]


def penalties_at_an_end(runs: pandas.DataFrame) -> tuple[int, int]:
    """How many probes have the weakest or strongest penalty of several as the best on dev, and how many there are."""
    at_an_end = probes = 0
    for run in runs.to_dict("records"):
        tried = run["config"].get("protocol", {}).get("strengths") or ()
        of_folds = run.get("strengths")
        chosen = of_folds if isinstance(of_folds, list) else [run.get("strength")]
        for strength in chosen if len(tried) > 1 else ():
            probes += 1
            at_an_end += strength in (min(tried), max(tried))
    return at_an_end, probes


def rates_at_an_end(runs: pandas.DataFrame) -> list[str]:
    """Representations in words, with how many of their conditions chose the lowest or the highest of several rates."""
    chosen: dict[str, list[str]] = {}
    for (_, _, name), rows in runs.groupby(["setting_label", "adaptation", "repr"]):
        rate, tried = rows["learning_rate"].iloc[0], rows["tried"].iloc[0].split()
        if len(tried) > 1:
            where = {float(tried[0]): "lowest", float(tried[-1]): "highest"}.get(rate, "between")
            chosen.setdefault(str(name), []).append(where)
    return [
        f"{name} ({of.count('lowest')} the lowest and {of.count('highest')} the highest, of {len(of)})"
        for name, of in chosen.items()
        if {"lowest", "highest"} & set(of)
    ]
