import json

import pytest

from helpers import write_run
from poolwise.compare.limits import FEW_MISTAKES, limits_of, penalties_at_an_end, rates_at_an_end, unlike_rates
from poolwise.compare.records import read_runs, with_chosen_learning_rates
from poolwise.compare.report import write_report
from poolwise.compare.verdict import settings_of
from poolwise.runs import write_record


def changed(folder, protocol=None, **record):
    """A run whose record, or protocol in its config, says something else."""
    found = {**json.loads((folder / "record.json").read_text()), **record}
    found["config"]["protocol"] |= protocol or {}
    write_record(folder, found)


def limits(runs) -> str:
    """As a report has them, which draws its figures too."""
    found = with_chosen_learning_rates(read_runs(runs, "sentiment"))
    return " ".join(limits_of(found, settings_of(found)))


def test_runs_without_a_limit_have_none_told(tmp_path):
    for stage1_seed in (1, 2):
        for rate in (1e-3, 2e-3, 4e-3):
            wrong = list(range(20))
            dev = 0.9 if rate == 2e-3 else 0.8
            folder = write_run(
                tmp_path, "cls", 1, wrong, dev, stage1_seed=stage1_seed, learning_rate=rate, examples=200
            )
            changed(folder, stage1_saw_test_text=False, class_counts={"test": {"negative": 100, "positive": 100}})
    assert len(write_report(tmp_path).limits) == 2  # what holds for all reports


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"stage1_saw_test_text": True}, "Stage 1 had read test texts, without their labels, in 1 of 1 runs"),
        ({"stage1_saw_test_text": None}, "Whether stage 1 had read test texts is not known of 1 of 1 runs (tiny)"),
        (
            {"class_counts": {"test": {"negative": 180, "positive": 20}}},
            "Classes are unbalanced in demo (90 % of test is one class)",
        ),
        ({"protocol": {"folds": 5}}, "Texts that were predicted in folds count as independent"),
    ],
)
def test_what_a_record_says_is_told(tmp_path, record, words):
    folder = write_run(tmp_path, "cls", 1, list(range(20)), 0.9, examples=200)
    changed(folder, stage1_saw_test_text=False)
    assert words not in limits(tmp_path)
    changed(folder, **record)
    assert words in limits(tmp_path)


def test_one_stage_1_run_and_one_draw_are_told(tmp_path):
    write_run(tmp_path, "cls", 1, [], 0.9, labels=8)
    assert "There is one stage-1 run of each encoder: nothing here can rank" in limits(tmp_path)
    assert "on one draw of these" in limits(tmp_path)
    write_run(tmp_path, "cls", 2, [], 0.9, labels=8, stage1_seed=2)
    write_run(tmp_path, "cls", 2, [], 0.9, labels=8, stage1_seed=1)
    write_run(tmp_path, "cls", 1, [], 0.9, labels=8, stage1_seed=2)
    assert "nothing here can rank" not in limits(tmp_path)
    assert "on one draw of these" not in limits(tmp_path)


def test_a_probe_on_all_labels_is_of_one_training_set(tmp_path):
    write_run(tmp_path, "cls", 1, [], 0.9, protocol="probe", labels=8)
    assert "are of one training set each" not in limits(tmp_path)
    write_run(tmp_path, "cls", 1, [], 0.9, protocol="probe")
    assert "are of one training set each" in limits(tmp_path)


def test_penalties_at_an_end_are_counted_over_folds_too(tmp_path):
    tried = {"strengths": [0.01, 0.1, 1.0]}
    for seed, found in enumerate([{"strength": 0.01}, {"strength": 0.1}, {"strengths": [1.0, 0.1, 1.0]}]):
        changed(write_run(tmp_path, "cls", seed, [], 0.9, protocol="probe", labels=8), tried, **found)
    changed(write_run(tmp_path, "mean", 9, [], 0.9, protocol="probe", labels=8), {"strengths": [0.1]}, strength=0.1)
    assert penalties_at_an_end(read_runs(tmp_path, "sentiment")) == (3, 5)
    assert "Of 5 probes 3 chose the weakest or the strongest penalty of those tried" in limits(tmp_path)


