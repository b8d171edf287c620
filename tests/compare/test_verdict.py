import json
import math
import re

import numpy as np
import pandas
import pytest
from scipy import stats

from helpers import EXAMPLES, write_run
from poolwise.compare import records
from poolwise.compare.inference import LEVEL
from poolwise.compare.records import Condition, read_runs
from poolwise.compare.verdict import Setting, Verdict, mean_of, overview, planned, settings_of, verdict
from poolwise.runs import write_record

HALF = list(range(0, EXAMPLES, 2))
"""Wrong on one of two classes, as a constant answer is."""


def told(folder) -> tuple[Setting, Verdict]:
    (setting,) = settings_of(read_runs(folder, "sentiment"))
    return setting, verdict(setting)


def test_the_answer_names_the_best_on_dev_and_what_it_rests_on(runs):
    setting, words = told(runs)
    assert setting.label == "demo, tiny, finetune"
    assert [each.label for each in setting.conditions] == ["mean", "cls", "pooler (random)"]
    assert re.match(
        r"Use mean after stage 1 with bow, the best on dev; test accuracy 95\.0 % "
        r"\(95 % interval 9\d\.\d to 9\d\.\d; sd 0\.0 over 3 runs\)\.",
        words.answer,
    )


def test_differences_and_hypotheses_in_words(runs):
    _, words = told(runs)
    note, tested = words.notes
    interval = r"\(95 % interval \d\.\d to 1\d\.\d, p [<=] 0\.00\d\) \(one stage-1 run: said of this one alone\)"
    assert re.search(rf"mean beats pooler \(random\) by 10\.5 points {interval}\.", words.answer)
    assert re.search(r"Cannot tell mean from cls: these runs see differences above \d\.\d only\.", words.answer)
    beaten = rf"cls beats pooler \(random\) by 10\.5 points {interval}\."
    assert re.fullmatch(rf"After stage 1 with bow: H1 \(pooler beats cls\): {beaten}", note)
    asked = "for 1 planned comparison (H1, H2, matched controls and what stage 1 gave)"
    assert f"{asked} and, apart, for 2 unplanned comparisons (" in tested
    assert "chosen), at 2.5 % each; intervals beside them do not." in tested
    assert "permutation" not in tested
    assert [(each.question, each.outcome) for each in words.planned] == [("H1", "the opposite")]


def test_one_pair_of_runs_is_held_against_the_permutation_test(tmp_path):
    for name, wrong in {"cls": [10], "pooler": [40], "mean": [12]}.items():
        write_run(tmp_path, name, 1, list(range(wrong[0])), dev=1 - wrong[0] / 100)
    _, words = told(tmp_path)
    assert "the permutation test agrees at 0.05 in 2 of 2." in words.notes[-1]


def test_a_planned_pair_is_told_with_its_one_p(tmp_path):
    wrong = {"cls": [10, 12, 14], "pooler": [27, 24, 33], "mean": [30, 34, 29], "cls_linear": [11, 10, 13]}
    for name, counts in wrong.items():
        for seed, count in enumerate(counts):
            write_run(tmp_path, name, seed, list(range(count)), dev=1 - sum(counts) / 1000)
    _, words = told(tmp_path)
    (h1, h2), others = words.planned, words.unplanned
    assert (h1.question, h2.question) == ("H1", "H2")
    pairs = [tuple(condition.label for condition in each.conditions) for each in others]
    assert pairs == [("cls_linear", "pooler"), ("cls_linear", "mean")]
    assert [each.family for each in (h1, h2, *others)] == [4, 4, 8, 8]  # of 6 pairs, 2 are planned
    assert h1.p == pytest.approx(2 * 2 * h1.gap.p)
    assert min(each.p for each in others) == pytest.approx(2 * 4 * min(each.gap.p for each in others))


def test_what_adds_parameters_is_asked_to_beat_its_control(tmp_path):
    wrong = {"layer_mix": 10, "cls_scaled": 30, "attention": 31, "mean_scaled": 12}
    for name, count in wrong.items():
        for seed in (1, 2, 3):
            write_run(tmp_path, name, seed, list(range(count + seed)), dev=1 - count / 100)
    found = {each.question: each.outcome for each in told(tmp_path)[1].planned}
    assert found == {"layer_mix": "shown", "attention": "the opposite"}
    (answer,) = (words for words in overview_of(tmp_path) if words.startswith("layer_mix"))
    assert answer.startswith("layer_mix beats cls_scaled, which has as many parameters, after stage 1 with bow: ")
    assert "layer_mix beats cls_scaled by 10.0 points" in answer


