import re

import pytest

from helpers import EXAMPLES, write_run
from poolwise.compare.records import read_runs
from poolwise.compare.verdict import Setting, Verdict, overview, settings_of, verdict

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
        r"Use mean, the best on dev; test accuracy 95\.0 % "
        r"\(95 % interval 9\d\.\d to 9\d\.\d; sd 0\.0 over 3 runs\)\.",
        words.answer,
    )


def test_differences_and_hypotheses_in_words(runs):
    _, words = told(runs)
    (note,) = words.notes
    interval = r"\(95 % interval \d\.\d to 1\d\.\d, p [<=] 0\.00\d\)"
    assert re.search(rf"mean beats pooler \(random\) by 10\.5 points {interval}\.", words.answer)
    assert re.search(r"Cannot tell mean from cls: these runs see differences above \d\.\d only\.", words.answer)
    assert re.match(rf"H1, pooler beats cls: cls beats pooler \(random\) by 10\.5 points {interval}\.", note)
    assert "H2" not in note
    assert list(words.hypotheses) == ["H1"]


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
    assert answer.startswith("Use none of these yet: the best on dev, cls, has a test accuracy 50.0 %")
    assert "always answering the most frequent class has 50.0 %" in answer


def test_the_answer_says_what_its_runs_differ_in(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "cls", seed, [seed], dev=0.9, protocol="probe", labels=8)
    assert "over 3 label draws)" in told(tmp_path)[1].answer


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
    assert told(tmp_path)[1].answer.endswith("). mean is equivalent within 0.5 to cls.")


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
    first, second, between, gave = words.notes
    assert first.startswith("After stage 1 with bow: ")
    assert second.startswith("After plain MLM: ")
    assert "pooler after stage 1 with bow beats pooler after plain MLM by 24.0 points" in between
    assert "pooler after stage 1 with bow beats cls not adapted by 29.0 points" in between
    assert gave.startswith("What stage 1 gave, after stage 1 with bow against after plain MLM:")
    assert "to the encoder, as cls shows it, +5.0 points" in gave
    # (pooler - cls_linear) with the objective: 2 points; without: -17
    assert "To the pooler (pooler less cls_linear, with the objective less without it) +19.0 points" in gave
    assert len(words.hypotheses["H1"]) == len(words.hypotheses["H2"]) == 2


def test_one_stage_1_run_claims_nothing_of_others(tmp_path):
    for seed in (1, 2, 3):
        for objective, wrong in (("bow", [0]), ("none", list(range(40)))):
            for name in ("cls", "pooler"):
                write_run(tmp_path, name, seed, wrong, dev=1 - len(wrong) / 100, objective=objective)
    *_, between, gave = told(tmp_path)[1].notes
    limit = r"\(one stage-1 run of each encoder: said of these alone\)\."
    assert re.search(rf"cls after plain MLM by 19\.5 points \(.*\) {limit}", between)
    assert re.search(rf"as cls shows it, \+19\.5 points \([^)]*\) {limit}", gave)


def test_the_baseline_is_the_plain_mlm_of_the_same_budget(tmp_path):
    for seed in (1, 2, 3):
        for objective, wrong in (("bow-90s", 0), ("none-90s", 20), ("none", 40), (None, 60)):
            write_run(tmp_path, "cls", seed, list(range(wrong)), dev=1 - wrong / 100, objective=objective)
    gave = [note for note in told(tmp_path)[1].notes if note.startswith("What stage 1 gave")]
    assert len(gave) == 1
    assert "bow-90s against after plain MLM-90s: to the encoder, as cls shows it, +10.0" in gave[0]


def test_the_overview_counts_settings_and_hypotheses(three_encoders):
    for seed in (1, 2, 3):
        write_run(three_encoders, "mean", seed, [], dev=0.9, labels=8)
        write_run(three_encoders, "cls", seed, [0], dev=0.8, labels=8)
    found = [(setting, verdict(setting)) for setting in settings_of(read_runs(three_encoders, "sentiment"))]
    assert found[0][0].labels == 8
    words = overview(found)
    assert words[0] == "Of 2 settings, the best on dev was mean in 1, pooler in 1."
    assert words[1].startswith("H1, pooler beats cls, asked 2 times: ")
    assert words[1].endswith(", on average -7.5 points.")
    assert words[2].startswith("H2, cls_linear beats cls, asked 2 times: open 2 times")
    assert overview(found[:1]) == []


def test_the_overview_tells_untrained_poolers_apart(runs):
    write_run(runs, "pooler", 1, [0], dev=0.9, labels=8)
    write_run(runs, "cls", 1, [0, 1, 2, 3], dev=0.8, labels=8)
    words = overview([(setting, verdict(setting)) for setting in settings_of(read_runs(runs, "sentiment"))])
    assert re.fullmatch(
        r"H1, pooler beats cls, asked once: \w.* once, on average \+1\.5 points; "
        r"asked once with an untrained pooler: the opposite shown once, on average -10\.5 points\.",
        words[1],
    )