def test_a_fixed_pooler_beside_a_trained_layer_is_told(tmp_path):
    words = "In demo, tiny, frozen stage 2 trained the dense layer of cls_linear and left that of the pooler as it was"
    changed(write_run(tmp_path, "pooler", 1, [], 0.9, protocol="frozen"), {"dense": "as_named"})
    assert words not in limits(tmp_path)
    changed(write_run(tmp_path, "cls_linear", 1, [], 0.9, protocol="frozen"), {"dense": "as_named"})
    assert words in limits(tmp_path)


def test_wider_vectors_and_few_mistakes_are_told(tmp_path):
    write_run(tmp_path, "cls_last4", 1, list(range(FEW_MISTAKES - 1)), 0.9, examples=200)
    found = limits(tmp_path)
    assert "The head on cls_last4 has several times the parameters of others" in found
    assert "Fewer than 10 test texts a run are answered wrong (or right) by cls_last4 after stage 1 with bow" in found
    write_run(tmp_path, "cls_last4", 2, list(range(FEW_MISTAKES + 1)), 0.9, examples=200)
    assert "Fewer than 10 test texts" not in limits(tmp_path)


def test_an_untrained_pooler_that_was_drawn_once_and_dealt_runs_are_told(tmp_path):
    drawn = "An untrained pooler of an encoder that is not adapted was drawn once for all runs (demo, tiny)"
    for seed in (1, 2):
        write_run(tmp_path, "pooler", seed, [], 0.9, status="random", objective=None, pooler_seed=seed)
    assert drawn not in limits(tmp_path)
    for folder in (tmp_path / "sentiment").iterdir():
        changed(folder, pooler_seed=1)
    assert drawn in limits(tmp_path)
    never_trained = "is as the checkpoint has it, never trained (tiny): one draw of random weights"
    assert never_trained not in limits(tmp_path)
    changed(write_run(tmp_path, "pooler", 3, [], 0.9, status="never trained", objective=None))
    assert never_trained in limits(tmp_path)
    assert "are dealt out beside" not in limits(tmp_path)
    write_run(tmp_path, "pooler", 1, [], 0.9)
    assert "are dealt out beside" in limits(tmp_path)


def test_a_best_rate_at_an_end_of_those_tried_is_told(tmp_path):
    best = {"cls": 2e-3, "mean": 4e-3, "max": 1e-3}
    for seed, (name, chosen) in enumerate(best.items()):
        for rate in (1e-3, 2e-3, 4e-3):
            write_run(tmp_path, name, seed, [], dev=0.9 if rate == chosen else 0.8, learning_rate=rate)
    write_run(tmp_path, "pooler", 9, [], dev=0.9, learning_rate=1e-3)
    told = rates_at_an_end(with_chosen_learning_rates(read_runs(tmp_path, "sentiment")))
    expected = {"max": "1 the lowest and 0 the highest", "mean": "0 the lowest and 1 the highest"}
    assert told == [f"{name} ({ends}, of 1)" for name, ends in expected.items()]
    limits = " ".join(write_report(tmp_path).limits)
    assert f"so that one beyond might be better: {told[0]}, {told[1]}." in limits


def test_unlike_learning_rates_are_found_in_each_setting(tmp_path):
    for seed, (name, rate) in enumerate([("cls", 1e-3), ("cls", 2e-3), ("mean", 1e-3), ("pooler", 1e-3)]):
        write_run(tmp_path, name, seed, [], dev=0.9, learning_rate=rate)
        write_run(tmp_path, "cls", seed, [], dev=0.9, learning_rate=rate, labels=8)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert unlike_rates(kept) == {"demo, tiny, finetune": {"0.001": ["mean", "pooler"], "0.001 0.002": ["cls"]}}
    write_run(tmp_path, "cls", 9, [], dev=0.9, objective=None)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    (found,) = unlike_rates(kept).values()
    assert found["0.001"][0] == "cls not adapted"