def test_the_same_sentence_in_the_answer_and_under_the_hypothesis(tmp_path):
    for name, counts in {"cls": [10, 12, 14], "pooler": [40, 44, 38], "mean": [50, 54, 49]}.items():
        for seed, count in enumerate(counts):
            write_run(tmp_path, name, seed, list(range(count)), dev=1 - sum(counts) / 1000)
    setting, words = told(tmp_path)
    (h1,) = words.planned
    assert h1.sentence.startswith("cls beats pooler by 14.3 points")
    assert all(f"{h1.sentence}." in text for text in (words.answer, words.notes[0], overview([(setting, words)])[0]))
    assert {frozenset(each.conditions) for each in words.unplanned}.isdisjoint({frozenset(h1.conditions)})


def test_one_run_claims_nothing_of_other_runs(tmp_path):
    write_run(tmp_path, "mean", 1, [], dev=0.9)
    _, words = told(tmp_path)
    assert words.answer.endswith("by its test texts alone). There is nothing to compare it with yet.")
    write_run(tmp_path, "cls", 1, list(range(90)), dev=0.5)
    _, words = told(tmp_path)
    assert re.search(r"mean beats cls by 45\.0 points \(.*\) \(one run each: said of these alone\)\.", words.answer)


def test_runs_without_a_common_seed_are_not_compared(tmp_path):
    write_run(tmp_path, "mean", 1, [0], dev=0.9)
    write_run(tmp_path, "cls", 2, [0, 1], dev=0.8)
    assert "mean and cls have no runs that can be paired." in told(tmp_path)[1].answer


def test_runs_that_answer_like_a_constant_are_not_recommended(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "cls", seed, HALF, dev=0.4)
    answer = told(tmp_path)[1].answer
    assert answer.startswith(
        "Use none of these yet: the best on dev, cls after stage 1 with bow, has a test accuracy 50.0 %"
    )
    assert "always answering the most frequent class has 50.0 %" in answer


def test_the_answer_says_what_its_runs_differ_in(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "cls", seed, [seed], dev=0.9, protocol="probe", labels=8)
    assert "over 3 label draws)" in told(tmp_path)[1].answer


def test_draws_of_labels_that_are_all_that_varies_are_draws_and_no_runs(tmp_path):
    """Settings of one data set share them, whatever the model: they go together when settings are pooled."""
    for seed in (1, 2, 3):
        for name, count in (("cls", 10), ("mean", 20)):
            wrong = list(range(count + 2 * seed * (name == "cls")))
            write_run(tmp_path, name, seed, wrong, dev=1 - count / 100, objective=None, protocol="probe", labels=8)
    (each,) = told(tmp_path)[1].unplanned
    assert (each.gap.run_error, each.gap.joint_error, each.gap.draws) == (0.0, 0.0, 3)
    assert each.gap.draw_error == pytest.approx(100 * 2 / 200 / 3**0.5)


def test_a_control_of_its_own_makes_a_question_of_its_own(tmp_path):
    """Pooler less cls_linear where that was run, else less cls: the two are not averaged."""
    for seed in (1, 2, 3):
        for objective, shift in (("bow", 0), ("none", 6)):
            for labels, names in ((8, ("pooler", "cls")), (32, ("pooler", "cls", "cls_linear"))):
                for name in names:
                    wrong = list(range(10 + seed + shift * (name == "pooler")))
                    write_run(
                        tmp_path, name, seed, wrong, dev=0.9, objective=objective, stage1_seed=seed, labels=labels
                    )
    found = [words.partition(":")[0] for words in overview_of(tmp_path) if "trains the pooler" in words]
    claim = "The objective trains the pooler (pooler less {} gains by it"
    of = ", after stage 1 with bow against after plain MLM"
    assert found == [claim.format("cls_linear") + ")" + of, claim.format("cls") + "; there is no cls_linear)" + of]


def test_mean_after_stage_1_is_held_against_mean_without(tmp_path):
    for seed in (1, 2, 3):
        for objective, count in (("bow", 10), ("none", 20), (None, 40)):
            wrong = list(range(count + seed))
            write_run(tmp_path, "mean", seed, wrong, dev=1 - count / 100, objective=objective, stage1_seed=seed)
    found = {each.question: each.gap.points for each in told(tmp_path)[1].planned}
    assert found == {"mean": pytest.approx(5.0), "adapting": pytest.approx(15.0)}


def test_few_texts_show_no_equivalence(tmp_path):
    for seed in (1, 2, 3):
        for name in ("mean", "cls"):
            write_run(tmp_path, name, seed, [1], dev=0.9 if name == "mean" else 0.8)
    assert "Cannot tell mean from cls" in told(tmp_path)[1].answer


def test_all_that_cannot_be_told_is_one_sentence(tmp_path):
    for seed in (1, 2, 3):
        for place, name in enumerate(("mean", "cls", "max")):
            write_run(tmp_path, name, seed, [10 * place + seed], dev=0.9 - place / 100)
    assert "Cannot tell mean from cls or max: these runs see differences above" in told(tmp_path)[1].answer


def test_conditions_that_answer_alike_are_equivalent(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "mean", seed, [1], dev=0.9, examples=1000)
        write_run(tmp_path, "cls", seed, [1], dev=0.8, examples=1000)
    assert told(tmp_path)[1].answer.endswith(
        "). mean is equivalent within 0.5 to cls (one stage-1 run: said of this one alone)."
    )


@pytest.fixture
def three_encoders(tmp_path):
    """bow: pooler 2 wrong, cls and cls_linear 6; none: pooler 50, cls and cls_linear 16; unadapted cls 60."""
    for stage1_seed in (11, 12, 13):
        shift = stage1_seed - 12
        for objective, wrong in (("bow", (2, 6)), ("none", (50, 16))):
            for name, count in (("pooler", wrong[0]), ("cls", wrong[1]), ("cls_linear", wrong[1])):
                mistakes = list(range(count + shift))
                write_run(
                    tmp_path, name, 1, mistakes, dev=1 - count / 100, objective=objective, stage1_seed=stage1_seed
                )
        write_run(tmp_path, "cls", stage1_seed, list(range(60)), dev=0.2, objective=None)
    return tmp_path


def test_several_encoders_are_compared_over_their_stage_1_runs(three_encoders):
    setting, words = told(three_encoders)
    assert list(setting.encoders) == ["after stage 1 with bow", "after plain MLM", "not adapted"]
    assert words.answer.startswith("Use pooler after stage 1 with bow, the best on dev; test accuracy 99.0 %")
    assert "sd 0.5 over 3 stage-1 runs" in words.answer
    first, second = words.notes[:2]
    between, gave, tested = words.notes[2:]
    assert first.startswith("After stage 1 with bow: ")
    assert second.startswith("After plain MLM: ")
    assert "pooler after stage 1 with bow beats pooler after plain MLM by 24.0 points" in between
    assert "pooler after stage 1 with bow beats cls not adapted by 29.0 points" in between
    assert gave.startswith("What stage 1 gave, after stage 1 with bow against after plain MLM:")
    assert "to the encoder, as cls shows it, +5.0 points" in gave
    # (pooler - cls_linear) with the objective: 2 points; without: -17
    assert "to the pooler (pooler less cls_linear, with the objective less without it) +19.0 points" in gave
    assert [each.question for each in words.planned] == ["H1", "H2", "encoder", "pooler", "H1", "H2"]
    assert {each.family for each in words.planned} == {2 * 6}
    assert "for 6 planned comparisons (H1, H2, matched controls and what stage 1 gave) and, apart, for" in tested


def test_one_stage_1_run_claims_nothing_of_others(tmp_path):
    for seed in (1, 2, 3):
        for objective, wrong in (("bow", [0]), ("none", list(range(40)))):
            for name in ("cls", "pooler"):
                write_run(tmp_path, name, seed, wrong, dev=1 - len(wrong) / 100, objective=objective)
    between, gave, _ = told(tmp_path)[1].notes[-3:]
    limit = r"\(one stage-1 run of each encoder: said of these alone\)[.;]"
    assert re.search(rf"cls after plain MLM by 19\.5 points \(.*\) {limit}", between)
    assert re.search(rf"as cls shows it, \+19\.5 points \([^)]*\) {limit}", gave)


def test_the_baseline_is_the_plain_mlm_of_the_same_budget(tmp_path):
    for seed in (1, 2, 3):
        for objective, wrong in (("bow-90s", 0), ("none-90s", 20), ("none", 40), (None, 60)):
            write_run(tmp_path, "cls", seed, list(range(wrong)), dev=1 - wrong / 100, objective=objective)
    gave = [note for note in told(tmp_path)[1].notes if note.startswith("What stage 1 gave")]
    assert len(gave) == 1
    assert "bow-90s against after plain MLM-90s: to the encoder, as cls shows it, +10.0" in gave[0]


def overview_of(folder) -> list[str]:
    return overview([(setting, verdict(setting)) for setting in settings_of(read_runs(folder, "sentiment"))])


def test_what_single_runs_say_together_is_said_of_them_alone(tmp_path):
    for labels in (8, 32):
        for name, wrong in {"pooler": 0, "cls": 40}.items():
            write_run(tmp_path, name, 1, list(range(wrong)), dev=1 - wrong / 200, labels=labels)
    (h1,) = [words for words in overview_of(tmp_path) if words.startswith("H1")]
    said = r"yes \(said of single runs or single stage-1 runs alone in 2 of 2\)"
    assert re.search(rf"\+20\.0 points on average \(.*\): {said}\. By itself", h1)


def test_draws_of_other_comparisons_go_together_with_those_in_runs(tmp_path):
    for seed in (1, 2, 3):
        for name, wrong in (("pooler", seed), ("cls", 3 * seed)):
            write_run(tmp_path, name, seed, list(range(wrong)), 0.9, stage1_seed=seed, labels=8)
            for draw in (1, 2):
                mistakes = list(range(wrong * draw))
                write_run(tmp_path, name, draw, mistakes, 0.9, stage1_seed=seed, labels=8, protocol="probe")
    asked = [each for setting in settings_of(read_runs(tmp_path, "sentiment")) for each in planned(setting)]
    heads, probes = sorted((each.gap for each in asked if each.question == "H1"), key=lambda gap: gap.draws)
    assert (heads.draws, probes.draws) == (0, 2)
    together = mean_of([each for each in asked if each.question == "H1"])
    reach = stats.t.isf(0.025, 2) * (heads.run_error + math.hypot(probes.run_error, probes.draw_error)) / 2
    units, draws, _ = together.parts(lambda freedom: float(stats.t.isf(0.025, freedom)))
    assert units == pytest.approx(reach)
    assert draws == 0.0
    assert mean_of([each for each in asked if each.gap is probes]).parts(lambda freedom: 1.0)[1] == probes.draw_error


@pytest.mark.parametrize(("labels", "draw_of"), [(8, "run"), (8, "all runs"), (None, "run")])
def test_models_of_a_data_set_share_draws_that_change_with_the_run(tmp_path, labels, draw_of):
    for model, protocol in (("small", "finetune"), ("large", "finetune"), ("large", "probe")):
        for seed in (1, 2, 3):
            for name in ("pooler", "cls"):
                drawn = {"label_seed": seed if draw_of == "run" else 7}
                runs = tmp_path / model / name
                material = write_run(runs, name, seed, [seed], 0.9, stage1_seed=seed, protocol=protocol, labels=labels)
                record = json.loads((material / "record.json").read_text())
                write_record(material, {**record, **drawn, "model": model})
    found = pandas.concat([read_runs(folder, "sentiment") for folder in sorted(tmp_path.glob("*/*"))])
    asked = [each for setting in settings_of(found) for each in planned(setting) if each.question == "H1"]
    groups = mean_of(asked).runs
    shared = labels is not None and draw_of == "run"
    assert groups == [("demo", "" if shared else model) for model in ("large", "large", "small")]


def test_the_overview_counts_settings_and_claims(three_encoders):
    one = overview_of(three_encoders)
    for seed in (1, 2, 3):
        write_run(three_encoders, "mean", seed, [], dev=0.9, labels=8)
        write_run(three_encoders, "cls", seed, [0], dev=0.8, labels=8)
    several = overview_of(three_encoders)
    once = "1 of the 1 where it was run"
    assert several[0] == f"Of 2 settings, the best on dev was mean in {once}, pooler in {once}."
    assert several[1:] == one
    h1, h2, encoder, pooler = one
    assert re.fullmatch(
        r"H1 \(pooler beats cls\): -7\.5 points on average \(95 % interval -\d+\.\d to -\d+\.\d, p [<=] 0\.\d+\): "
        r"no, the opposite\. By itself shown in none of 2(, the opposite in 1)?\.",
        h1,
    )
    assert h2.startswith("H2 (cls_linear beats cls): +0.0 points on average (95 % interval -1.0 to +1.0, p = 1.000)")
    assert re.search(r": cannot tell, as these runs together see differences above \d\.\d only\. By itself shown", h2)
    where = "after stage 1 with bow against after plain MLM"
    assert encoder.startswith(
        f"The objective helps the encoder (cls with it beats cls without), {where}: +5.0 points ("
    )
    assert pooler.startswith(
        f"The objective trains the pooler (pooler less cls_linear gains by it), {where}: +19.0 points ("
    )


def test_the_overview_of_one_setting_and_encoder_answers_with_the_encoders_name(tmp_path):
    for seed in (1, 2, 3):
        for name, wrong in (("pooler", 2), ("cls", 4)):
            write_run(tmp_path, name, seed, list(range(wrong)), dev=1 - wrong / 100, objective=None)
    (h1,) = overview_of(tmp_path)
    assert h1.startswith("H1 (pooler beats cls), not adapted: cannot tell pooler from cls")


def test_the_overview_tells_untrained_poolers_apart(runs):
    write_run(runs, "pooler", 1, [0], dev=0.9, labels=8)
    write_run(runs, "cls", 1, [0, 1, 2, 3], dev=0.8, labels=8)
    h1, untrained = overview_of(runs)[1:]
    assert h1.startswith("H1 (pooler beats cls), after stage 1 with bow: cannot tell pooler from cls")
    whose = "H1 (pooler beats cls), with an untrained pooler, after stage 1 with bow"
    assert untrained.startswith(f"{whose}: cls beats pooler (random) by 10.5 points")


def test_settings_come_by_data_model_and_protocol_and_few_labels_first(tmp_path):
    for protocol, labels in (("probe", None), ("probe", 32), ("finetune", None), ("probe", 8)):
        write_run(tmp_path, "cls", 1, [0], dev=0.9, protocol=protocol, labels=labels)
    assert [
        setting.label.removeprefix("demo, tiny, ") for setting in settings_of(read_runs(tmp_path, "sentiment"))
    ] == [
        "finetune",
        "probe on 8 labels a class",
        "probe on 32 labels a class",
        "probe",
    ]


REPRESENTATIONS = ["pooler", "cls", "cls_linear", "mean", "max", "cls_mean", "mean_last4", "attention"]
ENCODERS = {"bow": "after stage 1 with bow", "none": "after plain MLM", "halves": "after stage 1 with halves"}


def alike(random, encoders: int, representations: int, runs: tuple[int, int], examples: int):
    """Runs of conditions that nothing but chance sets apart, and the answers of each by its folder.

    As in the simulations of intervals: an answer is right where a sum of normal draws is above 0, of the text, of what
    is particular to text and condition or run, and of how good a stage-1 run is, that run for one representation, and
    a stage-2 run (1 point each, where there are several). Dev ranks runs by how good they are.
    """
    stage1_runs, stage2_runs = runs
    point = 0.09  # of the sum; 1 point of accuracy near 85 %
    shape = (encoders, representations, stage1_runs, stage2_runs)
    several = (stage1_runs > 1, stage1_runs > 1, stage1_runs * stage2_runs > 1)
    parts = [(encoders, 1, stage1_runs, 1), (encoders, representations, stage1_runs, 1), shape]
    good = sum(random.normal(size=part) * point * there for part, there in zip(parts, several, strict=True))
    texts = 1.8 + 1.6 * random.normal(size=examples)
    texts = texts + 0.4 * random.normal(size=(encoders, representations, 1, 1, examples))
    right = texts + 0.35 * random.normal(size=(encoders, 1, stage1_runs, 1, examples)) + good[..., None]
    right = right + 0.5 * random.normal(size=(*shape, examples)) > 0
    rows, answers = [], {}
    for place in np.ndindex(shape):
        encoder, representation, stage1_seed, seed = place
        name, folder = REPRESENTATIONS[representation], f"{random.integers(2**62)}"
        objective, adaptation = list(ENCODERS.items())[encoder]
        answers[folder] = right[place]
        rows.append(
            {"adaptation": adaptation, "objective": objective, "repr": name, "label": name, "folder": folder}
            | {"stage1_seed": stage1_seed, "seed": seed, "material": {"seed": seed, "protocol": {"name": "finetune"}}}
            | {"setting": "s", "setting_label": "s", "family": "s", "data": "d", "model": "m", "labels": np.nan}
            | {"draws_labels": False, "dev/macro_f1": 0.85 + good[place]}
        )
    return pandas.DataFrame(rows), answers


def called_different(monkeypatch, settings: int, *design) -> int:
    """In how many of so many settings of alike conditions any comparison, planned or not, is shown."""
    random, labels = np.random.default_rng(0), np.arange(design[-1]) % 2
    called = 0
    for _ in range(settings):
        runs, answers = alike(random, *design)
        logits = {folder: np.eye(2)[np.where(right, labels, 1 - labels)] for folder, right in answers.items()}
        # where a run's file is read: all that follows is what reads of the report
        monkeypatch.setattr(records, "predictions", lambda folder, found=logits: (found[folder], labels, labels))
        (setting,) = settings_of(runs)
        found = verdict(setting)
        called += any(each.p <= LEVEL for each in [*found.planned, *found.unplanned])
    return called


def most(settings: int) -> float:
    """Of so many, what a share of 5 % exceeds once in 1,000 times."""
    return stats.binom.ppf(0.999, settings, 0.05)


@pytest.mark.parametrize(("design", "settings"), [((1, 4, (1, 3), 300), 10)])
def test_a_few_alike_conditions_are_not_all_called_different(monkeypatch, design, settings):
    assert called_different(monkeypatch, settings, *design) <= most(settings)


DESIGNS = [
    (1, 4, (1, 1), 800),
    (1, 4, (1, 3), 800),
    (1, 4, (3, 1), 800),
    (1, 8, (5, 1), 800),
    (2, 4, (1, 3), 800),
    (2, 4, (5, 1), 3000),
    (3, 4, (3, 1), 800),
    (2, 3, (3, 3), 800),
]
"""Encoders, representations, stage-1 and stage-2 runs of each, and texts."""


@pytest.mark.slow
def test_alike_conditions_are_called_different_at_most_as_often_as_claimed(monkeypatch):
    """Each design alone is a coarse look; together they would show a share of 7 %."""
    called = [called_different(monkeypatch, 200, *design) for design in DESIGNS]
    assert max(called) <= most(200), called
    assert sum(called) <= most(200 * len(DESIGNS)), called


DRAWN = {
    "three heads on one encoder, each with the same five draws": (1, 3, []),
    "three stage-1 runs on five draws": (3, 1, []),
    "the same, one run missing": (3, 1, [(1, 0, 2)]),
}
"""Stage-1 runs, heads on each, and the runs (stage-1 run, head, draw) that are not there."""


@pytest.mark.slow
@pytest.mark.parametrize("design", DRAWN)
def test_intervals_cover_where_draws_of_labels_are_shared(monkeypatch, design):
    """Draws move accuracy by 3 points, heads and stage-1 runs by 0.5, what is particular to a run by 0.5."""
    stage1_runs, heads, missing = DRAWN[design]
    random, labels, covered, settings = np.random.default_rng(0), np.arange(1000) % 2, 0, 200
    for _ in range(settings):
        shapes = {(stage1_runs, heads, 1): 0.5, (1, 1, 5): 3.0, (stage1_runs, heads, 5): 0.5}
        share = 0.8 + sum(size * random.normal(size=shape) for shape, size in shapes.items()) / 100
        there = [place for place in np.ndindex(share.shape) if place not in missing]
        rows = pandas.DataFrame(there, columns=["stage1_seed", "head_seed", "label_seed"])
        rows = rows.assign(folder=[str(place) for place in there], adaptation="after plain MLM", objective="none")
        rows = rows.assign(repr="cls", label="cls", material=[{}] * len(rows), draws_labels=True, labels=8.0)
        logits = {
            str(place): np.eye(2)[np.where(random.random(1000) < share[place], labels, 1 - labels)] for place in there
        }
        monkeypatch.setattr(records, "predictions", lambda folder, found=logits: (found[folder], labels, labels))
        accuracy = Condition(rows).accuracy
        covered += accuracy.low <= 80 <= accuracy.high
    assert settings - covered <= most(settings), design
